"""How the noise level steers a block: shift, scale and gate of its attention, and again of its feed-forward layer.

Each block has a linear layer of its own in Peebles and Xie 2023 (section 3.2, adaLN-Zero), one is shared in Chen et al.
2023 (PixArt-alpha, section 2.3); a correction of low rank per block lies between.

Shape letters: B items, N blocks, D width, R rank.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ModulationKind = Literal["shared", "low_rank", "per_block"]
NUM_SIGNALS = 6
_GATES = [2, 5]


class Modulation(nn.Module):
    """The signals of all blocks at once, from the time embedding.

    Args:
        dim: D.
        num_layers: N.
        kind: "shared": one linear layer for all blocks, and an offset per block; "low_rank": the same, and a product of
            rank R per block; "per_block": a linear layer per block, ``6 D^2`` parameters each.
        rank: R.
    """

    def __init__(self, dim: int, num_layers: int, kind: ModulationKind = "shared", rank: int = 32) -> None:
        super().__init__()
        if kind not in get_args(ModulationKind):
            raise ValueError(f"modulation is {kind!r}; choose one of {', '.join(get_args(ModulationKind))}")
        if rank < 1:
            raise ValueError(f"modulation_rank is {rank}; it must be at least 1")
        self.dim, self.num_layers = dim, num_layers
        width = NUM_SIGNALS * dim
        self.shared = None if kind == "per_block" else nn.Linear(dim, width, bias=False)
        self.own = nn.Linear(dim, num_layers * width, bias=False) if kind == "per_block" else None
        self.down = nn.Parameter(torch.randn(num_layers, dim, rank) * 0.02) if kind == "low_rank" else None
        self.up = nn.Parameter(torch.zeros(num_layers, rank, width)) if kind == "low_rank" else None
        self.offset = nn.Parameter(torch.zeros(num_layers, NUM_SIGNALS, dim))
        with torch.no_grad():  # each block begins as a small change of its input
            self.offset[:, _GATES] = num_layers**-0.5
        for layer in (self.shared, self.own):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.02)

    def forward(self, time: Tensor) -> Tensor:
        """``time (B, D)`` to ``(B, N, 6, D)``: shift, scale, gate, shift, scale, gate."""
        time = F.silu(time)
        if self.own is not None:
            signals = self.own(time).unflatten(1, (self.num_layers, -1))
        else:
            assert self.shared is not None
            signals = self.shared(time)[:, None]
        if self.down is not None and self.up is not None:
            narrow = torch.einsum("bd,ndr->nbr", time, self.down.to(time.dtype))
            signals = signals + torch.bmm(narrow, self.up.to(narrow.dtype)).transpose(0, 1)
        return signals.unflatten(2, (NUM_SIGNALS, self.dim)) + self.offset
