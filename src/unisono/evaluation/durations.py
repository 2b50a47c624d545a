"""How far the predicted length is from the true one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import unisono
from unisono.evaluation.metric import MODEL, EvaluationItem, MetricCard, MetricFailure, NotApplicable, Sample


@dataclass(frozen=True)
class DurationError:
    """Absolute difference between predicted and true total duration, in seconds or in per cent of the true one."""

    unit: Literal["s", "%"]
    needs_waveform: bool = False

    @property
    def card(self) -> MetricCard:
        in_seconds = self.unit == "s"
        return MetricCard(
            name="duration_error_s" if in_seconds else "duration_error_percent",
            title="Duration error",
            unit=self.unit,
            direction="lower",
            value_range="0 upwards",
            implementation="unisono.evaluation.durations.DurationError",
            version=unisono.__version__,
            parameters={"error": "absolute", "relative_to": "seconds" if in_seconds else "true duration"},
            note="Of the length that the duration predictor asked for, not of the file that was written.",
            decimals=3 if in_seconds else 1,
        )

    def applies_to(self, item: EvaluationItem) -> bool:
        return True

    def missing_library(self) -> str | None:
        return None

    def __call__(self, sample: Sample) -> float:
        predicted_s, true_s = sample.item.predicted_duration_s, sample.item.true_duration_s
        if sample.row != MODEL or predicted_s is None or true_s is None:
            raise NotApplicable("no predicted and true duration to compare")
        if not true_s > 0:
            raise MetricFailure(f"the true duration is {true_s} s")
        error_s = abs(predicted_s - true_s)
        return error_s if self.unit == "s" else 100.0 * error_s / true_s
