"""The only training loop.

Read ``Trainer.fit`` from top to bottom: that is all there is. Subclasses define ``training_step`` and
``validation_step``; hooks have the names and the order that Lightning users know.
"""

from __future__ import annotations

import inspect
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import GeneralTracker
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm

from unisono.errors import UserError
from unisono.objectives.noise import derive_seed
from unisono.training.checkpoint import CheckpointFolder, load_strictly, read_state, read_weights, trainable_state
from unisono.training.ema import ExponentialMovingAverage
from unisono.training.hooks import TrainerHooks
from unisono.training.metrics import MeanMetrics, MetricsFile
from unisono.training.processes import MixedPrecision, log_processes, make_accelerator
from unisono.training.settings import refused_settings
from unisono.training.tracking import check_trackers, finish_trackers, start_trackers

logger = logging.getLogger(__name__)


class Trainer(TrainerHooks, ABC):
    """Loop, checkpoints, validation and logging around ``training_step`` and ``validation_step``.

    A *step* is one optimizer update of all processes together. Everything random in a step follows from
    ``(seed, step, place of the micro-batch)``, so a resumed run repeats what an unbroken one does.

    Args:
        model: anything with parameters.
        optimizer: called with the trainable parameters.
        lr_scheduler: called with the optimizer, and with ``num_warmup_steps`` and ``num_training_steps`` where it
            takes them; stepped once per update.
        loss_fn: for the subclass.
        train_dataloader: loader whose batch sampler is a ``TrainBatchSampler``.
        val_dataloader: loader that yields every item once, or None.
        exp_dir: folder of the run.
        epochs, epoch_length: epochs of so many steps; None means one pass over the data.
        seed: of everything.
        resume: "auto" goes on from the newest checkpoint, "never" refuses to overwrite one, or a checkpoint's path.
        warmup_params: ``warmup_steps`` or ``warmup_epochs``, counted in updates.
        gradient_accumulation_steps: micro-batches per step.
        max_grad_norm: gradients are clipped to this norm; None for never.
        mixed_precision: "auto" (what ``accelerate launch`` was told; bfloat16 where it is fast by plain ``python``),
            "bf16" or "no".
        ema_decay: of the averaged weights that validation and the exported model use; None for none.
        metric_monitor: validation metric that decides which checkpoint is best (lowest).
        log_every_n_steps, val_every_n_steps, save_every_n_steps: in steps; the last step always validates and saves.
        save_last_k: checkpoints kept beside the best.
        progress: show a progress bar (main process only).
        trackers: where metrics go beside ``metrics.jsonl``; started by ``fit``, main process only.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Callable[..., Optimizer],
        lr_scheduler: Callable[..., Any],
        loss_fn: Callable[..., Any],
        train_dataloader: DataLoader,
        val_dataloader: DataLoader | None,
        exp_dir: str | Path,
        epochs: int,
        epoch_length: int | None = None,
        seed: int = 0,
        resume: str = "auto",
        warmup_params: Mapping[str, Any] | None = None,
        gradient_accumulation_steps: int = 1,
        max_grad_norm: float | None = 1.0,
        mixed_precision: MixedPrecision = "auto",
        ema_decay: float | None = 0.999,
        metric_monitor: str = "val/loss",
        log_every_n_steps: int = 10,
        val_every_n_steps: int = 200,
        save_every_n_steps: int = 200,
        save_last_k: int = 2,
        progress: bool = True,
        trackers: Mapping[str, GeneralTracker] | None = None,
    ) -> None:
        refused = refused_settings({name: value for name, value in locals().items() if name != "self"})
        if refused:
            raise UserError("; ".join(f"trainer.{name} {message}" for name, message in refused))
        self.accelerator = make_accelerator(mixed_precision, check_trackers(trackers or {}))
        self.exp_dir, self.seed, self.resume = Path(exp_dir), seed, resume
        self.loss_fn, self.train_dataloader, self.val_dataloader = loss_fn, train_dataloader, val_dataloader
        self.gradient_accumulation_steps, self.max_grad_norm = gradient_accumulation_steps, max_grad_norm
        self.metric_monitor, self.progress = metric_monitor, progress
        self.log_every_n_steps, self.val_every_n_steps = log_every_n_steps, val_every_n_steps
        self.save_every_n_steps = save_every_n_steps
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        for loader in (train_dataloader, val_dataloader):
            if loader is not None:
                loader.batch_sampler.shard(rank, ranks)  # type: ignore[union-attr]
        micro_batches = len(train_dataloader.batch_sampler)  # type: ignore[arg-type]
        self.epoch_length = epoch_length or max(1, micro_batches // (ranks * gradient_accumulation_steps))
        self.total_steps = epochs * self.epoch_length
        parameters = [p for p in model.parameters() if p.requires_grad]
        own_optimizer = optimizer(parameters)
        self.lr_scheduler = self._make_scheduler(lr_scheduler, own_optimizer, dict(warmup_params or {}))
        # The scheduler is not prepared: Accelerate would advance it once per process at each update.
        self.model, self.optimizer = self.accelerator.prepare(model, own_optimizer)
        self.raw_model: nn.Module = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        self.ema = ExponentialMovingAverage(self.raw_model, ema_decay) if ema_decay is not None else None
        self.checkpoints = CheckpointFolder(self.exp_dir / "checkpoints", save_last_k)
        self.metrics_file = MetricsFile(self.exp_dir / "metrics.jsonl")
        self.train_metrics = MeanMetrics()
        self.step, self.best_value, self.is_loaded = 0, float("inf"), False
        self.last_val_metrics: dict[str, float] = {}

    def _make_scheduler(self, factory: Callable[..., Any], optimizer: Optimizer, warmup: dict[str, Any]) -> Any:
        given = {name: value for name, value in warmup.items() if value is not None}
        warmup_steps = given.get("warmup_steps", int(given.get("warmup_epochs", 0) * self.epoch_length))
        known = {"num_warmup_steps": warmup_steps, "num_training_steps": self.total_steps}
        accepted = inspect.signature(factory).parameters
        return factory(optimizer, **{name: value for name, value in known.items() if name in accepted})

    # -- the loop -----------------------------------------------------------------------------------------------

    def fit(self, settings: Mapping[str, Any] | None = None) -> None:
        """Train from where ``load_checkpoint`` left off, or from the start, to the last step.

        Args:
            settings: the configuration of the run, for the trackers to show beside its curves.
        """
        self.load_checkpoint()
        log_processes(self.accelerator)
        batches = self._micro_batches()
        bar = tqdm(
            total=self.total_steps, initial=self.step, unit="step", desc="train", dynamic_ncols=True,
            disable=not (self.progress and self.accelerator.is_main_process),
        )  # fmt: skip
        try:
            if self.step < self.total_steps:
                start_trackers(self.accelerator, self.step, settings or {})
            self.on_train_start()
            while self.step < self.total_steps:
                if self.step % self.epoch_length == 0:
                    self.on_train_epoch_start()
                started = time.perf_counter()
                items = self._step(batches)
                self._log_step(bar, items / (time.perf_counter() - started))
                last = self.step == self.total_steps
                validated = last or self.step % self.val_every_n_steps == 0
                is_best = validated and self._validate()
                if last or self.step % self.save_every_n_steps == 0 or is_best:
                    self._save(is_best)
                if self.step % self.epoch_length == 0:
                    self.on_train_epoch_end()
        except BaseException as error:
            self.on_exception(error)
            finish_trackers(self.accelerator, exit_code=1)
            raise
        finally:
            bar.close()
        self.on_train_end()
        finish_trackers(self.accelerator, exit_code=0)

    def _step(self, batches: Iterator[Any]) -> int:
        """One optimizer update; returns how many items all processes saw."""
        self.model.train()
        items = 0
        for micro in range(self.gradient_accumulation_steps):
            batch = next(batches)
            # Its place among all micro-batches of the step, so two processes draw what one does with twice as many.
            place = micro * self.accelerator.num_processes + self.accelerator.process_index
            torch.manual_seed(derive_seed(self.seed, self.step, place))
            self.on_train_batch_start(batch)
            last = micro == self.gradient_accumulation_steps - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model), self.accelerator.autocast():
                loss = self.training_step(batch)
            self.on_before_backward(loss)
            self.accelerator.backward(loss / self.gradient_accumulation_steps)
            self.on_after_backward()
            items += len(batch)
        if self.max_grad_norm is not None:
            norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
            self.train_metrics.update("grad_norm", torch.as_tensor(norm))
        self.on_before_optimizer_step()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        if self.ema is not None:
            self.ema.update()
        self.step += 1
        self.on_train_batch_end(batch)
        return items * self.accelerator.num_processes

    def _micro_batches(self) -> Iterator[Any]:
        sampler = self.train_dataloader.batch_sampler
        sampler.start = self.step * self.gradient_accumulation_steps  # type: ignore[union-attr]
        for batch in self.train_dataloader:
            yield batch.to(self.accelerator.device)

    # -- validation, logging, checkpoints ------------------------------------------------------------------------

    def _validate(self) -> bool:
        """Run all validation items with the averaged weights; True if the monitored metric is the best so far."""
        if self.val_dataloader is None:
            return False
        self.on_validation_start()
        self.model.eval()
        metrics = MeanMetrics()
        with torch.no_grad(), self.averaged_weights():
            for batch in self.val_dataloader:
                batch = batch.to(self.accelerator.device)
                self.on_validation_batch_start(batch)
                with self.accelerator.autocast():
                    self.validation_step(batch, metrics)
                self.on_validation_batch_end(batch)
        means = self.get_val_metrics(metrics)
        if self.metric_monitor not in means:
            known = ", ".join(means)
            raise UserError(f"metric_monitor is {self.metric_monitor!r}, but validation gives {known}")
        self.last_val_metrics = means
        self._log(means)
        self.on_validation_end(means)
        is_best = means[self.metric_monitor] < self.best_value
        self.best_value = min(self.best_value, means[self.metric_monitor])
        return is_best

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Context in which the model holds its averaged weights (its own without an EMA)."""
        return self.ema.applied() if self.ema is not None else nullcontext()

    def _log_step(self, bar: tqdm, items_per_s: float) -> None:
        bar.update()
        if self.step % self.log_every_n_steps and self.step != self.total_steps:
            return
        means = self.train_metrics.compute(self.accelerator)
        self.train_metrics = MeanMetrics()
        self._stop_unless(finite=all(map(math.isfinite, means.values())), what="loss")
        lr = self.optimizer.param_groups[0]["lr"]
        self._log({**means, "lr": lr, "items_per_s": items_per_s})
        bar.set_postfix(
            loss=f"{means.get('train/loss', float('nan')):.4f}", lr=f"{lr:.1e}", items_s=f"{items_per_s:.1f}"
        )

    def _stop_unless(self, *, finite: bool, what: str) -> None:
        if not finite:
            raise UserError(
                f"step {self.step}: the {what} became infinite or NaN; the checkpoints before are whole. "
                "Lower optimizer.lr or trainer.max_grad_norm, or set trainer.mixed_precision=no"
            )

    def _log(self, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            epoch = (self.step - 1) // self.epoch_length
            self.metrics_file.write({"step": self.step, "epoch": epoch, **values})
            self.accelerator.log({"epoch": epoch, **values}, step=self.step)

    def _save(self, is_best: bool) -> None:
        finite = all(bool(torch.isfinite(p).all()) for p in self.raw_model.parameters())
        self._stop_unless(finite=finite, what="model")  # so it never takes a good checkpoint's place
        state: dict[str, Any] = {
            "step": self.step,
            "best_value": self.best_value,
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "ema_updates": self.ema.updates if self.ema else 0,
            "train_metrics": self.train_metrics.state_dict(self.accelerator),
            "last_val_metrics": self.last_val_metrics,
        }
        self.on_save_checkpoint(state)
        if self.accelerator.is_main_process:
            weights = {"model": trainable_state(self.raw_model)}
            if self.ema is not None:
                weights["ema"] = {name: t.cpu().contiguous() for name, t in self.ema.average.items()}
            self.checkpoints.save(self.step, weights, state, is_best)
        self.accelerator.wait_for_everyone()

    def load_checkpoint(self) -> None:
        """Load the checkpoint that ``resume`` asks for, if any; the second call does nothing."""
        if self.is_loaded:
            return
        self.is_loaded = True
        newest = self.checkpoints.latest()
        if self.resume == "never":
            if newest is not None:
                raise UserError(f"{newest} exists and resume=never; choose another exp_dir or remove the folder")
            checkpoint = None
        elif self.resume == "auto":
            checkpoint = newest
        else:
            checkpoint = Path(self.resume).resolve()
            if not checkpoint.is_dir():
                raise UserError(f"resume={self.resume}: no such checkpoint folder")
        if checkpoint is None:
            if self.accelerator.is_main_process:
                self.exp_dir.mkdir(parents=True, exist_ok=True)
                self.metrics_file.truncate(0)
            return
        load_strictly(self.raw_model, read_weights(checkpoint / "model.safetensors"), str(checkpoint))
        state = read_state(checkpoint)
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        self.step, self.best_value = state["step"], state["best_value"]
        if self.accelerator.is_main_process:  # they are sums over all processes
            self.train_metrics.load_state_dict(state["train_metrics"])
        self.last_val_metrics = state["last_val_metrics"]
        if self.ema is not None:
            average: dict[str, Tensor] = read_weights(checkpoint / "ema.safetensors")
            self.ema.updates = state["ema_updates"]
            for name, tensor in self.ema.average.items():
                tensor.copy_(average[name])
        if self.accelerator.is_main_process:
            self.metrics_file.truncate(self.step)
            self.checkpoints.set_aside_after(self.step)
        self.on_load_checkpoint(state)
        logger.info("resumed from %s (step %d of %d)", checkpoint, self.step, self.total_steps)

    # -- what subclasses define ----------------------------------------------------------------------------------

    @abstractmethod
    def training_step(self, batch: Any) -> Tensor:
        """The loss of one micro-batch; runs under autocast. Report values with ``self.train_metrics.update``."""

    @abstractmethod
    def validation_step(self, batch: Any, metrics: MeanMetrics) -> None:
        """Add this batch's values to ``metrics``."""

    def get_val_metrics(self, metrics: MeanMetrics) -> dict[str, float]:
        """Validation means over all processes."""
        return metrics.compute(self.accelerator)
