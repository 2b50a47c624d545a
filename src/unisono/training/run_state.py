"""What a checkpoint holds of a run: collected from a trainer, and brought back to one."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from unisono.errors import UserError
from unisono.files import replaced_folder
from unisono.training.checkpoint import came_from, damage, read_state, read_weights
from unisono.training.deepspeed import whole_optimizer
from unisono.training.schedules import check_same_length
from unisono.training.weights import (
    check_fingerprints,
    load_optimizer_state,
    load_strictly,
    load_what_fits,
    optimizer_state,
    trainable_state,
)

if TYPE_CHECKING:
    from unisono.training.trainer import Trainer

logger = logging.getLogger(__name__)
_WEIGHTS = "model.safetensors"


def save(trainer: Trainer) -> None:
    """Write a checkpoint; called by all processes, written by the main one."""
    is_main = trainer.accelerator.is_main_process
    weights = {"model": trainable_state(trainer.raw_model, keep=is_main)}
    if not all(bool(tensor.isfinite().all()) for tensor in weights["model"].values()):
        # so it never takes a good checkpoint's place
        raise UserError(
            f"step {trainer.step}: the model became infinite or NaN; the checkpoints before are whole. Lower "
            "optimizer.lr or trainer.max_grad_norm, or set trainer.mixed_precision=no"
        )
    if trainer.ema is not None:
        weights["ema"] = trainer.ema.state_dict(keep=is_main)
    scaler = trainer.accelerator.scaler
    state: dict[str, Any] = {
        "step": trainer.step,
        "micro_batches": trainer.micro_batches,
        "micro_batches_per_step": trainer.micro_batches_per_step,
        "metric_monitor": trainer.metric_monitor.state_dict(),
        "optimizer": optimizer_state(whole_optimizer(trainer.optimizer), trainer.raw_model, keep=is_main),
        "lr_scheduler": trainer.lr_scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "ema_updates": 0 if trainer.ema is None else trainer.ema.updates,
        "train_metrics": trainer.train_metrics.state_dict(trainer.accelerator),
        "last_val_metrics": trainer.last_val_metrics,
        "resumed_from": trainer.resumed_from,
        "is_step_open": trainer.is_step_open,
        "is_best": trainer.is_best,
        "nonfinite": trainer.nonfinite.state_dict(),
        "frozen": trainer.frozen,
    }
    trainer.on_save_checkpoint(state)
    if is_main:
        trainer.checkpoints.save(trainer.step, weights, state, trainer.is_best)
        if trainer.on_saved is not None:
            trainer.on_saved()
    trainer.accelerator.wait_for_everyone()


def load(trainer: Trainer) -> None:
    """Bring back the checkpoint that ``resume`` asks for, or else the ``initial_weights``; called by all processes."""
    checkpoint = _same_for_all(trainer)
    if trainer.accelerator.is_main_process:
        trainer.exp_dir.mkdir(parents=True, exist_ok=True)
    if checkpoint is not None:
        _restore(trainer, checkpoint)
    else:
        if trainer.initial_weights is not None:
            _begin_with(trainer, Path(trainer.initial_weights))
        if trainer.accelerator.is_main_process:
            trainer.metrics_file.truncate(0)


def _same_for_all(trainer: Trainer) -> Path | None:
    """The main process chooses: others might see the folder when it has changed already."""
    choice: list[Any] = [None, None]
    if trainer.accelerator.is_main_process:
        try:
            choice = [_chosen(trainer), None]
        except UserError as error:
            choice = [None, str(error)]
    if trainer.accelerator.num_processes > 1:
        broadcast_object_list(choice)
    if choice[1] is not None:
        raise UserError(choice[1])
    return choice[0]


def _chosen(trainer: Trainer) -> Path | None:
    if trainer.resume == "auto":
        return trainer.checkpoints.latest_whole()
    if trainer.resume == "never":
        found = trainer.checkpoints.steps()
        if found:
            raise UserError(f"{found[-1]} exists and resume=never; choose another exp_dir or remove the folder")
        return None
    checkpoint = Path(trainer.resume).resolve()
    if not checkpoint.is_dir():
        raise UserError(f"resume={trainer.resume}: no such checkpoint folder")
    fault = damage(checkpoint)
    if fault is not None:
        raise UserError(f"resume={trainer.resume}: no whole checkpoint: {fault}; choose another, or say resume=auto")
    for own in reversed(trainer.checkpoints.steps()):  # the same command again, after an interruption?
        if damage(own) is None:
            if came_from(own) != os.path.abspath(trainer.resume):
                break
            logger.warning(
                "%s came out of resume=%s: going on from it (to begin at that again, move it away)", own, trainer.resume
            )
            return own
    return checkpoint


def _restore(trainer: Trainer, checkpoint: Path) -> None:
    weights, state = read_weights(checkpoint / _WEIGHTS), read_state(checkpoint)
    check_fingerprints(state["frozen"], trainer.frozen, str(checkpoint))
    load_strictly(trainer.raw_model, weights, str(checkpoint))
    load_optimizer_state(whole_optimizer(trainer.optimizer), trainer.raw_model, state["optimizer"], str(checkpoint))
    check_same_length(trainer.lr_scheduler.state_dict(), state["lr_scheduler"], str(checkpoint))
    trainer.lr_scheduler.load_state_dict(state["lr_scheduler"])
    if trainer.accelerator.scaler is not None and state["scaler"] is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    _restore_average(trainer, checkpoint, state["ema_updates"])
    is_told = trainer.resume not in ("auto", "never") and Path(trainer.resume).resolve() == checkpoint
    trainer.resumed_from = os.path.abspath(trainer.resume) if is_told else state["resumed_from"]
    trainer.step, trainer.micro_batches = state["step"], state["micro_batches"]
    trainer.is_step_open = state["is_step_open"]
    trainer.nonfinite.load_state_dict(state["nonfinite"])
    trainer.metric_monitor.load_state_dict(state["metric_monitor"])
    trainer.last_val_metrics = state["last_val_metrics"]
    if trainer.accelerator.is_main_process:
        trainer.train_metrics.load_state_dict(state["train_metrics"])  # sums over all processes
        trainer.metrics_file.truncate(trainer.step)
        trainer.checkpoints.set_aside_after(trainer.step)
        if state["is_best"]:
            trainer.checkpoints.mark_best(checkpoint.resolve())
        trainer.checkpoints.prune()  # what a save that was killed has left
    trainer.on_load_checkpoint(state)
    logger.info("resumed from %s (step %d of %d)", checkpoint, trainer.step, trainer.total_steps)
    if state["micro_batches_per_step"] != trainer.micro_batches_per_step:
        logger.warning(
            "a step takes %d micro-batches now and took %d; the order of the data goes on unchanged, but steps, epochs "
            "and the learning rate mean another number of items (trainer.gradient_accumulation_steps evens it out)",
            trainer.micro_batches_per_step,
            state["micro_batches_per_step"],
        )


def _restore_average(trainer: Trainer, checkpoint: Path, updates: int) -> None:
    path = checkpoint / "ema.safetensors"
    if trainer.ema is None:
        if path.is_file():
            logger.warning("%s has averaged weights, and trainer.ema_decay is null now; they are left out", checkpoint)
    elif path.is_file():
        trainer.ema.load_state_dict(read_weights(path), updates)
    else:
        logger.warning("%s has no averaged weights; they begin at its weights", checkpoint)
        trainer.ema.restart()


def _begin_with(trainer: Trainer, path: Path) -> None:
    """Weights for step 0; the optimizer and everything else are new."""
    file = path / _WEIGHTS if path.is_dir() else path
    weights = read_weights(file)
    if trainer.partial_loading:
        left_out = load_what_fits(trainer.raw_model, weights, str(file))
        for line in left_out:
            logger.warning("%s: %s", file, line)
        logger.info("began with %s; %d of its or the model's tensors were left out", file, len(left_out))
    else:
        if (path / "trainer.pt").is_file():
            check_fingerprints(read_state(path)["frozen"], trainer.frozen, str(path))
        load_strictly(trainer.raw_model, weights, f"{file} (trainer.partial_loading=true takes what fits)")
        logger.info("began with %s", file)
    if trainer.ema is not None:
        trainer.ema.restart()


def write_model(folder: Path, cfg: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """``model.safetensors`` and ``config.yaml``, whole or not at all."""
    with replaced_folder(folder) as temporary:
        save_file(dict(weights), temporary / _WEIGHTS)
        OmegaConf.save(OmegaConf.create(dict(cfg)), temporary / "config.yaml")
