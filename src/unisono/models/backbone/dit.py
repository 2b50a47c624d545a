"""Diffusion transformers that fuse frames (time-varying) and context (time-independent).

Peebles and Xie 2023 for the adaptive layer norm; the shared modulation is that of Chen et al. 2023 (PixArt-alpha,
section 2.3); the long skips that of Bao et al. 2023 (U-ViT).

Shape letters: B items, T latent frames, C latent channels, D width, L context units, Df width of frames and context.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unisono.models.layers import Attention, GegluMlp, PositionEmbedding, TimeEmbedding, rotary_angles
from unisono.types import Condition


@dataclass(frozen=True)
class BackboneConditions:
    """All that depends neither on the noisy latent nor on sigma, computed once per generation.

    Attributes:
        frame_mask: ``(B, T)``.
        positions: ``(B, T, D)``, where each frame lies in its clip.
        frames: projected frames, one ``(B, T, D)`` per place where they are added.
        keys_values: per block, keys and values of the context.
        context_mask: ``(B, L)``.
    """

    frame_mask: Tensor
    positions: Tensor
    frames: tuple[Tensor, ...]
    keys_values: tuple[tuple[Tensor, Tensor], ...]
    context_mask: Tensor


class DiTBlock(nn.Module):
    """Self-attention and feed-forward, modulated by time; cross-attention to the context between them."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, context_dim: int, skip: bool) -> None:
        super().__init__()
        self.skip = nn.Sequential(nn.LayerNorm(2 * dim), nn.Linear(2 * dim, dim)) if skip else None
        self.attention_norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.attention = Attention(dim, num_heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.cross = Attention(dim, num_heads, context_dim)
        self.mlp_norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.mlp = GegluMlp(dim, mlp_ratio)
        # Added to the modulation that all blocks share: shift, scale, gate for attention, and again for the MLP.
        self.modulation = nn.Parameter(torch.zeros(6, dim))

    def context_keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of ``context (B, L, Df)`` for ``forward``."""
        return self.cross.keys_values(context)

    def forward(
        self,
        x: Tensor,
        time_modulation: Tensor,
        frames: Tensor | None,
        conditions: BackboneConditions,
        keys_values: tuple[Tensor, Tensor],
        rotary: tuple[Tensor, Tensor],
        skip: Tensor | None,
    ) -> Tensor:
        if self.skip is not None:
            assert skip is not None, "a block of the second half needs the first half's result"
            x = self.skip(torch.cat([x, skip], dim=-1))
        if frames is not None:
            x = x + frames
        modulation = (time_modulation + self.modulation)[:, None].unbind(dim=2)  # six of (B, 1, D)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        attended = self.attention(
            self.attention_norm(x) * (1 + scale) + shift, mask=conditions.frame_mask, rotary=rotary
        )
        x = x + gate * attended
        x = x + self.cross(self.cross_norm(x), keys_values, conditions.context_mask)
        return x + mlp_gate * self.mlp(self.mlp_norm(x) * (1 + mlp_scale) + mlp_shift)


class DiffusionTransformer(nn.Module, ABC):
    """The stack of blocks; subclasses say where the frames enter.

    Args:
        latent_dim: C.
        dim: D.
        num_layers: blocks; with ``long_skips`` the second half sees the first half's results.
        num_heads: attention heads.
        frames_dim: Df, width of ``frames`` and ``context``.
        mlp_ratio: hidden width of the feed-forward layers over D.
        long_skips: U-shaped skips, with a norm and a linear layer each.
        gradient_checkpointing: keep only the input of each block for the backward pass, and compute the rest again
            (Chen et al. 2016): memory for about a third more time. Of no effect on results.
    """

    def __init__(
        self,
        latent_dim: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        frames_dim: int,
        mlp_ratio: float = 4.0,
        long_skips: bool = True,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if min(latent_dim, dim, num_layers, num_heads, frames_dim) < 1:
            raise ValueError(
                f"latent_dim ({latent_dim}), dim ({dim}), num_layers ({num_layers}), num_heads ({num_heads}) and "
                f"frames_dim ({frames_dim}) must be at least 1"
            )
        self.latent_dim, self.dim, self.num_layers, self.frames_dim = latent_dim, dim, num_layers, frames_dim
        self.head_dim, self.gradient_checkpointing = dim // num_heads, gradient_checkpointing
        self.input = nn.Linear(latent_dim, dim)
        self.positions = PositionEmbedding(dim)
        self.time = TimeEmbedding(dim)
        self.time_modulation = nn.Linear(dim, 6 * dim)
        self.num_skips = num_layers // 2 if long_skips else 0
        self.blocks: Sequence[DiTBlock] = nn.ModuleList(  # type: ignore[assignment]
            DiTBlock(dim, num_heads, mlp_ratio, frames_dim, skip=index >= num_layers - self.num_skips)
            for index in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.final_modulation = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, latent_dim)
        self.convolution = nn.Conv1d(latent_dim, latent_dim, kernel_size=3, padding=1)
        self._initialise()
        self.build_frame_layers()

    def _initialise(self) -> None:
        # Each block starts as a small change of its input and the network as zero, the mean of most targets.
        for layer in (self.time_modulation, self.final_modulation):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        nn.init.dirac_(self.convolution.weight)
        assert self.convolution.bias is not None
        nn.init.zeros_(self.convolution.bias)
        for block in self.blocks:
            with torch.no_grad():
                block.modulation[[2, 5]] = 1.0 / self.num_layers**0.5  # gates

    @abstractmethod
    def build_frame_layers(self) -> None:
        """Make the layers through which frames enter."""

    @abstractmethod
    def project_frames(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Projections of ``frames (B, T, Df)`` for each place where they enter."""

    @abstractmethod
    def frames_at_input(self, x: Tensor, conditions: BackboneConditions) -> Tensor:
        """Fuse frames into the embedded latent ``(B, T, D)``."""

    @abstractmethod
    def frames_at_block(self, index: int, conditions: BackboneConditions) -> Tensor | None:
        """What to add to the input of block ``index``."""

    def precompute(self, frames: Tensor, frame_mask: Tensor, context: Condition) -> BackboneConditions:
        """Everything that is the same at each solver step."""
        return BackboneConditions(
            frame_mask=frame_mask,
            positions=self.positions(frame_mask),
            frames=self.project_frames(frames),
            keys_values=tuple(block.context_keys_values(context.tensor) for block in self.blocks),
            context_mask=context.mask,
        )

    def forward(self, x: Tensor, sigma: Tensor, conditions: BackboneConditions) -> Tensor:
        """Velocity ``(B, T, C)`` of the latent ``x (B, T, C)`` at noise level ``sigma (B,)``; zero at padding."""
        mask = conditions.frame_mask[..., None]
        time = F.silu(self.time(sigma))
        modulation = self.time_modulation(time).unflatten(-1, (6, self.dim))
        rotary = rotary_angles(x.shape[1], self.head_dim, x.device)
        x = self.frames_at_input(self.input(x * mask) + conditions.positions, conditions)
        skips: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            skip = skips.pop() if block.skip is not None else None
            frames = self.frames_at_block(index, conditions)
            inputs = (x, modulation, frames, conditions, conditions.keys_values[index], rotary, skip)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, *inputs, use_reentrant=False)
            else:
                x = block(*inputs)
            if index < self.num_skips:
                skips.append(x)
        shift, scale = self.final_modulation(time)[:, None].chunk(2, dim=-1)
        # Padding is silenced before the convolution, which would otherwise let it into an item's last frame.
        x = self.output(self.final_norm(x) * (1 + scale) + shift) * mask
        return self.convolution(x.transpose(1, 2)).transpose(1, 2).float() * mask


class LayerFusionDiT(DiffusionTransformer):
    """Frames enter every block, each time through a projection of its own."""

    def build_frame_layers(self) -> None:
        self.frame_norm = nn.LayerNorm(self.frames_dim)
        self.frame_projections = nn.ModuleList(nn.Linear(self.frames_dim, self.dim) for _ in range(self.num_layers))

    def project_frames(self, frames: Tensor) -> tuple[Tensor, ...]:
        frames = self.frame_norm(frames)
        return tuple(project(frames) for project in self.frame_projections)

    def frames_at_input(self, x: Tensor, conditions: BackboneConditions) -> Tensor:
        return x

    def frames_at_block(self, index: int, conditions: BackboneConditions) -> Tensor | None:
        return conditions.frames[index]


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

    def frames_at_block(self, index: int, conditions: BackboneConditions) -> Tensor | None:
        return None
