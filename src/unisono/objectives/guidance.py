"""Classifier-free guidance, the same for every objective."""

from __future__ import annotations

import torch
from torch import Tensor

from unisono.objectives.base import Predict


def guided(predict: Predict, guidance_scale: float) -> Predict:
    """Classifier-free guidance (Ho and Salimans 2022) over a network that takes a doubled batch.

    ``predict`` is called with the batch twice: its first half is taken as conditional, its second as unconditional.
    ``p = p_uncond + scale * (p_cond - p_uncond)``. For one ``x``, velocity, noise and data are linear functions of each
    other, so guiding one of them is guiding all.
    """

    def combined(x: Tensor, sigma: Tensor) -> Tensor:
        conditional, unconditional = predict(torch.cat([x, x]), torch.cat([sigma, sigma])).chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    return combined
