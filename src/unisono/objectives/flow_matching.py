"""Flow matching on the straight path from data (sigma 0) to noise (sigma 1).

Lipman et al. 2023, section 4.1 (optimal-transport path) and Liu et al. 2023 (rectified flow), in the time convention
of diffusers' flow-match schedulers: ``x_sigma = (1 - sigma) * x0 + sigma * noise``.

Shape letters: B items, T frames, C channels.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from unisono.objectives.base import Objective, Predict, SolverSettings, check_choice, stratified_uniform
from unisono.objectives.optimal_transport import pair_noise
from unisono.objectives.solvers import SOLVERS, integrate, sigma_schedule

SigmaSampling = Literal["uniform", "logit_normal"]
DEFAULT_SWAY = -0.5


class FlowMatching(Objective):
    """How noise levels are drawn, points on the path and the velocity that is to be predicted.

    Args:
        sigma_sampling: "uniform", or "logit_normal" (Esser et al. 2024, equation 19), which favours middle levels.
        logit_mean, logit_std: of the logit-normal distribution.
        optimal_transport: pair noise with data within a training batch, see ``optimal_transport.pair_noise``.
    """

    tag = "flow-matching"
    solvers = tuple(SOLVERS)

    def __init__(
        self,
        sigma_sampling: SigmaSampling = "logit_normal",
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        optimal_transport: bool = False,
    ) -> None:
        check_choice("sigma_sampling", sigma_sampling, get_args(SigmaSampling))
        if not logit_std > 0:
            raise ValueError(f"logit_std is {logit_std}; it must be positive")
        self.sigma_sampling, self.logit_mean, self.logit_std = sigma_sampling, logit_mean, logit_std
        self.optimal_transport = optimal_transport

    def sample_sigma(self, batch_size: int, device: torch.device) -> Tensor:
        """Noise levels ``(B,)`` in [0, 1], stratified over the batch."""
        uniform = stratified_uniform(batch_size, device)
        if self.sigma_sampling == "uniform":
            return uniform
        normal = torch.special.ndtri(uniform.double().clamp(1e-6, 1 - 1e-6)).float()
        return torch.sigmoid(self.logit_mean + self.logit_std * normal)

    def interpolate(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Point ``(B, T, C)`` on the path at ``sigma (B,)``."""
        sigma = sigma[:, None, None]
        return (1 - sigma) * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Velocity ``dx / dsigma``, the same everywhere on the path."""
        return noise - x0

    def couple(self, x0: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
        return pair_noise(x0, noise, mask) if self.optimal_transport else noise

    def generate(
        self,
        predict: Predict,
        noise: Tensor,
        num_steps: int,
        solver: str | None = None,
        sway: float | None = None,
        shift: float | None = None,
    ) -> Tensor:
        """Integrate the velocity from noise to data.

        ``sway`` and ``shift`` do much the same, so the default of one yields to the other: -0.5 and 1, but a sway of 0
        where a shift is given. Where both are given, both are applied.
        """
        sway, shift = _bends(sway, shift)
        return integrate(predict, noise, sigma_schedule(num_steps, sway, shift), self.choose_solver(solver))

    def settle(
        self, num_steps: int, solver: str | None = None, sway: float | None = None, shift: float | None = None
    ) -> SolverSettings:
        sway, shift = _bends(sway, shift)
        sigma_schedule(num_steps, sway, shift)
        return SolverSettings(self.choose_solver(solver), sway, shift)


def _bends(sway: float | None, shift: float | None) -> tuple[float, float]:
    if sway is None:
        sway = DEFAULT_SWAY if shift is None else 0.0
    return sway, 1.0 if shift is None else shift
