"""Phonemes laid out on latent frames, with the F0 contour they are voiced on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unisono.models.content_encoder.symbols import SymbolEncoder
from unisono.types import Alignment, Condition

_MIDDLE_HZ = 220.0


class PitchEncoder(SymbolEncoder):
    """Each frame's phoneme, its pitch (octaves from 220 Hz) and voicing.

    Args:
        dim, **options: see ``SymbolEncoder``.
        num_layers: of the transformer over frames (none by default: the backbone has many).
    """

    alignment = Alignment.FRAMES

    def __init__(self, dim: int, num_layers: int = 0, **options: Any) -> None:
        super().__init__(dim, num_layers=num_layers, **options)
        self.pitch = nn.Sequential(nn.Linear(2, self.inner_dim), nn.SiLU(), nn.Linear(self.inner_dim, self.inner_dim))

    def forward(
        self,
        tokens: Tensor,
        f0_hz: Tensor,
        voicing: Tensor,
        speaker: Tensor,
        speaker_embedding: Tensor | None = None,
    ) -> Condition:
        """``tokens`` int64, ``f0_hz`` and bool ``voicing`` are ``(B, T)`` at the latent rate; ``speaker (B,)``."""
        octaves = torch.where(voicing, torch.log2(f0_hz.clamp_min(1.0) / _MIDDLE_HZ), 0.0)
        pitch = torch.stack([octaves, voicing.float()], dim=-1)
        return self.encode(tokens, speaker, speaker_embedding, self.pitch(pitch.to(self.embedding.weight.dtype)))
