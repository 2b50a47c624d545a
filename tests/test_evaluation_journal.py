"""An evaluation that is interrupted goes on where it stopped, and never takes an old number for a new one."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest

from judging import QUIET, noisy, voice_like, write
from unisono.errors import UserError
from unisono.evaluation import runner
from unisono.evaluation.items import MODEL, EvaluationItem
from unisono.evaluation.journal import JOURNAL_FILE
from unisono.evaluation.metrics.mel_distance import MelDistance
from unisono.evaluation.results import read_results
from unisono.evaluation.runner import evaluate
from unisono.features.mel import MelFrontEnd

IDS = ("a", "b", "c", "d")
RESULTS = ("metrics.json", "items.jsonl")


class Counted(MelDistance):
    """Knows whom it measured, and interrupts the evaluation at one item, or fails there by a fault of its own."""

    measured: ClassVar[list[str]] = []
    interrupted_at: str | None = None
    broken_at: str | None = None

    def __call__(self, sample):
        if sample.item.audio_id == self.interrupted_at:
            raise KeyboardInterrupt
        if sample.item.audio_id == self.broken_at:
            raise MemoryError("just now")
        self.measured.append(sample.item.audio_id)
        return super().__call__(sample)


@pytest.fixture
def counted(monkeypatch):
    """The only metric; from a fresh count."""
    monkeypatch.setattr(runner, "metrics_of", lambda rate: (Counted(MelFrontEnd.for_rate(rate)),))
    monkeypatch.setattr(Counted, "measured", [])
    return Counted


@pytest.fixture
def items(tmp_path) -> list[EvaluationItem]:
    clean = voice_like(1.0)
    reference = write(tmp_path / "clean.wav", clean)
    generated = {name: write(tmp_path / f"{name}.wav", noisy(clean, i / 100)) for i, name in enumerate(IDS, start=1)}
    return [
        EvaluationItem(name, "speech_enhancement", "Clean.", name, path, reference) for name, path in generated.items()
    ]


def run(items, folder: Path, settings=QUIET):
    return evaluate(items, folder, settings, title="t")


def interrupt(counted, items, folder: Path, at: str, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(counted, "interrupted_at", at)
        with pytest.raises(KeyboardInterrupt):
            run(items, folder)
    assert (folder / JOURNAL_FILE).is_file()
    counted.measured.clear()


def test_only_what_is_left_is_measured_and_the_results_are_the_same(counted, items, tmp_path, monkeypatch, caplog):
    run(items, tmp_path / "whole")
    assert counted.measured == list(IDS)
    interrupt(counted, items, tmp_path / "out", "c", monkeypatch)
    run(items, tmp_path / "out")
    assert counted.measured == ["c", "d"]
    assert "2 of 4 items had been measured before an interruption" in caplog.text
    for name in RESULTS:
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_an_evaluation_that_ended_well_leaves_no_journal_and_measures_anew(counted, items, tmp_path):
    run(items, tmp_path / "out")
    assert not (tmp_path / "out" / JOURNAL_FILE).exists()
    counted.measured.clear()
    run(items, tmp_path / "out")
    assert counted.measured == list(IDS)


def test_what_changed_since_is_measured_again(counted, items, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    interrupt(counted, items, folder, "d", monkeypatch)
    write(items[0].generated, noisy(voice_like(1.0), 0.2))  # other audio
    (player,) = (folder / "audio/speech_enhancement/b").glob("model.flac")
    player.unlink()
    changed = [*items[:2], dataclasses.replace(items[2], content_text="other words"), items[3]]
    run(changed, folder)
    assert counted.measured == list(IDS)


def test_an_earlier_evaluation_is_gone_when_another_is_interrupted_in_its_place(counted, items, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    run(items, folder)
    others = [dataclasses.replace(item, generated=items[0].generated) for item in items]
    interrupt(counted, others, folder, "c", monkeypatch)
    assert not any((folder / name).exists() for name in (*RESULTS, "report.html"))
    with pytest.raises(UserError, match="interrupted; give its command again"):
        read_results(folder)


def test_other_settings_and_other_code_measure_again(counted, items, tmp_path, monkeypatch):
    interrupt(counted, items, tmp_path / "out", "d", monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(counted, "interrupted_at", "d")
        with pytest.raises(KeyboardInterrupt):
            run(items, tmp_path / "out", dataclasses.replace(QUIET, sample_rate=24_000))
    assert counted.measured == ["a", "b", "c"]
    counted.measured.clear()
    monkeypatch.setattr("unisono.evaluation.journal._code", lambda: "edited")
    run(items, tmp_path / "out", dataclasses.replace(QUIET, sample_rate=24_000))
    assert counted.measured == list(IDS)


@pytest.mark.parametrize("damage", ["torn", "nonsense", "list", "changed"])
def test_a_damaged_line_costs_its_item_alone(counted, items, tmp_path, monkeypatch, damage):
    interrupt(counted, items, tmp_path / "out", "d", monkeypatch)
    journal = tmp_path / "out" / JOURNAL_FILE
    *lines, last = [line for line in journal.read_bytes().split(b"\n") if line]
    last = {
        "torn": last[: len(last) // 2],
        "nonsense": b'{"folder": "speech_enhancement/c", "key": 1, "written": 2, "result": 3}',
        "list": b'{"folder": [1], "key": 1, "written": 2, "result": 3}',
        "changed": re.sub(rb'"status": "ok"', b'"status": "lost"', last).replace(b'"value"', b'"valve"'),
    }[damage]
    journal.write_bytes(b"\n".join([*lines, last]))
    interrupt(counted, items, tmp_path / "out", "d", monkeypatch)  # measures c again, writes after the damaged line
    run(items, tmp_path / "out")
    assert counted.measured == ["d"]


def test_a_fault_of_ours_is_not_remembered(counted, items, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(counted, "broken_at", "a")
        patched.setattr(counted, "interrupted_at", "c")
        with pytest.raises(KeyboardInterrupt):
            run(items, tmp_path / "out")
    summary = run(items, tmp_path / "out")
    assert counted.measured == ["b", "a", "c", "d"]
    assert summary.tasks["speech_enhancement"].means[MODEL]["mel_distance_db"].n == len(IDS)


@pytest.mark.slow
def test_a_killed_command_goes_on_when_given_again(tmp_path):
    clean = voice_like(10.0)
    for i in range(12):
        write(tmp_path / f"noisy/{i}.wav", noisy(clean, 0.01 * (i + 1)))
        write(tmp_path / f"clean/{i}.wav", clean)

    def command(output: str, workers: int) -> list[str]:
        evaluation = ["evaluate", "noisy", "clean", "-t", "se", "-o", output, "-j", str(workers)]
        return [sys.executable, "-m", "unisono.cli", *evaluation, "--skip", "visqol_speech"]

    journal = tmp_path / "out" / JOURNAL_FILE
    running = subprocess.Popen(command("out", 2), cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while not journal.is_file() or journal.read_bytes().count(b"\n{") < 2:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    again = subprocess.run(command("out", 2), cwd=tmp_path, capture_output=True, text=True, check=True)
    whole = subprocess.run(command("whole", 0), cwd=tmp_path, capture_output=True, text=True, check=True)
    recalled = re.search(r"(\d+) of 12 items had been measured", again.stderr + again.stdout)
    assert recalled and 2 <= int(recalled[1]) < 12
    assert "had been measured" not in whole.stderr + whole.stdout
    assert not journal.exists()
    for name in RESULTS:
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "whole" / name).read_text()
