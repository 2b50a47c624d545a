"""From noise to data: schedules of sigma, solvers of the flow's differential equation, guidance.

A velocity function maps ``(x (B, T, C), sigma (B,))`` to ``dx / dsigma (B, T, C)``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]


def sigma_schedule(num_steps: int, sway: float = 0.0, device: torch.device | str = "cpu") -> Tensor:
    """Noise levels ``(num_steps + 1,)`` from 1 to 0.

    Args:
        num_steps: solver steps.
        sway: coefficient in [-1, 1] of Chen et al. 2024 (F5-TTS, equation 6), in time ``t = 1 - sigma``:
            ``t + sway * (cos(pi t / 2) - 1 + t)``. Negative values spend more steps near the noise.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; at least 1 is needed")
    if not -1.0 <= sway <= 1.0:
        raise ValueError(f"sway is {sway}; it must lie between -1 and 1")
    time = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    time = time + sway * (torch.cos(torch.pi / 2 * time) - 1 + time)
    time[0], time[-1] = 0.0, 1.0
    return (1.0 - time).float().to(device)


def _euler(velocity: Velocity, x: Tensor, sigma: Tensor, step: Tensor) -> Tensor:
    return x + step * velocity(x, sigma)


def _midpoint(velocity: Velocity, x: Tensor, sigma: Tensor, step: Tensor) -> Tensor:
    halfway = x + 0.5 * step * velocity(x, sigma)
    return x + step * velocity(halfway, sigma + 0.5 * step)


SOLVERS = {"euler": _euler, "midpoint": _midpoint}


def integrate(velocity: Velocity, x: Tensor, sigmas: Tensor, solver: str = "euler") -> Tensor:
    """Solve ``dx / dsigma = velocity(x, sigma)`` along ``sigmas``, starting from ``x (B, T, C)`` at ``sigmas[0]``."""
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}; choose one of {', '.join(SOLVERS)}")
    advance = SOLVERS[solver]
    batch = x.shape[0]
    for sigma, after in pairwise(sigmas):
        x = advance(velocity, x, sigma.expand(batch), after - sigma)
    return x


def guided(velocity: Velocity, guidance_scale: float) -> Velocity:
    """Classifier-free guidance (Ho and Salimans 2022) over a velocity function of a doubled batch.

    ``velocity`` is called with the batch twice: its first half is taken as conditional, its second as unconditional.
    ``v = v_uncond + scale * (v_cond - v_uncond)``.
    """

    def combined(x: Tensor, sigma: Tensor) -> Tensor:
        conditional, unconditional = velocity(torch.cat([x, x]), torch.cat([sigma, sigma])).chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    return combined
