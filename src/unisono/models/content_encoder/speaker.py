"""Whose voice: a name or the embedding of a recording, as one vector."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unisono.errors import UserError
from unisono.models.unused import touch


class SpeakerEmbedding(nn.Module):
    """Sum of a learned vector per name and a projected embedding of a reference recording.

    Args:
        dim: width D.
        speakers: names; index 0 is "no speaker given", index ``i + 1`` is ``speakers[i]``.
        embedding_dim: size of the reference embeddings; None takes none.
    """

    def __init__(self, dim: int, speakers: Sequence[str] = (), embedding_dim: int | None = None) -> None:
        super().__init__()
        self.names = nn.Embedding(len(speakers) + 1, dim)
        self.project = None if embedding_dim is None else nn.Linear(embedding_dim, dim)

    def forward(self, speaker: Tensor, embedding: Tensor | None = None) -> Tensor:
        """``speaker`` int64 ``(B,)``; ``embedding (B, E)``, zeros where a name is given; returns ``(B, D)``."""
        vector = self.names(speaker)
        if embedding is None:
            return vector if self.project is None else touch(vector, self.project.parameters())
        if self.project is None or self.project.in_features != embedding.shape[1]:
            expected = "none" if self.project is None else str(self.project.in_features)
            raise UserError(
                f"a speaker embedding has {embedding.shape[1]} values, the model takes {expected}; set "
                "speaker_embedding_dim of model.content_encoders.phoneme, .score and .pitch, or make the embeddings "
                "with the encoder that the model was trained with (unisono speaker)"
            )
        given = (embedding != 0).any(dim=1, keepdim=True)
        return vector + self.project(embedding) * given
