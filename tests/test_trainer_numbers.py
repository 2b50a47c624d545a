"""What a step computes, checked by hand: clipping, averaging, precision, means, and what is shown."""

from __future__ import annotations

import io
import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from plain import PlainTrainer, Points, plain_model, plain_trainer, records, saved
from unisono import files as files_module
from unisono.errors import UserError
from unisono.training import checkpoint as checkpoint_module
from unisono.training.ema import ExponentialMovingAverage
from unisono.training.metrics import MeanMetrics, MetricsFile
from unisono.training.progress import Progress

SGD = partial(torch.optim.SGD, lr=0.5)


def test_gradients_are_clipped_to_the_norm(tmp_path: Path) -> None:
    for limit in (0.1, None):
        trainer = plain_trainer(tmp_path / str(limit), optimizer=SGD, max_grad_norm=limit, epoch_length=1, epochs=1)
        before = [p.detach().clone() for p in trainer.raw_model.parameters()]
        trainer.fit()
        change = [(p.detach() - b) / 0.5 for p, b in zip(trainer.raw_model.parameters(), before, strict=True)]
        norm = math.sqrt(sum(float((c**2).sum()) for c in change))
        logged = records(tmp_path / str(limit))[0]["grad_norm"]
        assert logged > 0.2 and norm == pytest.approx(min(logged, limit or math.inf), rel=1e-4)


def test_the_average_is_what_its_formula_says() -> None:
    model = nn.Linear(1, 1, bias=False)
    values = [3.0, 5.0, -1.0, 2.0]
    with torch.no_grad():
        model.weight.fill_(values[0])
        average, ema = values[0], ExponentialMovingAverage(model, 0.3)
        for n, value in enumerate(values[1:], start=1):
            model.weight.fill_(value)
            ema.update()
            decay = min(0.3, (1 + n) / (10 + n))
            average = decay * average + (1 - decay) * value
    assert float(ema.average["weight"]) == pytest.approx(average)
    with ema.applied():
        assert float(model.weight) == pytest.approx(average)
    assert float(model.weight) == values[-1] and float(ema.average["weight"]) == pytest.approx(average)


@pytest.mark.parametrize("decay", [0.9, None])
def test_validation_is_of_the_averaged_weights(decay: float | None, tmp_path: Path) -> None:
    data = Points(20, noise=0.0)
    trainer = plain_trainer(tmp_path, ema_decay=decay, val_dataloader=DataLoader(data, batch_size=8))
    trainer.fit()
    of, model = saved(tmp_path), plain_model()
    kind = "model" if decay is None else "ema"
    state = {name: of.get(f"{kind}/{name}", of[f"model/{name}"]) for name in model.state_dict()}
    model.load_state_dict(state)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model.eval()(data.points), data.labels)
    assert records(tmp_path)[-1]["val/loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_a_step_computes_in_the_chosen_precision(precision: str, dtype: torch.dtype, tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()

    class Watched(PlainTrainer):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.add(self.raw_model[0](batch[0]).dtype)
            return super().training_step(batch, batch_idx)

    trainer = plain_trainer(tmp_path, cls=Watched, mixed_precision=precision, epochs=1)
    trainer.fit()
    assert seen == {dtype} and {p.dtype for p in trainer.raw_model.parameters()} == {torch.float32}


def test_a_mask_keeps_out_whatever_stands_there(tmp_path: Path) -> None:
    metrics = MeanMetrics()
    metrics.update("a", torch.tensor([1.0, torch.nan, 3.0, torch.inf]), torch.tensor([True, False, True, False]))
    assert metrics.compute() == {"a": 2.0}
    MetricsFile(tmp_path / "metrics.jsonl").write({"step": 1, "a": math.nan, "b": -math.inf, "c": 0.1})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "a": None, "b": None, "c": 0.1}


