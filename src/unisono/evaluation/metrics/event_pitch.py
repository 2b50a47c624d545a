"""Are the events that a caption calls low or high so: by the shift of their spectra against the reference's.

Shapes: S samples, T frames, K log-frequency bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
import soxr

import unisono
from unisono.evaluation.items import Sample
from unisono.evaluation.metric import MetricCard, NotApplicable
from unisono.evaluation.metrics.event_order import (
    EventGroup,
    event_groups,
    find_groups,
    finding_parameters,
    group_spans_s,
    heard_frames,
)
from unisono.evaluation.metrics.events import EventMetric
from unisono.features.mel import power_spectrogram

# Chosen on other renderings of the captions of the mini corpus' test and val items, and of each kind at every pitch.
_BELOW_PEAK_DB = 45.0
_RANGE_DB = 40.0
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 11_000.0
_BINS_PER_OCTAVE = 24
_WINDOW_S = 0.17
_ENVELOPE_OCTAVES = 1.5
_MAX_PROFILE_FRAMES = 500
_LARGEST_SHIFT_OCTAVES = 2.0
_SAME_PITCH_OCTAVES = 0.43
_LEAST_AGREEMENT = 0.65
_PROBE_OCTAVES = 0.8
_PITCH_NOT_HEARD = frozenset({"bark"})
"""Kinds of the mini corpus whose spectrum moves too little with their pitch (a throat that grows half as fast)."""


def pitch_profile(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """What of a sound's spectrum moves with its pitch: unit vectors over log-frequency ``(T, K)``, 24 bins an octave.

    Levels are floored 40 dB below each frame's loudest bin, and their mean over 1.5 octaves is taken off, so that
    resonances which stay where they are (a room, a distance) weigh little. Frames 45 dB below the loudest are left out;
    of more than 500, every other one is (or two of three, and so on).
    """
    n_fft = 2 ** round(np.log2(_WINDOW_S * sample_rate))
    power = power_spectrogram(waveform, n_fft, n_fft // 8)
    top_hz = min(_HIGHEST_HZ, 0.48 * sample_rate)
    centres_hz = _LOWEST_HZ * 2 ** (
        np.arange(int(np.log2(top_hz / _LOWEST_HZ) * _BINS_PER_OCTAVE) + 1) / _BINS_PER_OCTAVE
    )
    # The power between two frequencies, by linear interpolation of the sum up to each of them.
    sums = np.pad(np.cumsum(power, axis=1), ((0, 0), (1, 0)))

    def up_to(frequency_hz: np.ndarray) -> np.ndarray:
        place = frequency_hz * n_fft / sample_rate + 0.5
        left = place.astype(int)
        return sums[:, left] + (place - left) * (sums[:, left + 1] - sums[:, left])

    half_step = 2 ** (1 / _BINS_PER_OCTAVE)
    bands = up_to(centres_hz * half_step) - up_to(centres_hz / half_step)
    level_db = 10 * np.log10(np.maximum(bands, 1e-12))
    loudest_db = level_db.max(axis=1, keepdims=True)
    level_db = np.maximum(level_db - loudest_db, -_RANGE_DB)[loudest_db[:, 0] > loudest_db.max() - _BELOW_PEAK_DB]
    width = int(_ENVELOPE_OCTAVES * _BINS_PER_OCTAVE)
    fine = level_db + _RANGE_DB
    fine -= scipy.ndimage.uniform_filter1d(fine, width, axis=1, mode="nearest")
    fine /= np.maximum(np.linalg.norm(fine, axis=1, keepdims=True), 1e-9)
    return fine[:: math.ceil(len(fine) / _MAX_PROFILE_FRAMES)]


def pitch_shift_octaves(profile: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """By how many octaves a profile ``(T, K)`` lies above another one, and how well the two then agree, up to 1.

    The agreement at a shift is the mean correlation of each frame with the most similar one of the other sound.
    """
    bins = profile.shape[1]
    largest = min(int(_LARGEST_SHIFT_OCTAVES * _BINS_PER_OCTAVE), bins - 1)
    shifts = np.arange(-largest, largest + 1)
    agreement = []
    for shift in shifts:
        moved, still = (
            profile[:, max(0, shift) : bins + min(0, shift)],
            reference[:, max(0, -shift) : bins - max(0, shift)],
        )
        likeness = moved @ still.T
        agreement.append((likeness.max(axis=0).mean() + likeness.max(axis=1).mean()) / 2)
    best = int(np.argmax(agreement))
    return float(shifts[best] / _BINS_PER_OCTAVE), float(agreement[best])


def has_pitch_of(waveform: np.ndarray, reference: np.ndarray, sample_rate: int, octaves: float = 0.0) -> bool:
    """Whether one sound ``(S,)`` is at another one's pitch, or so many octaves above it: the shift found is less than
    0.43 octaves off, and the spectra agree there."""
    found_octaves, agreement = pitch_shift_octaves(
        pitch_profile(waveform, sample_rate), pitch_profile(reference, sample_rate)
    )
    return abs(found_octaves - octaves) < _SAME_PITCH_OCTAVES and agreement >= _LEAST_AGREEMENT


@dataclass(frozen=True)
class EventPitchAccuracy(EventMetric):
    """Whether events that the caption calls low or high are."""

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name="event_pitch_accuracy",
                title="Event pitch accuracy",
                unit="",
                direction="higher",
                value_range="0 to 1 (all as low or high as in the caption)",
                definition="Of the groups of events that are low or high, the share whose spectrum fits the reference "
                "best at a shift of less than 0.43 octaves. A group that is not found has the wrong pitch.",
                blind_to="Pitches that the caption does not name, and small deviations: low, middle and high are at "
                "least 0.56 octaves apart in the mini corpus. Noise has no such pitch: two hisses do not agree. Not "
                "applicable to events at the same time, to barks, and where the procedure does not find the shift of a "
                "reference that was shifted by 0.8 octaves.",
                source="this project",
                implementation="unisono.evaluation.metrics.event_pitch.EventPitchAccuracy",
                version=unisono.__version__,
                parameters=self.front_end.parameters | finding_parameters() | _pitch_parameters(),
            ),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        groups = event_groups(sample.item)
        named = [index for index, group in enumerate(groups) if group.pitch in ("low", "high")]
        if not named:
            raise NotApplicable("the caption names no pitch")
        right = []
        for index in named:
            kind, rate = groups[index].kind, sample.sample_rate
            if kind in _PITCH_NOT_HEARD:
                raise NotApplicable(f"the pitch of a {kind} is not told reliably")
            start_s, end_s = (0.0, math.inf) if len(groups) == 1 else group_spans_s(groups)[index]
            true = _cut(sample.needed_reference, start_s, end_s, rate)
            octaves = _PROBE_OCTAVES if groups[index].pitch == "low" else -_PROBE_OCTAVES
            if not has_pitch_of(soxr.resample(true, rate, rate / 2**octaves), true, rate, octaves):
                raise NotApplicable(f"the pitch of the reference's {kind} cannot be told")
            found = self._found(sample, groups, index)
            right.append(found is not None and has_pitch_of(found, true, rate))
        return {"event_pitch_accuracy": sum(right) / len(right)}

    def _found(self, sample: Sample, groups: Sequence[EventGroup], index: int) -> np.ndarray | None:
        """The judged clip where it has a group, or None."""
        if len(groups) == 1:
            return sample.waveform
        division, sounding = find_groups(sample, groups, self.front_end)
        start, end = division.stretches[index]
        if end - start < heard_frames(self.front_end):
            return None
        first_s, last_s = sounding[[start, end - 1]] / self.front_end.frame_rate_hz
        frame_s = 1 / self.front_end.frame_rate_hz
        return _cut(sample.waveform, first_s - frame_s, last_s + frame_s, sample.sample_rate)


def _cut(waveform: np.ndarray, start_s: float, end_s: float, sample_rate: int) -> np.ndarray:
    """A part of a waveform; `NotApplicable` if it has nothing there."""
    part = waveform[max(0, round(start_s * sample_rate)) :][: math.ceil(min(end_s - start_s, 1e6) * sample_rate)]
    if not part.any():
        raise NotApplicable("the reference is silent where one of its events should be")
    return part


def _pitch_parameters() -> dict[str, Any]:
    return {
        "profile_floor_db": [-_BELOW_PEAK_DB, -_RANGE_DB],
        "profile_window_s": f"{_WINDOW_S}, to the nearest power of two in samples; hop 1/8",
        "profile_range_hz": [_LOWEST_HZ, _HIGHEST_HZ],
        "profile_bins_per_octave": _BINS_PER_OCTAVE,
        "profile_envelope_octaves": _ENVELOPE_OCTAVES,
        "largest_shift_octaves": _LARGEST_SHIFT_OCTAVES,
        "same_within_octaves": _SAME_PITCH_OCTAVES,
        "least_agreement": _LEAST_AGREEMENT,
        "probe_octaves": _PROBE_OCTAVES,
        "max_profile_frames": _MAX_PROFILE_FRAMES,
        "not_judged": sorted(_PITCH_NOT_HEARD),
    }
