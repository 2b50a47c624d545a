"""Saves that fail, and processes that die in the middle of one: a whole checkpoint is always there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import unisono.training.checkpoint as checkpoint_module
from plain import ENVIRONMENT, plain_model, plain_trainer
from test_checkpoint import names, write
from unisono.errors import UserError
from unisono.training.checkpoint import CheckpointFolder, damage

STARVED = """
import resource, sys
from plain import *
class Starved(PlainTrainer):
    def on_train_batch_end(self, *_):
        if self.step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
plain_trainer(Path(sys.argv[1]), cls=Starved, model=plain_model(1000), epochs=1, val_every_n_steps=None).fit()
"""


def test_a_file_that_may_not_grow_stops_the_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARVED, str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    last_line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "UserError" in last_line and "step_00000006 could not be written" in last_line
    assert "step_00000004 and those before are intact" in last_line
    assert names(tmp_path / "checkpoints") == ["last", "step_00000002", "step_00000004"]
    resumed = plain_trainer(tmp_path, model=plain_model(1000), epochs=1, val_every_n_steps=None)
    resumed.fit()
    assert resumed.step == 6


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs may be mounted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_stops_the_run(small_disk: Path) -> None:
    with pytest.raises(UserError, match=r"could not be written: the disk is full .*step_0000000\d and those before"):
        plain_trainer(small_disk, model=plain_model(700), save_last_k=9, val_every_n_steps=None).fit()
    folder = CheckpointFolder(small_disk / "checkpoints")
    assert folder.steps() and all(damage(path) is None for path in folder.steps())
    assert not list(folder.folder.glob(".tmp*"))


class Killed(BaseException):
    pass


def test_a_kill_between_any_two_file_operations_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operations of a save raise, one in each round; the last round is a save that nothing happens to."""
    left = -1

    def killing(operation: Any) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return operation(*args, **options)

        return run

    operations: list[tuple[Any, str]] = [(os, "replace"), (os, "fsync"), (shutil, "rmtree"), (torch, "save")]
    operations += [(Path, name) for name in ("symlink_to", "unlink", "mkdir", "write_text")]
    for owner, name in [*operations, (checkpoint_module, "save_file")]:
        monkeypatch.setattr(owner, name, killing(getattr(owner, name)))
    for killed_at in range(1, 100):
        folder = CheckpointFolder(tmp_path / f"round {killed_at}", save_last_k=1)
        write(folder, 1, is_best=True)
        write(folder, 2)
        left = killed_at
        try:
            write(folder, 3, is_best=True)
        except Killed:
            pass
        else:
            assert killed_at > 15
            return
        whole = folder.latest_whole()
        assert whole is not None and whole.name in ("step_00000002", "step_00000003")
        again = CheckpointFolder(folder.folder, save_last_k=1)
        again.set_aside_after(int(whole.name[5:]))
        write(again, 4, is_best=True)
        assert names(folder.folder) == ["best", "last", "step_00000004"], killed_at
    raise AssertionError("the save never ended")


def test_a_kill_before_the_link_does_not_lose_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_trainer(tmp_path / "whole", save_last_k=1).fit()
    link = CheckpointFolder._link

    def dying(self: CheckpointFolder, name: str, target: Path) -> None:
        if name == "best" and step == int(target.name[5:]):
            raise Killed
        link(self, name, target)

    step = int(os.readlink(tmp_path / "whole/checkpoints/best")[5:])
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFolder, "_link", dying)
        with pytest.raises(Killed):
            plain_trainer(tmp_path / "broken", save_last_k=1).fit()
    plain_trainer(tmp_path / "broken", save_last_k=1).fit()
    assert names(tmp_path / "broken/checkpoints") == names(tmp_path / "whole/checkpoints")
    assert os.readlink(tmp_path / "broken/checkpoints/best") == os.readlink(tmp_path / "whole/checkpoints/best")
