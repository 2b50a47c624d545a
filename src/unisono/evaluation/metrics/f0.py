"""How far a singing voice is from the pitch of its reference.

Nothing is taken out before the mean: an octave error of the voice, or of the extractor, counts 1200 cents in the RMSE.
The median and the semitone accuracy do not care how wrong a wrong frame is, and `octave_errors` tells how many of the
gross errors are octaves, which sound less wrong and are often the extractor's.

Shapes: K pairs of frames, one of the judged voice and one of the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unisono.evaluation.items import Sample
from unisono.evaluation.metric import Metric, MetricCard, MetricFailure, NotApplicable, NoValue
from unisono.evaluation.metrics.world import (
    F0_PARAMETERS,
    FRAMEWISE_PARAMETERS,
    WARP_PARAMETERS,
    f0_of,
    framewise,
    timbre_warp,
    versions,
)

SEMITONE_TOLERANCE_CENTS = 50.0
_OCTAVE_CENTS = 1200.0


@dataclass(frozen=True)
class F0Comparison:
    """Two contours, pair by pair of frames.

    Attributes:
        rmse_cents, median_cents: of the frames that are voiced in both.
        octave_errors: share of them that is within 50 cents of a whole number of octaves, but not of none, away.
        voicing_error: share of all frames that are voiced in one only.
        semitone_accuracy: share of the frames voiced in the reference that are voiced and within 50 cents of it.
    """

    rmse_cents: float | NoValue
    median_cents: float | NoValue
    octave_errors: float | NoValue
    voicing_error: float
    semitone_accuracy: float | NoValue


def compare_f0(judged_hz: np.ndarray, reference_hz: np.ndarray, weights: np.ndarray) -> F0Comparison:
    """Compare contours ``(K,)``, 0 where unvoiced; ``weights`` ``(K,)`` of the pairs, above 0."""
    sung, meant = judged_hz > 0, reference_hz > 0
    both = sung & meant
    voicing_error = float(np.average(sung != meant, weights=weights))
    if not meant.any():
        nothing = NotApplicable("no frame of the reference is voiced")
        return F0Comparison(nothing, nothing, nothing, voicing_error, nothing)
    if not both.any():
        unvoiced = MetricFailure("no frame is voiced in both")
        return F0Comparison(unvoiced, unvoiced, unvoiced, voicing_error, 0.0)
    error_cents = _OCTAVE_CENTS * np.log2(judged_hz[both] / reference_hz[both])
    octaves = np.round(error_cents / _OCTAVE_CENTS)
    off_cents = np.abs(error_cents - octaves * _OCTAVE_CENTS)
    right = np.zeros(len(both), dtype=bool)
    right[both] = np.abs(error_cents) < SEMITONE_TOLERANCE_CENTS
    return F0Comparison(
        rmse_cents=float(np.sqrt(np.average(error_cents**2, weights=weights[both]))),
        median_cents=_weighted_median(np.abs(error_cents), weights[both]),
        octave_errors=float(np.average((octaves != 0) & (off_cents < SEMITONE_TOLERANCE_CENTS), weights=weights[both])),
        voicing_error=voicing_error,
        semitone_accuracy=float(np.average(right[meant], weights=weights[meant])),
    )


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """The mean of the values at the middle of the weight, as the plain median of values repeated by their weights."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    middle = reached[-1] / 2
    low, high = np.searchsorted(reached, middle, side="left"), np.searchsorted(reached, middle, side="right")
    return float(values[order[low]] + values[order[min(high, len(values) - 1)]]) / 2


@dataclass(frozen=True)
class F0Error(Metric):
    """Pitch and voicing against the reference frame by frame, where the input fixes the timing.

    Attributes:
        sample_rate: Hz at which F0 is extracted.
    """

    sample_rate: int

    tasks = frozenset({"singing_acoustic_modeling"})
    libraries = ("pyworld",)

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        shifts = "Frame by frame, so a shift in time counts as wrong pitch."
        return _cards("", "", shifts, self.sample_rate, FRAMEWISE_PARAMETERS)

    def __call__(self, sample: Sample) -> Mapping[str, float | NoValue]:
        sample = sample.resampled(self.sample_rate)
        frames = framewise(sample)
        judged_hz, reference_hz = f0_of(sample, "judged"), f0_of(sample, "reference")
        return _numbers(self.cards, compare_f0(judged_hz[:frames], reference_hz[:frames], np.ones(frames)))


