"""A trainer of plain PyTorch: synthetic tensors, an MLP, a shuffling ``DataLoader``; milliseconds per step, no audio.

Scripts of subprocesses import it too: put this folder on ``PYTHONPATH`` (``ENVIRONMENT`` does) and say
``from plain import plain_trainer``.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from unisono.training.trainer import Trainer

TESTS = Path(__file__).resolve().parent
ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true",
    "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
}  # fmt: skip
FEATURES, CLASSES = 6, 3


class Points(Dataset[tuple[Tensor, Tensor]]):
    """Points of three noisy clusters, and which cluster each is of.

    Args:
        num: items.
        noise: standard deviation of what is added to a point each time it is read.
    """

    def __init__(self, num: int = 44, noise: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(11)
        self.labels = torch.arange(num) % CLASSES
        self.points = torch.randn(num, FEATURES, generator=generator) + 2.0 * nn.functional.one_hot(
            self.labels, FEATURES
        )
        self.noise = noise

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.points[index] + self.noise * torch.randn(FEATURES), self.labels[index]


def plain_model(dim: int = 8, dropout: float = 0.2) -> nn.Module:
    """Points ``(B, 6)`` to scores ``(B, 3)``; a batch norm, so that there are buffers to save."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(FEATURES, dim), nn.BatchNorm1d(dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, CLASSES)
    )


class PlainTrainer(Trainer):
    """Cross-entropy and accuracy."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        points, labels = batch
        scores = self.model(points)
        self.log("train/accuracy", scores.argmax(dim=1) == labels)
        assert self.loss_fn is not None
        return self.loss_fn(scores, labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        points, labels = batch
        scores = self.raw_model(points)
        self.log("val/loss", nn.functional.cross_entropy(scores, labels, reduction="none"))
        self.log("val/accuracy", scores.argmax(dim=1) == labels)


def plain_trainer(
    exp_dir: Path,
    *,
    cls: type[Trainer] = PlainTrainer,
    lr: float = 0.01,
    num_workers: int = 0,
    persistent_workers: bool = False,
    **options: Any,
) -> Any:
    """A trainer of two epochs of six steps that logs each step, validates every third and saves every second.

    Args:
        exp_dir: folder of the run.
        cls: of the trainer.
        lr: of AdamW.
        num_workers: of the training loader: 44 items in batches of 7, so the last of its seven batches is short, and
            two epochs of six steps end inside the second pass over the data.
        persistent_workers: of it.
        **options: of ``Trainer``; they replace what is set here, ``model`` and loaders included.
    """
    settings: dict[str, Any] = {
        "model": options.get("model") or plain_model(),
        "optimizer": partial(torch.optim.AdamW, lr=lr),
        "loss_fn": nn.CrossEntropyLoss(),
        "train_dataloader": DataLoader(
            Points(), batch_size=7, shuffle=True, num_workers=num_workers, persistent_workers=persistent_workers
        ),
        "val_dataloader": DataLoader(Points(20, noise=0.1), batch_size=8),
        "epochs": 2,
        "epoch_length": 6,
        "seed": 3,
        "mixed_precision": "no",
        "ema_decay": 0.9,
        "log_every_n_steps": 1,
        "val_every_n_steps": 3,
        "save_every_n_steps": 2,
        "progress": False,
    }
    return cls(exp_dir=exp_dir, **{**settings, **options})


def records(exp_dir: Path) -> list[dict[str, Any]]:
    """``metrics.jsonl`` without the speeds, which differ from run to run."""
    lines = (exp_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "items_per_s"} for line in lines]


def saved(exp_dir: Path, step: int | str = "last") -> dict[str, Tensor]:
    """All tensors of the weights of a checkpoint, by a step or the name of a link: ``model/…`` and ``ema/…``."""
    folder = exp_dir / "checkpoints" / (step if isinstance(step, str) else f"step_{step:08d}")
    return {
        f"{path.stem}/{name}": tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_run(one: Path, other: Path) -> None:
    """Both runs logged the same numbers and ended with the same weights, bit for bit."""
    assert records(one) == records(other)
    a, b = saved(one), saved(other)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
