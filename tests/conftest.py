"""Corpora to train on in seconds: a toy one of eight short, very different clips per task, and a small mini corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from unisono.data.manifest import write_jsonl
from unisono.media.audio import write_audio

SAMPLE_RATE = 24_000
CLIP_S = 0.6
TASKS = ("text_to_audio", "text_to_speech", "speech_enhancement")
TOY_PHONEMES = tuple("abcdefgh")
TOY_SPEAKERS = ("ann", "bob")

torch.set_num_threads(2)


def tone(f0_hz: float, duration_s: float, rng: np.random.Generator, harmonics: int = 4) -> np.ndarray:
    """A harmonic tone with a short attack."""
    t = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
    x = sum(np.sin(2 * np.pi * f0_hz * k * t + rng.uniform(0, 6)) / k for k in range(1, harmonics + 1))
    return (0.25 * x * np.minimum(1, t / 0.01) * np.minimum(1, t[::-1] / 0.01)).astype(np.float32)


def toy_items(task: str, folder: Path, num: int = 8) -> tuple[list[dict], list[dict]]:
    """Content and audio lines of one task, audio written."""
    rng = np.random.default_rng(sorted(TASKS).index(task))
    content, audio = [], []
    for i in range(num):
        audio_id = f"{task}_{i}"
        line: dict = {"audio_id": audio_id}
        if task == "text_to_audio":
            line["caption"] = ["low", "high"][i % 2] + f" {['horn', 'bell', 'rush', 'buzz'][i // 2 % 4]}"
            waveform = tone(110 * 2 ** (i * 0.6), CLIP_S, rng, harmonics=1 + i % 3)
            waveform[: (i % 3) * 2400] = 0
        else:
            # Each phoneme is a tone of its own: the order and the durations of the units decide what is heard.
            units = [(i + 3 * k) % 8 for k in range(4)]
            durations = np.array([0.1, 0.2, 0.12, 0.18])[rng.permutation(4)]
            waveform = np.concatenate([tone(150 * 1.35**u, d, rng) for u, d in zip(units, durations, strict=True)])
            line |= {"phonemes": [TOY_PHONEMES[u] for u in units], "durations_s": durations.round(6).tolist()}
            line |= {"speaker": TOY_SPEAKERS[i % 2], "text": f"word {i}"}
        write_audio(folder / "audio" / f"{audio_id}.flac", waveform, SAMPLE_RATE)
        if task == "speech_enhancement":
            noisy = waveform + 0.05 * rng.standard_normal(len(waveform)).astype(np.float32)
            write_audio(folder / "noisy" / f"{audio_id}.flac", noisy, SAMPLE_RATE)
            line = {"audio_id": audio_id, "noisy_audio": f"noisy/{audio_id}.flac"}
        content.append(line)
        audio.append(
            {"audio_id": audio_id, "audio": f"audio/{audio_id}.flac", "duration_s": len(waveform) / SAMPLE_RATE}
        )
    return content, audio


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept between runs is neither found nor left in the user's cache folder, by subprocesses included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNISONO_CACHE", str(tmp_path_factory.mktemp("unisono cache")))
        yield


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``<task>/content.jsonl`` and ``audio.jsonl``, eight clips each."""
    root = tmp_path_factory.mktemp("toy corpus")  # a path with a space, on purpose
    for task in TASKS:
        content, audio = toy_items(task, root / task)
        write_jsonl(root / task / "content.jsonl", content)
        write_jsonl(root / task / "audio.jsonl", audio)
    return root


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``data_root`` with a miniature of the mini corpus, for the real commands."""
    from unisono.data.mini.corpus import build_mini_corpus

    root = tmp_path_factory.mktemp("data root")
    counts = dict.fromkeys(("text_to_audio", "text_to_speech", "speech_enhancement"), (6, 3, 3))
    build_mini_corpus(root / "mini", workers=1, progress=False, counts=counts)
    return root
