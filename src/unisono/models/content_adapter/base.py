"""What every content adapter shares: its result and the duration predictors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unisono.types import Condition

_LONGEST_LOG = math.log(1e7)
"""Frames or seconds of two days and more; beyond 88 the exponential is infinite, which no integer is."""


@dataclass(frozen=True)
class AdaptedContent:
    """Result of an adapter.

    Attributes:
        content: adapted content.
        global_duration: ``(B,)`` predicted ``log(seconds + offset)`` of the whole clip.
        local_duration: ``(B, L)`` predicted ``log(frames + offset)`` per unit.
    """

    content: Condition
    global_duration: Tensor
    local_duration: Tensor


class DurationPredictor(nn.Module):
    """Two-layer network per position; the gradient into its input is scaled.

    Durations are easy to predict and their loss would otherwise pull the encoder's features its way early on.
    """

    def __init__(self, dim: int, gradient_scale: float) -> None:
        super().__init__()
        if not 0.0 <= gradient_scale <= 1.0:
            raise ValueError(f"gradient_scale is {gradient_scale}; it must lie between 0 and 1")
        self.gradient_scale = gradient_scale
        self.network = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D) -> (...)``."""
        x = x * self.gradient_scale + x.detach() * (1.0 - self.gradient_scale)
        return self.network(x).squeeze(-1).float()


class ContentAdapter(nn.Module, ABC):
    """Adapts content to the instruction and predicts durations in the log domain.

    Args:
        dim: width of content and result.
        instruction_dim: width of the encoded instruction.
        duration_offset: added before the logarithm, so that a unit of zero frames is finite.
        duration_gradient_scale: share of the duration losses' gradient that reaches the content.
    """

    def __init__(self, dim: int, instruction_dim: int, duration_offset: float, duration_gradient_scale: float) -> None:
        super().__init__()
        self.dim, self.instruction_dim = dim, instruction_dim
        self.duration_offset = duration_offset
        self.global_predictor = DurationPredictor(dim, duration_gradient_scale)
        self.local_predictor = DurationPredictor(dim, duration_gradient_scale)

    @abstractmethod
    def adapt(self, content: Condition, instruction: Condition) -> Tensor:
        """Adapted content ``(B, L, D)``."""

    def forward(self, content: Condition, instruction: Condition) -> AdaptedContent:
        adapted = self.adapt(content, instruction) * content.mask[..., None]
        count = content.mask.sum(dim=1, keepdim=True).clamp_min(1)
        pooled = adapted.sum(dim=1) / count
        return AdaptedContent(
            content=Condition(adapted, content.mask),
            global_duration=self.global_predictor(pooled),
            local_duration=self.local_predictor(adapted),
        )

    def log_duration(self, value: Tensor) -> Tensor:
        """``log(value + offset)``: the target of both predictors."""
        return torch.log(value.float() + self.duration_offset)

    def from_log_duration(self, prediction: Tensor) -> Tensor:
        """Frames or seconds from a prediction: never negative, and finite, so that any limit still cuts them."""
        return (torch.exp(prediction.float().clamp_max(_LONGEST_LOG)) - self.duration_offset).clamp_min(0.0)
