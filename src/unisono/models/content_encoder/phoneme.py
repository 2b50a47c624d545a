"""Phonemes, with a speaker, to a sequence of vectors."""

from __future__ import annotations

from torch import Tensor

from unisono.models.content_encoder.symbols import SymbolEncoder
from unisono.types import Alignment, Condition


class PhonemeEncoder(SymbolEncoder):
    """Phonemes and a voice; the arguments are those of ``SymbolEncoder``."""

    alignment = Alignment.UNITS

    def forward(self, tokens: Tensor, speaker: Tensor, speaker_embedding: Tensor | None = None) -> Condition:
        """``tokens`` int64 ``(B, L)``, zero at padding; ``speaker`` int64 ``(B,)``; ``speaker_embedding (B, E)``."""
        return self.encode(tokens, speaker, speaker_embedding)
