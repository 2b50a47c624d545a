"""How speech is spoken, apart from what is said: pitch and its liveliness, voicing, speed and pauses, as distances from
the reference.

Shapes: T frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisono.evaluation.items import Sample
from unisono.evaluation.metric import Metric, MetricCard, MetricFailure, NotApplicable, NoValue
from unisono.evaluation.metrics.world import (
    ACTIVE_DB,
    F0_PARAMETERS,
    FRAME_RATE_HZ,
    Which,
    active_frames,
    f0_of,
    versions,
    waveform_of,
)

PAUSE_S = 0.15
"""Shorter silences are part of speech: the closure of a stop lasts up to 0.1 s."""
_FEWEST_VOICED = 10
_SPREAD_PERCENTILES = (15.87, 84.13)


@dataclass(frozen=True)
class Manner:
    """How one recording is spoken.

    Attributes:
        pitch_semitones: median F0, as a MIDI number.
        spread_semitones: half the distance from the 15.87th to the 84.13th percentile of F0: the standard deviation if
            it were normal, and deaf to the octave errors of the extractor. With the median None without 0.1 s of voice.
        voiced_share: of the time spoken.
        spoken_s: from the first sound to the last, pauses left out.
        pause_share: of the time from the first sound to the last.
    """

    pitch_semitones: float | None
    spread_semitones: float | None
    voiced_share: float
    spoken_s: float
    pause_share: float


def manner_of(f0_hz: np.ndarray, active: np.ndarray) -> Manner:
    """From F0 ``(T,)``, 0 where unvoiced, and which frames sound, bool ``(T,)``, at least one."""
    sounding = np.flatnonzero(active)
    gaps = np.diff(sounding) - 1
    first, last = sounding[0], sounding[-1] + 1
    spoken = np.zeros(len(active), dtype=bool)
    spoken[first:last] = True
    for place in np.flatnonzero(gaps >= PAUSE_S * FRAME_RATE_HZ):
        spoken[sounding[place] + 1 : sounding[place + 1]] = False
    voiced = spoken & (f0_hz > 0)
    pitch = spread = None
    if voiced.sum() >= _FEWEST_VOICED:
        semitones = 69 + 12 * np.log2(f0_hz[voiced] / 440.0)
        low, high = np.percentile(semitones, _SPREAD_PERCENTILES)
        pitch, spread = float(np.median(semitones)), float(high - low) / 2
    return Manner(
        pitch_semitones=pitch,
        spread_semitones=spread,
        voiced_share=float(voiced.sum() / spoken.sum()),
        spoken_s=float(spoken.sum() / FRAME_RATE_HZ),
        pause_share=1.0 - float(spoken.sum() / (last - first)),
    )


def _manner(sample: Sample, which: Which) -> Manner:
    f0_hz = f0_of(sample, which)
    active = active_frames(waveform_of(sample, which), sample.sample_rate, len(f0_hz))
    return sample.once(("manner", which), lambda: manner_of(f0_hz, active))


@dataclass(frozen=True)
class SpeakingManner(Metric):
    """Distances from the reference in pitch, spread of pitch, voicing, speed and pauses.

    Attributes:
        sample_rate: Hz at which F0 is extracted.
    """

    sample_rate: int

    tasks = frozenset({"text_to_speech"})
    libraries = ("pyworld",)

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        pauses: dict[str, Any] = {
            "speech": f"from the first to the last 30 ms within {ACTIVE_DB:g} dB of the loudest",
            "pause": f"{PAUSE_S} s or more below that",
        }
        one_number = "How it changes over the sentence: one number of each recording is compared."
        noise = "Noise in the pauses, less than 40 dB below the speech, hides them."
        return (
            self._card(
                "f0_median_difference_cents",
                "F0 median difference",
                "cents",
                "Absolute difference of the median F0 of the two recordings.",
                one_number,
                {**pauses, "fewest_voiced_frames": _FEWEST_VOICED},
            ),
            self._card(
                "f0_spread_difference_semitones",
                "F0 spread difference",
                "semitones",
                "Absolute difference of the spread of F0: half the distance of its 15.87th and 84.13th percentiles, in "
                "semitones.",
                f"Which words are stressed, and the sign: monotone and lively speech are the same distance away. "
                f"{one_number}",
                {**pauses, "percentiles": _SPREAD_PERCENTILES, "fewest_voiced_frames": _FEWEST_VOICED},
            ),
            self._card(
                "voiced_share_difference",
                "Voiced share difference",
                "",
                "Absolute difference of the share of the speech, pauses left out, that is voiced: hoarse or whispered "
                "speech has less.",
                one_number,
                pauses,
            ),
            self._card(
                "speaking_time_difference_percent",
                "Speaking time difference",
                "%",
                "Absolute difference of the time spent speaking, pauses left out, in per cent of the reference. Both "
                "say the same phonemes, so it is that of the seconds per phoneme, the inverse of the speaking rate.",
                f"The sign; words left out or repeated look like another speed. {one_number} {noise}",
                {**pauses, "phonemes": "as many in both"},
            ),
            self._card(
                "pause_share_difference",
                "Pause share difference",
                "",
                "Absolute difference of the share of pauses in the time from the first to the last sound.",
                f"Where the pauses are, and silence at the ends. {noise}",
                pauses,
            ),
        )

    def _card(
        self, name: str, title: str, unit: str, definition: str, blind_to: str, parameters: dict[str, Any]
    ) -> MetricCard:
        return MetricCard(
            name=name,
            title=title,
            unit=unit,
            direction="lower",
            value_range="0 to 1" if not unit else "0 upwards",
            definition=definition,
            blind_to=f"{blind_to} Another good reading of the text is some distance away too.",
            source="this project; F0: Harvest, Morise 2017",
            implementation="unisono.evaluation.metrics.speaking on pyworld.harvest",
            version=versions("pyworld-prebuilt"),
            parameters={**F0_PARAMETERS, "sample_rate": self.sample_rate, **parameters},
            decimals={"cents": 0, "%": 1, "semitones": 2}.get(unit, 3),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float | NoValue]:
        sample = sample.resampled(self.sample_rate)
        reference, judged = _manner(sample, "reference"), _manner(sample, "judged")
        return {
            "f0_median_difference_cents": _scaled(_apart(judged.pitch_semitones, reference.pitch_semitones), 100.0),
            "f0_spread_difference_semitones": _apart(judged.spread_semitones, reference.spread_semitones),
            "voiced_share_difference": abs(judged.voiced_share - reference.voiced_share),
            "speaking_time_difference_percent": 100.0 * abs(judged.spoken_s / reference.spoken_s - 1.0),
            "pause_share_difference": abs(judged.pause_share - reference.pause_share),
        }


def _apart(judged: float | None, reference: float | None) -> float | NoValue:
    if reference is None:
        return NotApplicable("less than 0.1 s of the reference is voiced")
    if judged is None:
        return MetricFailure("less than 0.1 s is voiced")
    return abs(judged - reference)


def _scaled(value: float | NoValue, factor: float) -> float | NoValue:
    return value * factor if isinstance(value, float) else value
