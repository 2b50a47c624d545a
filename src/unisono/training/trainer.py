"""The only training loop.

Read ``Trainer.fit`` and ``Trainer._train`` from top to bottom: that is all there is, but for what a validation does
(``validation.py``). Subclasses define ``training_step`` and ``validation_step``; ``hooks`` lists what else they may
define.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker
from torch import Tensor, nn
from torch.optim import Optimizer

from unisono.data.order import EvalBatches, TrainBatches, num_items, to_device
from unisono.data.randomness import seed_all
from unisono.errors import UserError
from unisono.models.compilation import compile_modules
from unisono.objectives.noise import derive_seed
from unisono.training import run_state
from unisono.training.checkpoint import CheckpointFolder
from unisono.training.deepspeed import ZeroAccelerator, refuse_gradient_hooks
from unisono.training.ema import ExponentialMovingAverage
from unisono.training.metrics import MeanMetrics, MetricsFile
from unisono.training.monitor import MetricMonitor
from unisono.training.nonfinite import NonfiniteSteps, checked_loss, nan_unless_finite
from unisono.training.processes import MixedPrecision, log_processes, make_accelerator, settle_sharding
from unisono.training.progress import Progress
from unisono.training.run_lock import RunLock
from unisono.training.schedules import advance, make_scheduler, needs_metric, warmup_updates
from unisono.training.settings import refused_settings
from unisono.training.stop_signals import StopSignals
from unisono.training.tracking import Trackers, check_trackers
from unisono.training.validation import Validation
from unisono.training.weights import frozen_fingerprints, frozen_modules, trainable_state, whole

logger = logging.getLogger(__name__)


class Trainer(Validation):
    """Loop, checkpoints, validation and logging around ``training_step`` and ``validation_step``.

    A *step* is one optimizer update of all processes together. Everything random in a step follows from
    ``(seed, step, place of the micro-batch)``, so a resumed run repeats what an unbroken one does.

    Args:
        model: any module.
        optimizer: called with the trainable parameters.
        lr_scheduler: of torch, transformers or anyone, see ``make_scheduler``; stepped once per update (a
            ``ReduceLROnPlateau``: per validation). None keeps the learning rate.
        loss_fn: for the subclass.
        train_dataloader: any ``DataLoader`` or iterable; the trainer owns its order, see ``TrainBatches``.
        val_dataloader: likewise, each item once; None for no validation.
        exp_dir: folder of the run.
        epochs, epoch_length: epochs of so many steps; None means one pass over the data.
        seed: of everything.
        resume: "auto" goes on from the newest whole checkpoint, "never" refuses to overwrite one, or a path of one.
        initial_weights: a safetensors file, checkpoint or model folder to begin a new run from; None for random ones.
        partial_loading: take from ``initial_weights`` what fits, and say what does not, instead of refusing.
        warmup_params: ``warmup_steps`` or ``warmup_epochs``, counted in updates.
        gradient_accumulation_steps: micro-batches per step.
        max_grad_norm: gradients are clipped to this norm; None for never.
        max_nonfinite_steps: a step whose loss or gradients are infinite or NaN makes no update; after so many in a row
            training stops.
        mixed_precision: "auto" (what ``accelerate launch`` was told; bfloat16 where it is fast by plain ``python``),
            "bf16", "fp16" (GPU only) or "no".
        torch_compile: compile ``modules_to_compile``: True, or options of ``torch.compile``; None or False for no.
        ema_decay: of the averaged weights that validation and the exported model use; None for none.
        metric_monitor: which validation metric says what is best, and when to stop early. None: the lowest val/loss, if
            there is one.
        log_every_n_steps: training values are means over so many steps.
        val_every_n_steps, val_every_n_epochs: the last step always validates. None for never.
        save_every_n_steps, save_every_n_epochs: the last step and the best always save. None for never.
        save_last_k: checkpoints kept beside the best; ``keep_every_n_steps``: and those of these steps, for good.
        progress: show progress (main process only).
        trackers: where metrics go beside ``metrics.jsonl``; started by ``fit``, main process only.

    Attributes:
        step: updates so far; ``epoch``: of the next one.
        should_stop: set it, in any process, to end the run after this step.
        stop_reason: "finished", "stopped early", a signal's name, or None while training.
        last_val_metrics: means of the last validation; ``is_best``: whether this step's are the best so far.
        is_step_open: the last update was made, and what is due after it was not: a signal came first.
    """

    step = 0
    micro_batches = 0  # of all processes so far
    is_loaded = should_stop = is_best = is_step_open = is_validating = False
    stop_reason: str | None = None
    resumed_from: str | None = None
    on_saved: Callable[[], None] | None = None

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Callable[..., Optimizer],
        train_dataloader: Iterable[Any],
        exp_dir: str | Path,
        epochs: int,
        lr_scheduler: Callable[..., Any] | None = None,
        loss_fn: Callable[..., Any] | None = None,
        val_dataloader: Iterable[Any] | None = None,
        epoch_length: int | None = None,
        seed: int = 0,
        resume: str = "auto",
        initial_weights: str | Path | None = None,
        partial_loading: bool = False,
        warmup_params: Mapping[str, Any] | None = None,
        gradient_accumulation_steps: int = 1,
        max_grad_norm: float | None = 1.0,
        max_nonfinite_steps: int = 20,
        mixed_precision: MixedPrecision = "auto",
        torch_compile: bool | Mapping[str, Any] | None = None,
        ema_decay: float | None = 0.999,
        metric_monitor: MetricMonitor | None = None,
        log_every_n_steps: int = 10,
        val_every_n_steps: int | None = 200,
        val_every_n_epochs: int | None = None,
        save_every_n_steps: int | None = 200,
        save_every_n_epochs: int | None = None,
        save_last_k: int = 2,
        keep_every_n_steps: int | None = None,
        progress: bool = True,
        trackers: Mapping[str, GeneralTracker] | None = None,
    ) -> None:
        refused = refused_settings({name: value for name, value in locals().items() if name != "self"})
        if refused:
            raise UserError("; ".join(f"trainer.{name} {message}" for name, message in refused))
        self.accelerator = make_accelerator(mixed_precision, check_trackers(trackers or {}), max_grad_norm)
        if isinstance(self.accelerator, ZeroAccelerator):
            refuse_gradient_hooks(self)
        self.trackers = Trackers(self.accelerator)
        self.exp_dir, self.seed, self.resume = Path(exp_dir), seed, resume
        self.initial_weights, self.partial_loading = initial_weights, partial_loading
        self.loss_fn = self._placed(loss_fn)
        self.gradient_accumulation_steps, self.max_grad_norm = gradient_accumulation_steps, max_grad_norm
        self.progress = progress
        self.log_every_n_steps = log_every_n_steps
        self.val_every_n_steps, self.val_every_n_epochs = val_every_n_steps, val_every_n_epochs
        self.save_every_n_steps, self.save_every_n_epochs = save_every_n_steps, save_every_n_epochs
        self.train_dataloader, self.val_dataloader = train_dataloader, val_dataloader
        self._share_batches()
        self.epoch_length = epoch_length or self._one_pass()
        self.total_steps = epochs * self.epoch_length
        self._prepare(model, optimizer, lr_scheduler, warmup_updates(warmup_params, self.epoch_length), torch_compile)
        self.ema = ExponentialMovingAverage(self.raw_model, ema_decay) if ema_decay is not None else None
        self.checkpoints = CheckpointFolder(self.exp_dir / "checkpoints", save_last_k, keep_every_n_steps)
        self.metric_monitor = metric_monitor or MetricMonitor(is_optional=True)
        self.nonfinite = NonfiniteSteps(self.accelerator, self.raw_model, max_nonfinite_steps, self.train_batches.keys)
        self._open_run()

    def _placed(self, loss_fn: Callable[..., Any] | None) -> Callable[..., Any] | None:
        """The loss on the device of training."""
        if not isinstance(loss_fn, nn.Module):
            return loss_fn
        if any(p.requires_grad for p in loss_fn.parameters()):
            raise UserError("loss_fn has weights to train, which no optimizer would get; put them into the model")
        return loss_fn.to(self.accelerator.device)

    def _share_batches(self) -> None:
        """Take this process's share of the loaders."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        self.train_batches = TrainBatches(self.train_dataloader, self.seed, rank, ranks)
        self.val_batches = None if self.val_dataloader is None else EvalBatches(self.val_dataloader, rank, ranks)
        self.micro_batches_per_step = ranks * self.gradient_accumulation_steps

    def _prepare(
        self,
        model: nn.Module,
        optimizer: Callable[..., Optimizer],
        lr_scheduler: Callable[..., Any] | None,
        num_warmup_steps: int,
        torch_compile: bool | Mapping[str, Any] | None,
    ) -> None:
        """Make model, optimizer and schedule what the processes train together."""
        if torch_compile:
            compile_modules(self.modules_to_compile(model), torch_compile)
        own_optimizer = optimizer([p for p in model.parameters() if p.requires_grad])
        self.lr_scheduler = make_scheduler(lr_scheduler, own_optimizer, num_warmup_steps, self.total_steps)
        if needs_metric(self.lr_scheduler) and self.val_batches is None:
            raise UserError("lr_scheduler follows a validation metric (ReduceLROnPlateau); give a val_dataloader")
        # The scheduler is not prepared: Accelerate would advance it once per process at each update.
        self.model, self.optimizer = self.accelerator.prepare(model, own_optimizer)
        self.raw_model: nn.Module = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        settle_sharding(self.model, self.forward_methods(self.raw_model))

    def _open_run(self) -> None:
        """What has no settings: lock and log of the run's folder, metrics, and the parts that training leaves alone."""
        self.lock = RunLock(self.exp_dir, self.accelerator.is_main_process)
        self.metrics_file = MetricsFile(self.exp_dir / "metrics.jsonl")
        self.train_metrics, self.val_metrics = MeanMetrics(skip_nonfinite=True), MeanMetrics()
        self.last_val_metrics: dict[str, float] = {}
        self.frozen = frozen_fingerprints(self.raw_model)
        self._frozen_parts = [part for _, part in frozen_modules(self.raw_model)]

    def _one_pass(self) -> int:
        per_epoch = self.train_batches.per_epoch
        if per_epoch is None:
            raise UserError("epoch_length is null, and the training loader does not tell its length; give epoch_length")
        return max(1, per_epoch // self.micro_batches_per_step)

    @property
    def epoch(self) -> int:
        return self.step // self.epoch_length

    @abstractmethod
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one micro-batch, a mean over its items. Runs under autocast; report more with ``self.log``."""

    # -- the loop -----------------------------------------------------------------------------------------------

    def fit(self, settings: Mapping[str, Any] | None = None, on_saved: Callable[[], None] | None = None) -> None:
        """Train from where ``load_checkpoint`` left off, or from the start, until ``stop_reason``.

        Args:
            settings: the configuration of the run, for the trackers to show beside its curves.
            on_saved: called by the main process after each checkpoint.
        """
        self.on_saved = on_saved
        is_shown = self.progress and self.accelerator.is_main_process
        try:
            with self.lock:
                self.load_checkpoint()
                log_processes(self.accelerator)
                if self.is_step_open or (self.step < self.total_steps and not self.metric_monitor.should_stop):
                    self.trackers.start(self.step, settings or {})
                progress = Progress(self.total_steps, self.step, is_shown)
                with StopSignals(self.accelerator) as signals, progress:
                    self.on_train_start()
                    self._train(signals, progress)
                    self.on_train_end()
        except BaseException as error:
            self.on_exception(error)
            self.trackers.finish(exit_code=1)
            raise
        finally:
            self.train_batches.close()
            if self.val_batches is not None:
                self.val_batches.close()
        self.trackers.finish(exit_code=0)

    def _train(self, signals: StopSignals, progress: Progress) -> None:
        self.should_stop = self.should_stop or self.metric_monitor.should_stop
        batches = self.train_batches.stream(self.micro_batches)
        while self.is_step_open or (self.step < self.total_steps and not self.should_stop):
            if not self.is_step_open:
                if self.step % self.epoch_length == 0:
                    self.on_train_epoch_start()
                began_s = time.perf_counter()
                items = self._update(batches)
                progress.update(items, time.perf_counter() - began_s)
                if self._is_due(self.log_every_n_steps, None):
                    self._log_training(progress)
            # Saved here, before a validation that may take long, a step is closed when the run goes on.
            self.is_step_open, self.is_best = True, False
            try:
                if signals.agreed() is None:
                    self._close_step(signals)
            except Exception:  # in a validation, say: the steps before it are not to blame
                if self.accelerator.num_processes == 1 and self._is_due_to_save():
                    run_state.save(self)
                raise
            if self.is_best or self.should_stop or signals.decided or self._is_due_to_save():
                run_state.save(self)
            if signals.decided is not None:
                self.stop_reason = signals.decided
                logger.warning(
                    "%s: stopped after step %d, which is saved; the same command goes on", signals.decided, self.step
                )
                return
        self.stop_reason = "finished" if self.step >= self.total_steps else "stopped early"

    def _close_step(self, signals: StopSignals) -> None:
        """What is due after an update. A signal in the middle of it leaves the step open."""
        ends_epoch = self.step % self.epoch_length == 0
        validates = self.val_batches is not None and self._is_due(self.val_every_n_steps, self.val_every_n_epochs)
        if validates and not self._validate(signals):
            return
        if ends_epoch:
            self.on_train_epoch_end()
        self.should_stop = signals.any_process(self.should_stop)
        self.is_step_open = False

    def _is_due_to_save(self) -> bool:
        return self._is_due(self.save_every_n_steps, self.save_every_n_epochs)

    def _is_due(self, every_n_steps: int | None, every_n_epochs: int | None) -> bool:
        """Whether something is due after this step; at the last one everything is."""
        by_step = every_n_steps is not None and self.step % every_n_steps == 0
        by_epoch = every_n_epochs is not None and self.step % (every_n_epochs * self.epoch_length) == 0
        return by_step or by_epoch or self.step == self.total_steps

    def _update(self, batches: Iterator[Any]) -> int:
        """One step; returns how many items all processes saw."""
        self.model.train()
        for part in self._frozen_parts:  # a pretrained part stays as it was: no dropout, no running statistics
            part.eval()
        self.nonfinite.before_step()
        items, losses, places = 0, [], []
        for micro in range(self.gradient_accumulation_steps):
            batch = to_device(next(batches), self.accelerator.device)
            batch_idx = self.step % self.epoch_length * self.gradient_accumulation_steps + micro
            # Its place among all micro-batches of the step, so two processes draw what one does with twice as many.
            place = micro * self.accelerator.num_processes + self.accelerator.process_index
            seed_all(derive_seed(self.seed, self.step, place))
            self.on_train_batch_start(batch, batch_idx)
            is_last = micro == self.gradient_accumulation_steps - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    loss = checked_loss(self.training_step(batch, batch_idx))
                self.on_before_backward(loss)
                self.accelerator.backward(nan_unless_finite(loss) / self.gradient_accumulation_steps)
                self.on_after_backward()
            self.train_metrics.update("train/total_loss", loss)
            losses.append(loss.detach())
            places.append((self.micro_batches + place, getattr(batch, "audio_ids", None)))
            items += num_items(batch)
            if is_last:
                is_finite = self._optimize()
                self.nonfinite.after_step(self.step, is_finite, losses, places)
            self.on_train_batch_end(losses[-1], batch, batch_idx)
        return items * self.accelerator.num_processes

    def _optimize(self) -> bool:
        """Clip and update, unless a gradient is not finite; then only the counters go on. Returns whether it did."""
        self.accelerator.unscale_gradients()
        self.on_before_optimizer_step(self.optimizer)
        if isinstance(self.accelerator, ZeroAccelerator):
            norm = self.accelerator.clip_and_step()  # the optimizer's own step and zero_grad do nothing then
        else:
            limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
            norm = whole(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        self.train_metrics.update("grad_norm", norm)
        is_finite = bool(norm.isfinite())  # the same in all processes, which share their gradients
        if is_finite or self.accelerator.scaler is not None:  # the scaler of fp16 skips by itself, and learns from it
            self.optimizer.step()
        self.optimizer.zero_grad()
        advance(self.lr_scheduler, is_finite)
        if self.ema is not None and is_finite:
            self.ema.update()
        self.step += 1
        self.micro_batches += self.micro_batches_per_step
        return is_finite

    # -- weights -------------------------------------------------------------------------------------------------

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Context in which the model holds its averaged weights (its own without an EMA)."""
        return self.ema.applied() if self.ema is not None else nullcontext()

    def load_checkpoint(self) -> None:
        """Load what ``resume`` and ``initial_weights`` ask for; the second call does nothing."""
        if not self.is_loaded:
            run_state.load(self)
            self.is_loaded = True

    def export(self, folder: Path, cfg: Mapping[str, Any]) -> None:
        """Write the trained model with its averaged weights to a folder; every process must call it."""
        is_main = self.accelerator.is_main_process
        with self.averaged_weights():
            weights = trainable_state(self.raw_model, keep=is_main)
        if is_main:
            self.write_model(folder, cfg, weights)
        self.accelerator.wait_for_everyone()

    def write_model(self, folder: Path, cfg: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """What ``export`` writes; called by the main process."""
        run_state.write_model(folder, cfg, weights)
