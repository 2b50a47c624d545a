"""A score with lyrics: phonemes, notes, note durations, slurs and a singer, to a sequence of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unisono.models.content_encoder.speaker import SpeakerEmbedding
from unisono.models.layers import TransformerEncoder
from unisono.types import Alignment, Condition

_MIDI_NOTES = 128


class ScoreEncoder(nn.Module):
    """Sum of embeddings of what a score says of each phoneme, and a transformer.

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
        self.note = nn.Embedding(_MIDI_NOTES, dim)
        self.slur = nn.Embedding(2, dim)
        # A note between two keys (quarter tones) and its length are numbers, not names.
        self.numbers = nn.Linear(2, dim)
        self.speaker = SpeakerEmbedding(dim, self.speakers, speaker_embedding_dim)
        self.transformer = TransformerEncoder(dim, num_layers, num_heads)

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
        mask = tokens > 0
        key = notes.round().clamp(0, _MIDI_NOTES - 1)
        numbers = torch.stack([notes - key, torch.log(note_durations_s + 0.05)], dim=-1)
        x = self.embedding(tokens) + self.note(key.long()) + self.slur(slurs.long())
        x = x + self.numbers(numbers.to(x.dtype)) + self.speaker(speaker, speaker_embedding)[:, None]
        return Condition(self.transformer(x, mask), mask)
