"""A validation: all items once, with the averaged weights, and what follows from its metrics."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from unisono.data.order import EvalBatches, to_device
from unisono.data.randomness import seed_all
from unisono.errors import UserError
from unisono.objectives.noise import derive_seed
from unisono.training.hooks import TrainerHooks
from unisono.training.metrics import MeanMetrics
from unisono.training.monitor import MetricMonitor
from unisono.training.processes import share_buffers
from unisono.training.reporting import Reporting
from unisono.training.schedules import needs_metric
from unisono.training.stop_signals import StopSignals
from unisono.training.weights import trained_buffers

logger = logging.getLogger(__name__)


class Validation(Reporting, TrainerHooks, ABC):
    """A part of ``Trainer``; the attributes are the trainer's."""

    model: nn.Module
    raw_model: nn.Module
    val_batches: EvalBatches | None
    metric_monitor: MetricMonitor
    lr_scheduler: Any
    last_val_metrics: dict[str, float]
    is_best: bool
    should_stop: bool

    @abstractmethod
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Report values of one batch with ``self.log``. No gradients, averaged weights, fixed random numbers."""

    @abstractmethod
    def averaged_weights(self) -> AbstractContextManager[None]:
        """Context in which the model holds its averaged weights (its own without an EMA)."""

    def _validate(self, signals: StopSignals | None = None) -> bool:
        """Run all validation items with the averaged weights; False if a signal came in the middle."""
        assert self.val_batches is not None
        self.is_validating, self.val_metrics = True, MeanMetrics()
        self.on_validation_start()
        self.model.eval()
        share_buffers(self.accelerator, trained_buffers(self.raw_model))
        with torch.no_grad(), self.averaged_weights():
            for batch_idx, batch, counts in self.val_batches:
                seed_all(derive_seed("validation", batch_idx))
                self._validate_batch(to_device(batch, self.accelerator.device), batch_idx, counts)
                if signals is not None and signals.agreed() is not None:
                    self.is_validating = False
                    return False
        self.last_val_metrics = {name: float(value) for name, value in self.get_val_metrics().items()}
        self.is_validating = False
        self._write(self.last_val_metrics)
        name, value = self.metric_monitor.name, self.last_val_metrics.get(self.metric_monitor.name)
        self.is_best = self.metric_monitor.update(self.last_val_metrics)
        if value is not None:
            logger.info("step %d: %s %.4g%s", self.step, name, value, ", the best so far" if self.is_best else "")
        if needs_metric(self.lr_scheduler):
            if value is None:
                raise UserError(f"lr_scheduler follows {name}, which validation does not give")
            self.lr_scheduler.step(value)
        self.should_stop = self.should_stop or self.metric_monitor.should_stop
        self.on_validation_end()
        return True

    def _validate_batch(self, batch: Any, batch_idx: int, counts: bool) -> None:
        if not counts:  # only so that sharded models meet
            kept, self.val_metrics = self.val_metrics, MeanMetrics()
            with self.accelerator.autocast():
                self.validation_step(batch, batch_idx)
            self.val_metrics = kept
            return
        self.on_validation_batch_start(batch, batch_idx)
        with self.accelerator.autocast():
            outputs = self.validation_step(batch, batch_idx)
        self.on_validation_batch_end(outputs, batch, batch_idx)
