"""A run that was killed and went on prints what one prints that never stopped, bit for bit."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import runs
from plain import Points, assert_same_run, plain_trainer, records


class Killed(BaseException):
    """Nothing in a trainer may catch it."""


def break_at(step: int, exp_dir: Path, **options: Any) -> None:
    """Train until ``step`` is done, but neither logged nor saved."""
    trainer = plain_trainer(exp_dir, **options)

    def die(*_: Any) -> None:
        if trainer.step == step:
            raise Killed

    trainer.on_train_batch_end = die
    with pytest.raises(Killed):
        trainer.fit()


@pytest.mark.parametrize(
    ("options", "kills", "workers"),
    [
        ({}, (3,), (0, 0)),
        ({}, (5, 7, 8), (0, 2, 1, 0)),  # mid-epoch, again and again, with other numbers of workers
        ({"gradient_accumulation_steps": 3}, (4, 9), (0, 0, 2)),
        ({"ema_decay": None, "max_grad_norm": None}, (7,), (0, 0)),
        ({"save_every_n_steps": 5, "log_every_n_steps": 4, "val_every_n_steps": 5}, (7, 11), (0, 0, 0)),  # in mid-mean
        ({"epoch_length": None, "epochs": 3, "save_every_n_steps": None, "save_every_n_epochs": 1}, (15,), (0, 1)),
    ],
)
def test_the_losses_are_those_of_an_unbroken_run(
    options: dict[str, Any], kills: tuple[int, ...], workers: tuple[int, ...], tmp_path: Path
) -> None:
    whole = plain_trainer(tmp_path / "whole", **options)
    whole.fit()
    for step, num_workers in zip(kills, workers, strict=False):
        break_at(step, tmp_path / "broken", num_workers=num_workers, **options)
    resumed = plain_trainer(tmp_path / "broken", num_workers=workers[-1], **options)
    resumed.fit()
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


class Stream(IterableDataset[Any]):
    """Points from somewhere that cannot be asked for the n-th."""

    def __iter__(self) -> Any:
        points = Points(30)
        return (points[int(i)] for i in torch.randperm(30))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_stream_without_a_sampler_goes_on_where_it_was(num_workers: int, tmp_path: Path) -> None:
    def loader() -> dict[str, Any]:
        return {"train_dataloader": DataLoader(Stream(), batch_size=7, num_workers=num_workers)}

    plain_trainer(tmp_path / "whole", **loader()).fit()
    break_at(7, tmp_path / "broken", **loader())
    plain_trainer(tmp_path / "broken", **loader()).fit()
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


def test_a_schedule_that_follows_validation_goes_on(tmp_path: Path) -> None:
    from functools import partial

    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, threshold=0.5, factor=0.5)
    options = {"lr_scheduler": plateau, "warmup_params": {"warmup_steps": 4}, "val_every_n_steps": 2}
    plain_trainer(tmp_path / "whole", **options).fit()
    break_at(5, tmp_path / "broken", **options)
    plain_trainer(tmp_path / "broken", **options).fit()
    assert_same_run(tmp_path / "broken", tmp_path / "whole")
    rates = [record["lr"] for record in records(tmp_path / "whole") if "lr" in record]
    assert rates[:4] == pytest.approx([0.005, 0.0075, 0.01, 0.01]) and rates[-1] < 0.005


def test_a_longer_run_begins_as_the_shorter_one(tmp_path: Path) -> None:
    plain_trainer(tmp_path / "whole", epochs=3).fit()
    plain_trainer(tmp_path / "longer", epochs=1).fit()
    plain_trainer(tmp_path / "longer", epochs=3).fit()
    of_training = [[r for r in records(tmp_path / name) if "lr" in r] for name in ("whole", "longer")]
    assert of_training[0] == of_training[1]


def test_a_command_with_a_path_goes_on_when_it_is_given_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a job does that a cluster puts into its queue again."""
    plain_trainer(tmp_path / "first", epochs=1).fit()
    resume = str(tmp_path / "first/checkpoints/last")
    plain_trainer(tmp_path / "whole", epochs=3, resume=resume).fit()
    for step in (9, 13):
        break_at(step, tmp_path / "branch", epochs=3, resume=resume)
    plain_trainer(tmp_path / "branch", epochs=3, resume=resume).fit()
    assert_same_run(tmp_path / "branch", tmp_path / "whole")
    assert "step_00000012 came out of resume=" in caplog.text
    assert not list((tmp_path / "branch/checkpoints").glob("abandoned*"))
    # Going back within a run sets aside what came later, and says so; given again, it goes on too.
    back = str(tmp_path / "whole/checkpoints/step_00000016")
    plain_trainer(tmp_path / "whole", epochs=3, resume=back).fit()
    assert "set aside as abandoned_1_step_00000018" in caplog.text
    assert_same_run(tmp_path / "branch", tmp_path / "whole")


@pytest.mark.slow
def test_a_run_survives_twenty_kills_at_random_moments(tmp_path: Path) -> None:
    """kill -9 while it starts, trains, validates and, most of the time, saves (after every step)."""
    options = {"epochs": 60, "save_every_n_steps": 1, "step_s": 0.02}
    runs.run("plain", tmp_path / "whole", **options)
    rng, broken, reached = random.Random(1), tmp_path / "broken", set()
    log = broken / "metrics.jsonl"

    def logged() -> int:
        return len(log.read_text().splitlines()) if log.is_file() else 0

    for kill in range(20):
        before = logged()
        process = runs.start("plain", broken, num_workers=kill % 2, **options)
        # A quarter of the kills comes while it starts, the others soon after it has logged something new.
        while kill % 4 and logged() == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.3 if kill % 4 else 2.0))
        assert process.poll() is None, process.communicate()[0][-2000:]
        process.kill()
        process.communicate()
        if (broken / "checkpoints/last").exists():
            reached.add((broken / "checkpoints/last").resolve().name)
    assert len(reached) > 5
    runs.run("plain", broken, **options)
    assert_same_run(broken, tmp_path / "whole")
