"""A score with lyrics: phonemes, notes, note durations, slurs and a singer, to a sequence of vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unisono.models.content_encoder.symbols import SymbolEncoder
from unisono.types import Alignment, Condition

_MIDI_NOTES = 128


class ScoreEncoder(SymbolEncoder):
    """Sum of embeddings of what a score says of each phoneme; the arguments are those of ``SymbolEncoder``."""

    alignment = Alignment.UNITS

    def __init__(self, dim: int, **options: Any) -> None:
        super().__init__(dim, **options)
        self.note = nn.Embedding(_MIDI_NOTES, self.inner_dim)
        self.slur = nn.Embedding(2, self.inner_dim)
        # A note between two keys (quarter tones) and its length are numbers, not names.
        self.numbers = nn.Linear(2, self.inner_dim)

    def forward(
        self,
        tokens: Tensor,
        notes: Tensor,
        note_durations_s: Tensor,
        slurs: Tensor,
        speaker: Tensor,
        speaker_embedding: Tensor | None = None,
    ) -> Condition:
        """Everything is ``(B, L)``, zero at padding; ``notes`` are MIDI numbers, 0 for none; ``speaker (B,)``."""
        key = notes.round().clamp(0, _MIDI_NOTES - 1)
        numbers = torch.stack([notes - key, torch.log(note_durations_s + 0.05)], dim=-1)
        numbers = self.numbers(numbers.to(self.numbers.weight.dtype))
        return self.encode(tokens, speaker, speaker_embedding, self.note(key.long()), self.slur(slurs.long()), numbers)
