"""Flow matching on the straight path from data (sigma 0) to noise (sigma 1).

Lipman et al. 2023, section 4.1 (optimal-transport path) and Liu et al. 2023 (rectified flow), in the time convention
of diffusers' flow-match schedulers: ``x_sigma = (1 - sigma) * x0 + sigma * noise``.

Shape letters: B items, T frames, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor


class FlowMatching:
    """How noise levels are drawn, points on the path and the velocity that is to be predicted.

    Args:
        sigma_sampling: "uniform", or "logit_normal" (Esser et al. 2024, equation 19), which favours middle levels.
        logit_mean, logit_std: of the logit-normal distribution.
    """

    def __init__(self, sigma_sampling: str = "logit_normal", logit_mean: float = 0.0, logit_std: float = 1.0) -> None:
        if sigma_sampling not in ("uniform", "logit_normal"):
            raise ValueError(f"sigma_sampling is {sigma_sampling!r}; choose 'uniform' or 'logit_normal'")
        if not logit_std > 0:
            raise ValueError(f"logit_std is {logit_std}; it must be positive")
        self.sigma_sampling, self.logit_mean, self.logit_std = sigma_sampling, logit_mean, logit_std

    def sample_sigma(self, batch_size: int, device: torch.device) -> Tensor:
        """Noise levels ``(B,)`` in [0, 1], stratified over the batch: less variance, the same distribution."""
        uniform = (torch.randperm(batch_size, device=device) + torch.rand(batch_size, device=device)) / batch_size
        if self.sigma_sampling == "uniform":
            return uniform
        normal = torch.special.ndtri(uniform.double().clamp(1e-6, 1 - 1e-6)).float()
        return torch.sigmoid(self.logit_mean + self.logit_std * normal)

    def interpolate(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Point ``(B, T, C)`` on the path at ``sigma (B,)``."""
        sigma = sigma[:, None, None]
        return (1 - sigma) * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor) -> Tensor:
        """Velocity ``dx / dsigma``, the same everywhere on the path."""
        return noise - x0
