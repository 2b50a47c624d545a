"""Losses: means over the valid frames (or units) of an item, then over items, so that long clips weigh no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unisono.errors import UserError
from unisono.models.outputs import DurationPrediction, TrainingOutput
from unisono.tasks import TASKS, get_task


@dataclass(frozen=True)
class DurationError:
    """Squared error in the log domain of N contents, a mean over the units of each.

    Attributes:
        error: ``(N,)``.
        known: bool ``(N,)``. Content of units whose durations nobody knows does not count, and has an error of 0:
            leaving it out would wait for the device.
        task_index: ``(N,)``, of the item that each belongs to.
    """

    error: Tensor
    known: Tensor
    task_index: Tensor


@dataclass(frozen=True)
class LossResult:
    """``total`` is what is minimised; the others are its parts, unweighted.

    Attributes:
        sigma, prediction_error: ``(B,)``, noise level of each item and error of its prediction.
        durations: errors of predicted durations by name, "local" (of units) and "global" (of whole clips), where the
            batch has such.
    """

    total: Tensor
    sigma: Tensor
    prediction_error: Tensor
    durations: dict[str, DurationError]


def masked_item_mean(value: Tensor, mask: Tensor) -> Tensor:
    """Mean over everything but the batch; ``value (B, T, ...)``, ``mask (B, T)`` -> ``(B,)``."""
    while value.dim() > 2:
        value = value.mean(dim=-1)
    return (value * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)


def duration_error(predictions: Sequence[DurationPrediction], task_index: Tensor) -> DurationError:
    """Errors of at least one prediction side by side; ``task_index (B,)`` are the tasks of the batch."""
    errors, known = [], []
    for p in predictions:
        squared, has_units = (p.prediction - p.target) ** 2, p.mask.dim() == 2
        errors.append(masked_item_mean(squared, p.mask) if has_units else squared)
        known.append(p.mask.any(dim=1) if has_units else p.mask)
    tasks = [task_index[p.index] for p in predictions]
    return DurationError(torch.cat(errors), torch.cat(known), torch.cat(tasks))


class AudioGenerationLoss:
    """Error of the objective's prediction plus weighted duration errors.

    Args:
        local_duration_weight: of the error per unit.
        global_duration_weight: of the error of the whole clip's length.
        task_weights: task -> weight of its items' errors, of prediction and durations, in the means over the batch; a
            task that is not named has 1.
    """

    def __init__(
        self,
        local_duration_weight: float = 0.1,
        global_duration_weight: float = 0.1,
        task_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.task_weights = dict(task_weights or {})
        for name, weight in self.task_weights.items():
            get_task(name)
            if not weight >= 0:
                raise UserError(f"task_weights.{name} is {weight}; it must be 0 or more")
        self._weights = torch.empty(0)
        self.local_duration_weight = local_duration_weight
        self.global_duration_weight = global_duration_weight

    def __call__(self, output: TrainingOutput) -> LossResult:
        error = masked_item_mean((output.prediction.float() - output.target) ** 2, output.frame_mask)
        weights = self._weights_on(error.device)
        total = (error * weights[output.task_index]).mean()
        durations = {}
        for name, scale, predictions in (
            ("local", self.local_duration_weight, output.local_durations),
            ("global", self.global_duration_weight, output.global_durations),
        ):
            if predictions:
                part = durations[name] = duration_error(predictions, output.task_index)
                weighted = part.error * part.known * weights[part.task_index]
                total = total + scale * weighted.sum() / part.known.sum().clamp_min(1)
        return LossResult(total, output.sigma, error, durations)

    def _weights_on(self, device: torch.device) -> Tensor:
        """One weight per task, made once: a copy to the device in each step would wait for it."""
        if len(self._weights) != len(TASKS) or self._weights.device != device:
            self._weights = torch.tensor([float(self.task_weights.get(name, 1.0)) for name in TASKS], device=device)
        return self._weights
