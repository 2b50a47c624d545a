"""Solvers of a flow's differential equation, and schedules of sigma for them.

Noise levels and steps are Python floats, known before the first step: a solver never asks a device for a value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from unisono.errors import UserError
from unisono.objectives.base import Predict, check_choice

_MAX_SHIFT = 100.0


def sigma_schedule(num_steps: int, sway: float = 0.0, shift: float = 1.0) -> list[float]:
    """Noise levels, ``num_steps + 1`` of them, falling from 1 to 0. Both bends keep the ends; sway comes first.

    Args:
        num_steps: solver steps.
        sway: coefficient in [-1, 1] of Chen et al. 2024 (F5-TTS, sway sampling), in time ``t = 1 - sigma``:
            ``t + sway * (cos(pi t / 2) - 1 + t)``. Negative values spend more steps near the noise.
        shift: of Esser et al. 2024 (equation 23, where it is ``sqrt(m / n)``), from 0.01 to 100:
            ``shift * sigma / (1 + (shift - 1) * sigma)``. Values above 1 spend more steps near the noise.
    """
    if num_steps < 1:
        raise UserError(f"num_steps is {num_steps}; at least 1 is needed")
    if not -1.0 <= sway <= 1.0:
        raise UserError(f"sway is {sway}; it must lie between -1 and 1 (0: even steps)")
    if not 1 / _MAX_SHIFT <= shift <= _MAX_SHIFT:
        raise UserError(f"shift is {shift}; it must lie between {1 / _MAX_SHIFT:g} and {_MAX_SHIFT:g} (1: even steps)")
    sigmas = [1.0]
    for index in range(1, num_steps):
        time = index / num_steps
        time += sway * (math.cos(math.pi / 2 * time) - 1 + time)
        sigmas.append(shift * (1 - time) / (1 + (shift - 1) * (1 - time)))
    return [*sigmas, 0.0]


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method (Hairer, Nørsett and Wanner 1993, section II.1).

    Attributes:
        nodes: where in the step, from 0 to 1, each slope is taken.
        rows: per slope, the weights of the earlier ones that lead to its point.
        weights: of the slopes in the result.
    """

    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


EULER = Tableau((0.0,), ((),), (1.0,))
MIDPOINT = Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0))
HEUN = Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5))
RK4 = Tableau((0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


def _moved(x: Tensor, step: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """``x + step * sum(weight * slope)``."""
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            x = x + step * weight * slope
    return x


def _runge_kutta(tableau: Tableau, velocity: Predict, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    for sigma, after in pairwise(sigmas):
        slopes: list[Tensor] = []
        for node, row in zip(tableau.nodes, tableau.rows, strict=True):
            level = (1 - node) * sigma + node * after  # exact at both ends
            slopes.append(velocity(_moved(x, after - sigma, row, slopes), level))
        x = _moved(x, after - sigma, tableau.weights, slopes)
    return x


def _adams_bashforth(velocity: Predict, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Two steps, of any lengths (Hairer, Nørsett and Wanner 1993, section III.5).

    It integrates the line through this slope and the one before. The first step has none before it and is Euler's:
    an error of second order that is made once.
    """
    before: tuple[float, Tensor] | None = None
    for sigma, after in pairwise(sigmas):
        step, slope = after - sigma, velocity(x, sigma)
        weight = 0.0 if before is None else step / (2 * before[0])
        last = slope if before is None else before[1]
        x = _moved(x, step, (1 + weight, -weight), (slope, last))
        before = (step, slope)
    return x


Solve = Callable[[Predict, Tensor, Sequence[float]], Tensor]
SOLVERS: dict[str, Solve] = {
    "euler": partial(_runge_kutta, EULER),
    "midpoint": partial(_runge_kutta, MIDPOINT),
    "heun": partial(_runge_kutta, HEUN),
    "rk4": partial(_runge_kutta, RK4),
    "ab2": _adams_bashforth,
}


def integrate(velocity: Predict, x: Tensor, sigmas: Sequence[float], solver: str = "euler") -> Tensor:
    """Solve ``dx / dsigma = velocity(x, sigma)`` along ``sigmas``, starting from ``x (B, T, C)`` at ``sigmas[0]``.

    The state is float32, or float64 where ``x`` is, whatever the precision of the velocity: a step is small beside
    the state, and bfloat16 has three digits.

    ========  =====  ==================
    solver    order  evaluations a step
    ========  =====  ==================
    euler     1      1
    midpoint  2      2
    heun      2      2
    rk4       4      4
    ab2       2      1
    ========  =====  ==================
    """
    check_choice("solver", solver, tuple(SOLVERS))
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return SOLVERS[solver](lambda x, sigma: velocity(x, sigma).to(x.dtype), x, sigmas)
