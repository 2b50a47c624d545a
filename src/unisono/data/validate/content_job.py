"""Arrays, scores and videos, read as training reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unisono.data.datasets import AudioGenerationDataset
from unisono.data.datasets.base import Target
from unisono.data.datasets.units import UnitDataset
from unisono.data.datasets.video import VideoToAudioDataset
from unisono.data.manifest import Fields
from unisono.errors import UserError
from unisono.media.audio import verify_audio_file
from unisono.media.locations import Location
from unisono.timing import seconds_to_samples
from unisono.types import PitchContent, ScoreContent

_OF_FILE = re.compile(r": field '(score|video)': ")


@dataclass(frozen=True)
class ContentJob:
    """The content of one line, ``record``; ``duration_s`` is the recording's, None without one."""

    task: str
    manifest: Path
    line: int
    record: dict[str, Any]
    duration_s: float | None
    place: tuple[int, int] = (0, 0)


def content_job(job: ContentJob) -> dict[str, Any]:
    """``{"kind": …, "fault": …}``, or what the files say.

    That is ``symbols`` and ``notes`` of a score, the ``voiced`` share of a contour, ``embedding_size`` of a voice.
    """
    line = Fields(job.manifest, job.line, job.record)
    dataset = _dataset(job.task)
    try:
        files = dataset.other_files(line)
    except UserError as error:
        return {"kind": "bad_field", "fault": str(error)}
    for field, location in files:
        try:
            line.file(field)
        except UserError as error:
            damaged = location.member is not None and location.is_file() and "no such member" not in str(error)
            return {"kind": "unreadable_content" if damaged else "missing_file", "fault": str(error)}
    try:
        # With the files looked into: a score's units, a video's length against the recording's.
        dataset.check(line, job.duration_s)
    except UserError as error:
        of_file = _OF_FILE.search(str(error)) is not None
        return {"kind": "unreadable_content" if of_file else "bad_field", "fault": str(error)}
    except Exception as error:
        return _unexpected(line, error)
    try:
        return _read(dataset, line, job.duration_s)
    except UserError as error:
        return {"kind": "unreadable_content", "fault": str(error)}
    except Exception as error:
        return _unexpected(line, error)


def _unexpected(line: Fields, error: Exception) -> dict[str, Any]:
    """Libraries raise whatever they like on damaged files."""
    return {
        "kind": "unreadable_content",
        "fault": f"{line.where}: its files cannot be read ({type(error).__name__}: {error}); replace them",
    }


def _read(dataset: AudioGenerationDataset, line: Fields, duration_s: float | None) -> dict[str, Any]:
    samples = None if duration_s is None else seconds_to_samples(duration_s, dataset.sample_rate)
    content = dataset.load_content(line, Target(num_samples=samples), np.random.default_rng(0))
    found: dict[str, Any] = {}
    for part in content:
        if isinstance(part, ScoreContent) and line.record.get("score") is not None:
            found["symbols"] = list(part.phonemes)
            found["notes"] = [float(note) for note in part.notes if note > 0]
        if line.record.get("speaker_embedding") is not None:
            found["embedding_size"] = len(part.speaker)  # type: ignore[union-attr, arg-type]
        if isinstance(part, PitchContent):
            found["voiced"] = float(part.voicing.float().mean())
    return found


@lru_cache(maxsize=16)
def _dataset(task: str) -> AudioGenerationDataset:
    from unisono.data.validate.lines import dataset_of

    # Every picture is decoded at any rate and size; these keep the result small.
    dataset = (
        VideoToAudioDataset(None, frame_rate_hz=1.0, frame_size=8)
        if task == VideoToAudioDataset.task
        else dataset_of(task)
    )
    dataset.check_files = True
    if isinstance(dataset, UnitDataset):
        dataset.check_arrays = False  # the doctor reads them, each once, and compares them with the model
        dataset.speaker_encoder = dataset.voices = _ReferenceVoices()  # type: ignore[assignment]
    return dataset


class _ReferenceVoices:
    """Reads reference recordings; which voices a model makes of them is no matter here."""

    def read(self, location: Location) -> torch.Tensor:
        try:
            verify_audio_file(location)
        except UserError as error:
            raise UserError(f"field 'speaker_audio': {error}") from error
        return torch.zeros(1)
