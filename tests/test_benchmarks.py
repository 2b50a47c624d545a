"""The benchmarks run: at their smallest, for what they call is changed more often than they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CASES = {
    "blocks": ("model.py", "blocks", "--sizes", "tiny", "--precisions", "no", "--batch", "1", "--seconds", "1"),
    "steps": ("model.py", "steps", "--sizes", "tiny", "--precisions", "bf16", "--batch", "1", "--seconds", "1"),
    "generation": ("generation.py", "--dtypes", "float32", "--num-steps", "1", "--seconds", "1", "--batch", "2"),
    "loader": ("loader.py", "--clips", "32", "--rounds", "1", "--seconds", "0.2"),
    "training from the cache": ("loader.py", "--training", "--clips", "32", "--rounds", "1"),
    "long manifest": ("loader.py", "--index", "2000"),
    "shards": ("loader.py", "--streams", "--clips", "32", "--seconds", "0.2"),
    "evaluation": ("evaluation.py", "--each", "--seconds", "2"),
    "trainer": ("trainer_overhead.py", "width=8", "batch_size=2", "blocks=2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_benchmark_runs(name: str, tmp_path: Path) -> None:
    script, *arguments = CASES[name]
    repeats = ["--repeats", "1"] if script in ("model.py", "generation.py") else []
    run = subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments, *repeats], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert len(run.stdout.splitlines()) > 2, "it measured nothing"
