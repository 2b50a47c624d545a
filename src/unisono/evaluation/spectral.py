"""Distances between spectra: frame by frame where the input fixes the timing, along a time warp where it does not.

Shapes: S samples, T frames, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import unisono
from unisono.evaluation.metric import (
    FRAME_LOCKED_TASKS,
    EvaluationItem,
    MetricCard,
    MetricFailure,
    Sample,
    common_length,
    reference_of,
)
from unisono.features.mel import MelFrontEnd, power_spectrogram, to_db

DTW_LIMIT_S = 60.0
_LSD_N_FFT, _LSD_HOP, _LSD_FLOOR_DB = 2048, 512, -80.0
_LENGTHS = "cut to the shorter; fails beyond 0.05 s or 2 % of the reference, whichever is larger"


def dtw_mean_cost(a: np.ndarray, b: np.ndarray) -> float:
    """Mean cost along the cheapest monotone path through two sequences ``(T1, M)`` and ``(T2, M)``.

    The cost of a pair of frames is the mean absolute difference of their values. Steps (1,0) and (0,1) of weight 1 and
    (1,1) of weight 2, from the first pair to the last, so that every path has the weight T1 + T2 by which the sum is
    divided (Sakoe and Chiba 1978, symmetric form, P = 0); the result does not depend on the order of the arguments.
    The recursion runs over anti-diagonals, whose cells do not depend on each other.
    """
    from scipy.spatial.distance import cdist

    rows, columns = len(a), len(b)
    cost = cdist(a, b, "cityblock") / a.shape[1]
    # Totals of the last two anti-diagonals, indexed by row + 1: index 0 is the border outside the table.
    before_last, last = np.full(rows + 1, np.inf), np.full(rows + 1, np.inf)
    before_last[0] = 0.0  # stands in front of cell (0, 0), which therefore starts the path with a diagonal step
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows - 1, diagonal) + 1)
        here = cost[i, diagonal - i]
        total = np.full(rows + 1, np.inf)
        total[i + 1] = np.minimum(before_last[i] + 2 * here, np.minimum(last[i], last[i + 1]) + here)
        before_last, last = last, total
    return float(last[rows] / (rows + columns))


@dataclass(frozen=True)
class MelDistance:
    """Mean absolute difference of two log-mel spectrograms, frame by frame, in dB."""

    front_end: MelFrontEnd
    needs_waveform: bool = True

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            name="mel_distance_db",
            title="Mel distance",
            unit="dB",
            direction="lower",
            value_range="0 (identical spectra) upwards, seldom above 40",
            implementation="unisono.evaluation.spectral.MelDistance",
            version=unisono.__version__,
            parameters=self.front_end.parameters | {"lengths": _LENGTHS},
            note="Hears level and timbre, not phase. A shift by more than a frame counts as a difference.",
        )

    def applies_to(self, item: EvaluationItem) -> bool:
        return item.task in FRAME_LOCKED_TASKS

    def missing_library(self) -> str | None:
        return None

    def __call__(self, sample: Sample) -> float:
        waveform, reference = common_length(sample.waveform, reference_of(sample), sample.sample_rate)
        return float(np.abs(self.front_end(waveform) - self.front_end(reference)).mean())


@dataclass(frozen=True)
class MelDistanceDtw:
    """Mean absolute difference of two log-mel spectrograms along the cheapest time warp, in dB."""

    front_end: MelFrontEnd
    needs_waveform: bool = True

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            name="mel_distance_dtw_db",
            title="Mel distance (DTW)",
            unit="dB",
            direction="lower",
            value_range="0 (identical spectra up to timing) upwards, seldom above 40",
            implementation="unisono.evaluation.spectral.MelDistanceDtw",
            version=unisono.__version__,
            parameters=self.front_end.parameters
            | {
                "alignment": "DTW, steps (1,0) (0,1) of weight 1 and (1,1) of weight 2, whole length, mean",
                "limit_s": DTW_LIMIT_S,
            },
            note="Blind to timing, which the warp makes good; do not compare it with a frame-by-frame distance.",
        )

    def applies_to(self, item: EvaluationItem) -> bool:
        return item.task not in FRAME_LOCKED_TASKS

    def missing_library(self) -> str | None:
        return None

    def __call__(self, sample: Sample) -> float:
        reference = reference_of(sample)
        longest_s = max(len(sample.waveform), len(reference)) / sample.sample_rate
        if longest_s > DTW_LIMIT_S:
            raise MetricFailure(f"{longest_s:.0f} s of audio; time warping is limited to {DTW_LIMIT_S:.0f} s")
        return dtw_mean_cost(self.front_end(sample.waveform), self.front_end(reference))


@dataclass(frozen=True)
class LogSpectralDistance:
    """Root of the mean squared dB difference over all frequency bins of a frame, then the mean over frames."""

    sample_rate: int
    needs_waveform: bool = True

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            name="lsd_db",
            title="LSD",
            unit="dB",
            direction="lower",
            value_range="0 (identical spectra) upwards, seldom above 60",
            implementation="unisono.evaluation.spectral.LogSpectralDistance",
            version=unisono.__version__,
            parameters={
                "sample_rate": self.sample_rate,
                "n_fft": _LSD_N_FFT,
                "hop_samples": _LSD_HOP,
                "window": "hann",
                "log": "10 log10 of power",
                "eps": 10.0 ** (_LSD_FLOOR_DB / 10.0),
                "floor_db": _LSD_FLOOR_DB,
                "reference_level": "0 dB = full-scale sine",
                "lengths": _LENGTHS,
            },
            note="Gives every frequency bin the same weight, so noise at inaudible levels counts as much as the voice. "
            "Other papers' LSD differs by window, eps and log base; do not compare.",
        )

    def applies_to(self, item: EvaluationItem) -> bool:
        return item.task in FRAME_LOCKED_TASKS

    def missing_library(self) -> str | None:
        return None

    def __call__(self, sample: Sample) -> float:
        waveform, reference = common_length(sample.waveform, reference_of(sample), sample.sample_rate)
        judged, true = (
            to_db(power_spectrogram(signal, _LSD_N_FFT, _LSD_HOP), _LSD_FLOOR_DB) for signal in (waveform, reference)
        )
        return float(np.sqrt(((judged - true) ** 2).mean(axis=1)).mean())
