"""One block of the diffusion transformer.

Shape letters: B items, T positions, D width, L context units, Df width of the context.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unisono.models.layers import Attention, GegluMlp, QueryKeyNorm


class DiTBlock(nn.Module):
    """Self-attention, cross-attention to the context and a feed-forward layer, each added to its input.

    Args:
        dim: D.
        num_heads: attention heads.
        mlp_ratio: see ``GegluMlp``.
        context_dim: Df.
        skip: takes the result of a block of the first half as well (Bao et al. 2023, U-ViT).
        modulated: attention and feed-forward layer are shifted, scaled and gated by the noise level.
        query_key_norm: see ``Attention``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        context_dim: int,
        skip: bool = False,
        modulated: bool = True,
        query_key_norm: QueryKeyNorm = "layer",
    ) -> None:
        super().__init__()
        self.skip = nn.Sequential(nn.LayerNorm(2 * dim), nn.Linear(2 * dim, dim)) if skip else None
        # What modulates has a shift and a scale of its own.
        self.attention_norm = nn.LayerNorm(dim, elementwise_affine=not modulated)
        self.attention = Attention(dim, num_heads, query_key_norm=query_key_norm)
        self.cross_norm = nn.LayerNorm(dim)
        self.cross = Attention(dim, num_heads, context_dim, query_key_norm)
        self.mlp_norm = nn.LayerNorm(dim, elementwise_affine=not modulated)
        self.mlp = GegluMlp(dim, mlp_ratio)

    def context_keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of ``context (B, L, Df)`` for ``forward``."""
        return self.cross.keys_values(context)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        modulation: Tensor | None,
        keys_values: tuple[Tensor, Tensor],
        context_mask: Tensor,
        rotary: tuple[Tensor, Tensor],
        skip: Tensor | None,
    ) -> Tensor:
        """``x``, ``skip (B, T, D)``; ``mask (B, T)`` or None; ``modulation (B, 6, D)``; ``context_mask (B, L)``."""
        if self.skip is not None:
            assert skip is not None, "a block of the second half needs the first half's result"
            x = self.skip(torch.cat([x, skip], dim=-1))
        if modulation is None:
            x = x + self.attention(self.attention_norm(x), mask=mask, rotary=rotary)
            x = x + self.cross(self.cross_norm(x), keys_values, context_mask)
            return x + self.mlp(self.mlp_norm(x))
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation[:, None].unbind(dim=2)
        # addcmul(a, b, c) is a + b * c in one pass over memory.
        attended = self.attention(torch.addcmul(shift, self.attention_norm(x), 1 + scale), mask=mask, rotary=rotary)
        x = torch.addcmul(x, gate, attended)
        x = x + self.cross(self.cross_norm(x), keys_values, context_mask)
        return torch.addcmul(x, mlp_gate, self.mlp(torch.addcmul(mlp_shift, self.mlp_norm(x), 1 + mlp_scale)))
