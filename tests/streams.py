"""Tar shards to stream, and the order in which their items come."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import soundfile as sf

from toy import make_tar
from unisono.data.datasets import DATASETS
from unisono.data.streaming import TarShards

RATE = 24_000


def flac(seconds: float, level: float = 0.1) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, np.full(round(seconds * RATE), level), RATE, format="FLAC")
    return buffer.getvalue()


def make_shards(folder: Path) -> Path:
    """Twelve shards of seven clips, 0.2 to 1 s long."""
    rng = np.random.default_rng(0)
    for shard in range(12):
        members = {}
        for item in range(7):
            key = f"clip{shard:02d}_{item}"
            members[f"{key}.json"] = json.dumps(
                {"caption": key, "duration_s": (d := float(rng.uniform(0.2, 1.0)))}
            ).encode()
            members[f"{key}.flac"] = flac(round(d * RATE) / RATE)
        make_tar(folder / f"train-{shard:03d}.tar", members)
    return folder


def source(folder: Path | str, task: str = "text_to_audio", pattern: str = "train-*.tar", **options) -> TarShards:
    return TarShards(str(Path(folder) / pattern), DATASETS[task](None, **options))


def ids(batches, number: int) -> list[list[str]]:
    return [[sample.audio_id for sample in batch] for batch in itertools.islice(iter(batches), number)]
