"""What the trainer costs per step, against a plain PyTorch loop with the same model, batches, optimizer and clipping.

    OMP_NUM_THREADS=1 python benchmarks/trainer_overhead.py [width=768] [batch_size=32] [blocks=12] [profile]

The plain loop runs inside a hook of the trainer, a block of steps after each block of the trainer's, so both see the
same machine in one run. Both must end with the same weights to the last bit, else they did not do the same work. A
ratio compares a block of the trainer's with the plain blocks before and after it. `profile` shows the ten functions
that a step of a model of one weight spends its time in, the profiler's own cost included.
"""

from __future__ import annotations

import copy
import cProfile
import pstats
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from unisono.data.order import one_epoch
from unisono.training.tracking import TensorBoardTracker
from unisono.training.trainer import Trainer

STEPS_PER_BLOCK = 15
FRAMES = 16
EMA_DECAY = 0.999
CLOCKS = {"wall": time.perf_counter, "CPU": time.process_time}
make_optimizer = partial(torch.optim.AdamW, lr=1e-4, fused=True)


def network(width: int) -> nn.Module:
    """``(B, FRAMES, width)`` to ``(B, FRAMES, 1)``; nearly all of the time is in matrix products."""
    if width == 1:
        return nn.Linear(1, 1)
    hidden = [layer for _ in range(4) for layer in (nn.Linear(width, width), nn.GELU())]
    return nn.Sequential(*hidden, nn.Linear(width, 1))


class PlainLoop:
    """What one would write without a trainer."""

    def __init__(self, model: nn.Module, loader: DataLoader, has_ema: bool) -> None:
        self.model, self.loader = model, loader
        self.optimizer = make_optimizer(model.parameters())
        self.ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY)) if has_ema else None

    def block(self, epoch: int) -> None:
        """One epoch, with the batches that the trainer takes in it."""
        order = one_epoch(self.loader.batch_sampler, 0, epoch)
        self.model.train()
        for inputs, targets in DataLoader(self.loader.dataset, batch_sampler=order):
            loss = nn.functional.mse_loss(self.model(inputs), targets)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.ema is not None:
                self.ema.update_parameters(self.model)


class TimedTrainer(Trainer):
    """Times its own epochs, and a block of ``plain`` after each of them."""

    def __init__(self, plain: PlainLoop | None, **options: Any) -> None:
        super().__init__(**options)
        self.plain = plain
        self.ms: dict[str, dict[str, list[float]]] = {clock: {"trainer": [], "plain": []} for clock in CLOCKS}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(self.model(inputs), targets)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """No validation: the plain loop has none."""

    def on_train_start(self) -> None:
        self._began = self._now()

    def on_train_epoch_end(self) -> None:
        self._record("trainer")
        if self.plain is not None:
            self.plain.block(self.epoch - 1)
            self._record("plain")

    def _now(self) -> dict[str, float]:
        return {name: clock() for name, clock in CLOCKS.items()}

    def _record(self, loop: str) -> None:
        now = self._now()
        for clock in CLOCKS:
            self.ms[clock][loop].append(1000 * (now[clock] - self._began[clock]) / STEPS_PER_BLOCK)
        self._began = self._now()


def make_trainer(folder: Path, width: int, batch_size: int, blocks: int, has_ema: bool, has_plain: bool = True):
    torch.manual_seed(0)
    items = STEPS_PER_BLOCK * batch_size
    dataset = TensorDataset(torch.randn(items, FRAMES, width), torch.randn(items, FRAMES, 1))
    loader = DataLoader(dataset, batch_size, shuffle=True)
    model = network(width)
    return TimedTrainer(
        plain=PlainLoop(copy.deepcopy(model), loader, has_ema) if has_plain else None,
        model=model,
        optimizer=make_optimizer,
        train_dataloader=loader,
        exp_dir=folder,
        epochs=blocks,
        mixed_precision="no",
        ema_decay=EMA_DECAY if has_ema else None,
        save_every_n_steps=None,
        progress=False,
        trackers={"tensorboard": TensorBoardTracker("tensorboard", folder)},
    )


def compare(title: str, width: int, batch_size: int, blocks: int, has_ema: bool) -> None:
    with TemporaryDirectory() as folder:
        trainer = make_trainer(Path(folder), width, batch_size, blocks + 2, has_ema)
        trainer.fit()
    plain = trainer.plain.model.state_dict()
    assert all(torch.equal(plain[name], value) for name, value in trainer.raw_model.state_dict().items())
    print(f"{title}, EMA {'on' if has_ema else 'off'}: {blocks} blocks of {STEPS_PER_BLOCK} steps, median (range)")
    for clock, ms in trainer.ms.items():
        # The first block warms up, and the last one ends with a save.
        ours = ms["trainer"][1:-1]
        around = [(a + b) / 2 for a, b in zip(ms["plain"], ms["plain"][1:], strict=False)][: len(ours)]
        ratios = [a / b for a, b in zip(ours, around, strict=True)]
        extra = [a - b for a, b in zip(ours, around, strict=True)]
        print(
            f"  {clock:<4}  trainer {show(ours)} ms, plain {show(ms['plain'][1:])} ms, ratio {show(ratios, 3)}, "
            f"difference {show(extra, 3)} ms a step"
        )


def show(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def profile(batch_size: int, blocks: int) -> None:
    with TemporaryDirectory() as folder:
        trainer = make_trainer(Path(folder), 1, batch_size, blocks, has_ema=True, has_plain=False)
        profiler = cProfile.Profile()
        profiler.runcall(trainer.fit)
    print(f"{blocks * STEPS_PER_BLOCK} steps:")
    pstats.Stats(profiler).sort_stats("tottime").print_stats(10)


def main() -> None:
    settings = {"width": 768, "batch_size": 32, "blocks": 12}
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        if argument != "profile" and not (name in settings and value.isdigit()):
            sys.exit(
                f"{argument!r} is unknown; give " + ", ".join(f"{n}={v}" for n, v in settings.items()) + ", profile"
            )
        if value:
            settings[name] = int(value)
    width, batch_size, blocks = settings.values()
    torch.set_num_threads(1)
    if "profile" in sys.argv[1:]:
        profile(batch_size, blocks)
        return
    for has_ema in (False, True):
        compare(f"{width} wide, batches of {batch_size}", width, batch_size, blocks, has_ema)
        compare(f"one weight, batches of {batch_size}", 1, batch_size, blocks, has_ema)


if __name__ == "__main__":
    main()
