"""Steps whose loss or gradients are infinite or NaN: no update, nothing of them stays, and they are counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from unisono.errors import UserError
from unisono.training.weights import frozen_modules

logger = logging.getLogger(__name__)

Place = tuple[int, Any]
"""Number of a micro-batch among all, and the audio ids of its items if it tells them."""


def checked_loss(loss: Any) -> Tensor:
    """What ``training_step`` returned, if it is a loss: one number with a gradient."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        shown = tuple(loss.shape) if isinstance(loss, Tensor) else loss
        raise TypeError(f"training_step returned {shown!r}; it must return the loss, one number with a gradient")
    return loss.reshape(())


def nan_unless_finite(loss: Tensor) -> Tensor:
    """The loss, or NaN with NaN gradients: so that every process, which shares the gradients, skips the update."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


class NonfiniteSteps:
    """Counts them, takes back what their forward passes did to running statistics, and stops after too many in a row.

    Args:
        max_in_a_row: so many end the run.
        name_items: gives what names the items of a micro-batch that does not tell its audio ids.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, max_in_a_row: int, name_items: Callable[[int], Any]
    ) -> None:
        self.accelerator, self.max_in_a_row, self.name_items = accelerator, max_in_a_row, name_items
        self.total, self.in_a_row = 0, 0
        frozen = {id(inner) for _, part in frozen_modules(model) for inner in part.modules()}
        self._holders = [module for module in model.modules() if id(module) not in frozen and module._buffers]
        self._kept: list[dict[str, Tensor]] = []

    def before_step(self) -> None:
        """Remember the buffers; a module may replace them by others while it computes."""
        self._kept = [
            {name: buffer.clone() for name, buffer in module._buffers.items() if buffer is not None}
            for module in self._holders
        ]

    def after_step(self, step: int, is_finite: bool, losses: Sequence[Tensor], places: Sequence[Place]) -> None:
        """Every process must call it, with the same ``is_finite``.

        Args:
            step: that was made, or not.
            losses, places: of this process's micro-batches.
        """
        if is_finite:
            self.in_a_row = 0
            return
        for module, kept in zip(self._holders, self._kept, strict=True):
            for name, before in kept.items():
                buffer = module._buffers[name]
                if buffer is not None and buffer.shape == before.shape:
                    buffer.copy_(before)
                else:
                    module._buffers[name] = before
        self.total, self.in_a_row = self.total + 1, self.in_a_row + 1
        guilty = [place for loss, place in zip(losses, places, strict=True) if not loss.isfinite()]
        if self.accelerator.num_processes > 1:
            guilty, places = gather_object(guilty), gather_object(list(places))
        what = "the loss" if guilty else "the gradient"
        batches = "; ".join(self._describe(place) for place in sorted(guilty or places, key=lambda place: place[0]))
        message = f"step {step}: {what} is infinite or NaN, no update was made; {batches}"
        if self.in_a_row >= self.max_in_a_row:
            raise UserError(
                f"{message}. That is number {self.in_a_row} in a row (trainer.max_nonfinite_steps); the checkpoints "
                "before are whole. Look at these items, lower optimizer.lr or trainer.max_grad_norm, or set "
                "trainer.mixed_precision=no"
            )
        logger.warning("%s (%d in a row, %d in all)", message, self.in_a_row, self.total)

    def _describe(self, place: Place) -> str:
        number, audio_ids = place
        if audio_ids is None:
            return f"items {self.name_items(number)} of the training data"
        return f"audio ids {', '.join(map(str, audio_ids))}"

    def state_dict(self) -> dict[str, int]:
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.total, self.in_a_row = state["total"], state["in_a_row"]
