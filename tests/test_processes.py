"""Several processes: the same updates, exact means, sharding, and no process that waits for another for ever."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import runs
from plain import assert_same_run, records, saved

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _corpus(toy_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("plain").ENVIRONMENT, "TOY_CORPUS", str(toy_corpus))


def assert_close(one: Path, other: Path, rel: float = 1e-4, left_out: tuple[str, ...] = ()) -> None:
    """The same numbers logged and the same weights at the end, but for the order of summation."""
    for a, b in zip(records(one), records(other), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - set(left_out):
            assert a[name] == pytest.approx(b[name], rel=rel, abs=1e-6), (a["step"], name)
    a, b = saved(one), saved(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name].float(), b[name].float(), rtol=rel, atol=1e-5), name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_update_like_one_with_twice_the_batch(accumulation: int, tmp_path: Path) -> None:
    options = {"epochs": 1, "gradient_accumulation_steps": accumulation}
    output = runs.run("plain", tmp_path / "two", 2, batch_size=4, **options)
    assert "rank 0: finished at step 6" in output and "rank 1: finished at step 6" in output
    runs.run("plain", tmp_path / "one", 1, batch_size=8, **options)
    # 23 validation items in batches of 2: each process has 6 batches, the last one half or whole.
    assert_close(tmp_path / "two", tmp_path / "one")


def test_with_another_number_of_processes_the_data_go_on_in_the_same_order(tmp_path: Path) -> None:
    """Two processes, then one that accumulates, then two again, against one process all the way."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    runs.run("plain", whole, 1, batch_size=4, gradient_accumulation_steps=2, epochs=3)
    runs.run("plain", broken, 2, batch_size=4, epochs=1)
    runs.run("plain", broken, 1, batch_size=4, gradient_accumulation_steps=2, epochs=2)
    runs.run("plain", broken, 2, batch_size=4, epochs=3)
    assert_close(broken, whole)


def test_sharded_processes_train_like_whole_ones_and_save_whole_checkpoints(tmp_path: Path) -> None:
    sharded, whole = tmp_path / "sharded", tmp_path / "whole"
    runs.run("sharded", sharded, 2)
    runs.run("toy", whole, 2)
    assert_close(sharded, whole)
    files = [sorted(str(p.relative_to(r)) for p in r.glob("samples/**/*.wav")) for r in (sharded, whole)]
    assert files[0] == files[1] and len(files[0]) > 3  # every process took part in generating
    # What shards have saved goes on in one process, and the other way round.
    runs.run("toy", sharded, 1, gradient_accumulation_steps=2, epochs=2)
    runs.run("sharded", whole, 2, epochs=2)
    # The one process draws the noise of two, and weighs duration losses per micro-batch.
    assert_close(sharded, whole, rel=5e-3, left_out=("grad_norm", "train/total_loss"))


def test_a_process_that_fails_ends_the_others(tmp_path: Path) -> None:
    began_s = time.monotonic()
    process = runs.start("plain", tmp_path, 2, batch_size=4, fails_on_rank=1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "the data of this rank are broken" in output
    assert time.monotonic() - began_s < 60
    runs.run("plain", tmp_path, 2, batch_size=4)  # what was saved before is whole


def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path: Path) -> None:
    process = runs.start("plain", tmp_path, 2, batch_size=4, step_s=0.05, epochs=200, save_every_n_steps=1000)
    runs.wait_for_step(tmp_path, 3, process)
    os.kill(runs.children(process.pid)[1], signal.SIGUSR1)
    output = runs.finish(process)
    stopped = dict(re.findall(r"rank (\d): SIGUSR1 at step (\d+)", output))
    last = int((tmp_path / "checkpoints/last").resolve().name[5:])
    assert stopped == {"0": str(last), "1": str(last)}


def test_a_signal_to_the_whole_job_saves_and_ends_it_well(tmp_path: Path) -> None:
    """As a terminal's Ctrl-C or a cluster: launcher, processes and loader workers all get it, some of them twice."""
    options: dict[str, Any] = {"step_s": 0.05, "epochs": 200, "save_every_n_steps": 1000, "num_workers": 1}
    process = runs.start("plain", tmp_path, 2, **options)
    runs.wait_for_step(tmp_path, 3, process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert output.count("SIGINT at step") == 2, output[-2000:]
    step = int((tmp_path / "checkpoints/last").resolve().name[5:])
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == step


def test_two_processes_that_are_killed_go_on_bit_for_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"step_s": 0.03, "epochs": 10, "save_every_n_steps": 4}
    runs.run("plain", tmp_path / "whole", 2, **options)
    broken = tmp_path / "broken"
    for step in (9, 31):
        process = runs.start("plain", broken, 2, **options)
        runs.wait_for_step(broken, step, process)
        runs.kill_all(process)
        process.communicate(timeout=60)
        assert int((broken / "checkpoints/last").resolve().name[5:]) < 60
    runs.run("plain", broken, 2, **options)
    assert_same_run(broken, tmp_path / "whole")
