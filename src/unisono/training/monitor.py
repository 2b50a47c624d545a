"""The metric that says which checkpoint is best, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from unisono.errors import UserError
from unisono.suggest import did_you_mean


class MetricMonitor:
    """Best value of a validation metric so far.

    Args:
        name: of the metric.
        mode: "min" if lower is better, else "max".
        patience: stop after so many validations in a row without an improvement; None never stops.
        min_delta: an improvement is larger than this.
        is_optional: validation may do without the metric; then nothing is best.
    """

    def __init__(
        self,
        name: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        patience: int | None = None,
        min_delta: float = 0.0,
        is_optional: bool = False,
    ) -> None:
        if mode not in ("min", "max"):
            raise UserError(f"metric_monitor.mode is {mode!r}; it must be min or max")
        if patience is not None and patience < 1:
            raise UserError(f"metric_monitor.patience is {patience}; it must be at least 1, or null for no early stop")
        if not min_delta >= 0:
            raise UserError(f"metric_monitor.min_delta is {min_delta}; it must not be negative")
        self.name, self.mode, self.patience, self.min_delta = name, mode, patience, min_delta
        self.is_optional = is_optional
        self.best: float | None = None
        self.without_improvement = 0

    def update(self, metrics: Mapping[str, float]) -> bool:
        """Whether these validation metrics are the best so far; NaN never is."""
        if self.name not in metrics and self.is_optional:
            return False
        if self.name not in metrics:
            raise UserError(
                f"metric_monitor.name is {self.name!r}, which validation does not give; "
                f"{did_you_mean(self.name, sorted(metrics))}"
            )
        value = metrics[self.name]
        sign = 1 if self.mode == "min" else -1
        is_best = not math.isnan(value) and (self.best is None or sign * (self.best - value) > self.min_delta)
        self.best = value if is_best else self.best
        self.without_improvement = 0 if is_best else self.without_improvement + 1
        return is_best

    @property
    def should_stop(self) -> bool:
        return self.patience is not None and self.without_improvement >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {
            "name": self.name, "mode": self.mode, "best": self.best, "without_improvement": self.without_improvement
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what was best, unless another metric was watched then."""
        if (state["name"], state["mode"]) == (self.name, self.mode):
            self.best, self.without_improvement = state["best"], state["without_improvement"]
