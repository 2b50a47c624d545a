"""Text without a vocabulary: UTF-8 bytes, hashed n-gram embeddings and a small transformer trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unisono.models.layers import TransformerEncoder
from unisono.types import Alignment, Condition

BYTE_TOKENS = 257  # 256 byte values, shifted by one; 0 is padding


class ByteTextEncoder(nn.Module):
    """Byte-level transformer.

    Each byte's embedding is its own plus those of the n-grams that end at it, looked up by a polynomial hash
    (Pagnoni et al. 2024, "Byte Latent Transformer", section 3.2.1). N-grams let words be told apart from the first
    layer on, which a byte transformer trained for minutes would otherwise have to learn first.

    Args:
        dim: width D.
        num_layers, num_heads: of the transformer.
        ngram_sizes: lengths in bytes; empty for bytes alone.
        ngram_buckets: rows of each n-gram table.
        inner_dim: width of everything before a last projection to ``dim``; None, or ``dim`` itself, has none.
    """

    alignment = Alignment.NONE

    def __init__(
        self,
        dim: int,
        num_layers: int = 2,
        num_heads: int = 4,
        ngram_sizes: Sequence[int] = (3, 4, 5, 6),
        ngram_buckets: int = 2048,
        inner_dim: int | None = None,
    ) -> None:
        super().__init__()
        inner = inner_dim or dim
        self.dim, self.ngram_buckets = dim, ngram_buckets
        self.ngram_sizes = tuple(ngram_sizes)
        self.embedding = nn.Embedding(BYTE_TOKENS, inner, padding_idx=0)
        self.ngrams = nn.ModuleList(nn.Embedding(ngram_buckets, inner) for _ in self.ngram_sizes)
        self.transformer = TransformerEncoder(inner, num_layers, num_heads, out_dim=None if inner == dim else dim)

    def forward(self, tokens: Tensor) -> Condition:
        """``tokens`` int64 ``(B, L)``: bytes plus one, zero at padding."""
        mask = tokens > 0
        x = self.embedding(tokens)
        for size, table in zip(self.ngram_sizes, self.ngrams, strict=True):
            x = x + table(self._hashes(tokens, size))
        return Condition(self.transformer(x, mask), mask)

    def _hashes(self, tokens: Tensor, size: int) -> Tensor:
        """Bucket of the n-gram that ends at each byte (zeros stand before the text), ``(B, L)``."""
        padded = F.pad(tokens, (size - 1, 0))
        value = torch.zeros_like(tokens)
        for offset in range(size):
            # Below 2**53 throughout: the modulus keeps the rolling polynomial exact in int64.
            value = (value * 263 + padded[:, offset : offset + tokens.shape[1]]) % 1_000_003
        return (value * 31) % 1_000_003 % self.ngram_buckets
