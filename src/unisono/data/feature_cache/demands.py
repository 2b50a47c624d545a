"""Which inputs of data sets a model's frozen encoders are asked about."""

from __future__ import annotations

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
    """The target of an item whose voice its line does not tell as an embedding."""
    return [] if dataset.line(item).record.get("speaker_embedding") is not None else target_sources(dataset, item)


def video_sources(dataset: AudioGenerationDataset, item: int) -> list[Source]:
    line = dataset.line(item)
    return [(line.where, location) for name, location in dataset.other_files(line) if name == "video"]


@dataclass
class Demand:
    """What one encoder is asked about: pairs of a data set and of what its items name."""

    encoder: FeatureEncoder
    parts: list[tuple[AudioGenerationDataset, Sources]] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(dataset) for dataset, _ in self.parts)


def degrades(dataset: AudioGenerationDataset) -> bool:
    """Whether a data set makes its inputs anew each epoch, so that they cannot be cached."""
    return getattr(dataset, "degradation", None) is not None


def latent_parts(datasets: Sequence[AudioGenerationDataset]) -> list[tuple[AudioGenerationDataset, Sources]]:
    """Whose latents training can take from the cache: all targets, and the inputs where all of them are recordings.

    A batch has its inputs either as latents or as waveforms, so one data set that degrades keeps all as waveforms.
    """
    parts: list[tuple[AudioGenerationDataset, Sources]] = [
        (dataset, target_sources) for dataset in datasets if dataset.has_targets
    ]
    restoring = [dataset for dataset in datasets if hasattr(dataset, "input_latents")]
    if not any(degrades(dataset) for dataset in restoring):
        parts += [(dataset, input_sources) for dataset in restoring]
    return parts


def demands_of(
    parts: Mapping[str, Any], lists: Sequence[Sequence[AudioGenerationDataset]], dtype: str = "float32"
) -> list[Demand]:
    """What a model's frozen parts are asked about.

    Args:
        parts: of the model, by name: ``autoencoder``, ``instruction_encoder``, ``content_encoders`` by modality. An
            encoder is frozen if it has a ``fingerprint`` and can ``embed`` texts, or holds a frozen ``speaker_encoder``
            or a ``frame_encoder`` with its ``frame_rate_hz`` (see ``unisono.features``). The others are trained, and
            asked nothing.
        lists: the data sets of each loader.
        dtype: see ``StoreSpec``.
    """
    by_folder: dict[tuple[str, str], Demand] = {}

    def ask(encoder: FeatureEncoder, wanted: Iterable[tuple[AudioGenerationDataset, Sources]]) -> None:
        demand = by_folder.setdefault((encoder.spec.kind, encoder.spec.fingerprint), Demand(encoder))
        demand.parts += wanted

    everything = [dataset for datasets in lists for dataset in datasets]
    if (autoencoder := parts.get("autoencoder")) is not None:
        encoder = LatentEncoder(autoencoder, dtype)
        for datasets in lists:
            ask(encoder, latent_parts(datasets))
    instruction_encoder: Any = parts.get("instruction_encoder")
    if is_frozen_text_encoder(instruction_encoder):
        ask(TextFeatureEncoder(instruction_encoder, dtype), [(dataset, instruction_sources) for dataset in everything])
    for modality, part in dict(parts.get("content_encoders") or {}).items():
        if is_frozen_text_encoder(part):
            ask(TextFeatureEncoder(part, dtype), [(dataset, caption_sources) for dataset in everything])
        if (speaker_encoder := getattr(part, "speaker_encoder", None)) is not None:
            voices = [dataset for dataset in everything if dataset.task_row.modality == modality]
            ask(SpeakerFeatureEncoder(speaker_encoder, dtype), [(dataset, speaker_sources) for dataset in voices])
        if (frame_encoder := getattr(part, "frame_encoder", None)) is not None:
            videos = [dataset for dataset in everything if dataset.task == "video_to_audio"]
            ask(
                FrameFeatureEncoder(frame_encoder, part.frame_rate_hz, dtype),
                [(dataset, video_sources) for dataset in videos],
            )
    return [demand for demand in by_folder.values() if len(demand)]


def is_frozen_text_encoder(part: Any) -> bool:
    return hasattr(part, "fingerprint") and hasattr(part, "embed")
