"""Text through a frozen encoder of ``transformers``: T5, Flan-T5, BERT and their kin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from unisono.errors import UserError
from unisono.features.pretrained import load_weights, weights_fingerprint
from unisono.models.layers import TransformerEncoder
from unisono.text.tokens import PretrainedTokenizer
from unisono.types import Alignment, Condition, length_mask

# Captions and instructions are often read by one encoder; it lives as long as a model that uses it.
_loaded: WeakValueDictionary[str, Any] = WeakValueDictionary()


def _frozen_encoder(pretrained: str) -> Any:
    from transformers import AutoModelForTextEncoding

    if (known := _loaded.get(pretrained)) is not None:
        return known
    encoder = load_weights(AutoModelForTextEncoding.from_pretrained, pretrained, "a text encoder")
    encoder = encoder.float().requires_grad_(False)
    if any(parameter.is_meta for parameter in encoder.parameters()):  # `unisono check` makes no weights
        encoder.fingerprint = ""
        return encoder
    encoder.fingerprint = weights_fingerprint(encoder)
    return _loaded.setdefault(pretrained, encoder)


class PretrainedTextEncoder(nn.Module):
    """Hidden states of a frozen encoder, projected to the model's width; what follows the encoder is trained.

    The encoder computes in float32 whatever the precision of training, so that embeddings from the feature cache are
    those that would have been computed.

    Args:
        dim: width D.
        pretrained: folder or Hugging Face Hub id of the encoder (``id@revision`` pins a version); loaded from
            safetensors, running no code that comes with it.
        num_layers, num_heads: of a transformer after the projection (none by default: the adapter has one).
    """

    alignment = Alignment.NONE

    def __init__(self, dim: int, pretrained: str, num_layers: int = 0, num_heads: int = 4) -> None:
        super().__init__()
        self.dim, self.pretrained = dim, pretrained
        encoder = _frozen_encoder(pretrained)
        self.encoder, self.fingerprint = encoder, encoder.fingerprint
        # Absolute positions end somewhere; relative ones (T5) do not, and such configurations do not say.
        self.max_tokens: int | None = getattr(encoder.config, "max_position_embeddings", None)
        self.project = nn.Linear(encoder.config.hidden_size, dim)
        self.transformer = TransformerEncoder(dim, num_layers, num_heads)

    def train(self, mode: bool = True) -> PretrainedTextEncoder:
        """The frozen encoder stays in evaluation mode: dropout would change what it says."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(
        self, tokens: Tensor | None = None, embedding: Tensor | None = None, lengths: Tensor | None = None
    ) -> Condition:
        """``tokens`` int64 ``(B, L)``, zero at padding; or cached ``embedding (B, L, H)`` of ``lengths (B,)``."""
        if embedding is None:
            assert tokens is not None, "a text is tokens or an embedding"
            mask = tokens > 0
            embedding = self._hidden(tokens, mask)
        else:
            assert lengths is not None, "embeddings come with their lengths"
            if embedding.shape[2] != self.project.in_features:
                raise UserError(
                    f"text embeddings have {embedding.shape[2]} values, {self.pretrained} gives "
                    f"{self.project.in_features}; run `unisono cache` again"
                )
            mask = length_mask(lengths, embedding.shape[1])
        # Padding must not depend on who else is in the batch.
        embedding = embedding * mask[..., None]
        x = self.project(embedding.to(self.project.weight.dtype))
        return Condition(self.transformer(x, mask), mask)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> list[Tensor]:
        """Hidden states ``(L, H)`` of each text, computed alone."""
        tokenize = PretrainedTokenizer(self.pretrained)
        device = self.project.weight.device
        rows = [tokenize([text]).to(device) for text in texts]
        return [self._hidden(row, row > 0)[0] for row in rows]

    @torch.no_grad()
    def _hidden(self, tokens: Tensor, mask: Tensor) -> Tensor:
        if self.max_tokens is not None and tokens.shape[1] > self.max_tokens:
            raise UserError(
                f"a text has {tokens.shape[1]} tokens, {self.pretrained} reads {self.max_tokens} at most; shorten it"
            )
        with torch.autocast(tokens.device.type, enabled=False):
            # Index 0 stands for padding, where the mask hides it.
            ids = (tokens - 1).clamp_min(0)
            return self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
