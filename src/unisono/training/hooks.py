"""The hooks of the trainer: names, arguments and order are those that Lightning users know.

```
on_train_start
    on_train_epoch_start
        on_train_batch_start                     for each micro-batch
            training_step
        on_before_backward, on_after_backward
        on_before_optimizer_step                 once per step, before gradients are clipped
        on_train_batch_end
        on_validation_start                      when due
            on_validation_batch_start, validation_step, on_validation_batch_end
            get_val_metrics
        on_validation_end
    on_train_epoch_end
    on_save_checkpoint                           when due
on_train_end
```

``on_load_checkpoint`` comes before ``on_train_start``, ``on_exception`` when an exception leaves ``fit``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


class TrainerHooks:
    """Override what you need; all are empty here. ``self`` is the trainer, so the whole run is at hand."""

    def on_train_start(self) -> None:
        """Before the first step of this process, after a checkpoint was loaded."""

    def on_train_end(self) -> None:
        """After the last step and what was due at it, also when the run was stopped (``self.stop_reason``)."""

    def on_train_epoch_start(self) -> None:
        """Before the first step of an epoch; not again when a run is resumed in the middle of one."""

    def on_train_epoch_end(self) -> None:
        """After the last step of an epoch and its validation, before its checkpoint."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Before each micro-batch, number ``batch_idx`` of this rank in the epoch; generators are seeded already."""

    def on_train_batch_end(self, outputs: Tensor, batch: Any, batch_idx: int) -> None:
        """After each micro-batch, and after the update if it was the last of a step. ``outputs`` is its loss."""

    def on_before_backward(self, loss: Tensor) -> None:
        """With the loss of a micro-batch."""

    def on_after_backward(self) -> None:
        """With the gradients so far."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """With the gradients of the whole step, not yet clipped; where processes train together, of all of them."""

    def on_validation_start(self) -> None:
        """Before a validation."""

    def on_validation_end(self) -> None:
        """After a validation: ``self.last_val_metrics`` are its means, ``self.is_best`` says if they are the best."""

    def on_validation_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Before each validation batch."""

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After each validation batch; ``outputs`` is what ``validation_step`` returned."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add plain values or tensors to what is saved; called by all processes."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back."""

    def on_exception(self, exception: BaseException) -> None:
        """Before an exception leaves ``fit``."""

    def modules_to_compile(self, model: nn.Module) -> Iterable[nn.Module]:
        """What ``torch_compile`` compiles, in place: names of weights stay. Override for parts of a dynamic model."""
        return [model]

    def forward_methods(self, model: nn.Module) -> Iterable[tuple[nn.Module, str]]:
        """Modules, and names of their methods that compute with weights outside ``forward``; FSDP must know them."""
        return []
