"""Building blocks shared by encoders, adapters and backbones.

Shape letters: B items, T queries (frames or tokens), L keys, D width, H heads, E = D / H.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unisono.types import Condition


def rotary_angles(positions: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine ``(T, E)`` of rotary position embedding (Su et al. 2021, eq. 34), base 10 000."""
    frequency = 10_000 ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle = torch.arange(positions, device=device, dtype=torch.float32)[:, None] * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys ``(B, T, H, E)`` by their positions; the result is float32 (or float64, where they are)."""
    cos, sin = (table[:, None] for table in rotary)
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([-second, first], dim=-1), sin)


class PositionEmbedding(nn.Module):
    """Where a frame lies in its clip: sinusoids of the frames since the start and until the end, projected.

    Rotary attention sees distances only. A clip made from a caption alone has no frame that differs from another
    before the noise, so the network could find its start and end by the attention window's edge at best.
    """

    def __init__(self, dim: int, frequencies: int = 16) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.project = nn.Linear(4 * frequencies, dim)

    def forward(self, mask: Tensor) -> Tensor:
        """``mask (B, T)`` -> ``(B, T, D)``."""
        since = mask.cumsum(dim=1).float() - 1
        until = mask.sum(dim=1, keepdim=True) - 1 - since
        # Periods from 4 to about 2600 frames.
        frequency = 2 * math.pi / 4 * 1000 ** (-torch.arange(self.frequencies, device=mask.device) / self.frequencies)
        angle = torch.stack([since, until], dim=-1)[..., None] * frequency
        features = torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(2)
        return self.project(features.to(self.project.weight.dtype))


def to_compute_type(x: Tensor) -> Tensor:
    """As linear layers will read it: autocast would cast what several of them read again for each."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def at_least_float32(x: Tensor) -> Tensor:
    """The same numbers in float32, or in float64 if they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention over ``(B, H, T, E)``; in float32 where a CPU is to have gradients.

    The CPU kernel takes two to five times as long for the backward pass in bfloat16, and is faster for the forward pass
    alone (benchmarks/attention.py).
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        if not torch.is_grad_enabled():
            return F.scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value, attn_mask=mask)
        query, key, wide = (at_least_float32(x) for x in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, wide, attn_mask=mask)
    return attended.to(value.dtype)


QueryKeyNorm = Literal["layer", "rms", "none"]


def _head_norm(kind: QueryKeyNorm, head_dim: int) -> nn.Module:
    if kind not in get_args(QueryKeyNorm):
        raise ValueError(f"query_key_norm is {kind!r}; choose one of {', '.join(get_args(QueryKeyNorm))}")
    if kind == "rms":  # PyTorch's own epsilon depends on the type of the numbers, and so would a model
        return nn.RMSNorm(head_dim, eps=1e-6)
    return nn.LayerNorm(head_dim) if kind == "layer" else nn.Identity()


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys per head (Dehghani et al. 2023, section 2).

    Keys and values are computed apart (``keys_values``), so that a sampler can keep those of an unchanging context.

    Args:
        dim: D.
        num_heads: H.
        context_dim: width of what is attended to; None is D.
        query_key_norm: of queries and keys: "layer", "rms" or "none".
    """

    def __init__(
        self, dim: int, num_heads: int, context_dim: int | None = None, query_key_norm: QueryKeyNorm = "layer"
    ) -> None:
        super().__init__()
        if dim % num_heads or (dim // num_heads) % 2:
            raise ValueError(f"width {dim} must be an even multiple of num_heads ({num_heads})")
        self.num_heads = num_heads
        self.to_query = nn.Linear(dim, dim, bias=False)
        self.to_key_value = nn.Linear(context_dim or dim, 2 * dim, bias=False)
        self.query_norm = _head_norm(query_key_norm, dim // num_heads)
        self.key_norm = _head_norm(query_key_norm, dim // num_heads)
        self.out = nn.Linear(dim, dim)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))  # (B, T, H, E)

    def keys_values(self, context: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values ``(B, H, L, E)`` of ``context (B, L, Dc)``."""
        key, value = self.to_key_value(context).chunk(2, dim=-1)
        key = self.key_norm(self._heads(key))
        if rotary is not None:
            key = rotate(key, rotary)
        return key.to(value.dtype).transpose(1, 2), self._heads(value).transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        keys_values: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """``x (B, T, D)`` attends to itself, or to given keys and values; ``mask (B, L)`` is True where valid."""
        if keys_values is None:
            keys_values = self.keys_values(x, rotary)
        key, value = keys_values
        query = self.query_norm(self._heads(self.to_query(x)))
        if rotary is not None:
            query = rotate(query, rotary)
        query = query.to(value.dtype).transpose(1, 2)
        attention_mask = None if mask is None else mask[:, None, None, :]
        return self.out(fused_attention(query, key, value, attention_mask).transpose(1, 2).flatten(2))


class GegluMlp(nn.Module):
    """Gated GELU feed-forward layer (Shazeer 2020).

    It has three matrices where a plain layer has two, so its hidden width is two thirds of ``ratio * dim``: as many
    parameters as a plain layer of that ratio (section 2 there), rounded up to a multiple of 64, which kernels like.
    """

    def __init__(self, dim: int, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = 64 * math.ceil(2 * dim * ratio / 3 / 64)
        self.up = nn.Linear(dim, 2 * hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention, optional cross-attention, feed-forward."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, context_dim: int | None = None) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.cross_norm = nn.LayerNorm(dim) if context_dim else None
        self.cross = Attention(dim, num_heads, context_dim) if context_dim else None
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = GegluMlp(dim, mlp_ratio)

    def forward(
        self, x: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor], context: Condition | None = None
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask=mask, rotary=rotary)
        if self.cross is not None and self.cross_norm is not None:
            assert context is not None, "a block with cross-attention needs a context"
            x = x + self.cross(self.cross_norm(x), self.cross.keys_values(context.tensor), context.mask)
        return x + self.mlp(self.mlp_norm(x))


class TransformerEncoder(nn.Module):
    """Stack of blocks with rotary positions and a final norm: ``(B, L, D) -> (B, L, D)``, zero at padding.

    Args:
        dim, num_heads, mlp_ratio, context_dim: of each block.
        num_layers: blocks; none is the norm alone.
        out_dim: width of a projection at the end; None for none.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        context_dim: int | None = None,
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(dim, num_heads, mlp_ratio, context_dim) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.out = None if out_dim is None else nn.Linear(dim, out_dim)
        self.head_dim = dim // num_heads

    def forward(self, x: Tensor, mask: Tensor, context: Condition | None = None) -> Tensor:
        rotary = rotary_angles(x.shape[1], self.head_dim, x.device)
        for block in self.blocks:
            x = block(x, mask, rotary, context)
        x = self.norm(x)
        return (x if self.out is None else self.out(x)) * mask[..., None]


class TimeEmbedding(nn.Module):
    """Sinusoidal features of ``1000 * sigma`` and a two-layer network: ``(B,) -> (B, D)``."""

    def __init__(self, dim: int, frequencies: int = 128) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, sigma: Tensor) -> Tensor:
        scale = torch.exp(
            -math.log(10_000)
            * torch.arange(self.frequencies, device=sigma.device, dtype=torch.float32)
            / self.frequencies
        )
        angle = 1000.0 * sigma.float()[:, None] * scale
        features = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.mlp(features.to(next(self.parameters()).dtype))