@dataclass(frozen=True)
class F0ErrorDtw(Metric):
    """Pitch and voicing against the reference along a time warp, where the model chooses the timing.

    Attributes:
        sample_rate: Hz at which F0 and the spectral envelopes are extracted.
    """

    sample_rate: int

    tasks = frozenset({"singing_voice_synthesis"})
    libraries = ("pyworld",)

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return _cards(
            "_dtw",
            " (DTW)",
            "Timing, which the warp makes good; where the timbre is too far off to be warped, wrong moments are "
            "compared and the pitch looks wrong.",
            self.sample_rate,
            WARP_PARAMETERS,
        )

    def __call__(self, sample: Sample) -> Mapping[str, float | NoValue]:
        sample = sample.resampled(self.sample_rate)
        warp = timbre_warp(sample)
        judged_hz, reference_hz = f0_of(sample, "judged"), f0_of(sample, "reference")
        return _numbers(self.cards, compare_f0(judged_hz[warp.first], reference_hz[warp.second], warp.weights))


def _numbers(cards: tuple[MetricCard, ...], found: F0Comparison) -> dict[str, float | NoValue]:
    """In the order of `_CARDS`."""
    values = (
        found.rmse_cents,
        found.median_cents,
        found.semitone_accuracy,
        found.octave_errors,
        found.voicing_error,
    )
    return {card.name: value for card, value in zip(cards, values, strict=True)}


_BOTH = "frames that are voiced in both"
_ALL = "0 to 1"
# Name with the place of the warp's suffix, title, unit, direction, range, definition, what it does not hear.
_CARDS: tuple[tuple[str, str, str, Literal["lower", "higher"], str, str, str], ...] = (
    (
        "f0_rmse{}_cents",
        "F0 RMSE",
        "cents",
        "lower",
        "0 upwards; a few octave errors make hundreds",
        f"Root of the mean squared difference of the pitches, over {_BOTH}; octave errors kept.",
        "Whatever is voiced in one only, so read it beside the voicing error.",
    ),
    (
        "f0_median_error{}_cents",
        "F0 median error",
        "cents",
        "lower",
        "0 upwards",
        f"Median of the absolute difference of the pitches, over {_BOTH}.",
        "How wrong the worse half of the frames is, and whatever is voiced in one only.",
    ),
    (
        "semitone_accuracy{}",
        "Semitone accuracy",
        "",
        "higher",
        _ALL,
        "Share of the frames voiced in the reference that are voiced and less than 50 cents away from it.",
        "How wrong a wrong frame is, and voice where the reference has none.",
    ),
    (
        "octave_errors{}",
        "Octave errors",
        "",
        "lower",
        _ALL,
        f"Share of the {_BOTH} that are one or more whole octaves away, to within 50 cents.",
        "Errors of any other interval. Tells how much of the RMSE is octaves, some of which the extractor makes.",
    ),
    (
        "voicing_error{}",
        "Voicing error",
        "",
        "lower",
        _ALL,
        "Share of all frames that are voiced in one of the two only.",
        "Pitch. Frames in silence, where both are unvoiced, make it smaller.",
    ),
)


def _cards(
    suffix: str, title_suffix: str, on_timing: str, sample_rate: int, timing: Mapping[str, Any]
) -> tuple[MetricCard, ...]:
    return tuple(
        MetricCard(
            name=name.format(suffix),
            title=title + title_suffix,
            unit=unit,
            direction=direction,
            value_range=value_range,
            definition=definition,
            blind_to=f"{blind_to} {on_timing} Both contours are extracted, errors of the extractor included: the row "
            "of the coded reference is the ceiling.",
            source="accuracy: raw pitch accuracy, Raffel et al. 2014 (mir_eval.melody); F0: Harvest, Morise 2017",
            implementation="unisono.evaluation.metrics.f0 on pyworld.harvest",
            version=versions("pyworld-prebuilt"),
            parameters={
                **F0_PARAMETERS,
                "sample_rate": sample_rate,
                "gross_errors": "kept",
                "tolerance_cents": SEMITONE_TOLERANCE_CENTS,
                **timing,
            },
            decimals=1 if unit == "cents" else 3,
        )
        for name, title, unit, direction, value_range, definition, blind_to in _CARDS
    )
