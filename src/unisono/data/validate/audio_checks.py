"""Findings from the measurements of one recording."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from unisono.data.datasets.base import LONGEST_WHOLE_S
from unisono.data.validate.facts import AudioFacts
from unisono.data.validate.limits import Limits

Found = tuple[str, str, Any]
"""Kind, message, value as JSON can hold it."""

_SPOKEN = ("text_to_speech", "singing_voice_synthesis", "singing_acoustic_modeling", "speech_enhancement")


def target_findings(facts: AudioFacts, task: str, limits: Limits) -> Iterator[Found]:
    """What is wrong with a recording to be learnt from."""
    yield from _unusable(facts, limits)
    if facts.duration_s < limits.min_duration_s or facts.non_finite >= 0:
        return  # the rest would say nothing
    peak_dbfs = _db(facts.peak)
    if peak_dbfs < limits.silent_peak_dbfs:
        yield (
            "silent_audio",
            f"no sound: the peak is {peak_dbfs:.0f} dBFS; remove the line or replace the file",
            peak_dbfs,
        )
        return
    yield from _quality(facts, limits)
    yield from _silence(facts, task, limits)
    yield from _bandwidth(facts, limits)


def input_findings(facts: AudioFacts, limits: Limits) -> Iterator[Found]:
    """What is wrong with a degraded recording: it may be clipped and narrow, not empty."""
    yield from _unusable(facts, limits)
    if _db(facts.peak) < limits.silent_peak_dbfs:
        yield "silent_input", f"no sound: the peak is {_db(facts.peak):.0f} dBFS", _db(facts.peak)


def _unusable(facts: AudioFacts, limits: Limits) -> Iterator[Found]:
    if facts.non_finite >= 0:
        yield "non_finite_audio", f"sample {facts.non_finite} is NaN or infinite; re-export the file", facts.non_finite
    if facts.duration_s < limits.min_duration_s:
        yield (
            "too_short_audio",
            f"lasts {facts.duration_s:.5f} s ({facts.num_samples} samples); at least {limits.min_duration_s} s can be "
            "learnt from: remove the line",
            facts.duration_s,
        )
    if facts.duration_s > LONGEST_WHOLE_S:
        yield (
            "long_audio",
            f"lasts {facts.duration_s:.0f} s; more than {LONGEST_WHOLE_S:.0f} s need crop_s or max_duration_s in the "
            "data set's configuration, or cut it",
            facts.duration_s,
        )


def _quality(facts: AudioFacts, limits: Limits) -> Iterator[Found]:
    if facts.active_dbfs < limits.quiet_dbfs:
        yield (
            "quiet_audio",
            f"its louder parts are at {facts.active_dbfs:.0f} dBFS (limit {limits.quiet_dbfs:g}); noise of the "
            "recording will be learnt",
            facts.active_dbfs,
        )
    if facts.clipped_share > limits.max_clipped_share:
        yield (
            "clipping",
            f"{facts.clipped_share:.3%} of its samples stay at full scale (limit {limits.max_clipped_share:.3%}); take "
            "the recording before it was made that loud",
            facts.clipped_share,
        )
    if abs(facts.offset) > limits.max_dc and abs(facts.offset) > 0.1 * facts.rms:
        yield (
            "dc_offset",
            f"the samples lie {facts.offset:+.4f} off zero (limit {limits.max_dc:g}); a high-pass filter mends it",
            facts.offset,
        )
    if facts.cancelling_db > limits.max_cancelling_db:
        yield (
            "cancelling_channels",
            f"the average of its {facts.num_channels} channels is {facts.cancelling_db:.0f} dB lower than they are; "
            "they are averaged when read: turn one over, or keep one",
            facts.cancelling_db,
        )


def _silence(facts: AudioFacts, task: str, limits: Limits) -> Iterator[Found]:
    if facts.silent_share > limits.max_silent_share:
        yield (
            "mostly_silent",
            f"{facts.silent_share:.0%} of it is below -60 dBFS (limit {limits.max_silent_share:.0%}); cut it to the "
            "sound, and its content with it",
            facts.silent_share,
        )
    if task in _SPOKEN and facts.longest_silence_s > limits.max_pause_s:
        yield (
            "long_silence",
            f"silent for {facts.longest_silence_s:.1f} s (limit {limits.max_pause_s:g} s)",
            facts.longest_silence_s,
        )


def _bandwidth(facts: AudioFacts, limits: Limits) -> Iterator[Found]:
    half_hz = facts.sample_rate / 2
    if limits.min_bandwidth_hz is not None and facts.bandwidth_hz < limits.min_bandwidth_hz:
        yield (
            "insufficient_bandwidth",
            f"reaches {facts.bandwidth_hz:.0f} Hz of {half_hz:.0f}; {limits.min_bandwidth_hz:g} Hz are asked for: "
            "remove the line or lower --min-bandwidth-hz",
            facts.bandwidth_hz,
        )
    elif facts.cut_off and facts.bandwidth_hz < limits.min_bandwidth_share * half_hz:
        yield (
            "narrow_bandwidth",
            f"stored at {facts.sample_rate} Hz, but cut off at {facts.bandwidth_hz:.0f} Hz, as if its rate had been "
            f"{2 * facts.bandwidth_hz:.0f} Hz; take the original, or train at that rate",
            facts.bandwidth_hz,
        )


def _db(amplitude: float) -> float:
    return 20 * math.log10(max(amplitude, 1e-10))
