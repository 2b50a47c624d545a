"""How far the predicted length is from the true one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import unisono
from unisono.evaluation.items import MODEL, Sample
from unisono.evaluation.metric import Metric, MetricCard, MetricFailure, NotApplicable


@dataclass(frozen=True)
class DurationError(Metric):
    """Absolute difference between predicted and true total duration, in seconds and in per cent of the true one."""

    needs_waveform = False

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return tuple(
            MetricCard(
                name=name,
                title="Duration error",
                unit=unit,
                direction="lower",
                value_range="0 upwards",
                definition=f"Absolute difference of predicted and true total duration, {relative}.",
                blind_to="The file that was written: it is the length that the duration predictor asked for. Hears "
                "nothing, so a silent output of the right length is perfect.",
                source="this project",
                implementation="unisono.evaluation.metrics.durations.DurationError",
                version=unisono.__version__,
                parameters={"error": "absolute", "relative_to": relative},
                decimals=decimals,
            )
            for name, unit, relative, decimals in (
                ("duration_error_s", "s", "in seconds", 3),
                ("duration_error_percent", "%", "in per cent of the true one", 1),
            )
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        predicted_s, true_s = sample.item.predicted_duration_s, sample.item.true_duration_s
        if sample.row != MODEL or predicted_s is None or true_s is None:
            raise NotApplicable("no predicted and true duration to compare")
        if not true_s > 0:
            raise MetricFailure(f"the true duration is {true_s} s")
        error_s = abs(predicted_s - true_s)
        return {"duration_error_s": error_s, "duration_error_percent": 100.0 * error_s / true_s}
