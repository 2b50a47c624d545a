"""What a run lives through: signals, losses that are not finite, broken data, and what it says of them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

import runs
from plain import PlainTrainer, Points, assert_same_run, plain_trainer, records, saved
from test_trainer import make_trainer
from unisono.errors import UserError


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_ends_the_step_saves_and_leaves(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain_trainer(tmp_path / "whole").fit()
    trainer, ended = plain_trainer(tmp_path / "broken"), []

    def send(*_: Any) -> None:
        if trainer.step == 4:
            signal.raise_signal(getattr(signal, name))

    trainer.on_before_backward, trainer.on_train_end = send, lambda: ended.append(trainer.stop_reason)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    trainer.fit()
    assert (trainer.step, trainer.stop_reason, ended) == (5, name, [name])
    assert (tmp_path / "broken/checkpoints/last").resolve().name == "step_00000005"
    assert f"{name}: stopped after step 5" in caplog.text
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    plain_trainer(tmp_path / "broken").fit()
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, clock = plain_trainer(tmp_path), [100.0]
    monkeypatch.setattr("unisono.training.stop_signals.time.monotonic", lambda: clock[0])

    def send(*_: Any) -> None:
        if trainer.step == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # a launcher's echo of the first
            clock[0] += 3.0
            signal.raise_signal(signal.SIGTERM)  # a cluster that loses patience kills; this only asks again
            signal.raise_signal(signal.SIGINT)

    seen: list[BaseException] = []
    trainer.on_before_backward, trainer.on_exception = send, seen.append
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert trainer.step == 2 and isinstance(seen[0], KeyboardInterrupt)


def test_signals_belong_to_the_caller_again_when_training_fails(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    trainer = plain_trainer(tmp_path)
    trainer.on_train_start = lambda: 1 // (signal.getsignal(signal.SIGINT) == before)
    trainer.on_before_backward = lambda loss: 1 // 0
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert trainer.step == 0 and signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_preempted_command_ends_with_status_zero_and_goes_on(num_workers: int, tmp_path: Path) -> None:
    """The group gets the signal, as from a terminal or a cluster: the loader's workers too."""
    options = {"epochs": 10, "step_s": 0.02, "num_workers": num_workers, "save_every_n_steps": 1000}
    runs.run("plain", tmp_path / "whole", **options)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        before = 1 + max([r["step"] for r in records(tmp_path / "broken")] if (tmp_path / "broken").exists() else [1])
        process = runs.start("plain", tmp_path / "broken", **options)
        runs.wait_for_step(tmp_path / "broken", before + 2, process)
        os.killpg(process.pid, number)
        output = runs.finish(process)
        assert f"{signal.Signals(number).name} at step" in output and "Traceback" not in output
    runs.run("plain", tmp_path / "broken", **options)
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


class Spoilt(PlainTrainer):
    """Its loss is NaN, or its gradients infinite, at the steps in ``bad_steps``."""

    bad_steps: tuple[int, ...] = ()
    spoils = "loss"

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * torch.nan if self.spoils == "loss" and self.step in self.bad_steps else loss

    def on_after_backward(self) -> None:
        if self.spoils == "gradient" and self.step in self.bad_steps:
            next(self.raw_model.parameters()).grad[0, 0] = torch.inf  # type: ignore[index]


