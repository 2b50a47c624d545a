"""One item: read its audio, measure every row, write players' files and pictures. Runs in worker processes.

Needs no torch and no state: the same job gives the same result in any process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unisono.errors import UserError
from unisono.evaluation.items import CODED, INPUT, MODEL, REFERENCE, EvaluationItem, Sample
from unisono.evaluation.metric import Metric, Outcome, measure
from unisono.evaluation.report.pictures import mel_picture
from unisono.features.mel import MelFrontEnd
from unisono.media.audio import audio_info, read_audio, write_audio
from unisono.media.locations import Location

SILENCE_PEAK = 1e-4
"""Peaks below (-80 dB re full scale) count as silence."""
LOUDEST_PEAK = 100.0
"""Peaks above (+40 dB re full scale) are no audio."""


@dataclass(frozen=True)
class Loaded:
    """A waveform ``(S,)``, or the reason why there is none, and what was done to it on the way in."""

    waveform: np.ndarray | None
    problem: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """All that a worker needs for one item.

    Attributes:
        item: what to judge.
        folder: output files of the item go to this folder within ``audio`` and ``pictures`` of ``output_dir``.
        metrics: those that apply to the item and whose libraries are installed.
        coded: the reference through the autoencoder, or None if that row is not wanted.
    """

    item: EvaluationItem
    folder: str
    output_dir: Path
    sample_rate: int
    metrics: tuple[Metric, ...]
    coded: Loaded | None


@dataclass
class ClipResult:
    """One player: its files relative to the output folder (None without audio), and what to know about it."""

    audio: str | None = None
    picture: str | None = None
    duration_s: float | None = None
    problem: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class ItemResult:
    """What came out.

    Attributes:
        outcomes: ``outcomes[row][metric]``.
        clips: by row or `REFERENCE`.
        span_s: length of the time axis of its pictures.
        reference_hash: of what the item is compared with; systems may be compared only where it is the same.
        source: hash of the recording, or without one the text, that the item goes back to; items of one source are not
            independent. Empty if there is neither.
    """

    outcomes: dict[str, dict[str, Outcome]]
    clips: dict[str, ClipResult]
    span_s: float
    reference_hash: str = ""
    source: str = ""


def load(source: Path | Location, sample_rate: int) -> Loaded:
    """Read a file at ``sample_rate``; whatever is wrong with it becomes the reason."""
    location = Location.of(source)
    path = location.path
    try:
        if not path.is_file():
            return Loaded(None, "the file is not a file" if path.exists() else "the file does not exist")
        native_rate = audio_info(location).sample_rate
        waveform = read_audio(location, sample_rate)
    except UserError as error:
        # Results are passed on: they name the file, not the machine's folders.
        return Loaded(None, str(error).removeprefix(f"{location}: ").replace(str(path), path.name))
    except (OSError, ValueError, MemoryError) as error:  # names that no file system takes, devices, files of terabytes
        return Loaded(
            None, f"the file cannot be read ({type(error).__name__}: {getattr(error, 'strerror', None) or error})"
        )
    notes = [f"resampled from {native_rate} Hz"] if native_rate != sample_rate else []
    return checked(waveform, notes)


def checked(waveform: np.ndarray, notes: list[str]) -> Loaded:
    """A waveform that can be judged, or one that is kept for listening with the reason why it cannot."""
    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or waveform.size == 0:
        return Loaded(None, f"audio of shape {waveform.shape}, not one channel of samples")
    if not np.isfinite(waveform).all():
        return Loaded(None, "the audio holds NaN or infinite samples")
    peak = float(np.abs(waveform).max())
    if peak > LOUDEST_PEAK:
        return Loaded(None, f"the audio peaks at {peak:.3g}, where full scale is 1: not audio, or scaled by mistake")
    if peak > 1.0:
        notes.append(f"peaks at {peak:.2f}; scaled down to 1 in the player only")
    problem = "the audio is silent" if peak < SILENCE_PEAK else ""
    return Loaded(waveform.astype(np.float32), problem, tuple(notes))


def measure_item(job: Job) -> ItemResult:
    """Outcomes of every metric in every row, and the files for the report."""
    item = job.item
    loaded: dict[str, Loaded] = {}
    if item.input_audio is not None:
        loaded[INPUT] = load(item.input_audio, job.sample_rate)
    if item.reference is not None:
        loaded[REFERENCE] = load(item.reference, job.sample_rate)
    if job.coded is not None:
        loaded[CODED] = job.coded
    loaded[MODEL] = load(item.generated, job.sample_rate)
    rows = [row for row in (MODEL, CODED, INPUT) if row in loaded]
    of_reference: dict[Hashable, Any] = {}
    outcomes = {row: measure_row(row, loaded, job, of_reference) for row in rows}
    clips, span_s = write_clips(loaded, job)
    reference = loaded.get(REFERENCE)
    return ItemResult(outcomes, clips, span_s, hash_of_reference(item, reference), source_of(item, reference))


def source_of(item: EvaluationItem, reference: Loaded | None) -> str:
    """Hash of the reference's samples, or without them of the item's text; empty without either."""
    if reference is not None and reference.waveform is not None:
        return hashlib.sha256(reference.waveform.tobytes()).hexdigest()[:16]
    words = item.details.get("text") or item.details.get("caption")
    return hashlib.sha256(repr(words).encode()).hexdigest()[:16] if words else ""


def hash_of_reference(item: EvaluationItem, reference: Loaded | None) -> str:
    """Of the reference's samples and of the item's text."""
    digest = hashlib.sha256(repr([item.details.get(name) for name in ("text", "caption")]).encode())
    if reference is not None and reference.waveform is not None:
        digest.update(reference.waveform.tobytes())
    return digest.hexdigest()[:16]


def measure_row(row: str, loaded: dict[str, Loaded], job: Job, of_reference: dict[Hashable, Any]) -> dict[str, Outcome]:
    """Every number of one row, or the reason why there is none; what is found of the reference serves the next row."""
    usable = {key: audio.waveform for key, audio in loaded.items() if audio.waveform is not None and not audio.problem}
    problem = loaded[row].problem
    sample = Sample(
        row=row,
        waveform=usable.get(row, np.zeros(0, dtype=np.float32)),
        reference=usable.get(REFERENCE),
        input_audio=usable.get(INPUT),
        sample_rate=job.sample_rate,
        item=job.item,
        reference_problem=loaded[REFERENCE].problem if REFERENCE in loaded else "",
        of_reference=of_reference,
    )
    outcomes: dict[str, Outcome] = {}
    for metric in job.metrics:
        if problem and metric.needs_waveform:
            outcomes |= {card.name: Outcome("failed", reason=problem) for card in metric.cards}
        else:
            outcomes |= measure(metric, sample)
    return outcomes


def write_clips(loaded: dict[str, Loaded], job: Job) -> tuple[dict[str, ClipResult], float]:
    """FLAC files and mel pictures of all clips of an item, on one time axis and one colour scale.

    Returns:
        clips by key, and the length of the time axis in seconds.
    """
    front_end = MelFrontEnd.for_rate(job.sample_rate)
    mels = {key: front_end(audio.waveform) for key, audio in loaded.items() if audio.waveform is not None}
    durations_s = {key: len(a.waveform) / job.sample_rate for key, a in loaded.items() if a.waveform is not None}
    span_s = max(durations_s.values(), default=1.0)
    loudest_db = max((float(mel.max()) for mel in mels.values()), default=0.0)
    clips: dict[str, ClipResult] = {}
    for key, audio in loaded.items():
        clip = clips[key] = ClipResult(problem=audio.problem, notes=list(audio.notes))
        if audio.waveform is None:
            continue
        clip.audio = f"audio/{job.folder}/{key}.flac"
        clip.picture = f"pictures/{job.folder}/{key}.png"
        clip.duration_s = durations_s[key]
        write_audio(job.output_dir / clip.audio, audio.waveform, job.sample_rate)
        picture = job.output_dir / clip.picture
        picture.parent.mkdir(parents=True, exist_ok=True)
        mel_picture(mels[key], durations_s[key], span_s, loudest_db, picture)
    return clips, span_s
