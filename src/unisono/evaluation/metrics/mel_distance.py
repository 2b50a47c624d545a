"""Distances between spectra: frame by frame where the input fixes the timing, along a time warp where it does not.

Shapes: S samples, T frames, M mel bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

import unisono
from unisono.evaluation.alignment import ALIGNMENT, LENGTHS
from unisono.evaluation.items import EvaluationItem, Sample
from unisono.evaluation.metric import FRAME_LOCKED_TASKS, Metric, MetricCard
from unisono.evaluation.metrics.warping import DTW_LIMIT_S, WARPING, check_warpable, time_warp
from unisono.features.mel import MelFrontEnd


@dataclass(frozen=True)
class MelDistance(Metric):
    """Mean absolute difference of two log-mel spectrograms, frame by frame, in dB."""

    front_end: MelFrontEnd

    tasks = FRAME_LOCKED_TASKS

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name="mel_distance_db",
                title="Mel distance",
                unit="dB",
                direction="lower",
                value_range="0 (identical spectra) upwards, seldom above 40",
                definition="Mean absolute difference of two log-mel spectrograms, frame by frame.",
                blind_to="Phase. Hears level and timbre; a shift by more than a frame counts as a difference.",
                source="this project",
                implementation="unisono.evaluation.metrics.mel_distance.MelDistance",
                version=unisono.__version__,
                parameters=self.front_end.parameters | {"alignment": ALIGNMENT, "lengths": LENGTHS},
            ),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        waveform, reference = sample.against_reference
        return {"mel_distance_db": float(np.abs(self.front_end(waveform) - self.front_end(reference)).mean())}


@dataclass(frozen=True)
class MelDistanceDtw(Metric):
    """Mean absolute difference of two log-mel spectrograms along the cheapest time warp, in dB."""

    front_end: MelFrontEnd

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name="mel_distance_dtw_db",
                title="Mel distance (DTW)",
                unit="dB",
                direction="lower",
                value_range="0 (identical spectra up to timing) upwards, seldom above 40",
                definition="Mean absolute difference of two log-mel spectrograms along the cheapest time warp.",
                blind_to="Phase, and timing, which the warp makes good: do not compare it with a frame-by-frame "
                "distance.",
                source="warping: Sakoe and Chiba 1978, symmetric form, P = 0",
                implementation="unisono.evaluation.metrics.mel_distance.MelDistanceDtw",
                version=unisono.__version__,
                parameters=self.front_end.parameters
                | {
                    "alignment": WARPING,
                    "limit_s": DTW_LIMIT_S,
                },
            ),
        )

    def applies_to(self, item: EvaluationItem) -> bool:
        return item.task not in FRAME_LOCKED_TASKS

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        reference = sample.needed_reference
        check_warpable(max(len(sample.waveform), len(reference)) / sample.sample_rate)
        warp = time_warp(self.front_end(sample.waveform), self.front_end(reference))
        return {"mel_distance_dtw_db": warp.mean_cost}
