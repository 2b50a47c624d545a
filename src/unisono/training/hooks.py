"""The hooks of the trainer, with the names and the order that Lightning users know. All are empty here."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class TrainerHooks:
    """Override what you need; ``self`` is the trainer, so everything of the run is at hand."""

    def on_train_start(self) -> None:
        """Before the first step of this process, after a checkpoint was loaded."""

    def on_train_end(self) -> None:
        """After the last step, validation and checkpoint."""

    def on_train_epoch_start(self) -> None:
        """Before the first step of an epoch."""

    def on_train_epoch_end(self) -> None:
        """After the last step of an epoch and what is due at it."""

    def on_train_batch_start(self, batch: Any) -> None:
        """Before each micro-batch; the step's random numbers are seeded already."""

    def on_train_batch_end(self, batch: Any) -> None:
        """After each optimizer update."""

    def on_before_backward(self, loss: Tensor) -> None:
        """With the loss of a micro-batch."""

    def on_after_backward(self) -> None:
        """With the gradients of a micro-batch."""

    def on_before_optimizer_step(self) -> None:
        """With the accumulated and clipped gradients."""

    def on_validation_start(self) -> None:
        """Before a validation."""

    def on_validation_end(self, metrics: dict[str, float]) -> None:
        """With the means of a validation."""

    def on_validation_batch_start(self, batch: Any) -> None:
        """Before each validation batch."""

    def on_validation_batch_end(self, batch: Any) -> None:
        """After each validation batch."""

    def on_save_checkpoint(self, state: dict[str, Any]) -> None:
        """Add plain values or tensors to what is saved."""

    def on_load_checkpoint(self, state: dict[str, Any]) -> None:
        """Take them back."""

    def on_exception(self, error: BaseException) -> None:
        """Before an exception leaves ``fit``."""
