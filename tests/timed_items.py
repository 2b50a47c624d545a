"""Items of every task whose sound and pictures tell their own time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

from unisono.data.datasets import DATASETS, AudioGenerationDataset
from unisono.data.manifest import write_jsonl

av = pytest.importorskip("av")
RATE, HOP, SECONDS = 24_000, 480, 2.0
PHONEMES = ("_", "a", "b", "c", "d")
DURATIONS_S = [0.3, 0.5, 0.2, 0.6, 0.4]


def clicks(seconds: float = SECONDS, every_s: float = 0.1) -> np.ndarray:
    """A click at each tenth of a second, each louder than the one before: every place can be told from its sound."""
    waveform = np.zeros(round(seconds * RATE), dtype=np.float32)
    places = np.arange(0, len(waveform), round(every_s * RATE))
    waveform[places] = 0.05 + 0.9 * np.arange(len(places)) / len(places)
    return waveform


def place_s(waveform: torch.Tensor) -> float:
    """Where in ``clicks()`` a part of it begins."""
    sounding = np.flatnonzero(waveform.numpy() > 0.01)
    first = int(sounding[0])
    number = round((float(waveform[first]) - 0.05) / 0.9 * 20)
    return number * 0.1 - first / RATE


def line_of(task: str, folder: Path) -> dict[str, Any]:
    """A content line, its files written; what is aligned tells its own time."""
    units = {"phonemes": list("_abcd"), "durations_s": DURATIONS_S, "speaker": "ann", "text": "abcd"}
    if task in ("text_to_audio", "text_to_music"):
        return {"caption": ["one", "two", "three"]}
    if task == "text_to_speech":
        return units
    if task == "singing_voice_synthesis":
        notes = {"notes": ["rest", "C4", 62, "E4", 64.5], "note_durations_s": [0.3, 0.7, 0.7, 1.0, 1.0]}
        return {**units, **notes, "slurs": [0, 0, 0, 1, 0]}
    if task == "singing_acoustic_modeling":
        np.save(folder / "f0.npy", np.where(np.arange(200) < 20, 0, 100 + np.arange(200)).astype(np.float32))
        return {**units, "f0_hz": "f0.npy", "f0_rate_hz": 100}
    if task in ("speech_enhancement", "audio_super_resolution"):
        sf.write(folder / "input.wav", clicks(), RATE, "FLOAT")
        return {{"speech_enhancement": "noisy_audio", "audio_super_resolution": "narrow_audio"}[task]: "input.wav"}
    return {"video": write_video(folder / "film.mp4").name, "caption": "a film"}


def write_video(path: Path) -> Path:
    """Fifty pictures at 25 Hz that show their numbers as six bars, white for 1."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        for number in range(50):
            bars = np.repeat(255 * (number >> np.arange(8) & 1), 8)
            picture = np.broadcast_to(bars[None, :, None], (64, 64, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def make(
    folder: Path, task: str, changes: dict[str, Any] | None = None, lines: int = 1, **options
) -> AudioGenerationDataset:
    """A data set of equal items; a change to None removes the field."""
    folder.mkdir(parents=True, exist_ok=True)
    sf.write(folder / "target.wav", clicks(), RATE, "FLOAT")
    line = {**line_of(task, folder), **(changes or {})}
    line = {key: value for key, value in line.items() if value is not None}
    write_jsonl(folder / "content.jsonl", [{"audio_id": f"item {i}", **line} for i in range(lines)])
    write_jsonl(folder / "audio.jsonl", [{"audio_id": f"item {i}", "audio": "target.wav"} for i in range(lines)])
    audio = None if options.pop("inference", False) else folder / "audio.jsonl"
    return DATASETS[task](folder / "content.jsonl", audio, **options)


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "__dataclass_fields__"):
        return all(alike(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    return a == b


class Halved:
    """A degradation that can be recognised, with a draw of its own."""

    def __call__(self, rng: np.random.Generator, waveform: np.ndarray, sample_rate: int) -> Any:
        assert sample_rate == RATE

        class Degraded:
            pass

        degraded = Degraded()
        degraded.waveform = (waveform * rng.uniform(0.3, 0.6)).astype(np.float32)
        return degraded
