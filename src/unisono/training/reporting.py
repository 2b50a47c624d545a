"""What a trainer reports: means of steps and of validations, to ``metrics.jsonl``, the trackers and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from unisono.training.metrics import MeanMetrics, MetricsFile
from unisono.training.nonfinite import NonfiniteSteps
from unisono.training.progress import Progress
from unisono.training.tracking import Trackers


class Reporting:
    """A part of ``Trainer``; the attributes are the trainer's."""

    accelerator: Accelerator
    train_metrics: MeanMetrics
    val_metrics: MeanMetrics
    metrics_file: MetricsFile
    trackers: Trackers
    nonfinite: NonfiniteSteps
    optimizer: Any
    step: int
    epoch_length: int
    is_validating: bool

    def get_val_metrics(self) -> dict[str, float]:
        """Means of what ``validation_step`` logged, over all items of all processes; every process must call it."""
        return self.val_metrics.compute(self.accelerator)

    def log(self, name: str, values: Tensor | float, mask: Tensor | None = None) -> None:
        """Report values of any shape; the mean over all of them, all batches and all processes is logged.

        Args:
            name: such as "train/accuracy" or "val/accuracy".
            values: one per item gives exact means where batches differ in size.
            mask: of the same shape, which values count.
        """
        metrics = self.val_metrics if self.is_validating else self.train_metrics
        metrics.update(name, torch.as_tensor(values), mask)

    def _log_training(self, progress: Progress) -> None:
        means = self.train_metrics.compute(self.accelerator)
        self.train_metrics = MeanMetrics(skip_nonfinite=True)
        lr, items_per_s = self.optimizer.param_groups[0]["lr"], progress.items_per_s()
        skipped = {"nonfinite_steps": self.nonfinite.total} if self.nonfinite.total else {}
        self._write({**means, "lr": lr, "items_per_s": items_per_s, **skipped})
        progress.show(means.get("train/total_loss", float("nan")), lr, items_per_s)

    def _write(self, values: Mapping[str, float]) -> None:
        if self.accelerator.is_main_process:
            epoch = (self.step - 1) // self.epoch_length
            self.metrics_file.write({"step": self.step, "epoch": epoch, **values})
            self.trackers.log({"epoch": epoch, **values}, self.step)
