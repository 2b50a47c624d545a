"""How to generate with a trained model: what a user may set, and what comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from unisono.errors import UserError
from unisono.objectives import Guidance


@dataclass(frozen=True)
class GenerationSettings:
    """How to get from noise to a latent.

    Attributes:
        num_steps: steps from noise to data, whatever the solver. Some ask the network more than once in each (see
            ``unisono.objectives.solvers.integrate``), and guidance asks it for two or three predictions in one batch.
        guidance_scale: how far to go beyond the prediction without conditions; 1 is no guidance, and half the work.
        instruction_guidance_scale: a scale of its own for the instruction; ``guidance_scale`` is then that of the
            content. None is one scale for both. Needs a model trained with ``instruction_drop_ratio``.
        guidance_rescale: 0 to 1, how much of the deviation that guidance adds is taken back.
        guidance_min_sigma, guidance_max_sigma: noise levels between which to guide; outside them, half the work.
        solver: one of the objective's ``solvers``; None is its own default.
        sway, shift: of flow matching, see ``sigma_schedule``; None is the objective's own default.
        predict_durations: True predicts the durations of units even where the content brings its own.
        max_duration_s: lengths are cut here; units that are longer are squeezed (``Pipeline`` refuses given ones).
    """

    num_steps: int = 24
    guidance_scale: float = 2.0
    instruction_guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    guidance_min_sigma: float = 0.0
    guidance_max_sigma: float = 1.0
    solver: str | None = None
    sway: float | None = None
    shift: float | None = None
    predict_durations: bool = False
    max_duration_s: float = 30.0

    def __post_init__(self) -> None:
        if self.num_steps < 1 or not 0 < self.max_duration_s < math.inf:
            raise UserError(
                f"num_steps ({self.num_steps}) and max_duration_s ({self.max_duration_s}) must be positive and finite"
            )
        _ = self.guidance  # refuses what it cannot do

    @property
    def guidance(self) -> Guidance:
        """The settings of guidance."""
        return Guidance(
            self.guidance_scale,
            self.instruction_guidance_scale,
            self.guidance_rescale,
            self.guidance_min_sigma,
            self.guidance_max_sigma,
        )


@dataclass(frozen=True)
class Generated:
    """Generated waveforms ``(B, S)`` with ``lengths (B,)`` in samples, and their latents ``(B, T, C)``."""

    waveform: Tensor
    lengths: Tensor
    latent: Tensor
    latent_lengths: Tensor
