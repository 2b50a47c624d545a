"""What the data sets of the recipe ``debian`` have in common: their lines, and chance that depends on the job alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from unisono.data.manifest import write_jsonl
from unisono.data.prepare.jobs import Record
from unisono.data.prepare.splits import SPLITS


def audio_line(audio_id: str, folder: str, duration_s: float, license_name: str) -> Record:
    """The target ``folder/audio_id.flac``; ``folder`` is relative to the manifests."""
    return {
        "audio_id": audio_id,
        "audio": f"{folder}/{audio_id}.flac",
        "duration_s": round(duration_s, 6),
        "license": license_name,
    }


def write_manifests(
    folder: Path, splits: Mapping[str, str], content: Iterable[Record], audio: Iterable[Record]
) -> None:
    """Lines into the manifests of the split that ``splits`` gives for their ``audio_id``."""
    content, audio = list(content), list(audio)
    for split in SPLITS:
        for name, lines in (("content", content), ("audio", audio)):
            write_jsonl(folder / split / f"{name}.jsonl", (line for line in lines if splits[line["audio_id"]] == split))


def job_rng(seed: int, job_id: str) -> np.random.Generator:
    """Random numbers of one job, whatever the order in which jobs are done."""
    return np.random.default_rng([seed, *hashlib.sha256(job_id.encode()).digest()])
