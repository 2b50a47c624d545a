"""A diffusion transformer whose input and blocks take frames (time-varying) and a context (time-independent).

Shape letters: B items, T latent frames, C latent channels, D width, L context units, Df width of frames and context.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unisono.models.backbone.block import DiTBlock
from unisono.models.backbone.modulation import Modulation, ModulationKind
from unisono.models.layers import (
    PositionEmbedding,
    QueryKeyNorm,
    TimeEmbedding,
    at_least_float32,
    rotary_angles,
    to_compute_type,
)
from unisono.types import Condition

TimeConditioning = Literal["modulation", "token"]


@dataclass(frozen=True)
class BackboneConditions:
    """All that depends neither on the noisy latent nor on sigma, computed once per generation.

    Attributes:
        frame_mask: ``(B, T)``.
        positions: ``(B, T, D)``, where each frame lies in its clip.
        frames: projected frames ``(B, T, D)``, one for each place where they enter.
        keys_values: per block, keys and values of the context.
        context_mask: ``(B, L)``.
        block_mask: ``(B, T)``, or ``(B, 1 + T)`` with the time token; None where nothing is padded.
        rotary: of the positions of a block.
    """

    frame_mask: Tensor
    positions: Tensor
    frames: tuple[Tensor, ...]
    keys_values: tuple[tuple[Tensor, Tensor], ...]
    context_mask: Tensor
    block_mask: Tensor | None
    rotary: tuple[Tensor, Tensor]


class DiffusionTransformer(nn.Module, ABC):
    """The stack of blocks (Peebles and Xie 2023); subclasses say where the frames enter.

    Args:
        latent_dim: C.
        dim: D.
        num_layers: blocks; with ``long_skips`` the second half sees the first half's results.
        num_heads: attention heads.
        frames_dim: Df, width of ``frames`` and ``context``.
        mlp_ratio: of the feed-forward layers, see ``GegluMlp``.
        time_conditioning: the noise level steers every block by "modulation", or stands as a "token" before the frames
            (Bao et al. 2023, U-ViT, figure 2).
        modulation, modulation_rank: see ``Modulation``.
        query_key_norm: see ``Attention``.
        long_skips: U-shaped skips, with a norm and a linear layer each (Bao et al. 2023).
        final_convolution: a convolution of width 3 over the frames of the result.
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
        time_conditioning: TimeConditioning = "modulation",
        modulation: ModulationKind = "shared",
        modulation_rank: int = 32,
        query_key_norm: QueryKeyNorm = "layer",
        long_skips: bool = True,
        final_convolution: bool = True,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if min(latent_dim, dim, num_layers, num_heads, frames_dim) < 1:
            raise ValueError(
                f"latent_dim ({latent_dim}), dim ({dim}), num_layers ({num_layers}), num_heads ({num_heads}) and "
                f"frames_dim ({frames_dim}) must be at least 1"
            )
        if time_conditioning not in get_args(TimeConditioning):
            choices = ", ".join(get_args(TimeConditioning))
            raise ValueError(f"time_conditioning is {time_conditioning!r}; choose one of {choices}")
        self.latent_dim, self.dim, self.num_layers, self.frames_dim = latent_dim, dim, num_layers, frames_dim
        self.head_dim, self.gradient_checkpointing = dim // num_heads, gradient_checkpointing
        modulated = time_conditioning == "modulation"
        self.input = nn.Linear(latent_dim, dim)
        self.positions = PositionEmbedding(dim)
        self.time = TimeEmbedding(dim)
        self.modulation = Modulation(dim, num_layers, modulation, modulation_rank) if modulated else None
        self.num_skips = num_layers // 2 if long_skips else 0
        self.blocks: Sequence[DiTBlock] = nn.ModuleList(  # type: ignore[assignment]
            DiTBlock(
                dim, num_heads, mlp_ratio, frames_dim, index >= num_layers - self.num_skips, modulated, query_key_norm
            )
            for index in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(dim, elementwise_affine=not modulated)
        self.final_modulation = nn.Linear(dim, 2 * dim) if modulated else None
        self.output = nn.Linear(dim, latent_dim)
        self.convolution = nn.Conv1d(latent_dim, latent_dim, kernel_size=3, padding=1) if final_convolution else None
        self._initialise()
        self.build_frame_layers()

    def _initialise(self) -> None:
        # The network starts as zero, the mean of most targets.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        if self.final_modulation is not None:
            nn.init.normal_(self.final_modulation.weight, std=0.02)
            nn.init.zeros_(self.final_modulation.bias)
        if self.convolution is not None:
            nn.init.dirac_(self.convolution.weight)
            assert self.convolution.bias is not None
            nn.init.zeros_(self.convolution.bias)

    @abstractmethod
    def build_frame_layers(self) -> None:
        """Make the layers through which frames enter."""

    @abstractmethod
    def project_frames(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Projections of ``frames (B, T, Df)`` for each place where they enter."""

    def frames_at_input(self, x: Tensor, conditions: BackboneConditions) -> Tensor:
        """Fuse frames into the embedded latent ``(B, T, D)``."""
        return x

    def frames_at_block(self, index: int, x: Tensor, conditions: BackboneConditions) -> Tensor:
        """Fuse frames into the input ``(B, T, D)`` of block ``index``."""
        return x

    def precompute(
        self, frames: Tensor, frame_mask: Tensor, context: Condition, is_full: bool = False
    ) -> BackboneConditions:
        """Everything that is the same at each solver step.

        Args:
            frames: ``(B, T, Df)``.
            frame_mask: ``(B, T)``.
            context: ``(B, L, Df)``.
            is_full: the caller knows that nothing in ``frame_mask`` is False.
        """
        told = to_compute_type(context.tensor)
        block_mask = frame_mask if self.modulation is not None else F.pad(frame_mask, (1, 0), value=True)
        return BackboneConditions(
            frame_mask=frame_mask,
            positions=self.positions(frame_mask),
            frames=self.project_frames(frames),
            keys_values=tuple(block.context_keys_values(told) for block in self.blocks),
            context_mask=context.mask,
            block_mask=None if is_full else block_mask,
            rotary=rotary_angles(block_mask.shape[1], self.head_dim, frames.device),
        )

    def forward(self, x: Tensor, sigma: Tensor, conditions: BackboneConditions) -> Tensor:
        """Prediction ``(B, T, C)`` for the latent ``x (B, T, C)`` at noise level ``sigma (B,)``; zero at padding."""
        mask, time = conditions.frame_mask, self.time(sigma)
        x = self.frames_at_input(self.input(x * mask[..., None]) + conditions.positions, conditions)
        x = self._through_blocks(x, time, conditions)
        x = self.final_norm(x)
        if self.final_modulation is not None:
            shift, scale = self.final_modulation(F.silu(time))[:, None].chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        # Padding is silenced before the convolution, which would otherwise let it into an item's last frame.
        x = self.output(x) * mask[..., None]
        if self.convolution is not None:
            x = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        return at_least_float32(x) * mask[..., None]

    def _through_blocks(self, x: Tensor, time: Tensor, conditions: BackboneConditions) -> Tensor:
        # In the type of x, or the offsets of the signals would make it float32 in the first half of the blocks only.
        signals = None if self.modulation is None else self.modulation(time).to(x.dtype).unbind(dim=1)
        mask, rotary = conditions.block_mask, conditions.rotary
        token = None if signals is not None else time[:, None].to(x.dtype)
        skips: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = self.frames_at_block(index, x, conditions)
            # The token stands before the frames within a block only: frames enter, and leave, without it.
            whole = x if token is None else torch.cat([token, x], dim=1)
            skip = skips.pop() if block.skip is not None else None
            signal = None if signals is None else signals[index]
            inputs = (whole, mask, signal, conditions.keys_values[index], conditions.context_mask, rotary, skip)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                whole = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                whole = block(*inputs)
            if index < self.num_skips:
                skips.append(whole)
            token, x = (None, whole) if token is None else (whole[:, :1], whole[:, 1:])
        return x
