"""The distribution of a latent that a variational autoencoder's encoder gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

_LEAST_STD = 1e-4


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normal distributions (Kingma and Welling 2014, appendix B); latents as the network has them.

    Attributes:
        mean, std: ``(B, T, C)``, not normalised by the autoencoder's statistics.
        mask: bool ``(B, T)``, None where every frame is valid.
    """

    mean: Tensor
    std: Tensor
    mask: Tensor | None = None

    @staticmethod
    def of_parameters(parameters: Tensor, mask: Tensor | None = None) -> DiagonalGaussian:
        """From ``(B, T, 2 C)``: means, and what ``softplus`` makes deviations of."""
        mean, raw = parameters.chunk(2, dim=-1)
        return DiagonalGaussian(mean, F.softplus(raw) + _LEAST_STD, mask)

    def sample(self, noise: Tensor) -> Tensor:
        """``(B, T, C)`` from standard normal ``noise (B, T, C)``, with gradients into mean and deviation."""
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """Divergence from the standard normal ``(B,)``: nats of a frame, summed over channels, mean over frames.

        Half of what diffusers and stable-audio-tools call so: a loss weight of theirs is twice as large here.
        """
        variance = self.std.square()
        frames = 0.5 * (self.mean.square() + variance - variance.log() - 1).sum(dim=-1)
        if self.mask is None:
            return frames.mean(dim=1)
        return (frames * self.mask).sum(dim=1) / self.mask.sum(dim=1).clamp_min(1)
