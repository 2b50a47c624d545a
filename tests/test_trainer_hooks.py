"""Hooks: their order and arguments; what a step may return; means, monitoring, stopping, batches of any kind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from plain import FEATURES, PlainTrainer, Points, plain_trainer, records
from unisono.data.order import num_items
from unisono.errors import UserError
from unisono.training.hooks import TrainerHooks
from unisono.training.monitor import MetricMonitor

HOOKS = [name for name in vars(TrainerHooks) if name.startswith("on_")]
STEPS = ("training_step", "validation_step", "get_val_metrics")


class Recording(PlainTrainer):
    """Notes each call and its arguments."""

    def __init__(self, **options: Any) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        super().__init__(**options)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def noted(name: str) -> Any:
    def hook(self: Recording, *args: Any) -> Any:
        self.calls.append((name, args))
        return getattr(PlainTrainer, name)(self, *args)

    return hook


for _name in (*HOOKS, *STEPS):
    setattr(Recording, _name, noted(_name))

MICRO_BATCH = ["on_train_batch_start", "training_step", "on_before_backward", "on_after_backward"]
STEP = [*MICRO_BATCH, "on_train_batch_end", *MICRO_BATCH, "on_before_optimizer_step", "on_train_batch_end"]
VALIDATION_BATCH = ["on_validation_batch_start", "validation_step", "on_validation_batch_end"]
VALIDATION = ["on_validation_start", *VALIDATION_BATCH, *VALIDATION_BATCH, "get_val_metrics", "on_validation_end"]


def recorded(exp_dir: Path, **options: Any) -> Recording:
    """Two epochs of two steps of two micro-batches; a validation and a checkpoint every two steps."""
    settings = {
        "epochs": 2, "epoch_length": 2, "gradient_accumulation_steps": 2, "val_every_n_steps": 2,
        "save_every_n_steps": 2, "val_dataloader": DataLoader(Points(10), batch_size=6),
    }  # fmt: skip
    return plain_trainer(exp_dir, cls=Recording, **{**settings, **options})


def test_the_order_is_lightnings(tmp_path: Path) -> None:
    trainer = recorded(tmp_path)
    trainer.fit()
    epoch = ["on_train_epoch_start", *STEP, *STEP, *VALIDATION, "on_train_epoch_end", "on_save_checkpoint"]
    assert trainer.names == ["on_train_start", *epoch, *epoch, "on_train_end"]
    assert set(HOOKS) - set(trainer.names) == {"on_load_checkpoint", "on_exception"}


def test_what_hooks_are_given(tmp_path: Path) -> None:
    trainer = recorded(tmp_path, epochs=1)
    trainer.fit()

    def given(name: str) -> list[tuple[Any, ...]]:
        return [args for called, args in trainer.calls if called == name]

    assert [args[1] for args in given("on_train_batch_start")] == [0, 1, 2, 3]
    assert [args[1] for args in given("training_step")] == [0, 1, 2, 3]
    for start, step, end, backward in zip(
        given("on_train_batch_start"), given("training_step"), given("on_train_batch_end"), given("on_before_backward"),
        strict=True,
    ):  # fmt: skip
        assert start[0] is step[0] is end[1] and start[1] == end[2]
        assert torch.equal(end[0], backward[0]) and not end[0].requires_grad and backward[0].requires_grad
    assert given("on_before_optimizer_step") == [(trainer.optimizer,)] * 2
    assert [args[1] for args in given("validation_step")] == [0, 1]
    assert [(args[0], args[2]) for args in given("on_validation_batch_end")] == [(None, 0), (None, 1)]
    (checkpoint,) = given("on_save_checkpoint")[0]
    assert checkpoint["step"] == 2 and checkpoint["micro_batches"] == 4


def test_hooks_of_a_run_that_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": 1, "epoch_length": 3, "val_dataloader": None, "epochs": 1}
    first = recorded(tmp_path, **options)
    first.on_after_backward = lambda: 1 / (2 - first.step)  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        first.fit()
    assert first.names[-3:] == ["training_step", "on_before_backward", "on_exception"]
    assert isinstance(first.calls[-1][1][0], ZeroDivisionError)
    second = recorded(tmp_path, **options)
    second.fit()
    one_step = [*MICRO_BATCH, "on_before_optimizer_step", "on_train_batch_end"]
    ends = ["on_train_epoch_end", "on_save_checkpoint", "on_train_end"]
    assert second.names == ["on_load_checkpoint", "on_train_start", *one_step, *ends]
    assert next(args for name, args in second.calls if name == "training_step")[1] == 2
    finished = recorded(tmp_path, **options)
    finished.fit()
    assert finished.names == ["on_load_checkpoint", "on_train_start", "on_train_end"]


def test_an_exception_of_loading_is_told_too(tmp_path: Path) -> None:
    trainer = recorded(tmp_path, resume=str(tmp_path / "absent"))
    with pytest.raises(UserError, match="no such checkpoint"):
        trainer.fit()
    assert trainer.names == ["on_exception"]


def test_values_of_a_user_travel_in_the_checkpoint(tmp_path: Path) -> None:
    class Counting(PlainTrainer):
        seen = 0

        def on_train_batch_end(self, *_: Any) -> None:
            self.seen += 1

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["mine"] = {"seen": self.seen, "table": torch.arange(3), "name": "ä", "pairs": [(1, 2.5), None]}

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.loaded = checkpoint["mine"]
            self.seen = self.loaded["seen"]

    plain_trainer(tmp_path, cls=Counting, epochs=1).fit()
    resumed = plain_trainer(tmp_path, cls=Counting, epochs=2)
    resumed.fit()
    assert torch.equal(resumed.loaded.pop("table"), torch.arange(3)) and resumed.seen == 12
    assert resumed.loaded == {"seen": 6, "name": "ä", "pairs": [(1, 2.5), None]}


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_epoch_start", "on_train_batch_end", "on_validation_end"])
def test_should_stop_ends_the_run_after_the_step_and_saves(hook: str, tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path, save_every_n_steps=None, metric_monitor=MetricMonitor("val/accuracy", "max"))
    setattr(trainer, hook, lambda *_: setattr(trainer, "should_stop", True))
    trainer.fit()
    stopped_at = {"on_train_start": 0, "on_validation_end": 3}.get(hook, 1)
    assert (trainer.step, trainer.stop_reason) == (stopped_at, "stopped early")
    if stopped_at:
        assert os.readlink(tmp_path / "checkpoints/last") == f"step_{stopped_at:08d}"


# -- means and monitoring ---------------------------------------------------------------------------------------------


class Scripted(PlainTrainer):
    """Each validation reports the next of ``script`` as ``val/score``."""

    script: tuple[float, ...] = ()

    def get_val_metrics(self) -> dict[str, float]:
        return {**super().get_val_metrics(), "val/score": self.script[self.step - 1]}


def scripted(exp_dir: Path, script: tuple[float, ...], monitor: MetricMonitor, **options: Any) -> Scripted:
    trainer = plain_trainer(exp_dir, cls=Scripted, val_every_n_steps=1, metric_monitor=monitor, epochs=1, **options)
    trainer.script = script
    return trainer


def test_means_are_over_items_not_batches(tmp_path: Path) -> None:
    """44 items in batches of 7: the last has two. One epoch of seven steps sees each item once."""

    class Indices(PlainTrainer):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.log("train/index", batch[0][:, 0])
            self.log("train/even", batch[0][:, 0], batch[0][:, 0] % 2 == 0)
            return self.model(batch[0]).mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", batch[0][:, 0])
            self.log("val/square", batch[0] ** 2)

    items = TensorDataset(torch.arange(44.0)[:, None].repeat(1, FEATURES))
    loader = DataLoader(items, batch_size=7, shuffle=True)
    options = {"train_dataloader": loader, "val_dataloader": loader, "epochs": 1, "epoch_length": None}
    trainer = plain_trainer(tmp_path, cls=Indices, log_every_n_steps=7, **options)
    trainer.fit()
    trained = next(record for record in records(tmp_path) if "train/index" in record)
    assert trained["train/index"] == 21.5 and trained["train/even"] == 21.0 and trained["step"] == 7
    assert trainer.last_val_metrics == {"val/loss": 21.5, "val/square": float((torch.arange(44.0) ** 2).mean())}


@pytest.mark.parametrize(
    ("mode", "script", "stopped_at", "best_at"),
    [
        ("min", (3, 2, 2, 2.5, 1, 0), 4, 2),
        ("max", (1, 2, 2, 1.5, 3, 4), 4, 2),
        ("max", (1, 2, 1, 3, 2, 4), 6, 6),
        ("min", (1, float("nan"), float("nan"), 0, 0, 0), 3, 1),
        ("min", (float("nan"), 5, 6, 4, 7, 7), 6, 4),
    ],
)
def test_stopping_early_and_the_best(
    mode: Any, script: tuple[float, ...], stopped_at: int, best_at: int, tmp_path: Path
) -> None:
    """The same whether the run is broken off after each of its validations or not."""
    monitor = partial(MetricMonitor, "val/score", mode, patience=2)
    whole = scripted(tmp_path / "whole", script, monitor(), save_last_k=9)
    whole.fit()
    for _ in range(stopped_at):
        broken = scripted(tmp_path / "broken", script, monitor(), save_every_n_steps=1, save_last_k=9)
        broken.load_checkpoint()
        if broken.step + 1 < stopped_at:  # what a signal does: the step is saved, then an exception ends the process
            broken.on_train_batch_start = lambda _, __, t=broken, first=broken.step: 1 / (first + 1 - t.step)
            with pytest.raises(ZeroDivisionError):
                broken.fit()
        else:
            broken.fit()
    for trainer in (whole, broken):
        assert trainer.step == stopped_at
        assert trainer.stop_reason == ("finished" if stopped_at == trainer.total_steps else "stopped early")
        assert os.readlink(trainer.exp_dir / "checkpoints/best") == f"step_{best_at:08d}"
    again = scripted(tmp_path / "whole", script, monitor())
    again.fit()
    assert again.step == stopped_at


def test_a_monitored_metric_that_is_not_there_is_named(tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path, metric_monitor=MetricMonitor("val/acuracy", "max"))
    with pytest.raises(UserError, match=r"'val/acuracy', which validation does not give; .*val/accuracy"):
        trainer.fit()


@pytest.mark.parametrize("name", [None, "val/else"])
def test_without_a_monitor_any_validation_will_do(name: str | None, tmp_path: Path) -> None:
    class Other(PlainTrainer):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if name is not None:
                self.log(name, 1.0)

    trainer = plain_trainer(tmp_path, cls=Other)
    trainer.fit()
    assert trainer.step == 12 and not (tmp_path / "checkpoints/best").exists()


@pytest.mark.parametrize("as_number", [np.float64, torch.tensor, float])
def test_metrics_of_a_users_own_may_be_any_numbers(as_number: Any, tmp_path: Path) -> None:
    class Own(PlainTrainer):
        def get_val_metrics(self) -> dict[str, Any]:
            return {"val/loss": as_number(0.5)}

    plain_trainer(tmp_path, cls=Own, epochs=1).fit()
    resumed = plain_trainer(tmp_path, cls=Own)
    resumed.fit()
    assert resumed.step == 12 and resumed.last_val_metrics == {"val/loss": 0.5}


# -- losses, batches, parts left out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [None, 1.0, torch.ones(3, requires_grad=True), torch.tensor(1.0), {"loss": 1}])
def test_what_is_no_loss_is_refused(loss: Any, tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path)
    trainer.training_step = lambda *_: loss
    with pytest.raises(TypeError, match="it must return the loss, one number with a gradient"):
        trainer.fit()


@pytest.mark.parametrize(
    "left_out", [{"val_dataloader": None}, {"lr_scheduler": None}, {"ema_decay": None}, {"max_grad_norm": None}]
)
def test_parts_may_be_left_out(left_out: dict[str, None], tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path, epochs=1, **left_out)
    trainer.fit()
    assert trainer.step == 6 and {record["lr"] for record in records(tmp_path) if "lr" in record} == {0.01}


@dataclass
class Pair:
    """A batch without ``to`` or length."""

    points: Tensor
    labels: Tensor


KINDS: dict[str, tuple[Any, Any]] = {
    "tuple": (lambda x, y: (x, y), lambda batch: batch),
    "list": (lambda x, y: [x, y], lambda batch: batch),
    "dict": (lambda x, y: {"points": x, "labels": y}, lambda batch: batch.values()),
    "dict with names first": (lambda x, y: {"names": ["a"] * len(x), "x": x, "y": y}, lambda b: (b["x"], b["y"])),
    "tuple with names first": (lambda x, y: (["a"] * len(x), x, y), lambda batch: batch[1:]),
    "nested": (lambda x, y: {"in": {"x": x}, "out": (y,)}, lambda batch: (batch["in"]["x"], batch["out"][0])),
    "with a number first": (lambda x, y: (3, torch.tensor(2.0), x, y), lambda batch: batch[2:]),
    "object": (Pair, lambda batch: (batch.points, batch.labels)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_any_kind(kind: str, tmp_path: Path) -> None:
    pack, unpack = KINDS[kind]

    class Unpacking(PlainTrainer):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(tuple(unpack(batch)), batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(tuple(unpack(batch)), batch_idx)

    def collate(items: list[tuple[Tensor, Tensor]]) -> Any:
        return pack(torch.stack([x for x, _ in items]), torch.stack([y for _, y in items]))

    loader = DataLoader(Points(), batch_size=7, shuffle=True, collate_fn=collate)
    plain_trainer(tmp_path / kind, cls=Unpacking, epochs=1, train_dataloader=loader, val_dataloader=loader).fit()
    plain_trainer(tmp_path / "plain", epochs=1, val_dataloader=DataLoader(Points(), batch_size=7, shuffle=True)).fit()
    assert records(tmp_path / kind) == records(tmp_path / "plain")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "object"])
def test_items_of_a_batch_are_counted(kind: str) -> None:
    assert num_items(KINDS[kind][0](torch.zeros(5, FEATURES), torch.zeros(5))) == 5


def test_a_nan_item_leaves_no_trace_in_the_model(tmp_path: Path) -> None:
    """The update is skipped; a batch norm's statistics are taken back with it."""

    class OneBad(Points):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            point, label = super().__getitem__(index)
            return (point * torch.nan if index == 5 else point), label

    trainer = plain_trainer(tmp_path, train_dataloader=DataLoader(OneBad(), batch_size=7, shuffle=True))
    trainer.fit()
    assert trainer.step == 12 and 1 <= trainer.nonfinite.total <= 2
    assert all(tensor.isfinite().all() for tensor in trainer.raw_model.state_dict().values())
