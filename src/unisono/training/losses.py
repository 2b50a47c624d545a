"""Losses: means over the valid frames (or units) of an item, then over items, so that long clips weigh no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unisono.errors import UserError
from unisono.models.unified import DurationPrediction, TrainingOutput
from unisono.tasks import TASKS, get_task


@dataclass(frozen=True)
class LossResult:
    """``total`` is what is minimised; the others are its parts, one value per item that has the part.

    ``sigma`` is the noise level of each item. ``local_known`` says which values of ``local_duration`` count: content
    of units whose durations nobody knows has a value of 0 there, as leaving it out would wait for the device.
    """

    total: Tensor
    sigma: Tensor
    prediction_error: Tensor
    local_duration: Tensor
    global_duration: Tensor
    local_known: Tensor


def masked_item_mean(value: Tensor, mask: Tensor) -> Tensor:
    """Mean over everything but the batch; ``value (B, T, ...)``, ``mask (B, T)`` -> ``(B,)``."""
    while value.dim() > 2:
        value = value.mean(dim=-1)
    return (value * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)


def duration_loss(predictions: list[DurationPrediction], device: torch.device) -> tuple[Tensor, Tensor]:
    """Squared error in the log domain, mean over units: one value per item with units, and which of them count."""
    per_item, known = [torch.zeros(0, device=device)], [torch.zeros(0, dtype=torch.bool, device=device)]
    for p in predictions:
        squared, has_units = (p.prediction - p.target) ** 2, p.mask.dim() == 2
        per_item.append(masked_item_mean(squared, p.mask) if has_units else squared)
        known.append(p.mask.any(dim=1) if has_units else p.mask)
    return torch.cat(per_item), torch.cat(known)


class AudioGenerationLoss:
    """Error of the objective's prediction plus weighted duration errors.

    Args:
        local_duration_weight: of the error per unit.
        global_duration_weight: of the error of the whole clip's length.
        task_weights: task -> weight of its items' error in the mean over the batch; a task that is not named has 1.
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
        local, local_known = duration_loss(output.local_durations, error.device)
        whole, whole_known = duration_loss(output.global_durations, error.device)
        total = (error * self._weights_on(error.device)[output.task_index]).mean()
        parts = ((self.local_duration_weight, local, local_known), (self.global_duration_weight, whole, whole_known))
        for weight, part, known in parts:
            if len(part):
                total = total + weight * (part * known).sum() / known.sum().clamp_min(1)
        return LossResult(total, output.sigma, error, local, whole, local_known)

    def _weights_on(self, device: torch.device) -> Tensor:
        """One weight per task, made once: a copy to the device in each step would wait for it."""
        if len(self._weights) != len(TASKS) or self._weights.device != device:
            self._weights = torch.tensor([float(self.task_weights.get(name, 1.0)) for name in TASKS], device=device)
        return self._weights
