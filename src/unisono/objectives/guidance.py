"""Classifier-free guidance, the same for every objective.

Shape letters: B items, T frames, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import torch
from torch import Tensor

from unisono.errors import UserError
from unisono.objectives.base import Predict


class Branch(Enum):
    """What the network is told in one of the predictions that guidance combines."""

    NOTHING = "nothing"
    CONTENT = "content"  # without the instruction
    EVERYTHING = "everything"


# ``(branches, x, sigma) -> predictions``: ``x (B, T, C)`` holds the batch once per branch, in their order.
PredictBranches = Callable[[tuple[Branch, ...], Tensor, float], Tensor]


@dataclass(frozen=True)
class Guidance:
    """How much further than the conditional prediction to go, and where.

    Attributes:
        scale: of the way from nothing to content (Ho and Salimans 2022), and on to the instruction where
            ``instruction_scale`` is None. 1 is no guidance.
        instruction_scale: of the way from content alone to content and instruction (Brooks et al. 2023, equation 3).
        rescale: how much of the guided prediction's deviation is brought back to the conditional one's, from 0 to 1
            (Lin et al. 2024, section 3.4).
        min_sigma, max_sigma: noise levels, both included, between which to guide (Kynkäänniemi et al. 2024).
    """

    scale: float = 1.0
    instruction_scale: float | None = None
    rescale: float = 0.0
    min_sigma: float = 0.0
    max_sigma: float = 1.0

    def __post_init__(self) -> None:
        for name, scale in (("guidance_scale", self.scale), ("instruction_guidance_scale", self.instruction_scale)):
            if scale is not None and not (math.isfinite(scale) and scale >= 0):
                raise UserError(f"{name} is {scale}; it must be a number from 0 on (1: no guidance)")
        if not 0 <= self.rescale <= 1:
            raise UserError(f"guidance_rescale is {self.rescale}; it must lie between 0 (off) and 1")
        if not 0 <= self.min_sigma < self.max_sigma <= 1:
            raise UserError(
                f"guidance_min_sigma ({self.min_sigma}) and guidance_max_sigma ({self.max_sigma}) must rise and lie "
                "between 0 (data) and 1 (noise); 0 and 1 guide everywhere"
            )

    def branches(self, sigma: float) -> tuple[Branch, ...]:
        """What the network has to be asked at ``sigma``, the least informed first."""
        return self._chain(sigma)[0]

    def _chain(self, sigma: float) -> tuple[tuple[Branch, ...], tuple[float, ...]]:
        """The branches that count, and the scale of the way from each to the next.

        ``p_0 + s_1 (p_1 - p_0) + s_2 (p_2 - p_1)`` does without the middle one where both scales are equal, without
        the first where its scale is 1, and without the last where its scale is 0.
        """
        if not self.min_sigma <= sigma <= self.max_sigma:
            return (Branch.EVERYTHING,), ()
        branches: tuple[Branch, ...] = (Branch.NOTHING, Branch.EVERYTHING)
        scales: tuple[float, ...] = (self.scale,)
        if self.instruction_scale not in (None, self.scale):
            branches = (Branch.NOTHING, Branch.CONTENT, Branch.EVERYTHING)
            scales = (self.scale, self.instruction_scale)
        while scales and scales[0] == 1:
            branches, scales = branches[1:], scales[1:]
        while scales and scales[-1] == 0:
            branches, scales = branches[:-1], scales[:-1]
        return branches, scales


def guided(predict: PredictBranches, guidance: Guidance, mask: Tensor | None = None) -> Predict:
    """A guided network. All branches run in one batch; where guidance does nothing there is only one.

    For one ``x``, velocity, noise and data are linear functions of each other, so scaling one of them is scaling all.
    That is not so for ``rescale``, which takes the deviation of what the network predicts, as its paper does.

    Args:
        predict: the network with its conditions.
        guidance: what to do.
        mask: bool ``(B, T)``, the frames that count for ``rescale``; None for all.
    """

    def combined(x: Tensor, sigma: float) -> Tensor:
        branches, scales = guidance._chain(sigma)
        predictions = predict(branches, torch.cat([x] * len(branches)), sigma).to(x.dtype).chunk(len(branches))
        result = predictions[0]
        for (weaker, stronger), scale in zip(pairwise(predictions), scales, strict=True):
            result = result + scale * (stronger - weaker)
        if guidance.rescale and scales:
            ratio = _deviation(predictions[-1], mask) / _deviation(result, mask)
            result = result * (1 + guidance.rescale * (ratio - 1))
        return result

    return combined


def _deviation(x: Tensor, mask: Tensor | None) -> Tensor:
    """Standard deviation ``(B, 1, 1)`` over the valid frames and all channels of each item; never 0."""
    valid = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)
    count = (valid.sum(dim=(1, 2), keepdim=True) * x.shape[2]).clamp_min(1)
    mean = (x * valid).sum(dim=(1, 2), keepdim=True) / count
    variance = (((x - mean) * valid) ** 2).sum(dim=(1, 2), keepdim=True) / count
    return variance.sqrt().clamp_min(torch.finfo(x.dtype).tiny)
