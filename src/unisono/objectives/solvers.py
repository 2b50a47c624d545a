"""Solvers of a flow's differential equation, and schedules of sigma for them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from unisono.errors import UserError
from unisono.objectives.base import Predict, check_choice


def sigma_schedule(num_steps: int, sway: float = 0.0, device: torch.device | str = "cpu") -> Tensor:
    """Noise levels ``(num_steps + 1,)`` from 1 to 0.

    Args:
        num_steps: solver steps.
        sway: coefficient in [-1, 1] of Chen et al. 2024 (F5-TTS, equation 6), in time ``t = 1 - sigma``:
            ``t + sway * (cos(pi t / 2) - 1 + t)``. Negative values spend more steps near the noise.
    """
    if num_steps < 1:
        raise UserError(f"num_steps is {num_steps}; at least 1 is needed")
    if not -1.0 <= sway <= 1.0:
        raise UserError(f"sway is {sway}; it must lie between -1 and 1")
    time = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    time = time + sway * (torch.cos(torch.pi / 2 * time) - 1 + time)
    time[0], time[-1] = 0.0, 1.0
    return (1.0 - time).float().to(device)


def _euler(velocity: Predict, x: Tensor, sigma: Tensor, step: Tensor) -> Tensor:
    return x + step * velocity(x, sigma)


def _midpoint(velocity: Predict, x: Tensor, sigma: Tensor, step: Tensor) -> Tensor:
    halfway = x + 0.5 * step * velocity(x, sigma)
    return x + step * velocity(halfway, sigma + 0.5 * step)


SOLVERS = {"euler": _euler, "midpoint": _midpoint}


def integrate(velocity: Predict, x: Tensor, sigmas: Tensor, solver: str = "euler") -> Tensor:
    """Solve ``dx / dsigma = velocity(x, sigma)`` along ``sigmas``, starting from ``x (B, T, C)`` at ``sigmas[0]``."""
    check_choice("solver", solver, tuple(SOLVERS))
    advance = SOLVERS[solver]
    batch = x.shape[0]
    for sigma, after in pairwise(sigmas):
        x = advance(velocity, x, sigma.expand(batch), after - sigma)
    return x
