"""Every command of docs/evaluation.md, and those of the README about evaluation, run; so does the manual's Python."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from judging import noisy, voice_like, write
from pages import run
from test_generation_docs import README, ROOT, blocks, commands

PAGE = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
NEEDS_WEIGHTS = ("--network", "networks.")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout after the demo, with a model of two steps, and files of a user's."""
    place = tmp_path_factory.mktemp("a checkout")
    for name in ("train.py", "inference.py", "evaluate.py", "configs"):
        (place / name).symlink_to(ROOT / name)
    run("unisono prepare mini --out data/mini", place)
    run("python train.py experiment=demo epochs=1 epoch_length=2", place)
    for i in range(3):
        clean = voice_like(1.0, seed=i)
        write(place / f"clean/{i}.wav", clean, 16_000)
        for name, level in (("noisy", 0.1), ("enhanced", 0.02)):
            write(place / f"{name}/{i}.wav", noisy(clean, level), 16_000)
    (place / "out").mkdir()
    for folder, source in (("out", "enhanced"), ("clean", "clean"), ("noisy", "noisy")):
        shutil.copy(place / source / "0.wav", place / folder / "se_00001.wav")
    return place


@pytest.mark.slow
def test_every_command_runs(workplace: Path) -> None:
    asked = [
        line
        for line in commands(README.replace("\\\n", " "))
        if re.match(r"(unisono (evaluate|compare)|python (inference|evaluate)\.py)", line)
    ]
    asked = [line for line in asked if "experiments/demo" in line or "evaluation/" in line]
    assert len(asked) >= 5
    for command in asked:
        run(command.replace("generation.num_steps=50", "generation.num_steps=2"), workplace)
    manual = [line for line in commands(PAGE) if not any(word in line for word in NEEDS_WEIGHTS)]
    assert len(manual) >= 4
    for command in manual:
        if "runs/a" in command:  # evaluations of the user's own
            for name in ("a", "b"):
                shutil.copytree(workplace / "evaluation", workplace / f"runs/{name}/evaluation", dirs_exist_ok=True)
        run(command, workplace)
    compared = json.loads((workplace / "evaluation/compared/comparison.json").read_text())
    assert compared["baseline"] == "untouched" and compared["tasks"]["speech_enhancement"]["items"] == 12


@pytest.mark.slow
def test_the_python_of_the_manual_runs(workplace: Path) -> None:
    (script,) = blocks(PAGE, "python")
    (workplace / "mine.py").write_text(script.replace(".flac", ".wav").replace('Path("evaluation")', 'Path("by_hand")'))
    said = run("python mine.py", workplace)
    assert "Mean(mean=" in said
    assert (workplace / "by_hand/report.html").is_file()
