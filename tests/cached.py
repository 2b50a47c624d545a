"""Small corpora of tones, and caches of their latents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from conftest import SAMPLE_RATE, tone
from unisono.data.datasets import AudioGenerationDataset, TextToAudioDataset
from unisono.data.feature_cache import CachedLatents
from unisono.data.feature_cache.attach import attach
from unisono.data.feature_cache.build import Filled, fill_demands
from unisono.data.feature_cache.demands import demands_of
from unisono.data.manifest import write_jsonl
from unisono.media.audio import read_audio, write_audio
from unisono.media.locations import Location
from unisono.models.autoencoder import LogMelAutoencoder


@lru_cache
def autoencoder(mels: int = 40) -> LogMelAutoencoder:
    return LogMelAutoencoder(n_mels=mels)


def filled(cache: Path, *datasets: AudioGenerationDataset, workers: int = 1, dtype: str = "float32") -> Filled:
    """Latents of some data sets, made."""
    (result,) = fill_demands(demands_of({"autoencoder": autoencoder()}, [datasets], dtype), cache, workers)
    return result


def attached(dataset: AudioGenerationDataset, cache: Path, dtype: str = "float32") -> CachedLatents:
    """The reader of a data set's latents."""
    return attach([dataset], {"autoencoder": autoencoder()}, cache, dtype)["latents"]


def corpus(folder: Path, seconds: Sequence[float] = (1.0, 0.73, 2.0), kind: str = "wav") -> TextToAudioDataset:
    """Clips with captions."""
    rng = np.random.default_rng(0)
    content, audio = [], []
    for number, duration_s in enumerate(seconds):
        name = f"audio/{number}.{kind}"
        write_audio(folder / name, tone(200.0 * (number + 1), duration_s, rng), SAMPLE_RATE)
        content.append({"audio_id": f"clip{number}", "caption": [f"tone {number}", f"sound {number}"]})
        audio.append({"audio_id": f"clip{number}", "audio": name})
    return data_set(folder, content, audio)


def data_set(folder: Path, content: list[dict], audio: list[dict], **options) -> TextToAudioDataset:
    write_jsonl(folder / "content.jsonl", content)
    write_jsonl(folder / "audio.jsonl", audio)
    return TextToAudioDataset(folder / "content.jsonl", folder / "audio.jsonl", **options)


def target(dataset: AudioGenerationDataset, item: int = 0) -> Location:
    location = dataset.target(item)
    assert location is not None
    return location


def encoded(location: Location) -> torch.Tensor:
    waveform = torch.from_numpy(read_audio(location, SAMPLE_RATE))
    return autoencoder().encode(waveform[None], torch.tensor([len(waveform)]))[0][0]


class BytesEncoder:
    """A frozen text encoder: each byte is a vector. Counts what it is asked for."""

    fingerprint = "bytes-1"
    dim = 3

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> list[torch.Tensor]:
        self.asked += texts
        return [torch.tensor(list(text.encode()))[:, None] * torch.tensor([1.0, 2.0, 3.0]) for text in texts]
