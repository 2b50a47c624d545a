"""Learning-rate schedules, counted in optimizer updates, and how any schedule of torch or transformers is made."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, PolynomialLR, ReduceLROnPlateau

from unisono.errors import UserError

# Names of transformers.get_scheduler that take a warm-up and do without it.
_WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau")


def cosine_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, min_ratio: float = 0.05
) -> LambdaLR:
    """Linear warm-up, then half a cosine down to ``min_ratio`` of the learning rate at the last update."""

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            return (step + 1) / num_warmup_steps
        progress = (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)
        return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)


def constant_with_warmup(optimizer: Optimizer, num_warmup_steps: int) -> LambdaLR:
    """Linear warm-up, then constant."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, num_warmup_steps)))


class WarmedUp:
    """Linear warm-up in front of a schedule that has none of its own.

    Args:
        scheduler: takes over after ``num_warmup_steps`` updates, from the learning rates that it began with.
    """

    def __init__(self, scheduler: Any, num_warmup_steps: int) -> None:
        self.scheduler, self.num_warmup_steps, self.updates = scheduler, num_warmup_steps, 0
        self.peaks = [float(group["lr"]) for group in scheduler.optimizer.param_groups]
        self._set()

    def _set(self) -> None:
        for group, peak in zip(self.scheduler.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * (self.updates + 1) / self.num_warmup_steps

    def step(self, *metrics: float) -> None:
        """After an update; a ``ReduceLROnPlateau`` takes the monitored metric, after a validation."""
        if needs_metric(self):
            if self.updates >= self.num_warmup_steps:
                self.scheduler.step(*metrics)
            return
        self.count()
        if self.updates > self.num_warmup_steps:
            self.scheduler.step()

    def count(self) -> None:
        """One update more, and the warm-up with it."""
        self.updates += 1
        if self.updates < self.num_warmup_steps:
            self._set()

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "peaks": self.peaks, "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates, self.peaks = state["updates"], list(state["peaks"])
        self.scheduler.load_state_dict(state["scheduler"])


def needs_metric(scheduler: Any) -> bool:
    """Whether it follows a validation metric instead of the updates."""
    return isinstance(scheduler.scheduler if isinstance(scheduler, WarmedUp) else scheduler, ReduceLROnPlateau)


def advance(scheduler: Any, was_updated: bool) -> None:
    """One step of training more, also where its update was skipped: a schedule is a function of the step."""
    with warnings.catch_warnings():
        if not was_updated:  # torch would miss the optimizer's first step
            warnings.simplefilter("ignore")
        if not needs_metric(scheduler):
            scheduler.step()
        elif isinstance(scheduler, WarmedUp):
            scheduler.count()


def check_same_length(now: Mapping[str, Any], saved: Mapping[str, Any], where: str) -> None:
    """Raise ``UserError`` if a schedule that ends at a fixed update would go on with another end."""
    now, saved = now.get("scheduler", now), saved.get("scheduler", saved)
    for name in ("T_max", "total_steps", "total_iters"):
        if name in now and name in saved and now[name] != saved[name]:
            raise UserError(
                f"{where}: its learning-rate schedule was made for {name}={saved[name]} updates, now {now[name]}, "
                f"and it cannot be stretched. Keep epochs, epoch_length and the number of processes, "
                f"set lr_scheduler.{name}={saved[name]}, or "
                "begin anew with trainer.initial_weights; unisono.training.schedules.cosine_with_warmup stretches"
            )


def warmup_updates(warmup: Mapping[str, Any] | None, epoch_length: int) -> int:
    """``warmup_steps``, or ``warmup_epochs`` in updates."""
    given = {name: value for name, value in (warmup or {}).items() if value is not None}
    return given.get("warmup_steps", int(given.get("warmup_epochs", 0) * epoch_length))


def make_scheduler(
    factory: Callable[..., Any] | None, optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int
) -> Any:
    """The schedule of a run.

    Args:
        factory: a function or class of torch, transformers or anyone; called with ``optimizer=`` and, where it has them
            and they are not set yet, with ``num_warmup_steps``, ``num_training_steps``, and torch's names for the
            length of the schedule (``T_max``, ``total_steps``, ``total_iters``). None keeps the learning rate.
        num_warmup_steps: schedules that do not take them get a linear warm-up in front, and that much less length.
    """
    if factory is None:
        return make_scheduler(constant_with_warmup, optimizer, num_warmup_steps, num_training_steps)
    accepted = inspect.signature(factory).parameters
    given, function = (factory.keywords, factory.func) if isinstance(factory, partial) else ({}, factory)
    own_warmup = "num_warmup_steps" in accepted and str(given.get("name")) not in _WITHOUT_WARMUP
    length = num_training_steps if own_warmup else max(1, num_training_steps - num_warmup_steps)
    known = {"num_warmup_steps": num_warmup_steps, "num_training_steps": length, "T_max": length}
    if "epochs" not in given and "steps_per_epoch" not in given:
        known["total_steps"] = length
    if function is PolynomialLR:  # others of torch mean the length of a beginning by it
        known["total_iters"] = length
    arguments = {name: value for name, value in known.items() if name in accepted and name not in given}
    scheduler = factory(optimizer=optimizer, **arguments)
    return scheduler if own_warmup or not num_warmup_steps else WarmedUp(scheduler, num_warmup_steps)
