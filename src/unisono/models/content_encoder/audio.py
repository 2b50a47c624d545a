"""Audio as content: its latent, projected."""

from __future__ import annotations

from torch import Tensor, nn

from unisono.models.layers import TransformerEncoder
from unisono.types import Alignment, Condition


class AudioEncoder(nn.Module):
    """Projection of a latent, and a transformer over its frames (none by default: the backbone has many).

    The unified model turns the waveform into a latent with its autoencoder before it calls this.
    """

    alignment = Alignment.FRAMES

    def __init__(self, dim: int, latent_dim: int, num_layers: int = 0, num_heads: int = 4) -> None:
        super().__init__()
        self.dim, self.latent_dim = dim, latent_dim
        self.project = nn.Sequential(nn.Linear(latent_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.transformer = TransformerEncoder(dim, num_layers, num_heads)

    def forward(self, latent: Tensor, mask: Tensor) -> Condition:
        """``latent (B, T, C)``, ``mask (B, T)``."""
        return Condition(self.transformer(self.project(latent), mask), mask)
