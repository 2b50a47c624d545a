"""What encoders of phonemes have in common: a vocabulary, a voice and a transformer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unisono.models.content_encoder.speaker import SpeakerEmbedding
from unisono.models.layers import TransformerEncoder
from unisono.types import Condition


class SymbolEncoder(nn.Module):
    """Embedding of phonemes plus that of the voice; subclasses add what else they know of each phoneme.

    Args:
        dim: width D.
        phonemes: the vocabulary; token 0 is padding, token ``i + 1`` is ``phonemes[i]``.
        speakers, speaker_embedding_dim: see ``SpeakerEmbedding``.
        num_layers, num_heads: of the transformer.
        inner_dim: width of everything before a last projection to ``dim``; None, or ``dim`` itself, has none.
    """

    def __init__(
        self,
        dim: int,
        phonemes: Sequence[str],
        speakers: Sequence[str] = (),
        num_layers: int = 3,
        num_heads: int = 4,
        speaker_embedding_dim: int | None = None,
        inner_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.inner_dim = dim, inner_dim or dim
        self.phonemes, self.speakers = tuple(phonemes), tuple(speakers)
        self.embedding = nn.Embedding(len(self.phonemes) + 1, self.inner_dim, padding_idx=0)
        self.speaker = SpeakerEmbedding(self.inner_dim, self.speakers, speaker_embedding_dim)
        self.transformer = TransformerEncoder(
            self.inner_dim, num_layers, num_heads, out_dim=None if self.inner_dim == dim else dim
        )

    def encode(self, tokens: Tensor, speaker: Tensor, speaker_embedding: Tensor | None, *others: Tensor) -> Condition:
        """``tokens (B, L)``, ``speaker (B,)``, ``speaker_embedding (B, E)``; ``others (B, L, inner)`` are added."""
        mask = tokens > 0
        x = self.embedding(tokens) + self.speaker(speaker, speaker_embedding)[:, None]
        for other in others:
            x = x + other
        return Condition(self.transformer(x, mask), mask)
