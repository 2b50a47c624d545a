"""What of their data sets frozen encoders are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unisono.data.feature_cache.encoders import (
    FeatureEncoder,
    FrameFeatureEncoder,
    Input,
    LatentEncoder,
    SpeakerFeatureEncoder,
    TextFeatureEncoder,
)

if TYPE_CHECKING:
    from unisono.data.datasets.base import AudioGenerationDataset

Source = tuple[str, Input]
"""Manifest line, and what it names."""

Sources = Callable[["AudioGenerationDataset", int], list[Source]]


# -- what items ask for -----------------------------------------------------------------------------------------------


def target_sources(dataset: AudioGenerationDataset, item: int) -> list[Source]:
    if not dataset.has_targets:
        return []
    line = dataset.target_line(item)
    return [(line.where, line.location("audio"))]


def input_sources(dataset: AudioGenerationDataset, item: int) -> list[Source]:
    line = dataset.line(item)
    return [(line.where, location) for _, location in dataset.input_files(line)]


def instruction_sources(dataset: AudioGenerationDataset, item: int) -> list[Source]:
    """The line's own instruction; with the first item, those that the others draw from."""
    line = dataset.line(item)
    own = line.record.get("instruction")
    shared = dataset.task_row.instructions if item == 0 else ()
    return [(line.where, text) for text in (*((own,) if own else ()), *shared)]


def caption_sources(dataset: AudioGenerationDataset, item: int) -> list[Source]:
    line = dataset.line(item)
    return [(line.where, text) for text in line.texts("caption")] if line.record.get("caption") is not None else []


def speaker_sources(dataset: AudioGenerationDataset, item: int) -> list[Source]:
    """The recording of the voice that an item is to have."""
    line = dataset.line(item)
    return [(line.where, location) for name, location in dataset.other_files(line) if name == "speaker_audio"]


def video_sources(dataset: AudioGenerationDataset, item: int) -> list[Source]:
    line = dataset.line(item)
    return [(line.where, location) for name, location in dataset.other_files(line) if name == "video"]


@dataclass(frozen=True)
class Part:
    """What the items of a data set ask an encoder for, and the data set's attribute that reads the answers."""

    dataset: AudioGenerationDataset
    sources: Sources
    reader: str


@dataclass
class Demand:
    """What one encoder is asked for."""

    encoder: FeatureEncoder
    parts: list[Part] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(part.dataset) for part in self.parts)


def degrades(dataset: AudioGenerationDataset) -> bool:
    """Whether a data set makes its inputs anew each epoch, so that they cannot be cached."""
    return getattr(dataset, "degradation", None) is not None


def parts_of(model: Any) -> dict[str, Any]:
    """The parts of a model that may be frozen encoders, by the names of its constructor."""
    encoders = dict(model.content_encoders.items())
    return {
        "autoencoder": model.autoencoder,
        "instruction_encoder": model.instruction_encoder,
        "content_encoders": encoders,
    }


def demands_of(
    parts: Mapping[str, Any], lists: Sequence[Sequence[AudioGenerationDataset]], dtype: str = "float32"
) -> list[Demand]:
    """What frozen encoders are asked for: those of the model, and those that the data sets hold.

    Args:
        parts: see ``parts_of``. A text encoder is frozen if it has a ``fingerprint`` and can ``embed``; the others are
            trained, and asked nothing.
        lists: the data sets of each loader.
        dtype: see ``StoreSpec``.
    """
    by_folder: dict[tuple[str, ...], Demand] = {}

    def ask(encoder: FeatureEncoder, wanted: Iterable[Part]) -> None:
        place = (encoder.spec.kind, encoder.spec.fingerprint, json.dumps(encoder.spec.settings, sort_keys=True))
        by_folder.setdefault(place, Demand(encoder)).parts += wanted

    everything = [dataset for datasets in lists for dataset in datasets]
    if (autoencoder := parts.get("autoencoder")) is not None:
        for datasets in lists:
            ask(LatentEncoder(autoencoder, dtype), _latent_parts(datasets))
    instruction_encoder: Any = parts.get("instruction_encoder")
    if is_frozen_text_encoder(instruction_encoder):
        encoder = TextFeatureEncoder(instruction_encoder, dtype)
        ask(encoder, [Part(dataset, instruction_sources, "instructions") for dataset in everything])
    text_encoder: Any = dict(parts.get("content_encoders") or {}).get("text")
    if is_frozen_text_encoder(text_encoder):
        encoder = TextFeatureEncoder(text_encoder, dtype)
        ask(encoder, [Part(dataset, caption_sources, "captions") for dataset in everything])
    for dataset in everything:
        if (voice := getattr(dataset, "speaker_encoder", None)) is not None:
            ask(SpeakerFeatureEncoder(voice, dtype), [Part(dataset, speaker_sources, "voices")])
        if (pictures := getattr(dataset, "frame_encoder", None)) is not None:
            rate_hz = dataset.frame_rate_hz  # type: ignore[attr-defined]
            ask(FrameFeatureEncoder(pictures, rate_hz, dtype), [Part(dataset, video_sources, "frames")])
    return [demand for demand in by_folder.values() if len(demand)]


def _latent_parts(datasets: Sequence[AudioGenerationDataset]) -> list[Part]:
    """Whose latents training can take from the cache: all targets, and the inputs where all of them are recordings.

    A batch has its inputs either as latents or as waveforms, so one data set that degrades keeps all as waveforms.
    """
    parts = [Part(dataset, target_sources, "latents") for dataset in datasets if dataset.has_targets]
    restoring = [dataset for dataset in datasets if hasattr(dataset, "input_latents")]
    if not any(degrades(dataset) for dataset in restoring):
        parts += [Part(dataset, input_sources, "input_latents") for dataset in restoring]
    return parts


def is_frozen_text_encoder(part: Any) -> bool:
    return hasattr(part, "fingerprint") and hasattr(part, "embed")
