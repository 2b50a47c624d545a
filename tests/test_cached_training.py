"""The commands of a user who caches: the same losses, a message where the cache lacks something."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
UNISONO = [sys.executable, "-m", "unisono.cli"]
TRAIN = [sys.executable, "train.py"]


def run(*command: str, code: int = 0) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def metrics(exp_dir: Path) -> list[dict[str, float]]:
    """What was logged, without what depends on the clock."""
    lines = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "items_per_s" not in key} for line in lines]


def test_training_from_the_cache_prints_the_same_losses(data_root: Path, tmp_path: Path) -> None:
    common = ["debug=cpu", f"data_root={data_root}", "epoch_length=5", "trainer.val_every_n_steps=5"]
    cache = f"feature_cache={tmp_path / 'a cache'}"
    plain, cached = tmp_path / "plain", tmp_path / "cached"
    run(*TRAIN, *common, f"exp_dir={plain}")
    # Nothing is cached yet: training says so before it starts, and with what command to mend it.
    said = run(*TRAIN, *common, f"exp_dir={cached}", cache, code=1)
    assert "unisono cache" in said and "Traceback" not in said
    table = run(*UNISONO, "cache", *common, cache)
    assert "latent" in table
    run(*TRAIN, *common, f"exp_dir={cached}", cache)
    assert len(metrics(plain)) > 5 and metrics(plain) == metrics(cached)
    # Two workers and two processes of caching change nothing either.
    both = tmp_path / "workers"
    run(*TRAIN, *common, f"exp_dir={both}", cache, "train_dataloader.num_workers=2")
    assert metrics(both) == metrics(plain)
