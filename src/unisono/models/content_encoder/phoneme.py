"""Phonemes, with a speaker, to a sequence of vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unisono.models.content_encoder.speaker import SpeakerEmbedding
from unisono.models.layers import TransformerEncoder
from unisono.types import Alignment, Condition


class PhonemeEncoder(nn.Module):
    """Embedding and transformer over phonemes; the speaker's embedding is added to every unit.

    Args:
        dim: width D.
        phonemes: the vocabulary; token 0 is padding, token ``i + 1`` is ``phonemes[i]``.
        speakers, speaker_embedding_dim: see ``SpeakerEmbedding``.
        num_layers, num_heads: of the transformer.
    """

    alignment = Alignment.UNITS

    def __init__(
        self,
        dim: int,
        phonemes: Sequence[str],
        speakers: Sequence[str] = (),
        num_layers: int = 3,
        num_heads: int = 4,
        speaker_embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.phonemes, self.speakers = tuple(phonemes), tuple(speakers)
        self.embedding = nn.Embedding(len(self.phonemes) + 1, dim, padding_idx=0)
        self.speaker = SpeakerEmbedding(dim, self.speakers, speaker_embedding_dim)
        self.transformer = TransformerEncoder(dim, num_layers, num_heads)

    def forward(self, tokens: Tensor, speaker: Tensor, speaker_embedding: Tensor | None = None) -> Condition:
        """``tokens`` int64 ``(B, L)``, zero at padding; ``speaker`` int64 ``(B,)``; ``speaker_embedding (B, E)``."""
        mask = tokens > 0
        x = self.embedding(tokens) + self.speaker(speaker, speaker_embedding)[:, None]
        return Condition(self.transformer(x, mask), mask)
