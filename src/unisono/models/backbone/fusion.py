"""Where frames enter the transformer: at its input, or in every block.

Shape letters: B items, T latent frames, D width, Df width of frames.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from unisono.models.backbone.dit import BackboneConditions, DiffusionTransformer
from unisono.models.layers import to_compute_type

FrameFusion = Literal["add", "concatenate"]


class LayerFusionDiT(DiffusionTransformer):
    """Frames enter every block, each time through a projection of its own.

    Args:
        frame_fusion: the projections are added to a block's input, or stand beside it before a linear layer
            ("concatenate": ``2 D^2`` more parameters a block).
        **options: see ``DiffusionTransformer``.
    """

    def __init__(self, *, frame_fusion: FrameFusion = "add", **options: Any) -> None:
        if frame_fusion not in get_args(FrameFusion):
            raise ValueError(f"frame_fusion is {frame_fusion!r}; choose one of {', '.join(get_args(FrameFusion))}")
        self.frame_fusion = frame_fusion
        super().__init__(**options)

    def build_frame_layers(self) -> None:
        self.frame_norm = nn.LayerNorm(self.frames_dim)
        self.frame_projections = nn.ModuleList(nn.Linear(self.frames_dim, self.dim) for _ in range(self.num_layers))
        num_joins = self.num_layers if self.frame_fusion == "concatenate" else 0
        joins = [nn.Linear(2 * self.dim, self.dim) for _ in range(num_joins)]
        for join in joins:  # begins as the sum, from which it may learn anything
            with torch.no_grad():
                join.weight.copy_(torch.eye(self.dim).repeat(1, 2))
                join.bias.zero_()
        self.joins = nn.ModuleList(joins)

    def project_frames(self, frames: Tensor) -> tuple[Tensor, ...]:
        frames = to_compute_type(self.frame_norm(frames))
        return tuple(project(frames) for project in self.frame_projections)

    def frames_at_block(self, index: int, x: Tensor, conditions: BackboneConditions) -> Tensor:
        frames = conditions.frames[index]
        if self.frame_fusion == "add":
            return x + frames
        return self.joins[index](torch.cat([x, frames.to(x.dtype)], dim=-1))


class InputFusionDiT(DiffusionTransformer):
    """Frames are joined to the latent once, at the input."""

    def build_frame_layers(self) -> None:
        self.frame_norm = nn.LayerNorm(self.frames_dim)
        self.frame_projection = nn.Linear(self.frames_dim, self.dim)
        self.join = nn.Linear(2 * self.dim, self.dim)

    def project_frames(self, frames: Tensor) -> tuple[Tensor, ...]:
        return (self.frame_projection(self.frame_norm(frames)),)

    def frames_at_input(self, x: Tensor, conditions: BackboneConditions) -> Tensor:
        return self.join(torch.cat([x, conditions.frames[0].to(x.dtype)], dim=-1))