def test_statistics_that_a_module_replaces_come_back_too(tmp_path: Path) -> None:
    class Replacing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain_model()
            self.register_buffer("mean", torch.zeros(()))
            self.register_buffer("passing", torch.zeros(()), persistent=False)

        def forward(self, points: Tensor) -> Tensor:
            self.mean = 0.9 * self.mean + 0.1 * points.mean().detach()
            self.passing = self.passing + points.mean().detach()
            return self.inner(points)

    class Poisoned(PlainTrainer):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            points, labels = batch
            return super().training_step((points * torch.nan if self.step == 3 else points, labels), batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", nn.functional.cross_entropy(self.raw_model(batch[0]), batch[1]))

    trainer = plain_trainer(tmp_path, cls=Poisoned, model=Replacing())
    trainer.fit()
    assert trainer.nonfinite.total == 1 and trainer.stop_reason == "finished"
    assert trainer.raw_model.mean.isfinite() and trainer.raw_model.passing.isfinite()


def test_each_file_is_on_the_disk_before_a_checkpoint_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync_path, replace = files_module.sync_path, os.replace

    def synced(path: Path) -> None:
        events.append(f"sync {path.name}")
        sync_path(path)

    def renamed(source: Any, target: Any) -> None:
        events.append(f"rename {Path(target).name}")
        replace(source, target)

    for module in (files_module, checkpoint_module):
        monkeypatch.setattr(module, "sync_path", synced)
    monkeypatch.setattr(files_module.os, "replace", renamed)
    plain_trainer(tmp_path, epochs=1, save_every_n_steps=None, val_every_n_steps=None).fit()
    before = events[: events.index("rename step_00000006")]
    files = ["contents.json", "ema.safetensors", "model.safetensors", "trainer.pt", ".tmp_step_00000006"]
    assert {f"sync {name}" for name in files} <= set(before)
    assert "sync checkpoints" in events[events.index("rename last") :]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_of_a_terminal_shows_loss_rate_speed_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(10, 0, enabled=True) as progress:
        for _ in range(5):
            progress.update(items=8, busy_s=0.5)
        progress.show(1.25, 3e-4, progress.items_per_s())
        progress.bar.refresh()
    shown = terminal.getvalue()
    assert "loss 1.2500, lr 3.00e-04, 16.0 items/s" in shown and "5/10" in shown and "<" in shown
    quiet = Terminal()
    monkeypatch.setattr("sys.stderr", quiet)
    with Progress(10, 0, enabled=False) as progress:
        progress.update(items=8, busy_s=0.5)
        progress.show(1.25, 3e-4, 1.0)
    assert quiet.getvalue() == ""


def test_data_that_are_shared_already_are_refused(tmp_path: Path) -> None:
    data = Points()
    shared = DataLoader(data, batch_size=4, sampler=DistributedSampler(data, num_replicas=2, rank=0))
    for name in ("train_dataloader", "val_dataloader"):
        with pytest.raises(UserError, match="DistributedSampler shares the data among processes"):
            plain_trainer(tmp_path, **{name: shared})


def test_a_loss_with_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="loss_fn has weights to train"):
        plain_trainer(tmp_path, loss_fn=nn.Linear(3, 1))


def test_two_runs_in_one_folder_are_one_too_many(tmp_path: Path) -> None:
    first, second = plain_trainer(tmp_path), plain_trainer(tmp_path)
    first.on_train_epoch_end = second.fit
    with pytest.raises(UserError, match=rf"process {os.getpid()} on .* is training in"):
        first.fit()
    plain_trainer(tmp_path).fit()  # the lock went with the run


@pytest.mark.parametrize("name", ["model", "ema"])
def test_one_flipped_bit_of_the_weights_is_found(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain_trainer(tmp_path, epochs=1).fit()
    path = tmp_path / f"checkpoints/step_00000006/{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    trainer = plain_trainer(tmp_path, epochs=1)
    trainer.load_checkpoint()
    assert trainer.step == 4 and f"{name}.safetensors is not what was written" in caplog.text
