"""Phonemes laid out on latent frames, with the F0 contour they are voiced on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unisono.models.content_encoder.speaker import SpeakerEmbedding
from unisono.models.layers import TransformerEncoder
from unisono.types import Alignment, Condition

_MIDDLE_HZ = 220.0


class PitchEncoder(nn.Module):
    """Embedding of each frame's phoneme and a projection of its pitch (octaves from 220 Hz) and voicing.

    Args:
        dim: width D.
        phonemes: the vocabulary; token 0 is padding, token ``i + 1`` is ``phonemes[i]``.
        speakers, speaker_embedding_dim: see ``SpeakerEmbedding``.
        num_layers, num_heads: of the transformer over frames (none by default: the backbone has many).
    """

    alignment = Alignment.FRAMES

    def __init__(
        self,
        dim: int,
        phonemes: Sequence[str],
        speakers: Sequence[str] = (),
        num_layers: int = 0,
        num_heads: int = 4,
        speaker_embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.phonemes, self.speakers = tuple(phonemes), tuple(speakers)
        self.embedding = nn.Embedding(len(self.phonemes) + 1, dim, padding_idx=0)
        self.pitch = nn.Sequential(nn.Linear(2, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.speaker = SpeakerEmbedding(dim, self.speakers, speaker_embedding_dim)
        self.transformer = TransformerEncoder(dim, num_layers, num_heads)

    def forward(
        self,
        tokens: Tensor,
        f0_hz: Tensor,
        voicing: Tensor,
        speaker: Tensor,
        speaker_embedding: Tensor | None = None,
    ) -> Condition:
        """``tokens`` int64, ``f0_hz`` and bool ``voicing`` are ``(B, T)`` at the latent rate; ``speaker (B,)``."""
        mask = tokens > 0
        octaves = torch.where(voicing, torch.log2(f0_hz.clamp_min(1.0) / _MIDDLE_HZ), 0.0)
        x = self.embedding(tokens)
        x = x + self.pitch(torch.stack([octaves, voicing.float()], dim=-1).to(x.dtype))
        x = x + self.speaker(speaker, speaker_embedding)[:, None]
        return Condition(self.transformer(x, mask), mask)
