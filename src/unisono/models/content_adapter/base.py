"""What every content adapter shares: its result and the duration predictors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unisono.types import Alignment, Condition

_LONGEST_LOG = math.log(1e7)
"""Frames or seconds of two days and more; beyond 88 the exponential is infinite, which no integer is."""


@dataclass(frozen=True)
class AdaptedContent:
    """Result of an adapter.

    Attributes:
        content: adapted content.
        global_duration: ``(B,)`` predicted ``log(seconds + offset)`` of the whole clip; None where units or frames tell
            its length.
        local_duration: ``(B, L)`` predicted ``log(frames + offset)`` per unit; None for content without units.
    """

    content: Condition
    global_duration: Tensor | None
    local_duration: Tensor | None


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
        fixed = x.detach()
        x = fixed + self.gradient_scale * (x - fixed)  # exactly x, in any type of numbers
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

    def forward(self, content: Condition, instruction: Condition, alignment: Alignment | None = None) -> AdaptedContent:
        """Adapt content ``(B, L, D)`` to its instruction.

        Args:
            alignment: how the content lies in time, which says what durations are predicted: of the whole for ``NONE``,
                of each unit for ``UNITS``, none for ``FRAMES``; both for None.
        """
        adapted = self.adapt(content, instruction) * content.mask[..., None]
        whole = units = None
        if alignment in (Alignment.NONE, None):
            whole = self.global_predictor(adapted.sum(dim=1) / content.mask.sum(dim=1, keepdim=True).clamp_min(1))
        if alignment in (Alignment.UNITS, None):
            units = self.local_predictor(adapted)
        return AdaptedContent(Condition(adapted, content.mask), whole, units)

    def log_duration(self, value: Tensor) -> Tensor:
        """``log(value + offset)``: the target of both predictors."""
        return torch.log(value.float() + self.duration_offset)

    def from_log_duration(self, prediction: Tensor | None) -> Tensor:
        """Frames or seconds from a prediction: never negative, and finite, so that any limit still cuts them."""
        assert prediction is not None, "content of this alignment has no such durations"
        return (torch.exp(prediction.float().clamp_max(_LONGEST_LOG)) - self.duration_offset).clamp_min(0.0)