@pytest.mark.parametrize("spoils", ["loss", "gradient"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_that_is_not_finite_makes_no_update(
    spoils: str, accumulation: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = plain_trainer(tmp_path, cls=Spoilt, gradient_accumulation_steps=accumulation, val_every_n_steps=None)
    trainer.spoils, trainer.bad_steps = spoils, (3, 4, 8)
    weights: list[Tensor] = []
    watched = next(trainer.raw_model.parameters())
    trainer.on_train_batch_end = lambda *_: weights.append(watched.detach().clone())
    trainer.fit()
    after = weights[accumulation - 1 :: accumulation]
    changed = [not torch.equal(a, b) for a, b in pairwise(after)]
    assert changed == [step not in (3, 4, 8) for step in range(1, 12)]
    shown = records(tmp_path)
    assert [r.get("nonfinite_steps", 0) for r in shown if "lr" in r] == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert all(json.dumps(r).find("NaN") < 0 and json.dumps(r).find("Infinity") < 0 for r in shown)
    skipped = [r.message for r in caplog.records if "no update was made" in r.message]
    assert (
        len(skipped) == 3 and f"the {spoils} is infinite or NaN" in skipped[0] and "2 in a row, 2 in all" in skipped[1]
    )
    assert all(t.isfinite().all() for t in saved(tmp_path).values())


def test_too_many_in_a_row_stop_the_run_and_name_the_items(tmp_path: Path, toy_corpus: Path) -> None:
    trainer = plain_trainer(tmp_path / "plain", cls=Spoilt, max_nonfinite_steps=3)
    trainer.bad_steps = (2, 4, 5, 6)
    with pytest.raises(UserError, match=r"step 7: the loss is infinite or NaN.*items \[.*number 3 in a row") as caught:
        trainer.fit()
    assert str(trainer.train_batches.sampler.epoch(0)[6]) in str(caught.value)
    assert (tmp_path / "plain/checkpoints/last").resolve().name == "step_00000006"
    audio = make_trainer(toy_corpus, tmp_path / "audio", max_nonfinite_steps=1)
    loss_fn = audio.loss_fn

    def broken(output: Any) -> Any:
        result = loss_fn(output)
        return type(result)(**{**vars(result), "total": result.total / 0.0})

    audio.loss_fn = broken
    with pytest.raises(UserError, match=r"audio ids (text_to|speech_enh)\w+_\d, "):
        audio.fit()


def test_the_count_of_skipped_steps_goes_on_after_a_resume(tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path, cls=Spoilt, max_nonfinite_steps=3)
    trainer.bad_steps, trainer.on_before_optimizer_step = (
        (6, 7),
        lambda _: setattr(trainer, "should_stop", trainer.step == 7),
    )
    trainer.fit()
    resumed = plain_trainer(tmp_path, cls=Spoilt, max_nonfinite_steps=3)
    resumed.bad_steps = (8,)
    with pytest.raises(UserError, match="number 3 in a row"):
        resumed.fit()
    assert resumed.nonfinite.total == 3


def test_fp16_skips_overflows_and_lowers_its_scale(tmp_path: Path) -> None:
    """The scaler that Accelerate takes on a GPU, here on the CPU: 2**30 times the loss overflows float16."""
    trainer = plain_trainer(tmp_path, max_nonfinite_steps=50, epochs=10)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=1000)
    trainer.accelerator.scaler = scaler
    trainer.optimizer = AcceleratedOptimizer(trainer.optimizer.optimizer, device_placement=False, scaler=scaler)
    trainer.accelerator.native_amp, trainer.accelerator.state._mixed_precision = True, "fp16"
    trainer.accelerator._optimizers[:] = [trainer.optimizer]
    trainer.fit()
    assert 0 < trainer.nonfinite.total < 50 and scaler.get_scale() < 2.0**30
    assert records(tmp_path)[-1]["val/accuracy"] > 0.8
    state = torch.load(tmp_path / "checkpoints/last/trainer.pt", weights_only=True)
    assert state["scaler"]["scale"] == scaler.get_scale()


class Broken(Points):
    def __getitem__(self, index: int) -> Any:
        if index == 13:
            raise KeyError("no such label")
        return super().__getitem__(index)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_item_that_cannot_be_read_is_named(num_workers: int, tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader(Broken(), batch_size=7, num_workers=num_workers)
    with pytest.raises(RuntimeError, match="item 13 of Broken could not be read: KeyError: 'no such label'"):
        plain_trainer(tmp_path, train_dataloader=loader).fit()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_recording_that_breaks_while_training_is_named(num_workers: int, toy_corpus: Path, tmp_path: Path) -> None:
    corpus = shutil.copytree(toy_corpus, tmp_path / "corpus")
    trainer = make_trainer(corpus, tmp_path, num_workers=num_workers)
    for path in (corpus / "text_to_audio" / "audio").iterdir():
        path.rename(path.with_name(f"gone_{path.name}"))
    with pytest.raises(UserError, match=r"^\w+_\d: .*audio.jsonl:\d+: field 'audio': .*: no such audio file") as caught:
        trainer.fit()
    assert "Traceback" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.slow
def test_no_process_but_the_main_one_says_anything(tmp_path: Path) -> None:
    runs.run("plain", tmp_path, 2, batch_size=4, epochs=1)
    output = runs.run("plain", tmp_path, 2, batch_size=4, epochs=2, log=True)
    for said in ("resumed from", "2 processes on cpu", "step 12 of 12, loss", "step 12: val/loss"):
        assert output.count(said) == 1, output[-3000:]


def test_without_a_terminal_progress_is_told_in_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="unisono"):
        plain_trainer(tmp_path, progress=True).fit()
    [*_, last] = [r.message for r in caplog.records if r.message.startswith("step 12 of 12, loss ")]
    assert "items/s" in last and last.endswith("0:00:00 left")


class Interrupted(PlainTrainer):
    """Gets a signal in the middle of its second validation."""

    validations = 0

    def on_validation_start(self) -> None:
        self.validations += 1

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.validations == 2 and batch_idx == 1:
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_does_not_wait_for_a_validation(tmp_path: Path) -> None:
    """A cluster gives seconds. What was due after the step is made up for when the run goes on."""
    plain_trainer(tmp_path / "whole").fit()
    trainer, ended = plain_trainer(tmp_path / "broken", cls=Interrupted), []
    trainer.on_train_epoch_end = lambda: ended.append(trainer.step)
    trainer.fit()
    assert (trainer.step, trainer.stop_reason, ended) == (6, "SIGTERM", [])
    assert (tmp_path / "broken/checkpoints/last").resolve().name == "step_00000006"
    resumed = plain_trainer(tmp_path / "broken")
    resumed.on_train_epoch_end = lambda: ended.append(resumed.step)
    resumed.fit()
    assert ended == [6, 12]
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


def test_a_validation_that_fails_costs_no_steps(tmp_path: Path) -> None:
    plain_trainer(tmp_path / "whole", save_every_n_steps=3).fit()
    broken = plain_trainer(tmp_path / "broken", save_every_n_steps=3)
    broken.validation_step = lambda *_: 1 // 0
    with pytest.raises(ZeroDivisionError):
        broken.fit()
    mended = plain_trainer(tmp_path / "broken", save_every_n_steps=3)
    mended.load_checkpoint()
    assert mended.step == 3 and mended.is_step_open
    mended.fit()
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


def test_what_one_process_got_decides_nothing_before_all_know(tmp_path: Path) -> None:
    """A signal after the last time that the processes asked each other: acted on alone, it would leave the others."""
    trainer, saves = plain_trainer(tmp_path), []

    def send() -> None:
        if trainer.step == 6:
            signal.raise_signal(signal.SIGTERM)

    trainer.on_train_epoch_end = send  # after the question of step 6
    trainer.on_save_checkpoint = lambda _: saves.append(trainer.step)
    trainer.save_every_n_steps = None
    trainer.fit()
    assert (trainer.stop_reason, trainer.step) == ("SIGTERM", 7) and 7 in saves


@pytest.mark.slow
def test_a_long_save_outlives_the_signal_that_workers_got_too(tmp_path: Path) -> None:
    """Workers that end while the run saves would break the save: they wait, and go when the run is done."""
    options = {"epochs": 50, "step_s": 0.05, "num_workers": 2, "save_every_n_steps": 1000, "save_s": 3.0}
    process = runs.start("plain", tmp_path, **options)
    runs.wait_for_step(tmp_path, 3, process)
    os.killpg(process.pid, signal.SIGTERM)
    assert "SIGTERM at step" in runs.finish(process)
    assert (tmp_path / "checkpoints/last/contents.json").is_file()


@pytest.mark.slow
def test_workers_that_persist_end_with_the_run(tmp_path: Path) -> None:
    began_s = time.monotonic()
    runs.run("plain", tmp_path, num_workers=2, persistent_workers=True)
    assert time.monotonic() - began_s < 60


def test_a_refused_load_is_refused_again(tmp_path: Path) -> None:
    plain_trainer(tmp_path, epochs=1).fit()
    trainer = plain_trainer(tmp_path, resume="never")
    for _ in range(2):
        with pytest.raises(UserError, match="resume=never"):
            trainer.fit()
    assert trainer.step == 0 and (tmp_path / "checkpoints/step_00000006").is_dir()


def test_another_optimizer_is_refused_when_a_run_goes_on(tmp_path: Path) -> None:
    plain_trainer(tmp_path, epochs=1).fit()
    with pytest.raises(UserError, match=r"learning-rate schedule is of another kind.*initial_weights"):
        plain_trainer(tmp_path, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)).fit()
