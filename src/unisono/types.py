"""What travels through the system: samples (from datasets), batches (from the collator), conditions (in the model).

Shape letters: B items of a batch, N items of one modality, S samples of a waveform, T latent frames, L content units,
C latent channels, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor


class Alignment(Enum):
    """How the units of a content lie on the output's time axis; a property of each content encoder."""

    NONE = "none"  # describes the whole clip
    UNITS = "units"  # each unit has a duration, given or predicted
    FRAMES = "frames"  # one unit per latent frame


@dataclass(frozen=True)
class TextContent:
    """A caption, and its cached embedding ``(L, D)`` where a frozen encoder reads it."""

    text: str
    embedding: Tensor | None = None
    modality = "text"


Speaker = str | Tensor | None
"""Whose voice: a name that the model was trained with, the embedding ``(D,)`` of a reference recording, or nobody's."""


@dataclass(frozen=True)
class PhonemeContent:
    """Phonemes of an utterance; ``durations_s`` (one per phoneme) is absent when they are to be predicted."""

    phonemes: tuple[str, ...]
    durations_s: Tensor | None = None
    speaker: Speaker = None
    text: str = ""
    modality = "phoneme"


@dataclass(frozen=True)
class ScoreContent:
    """What is sung, and on which notes; everything is per phoneme, length L.

    Attributes:
        notes: float32 MIDI numbers, 0 where nothing is sung.
        note_durations_s: float32 seconds that the score gives the note a phoneme is sung on.
        slurs: bool, True where a vowel goes on over a further note.
        durations_s: float32 seconds of each phoneme as sung; absent when they are to be predicted.
    """

    phonemes: tuple[str, ...]
    notes: Tensor
    note_durations_s: Tensor
    slurs: Tensor
    durations_s: Tensor | None = None
    speaker: Speaker = None
    text: str = ""
    modality = "score"


@dataclass(frozen=True)
class PitchContent:
    """Phonemes with the F0 contour they are sung or spoken on: aligned with the latent's frames.

    Attributes:
        phonemes, durations_s: L units and their seconds.
        f0_hz: float32 ``(T,)`` at the latent rate, 0 where unvoiced.
        voicing: bool ``(T,)``.
    """

    phonemes: tuple[str, ...]
    durations_s: Tensor
    f0_hz: Tensor
    voicing: Tensor
    speaker: Speaker = None
    text: str = ""
    modality = "pitch"


@dataclass(frozen=True)
class AudioContent:
    """A recording to be changed: float32 ``(S,)`` at the model's sample rate, or its cached latent ``(T, C)``."""

    waveform: Tensor | None = None
    latent: Tensor | None = None
    modality = "audio"


@dataclass(frozen=True)
class VideoContent:
    """Pictures uint8 ``(T, H, W, 3)``, or features float32 ``(T, D)`` of them, ``rate_hz`` of either a second."""

    rate_hz: float
    frames: Tensor | None = None
    features: Tensor | None = None
    modality = "video"


Content = TextContent | PhonemeContent | ScoreContent | PitchContent | AudioContent | VideoContent


@dataclass(frozen=True)
class Sample:
    """What a dataset returns for one item.

    Attributes:
        audio_id: unique within the data set.
        task: a name of ``unisono.tasks``; it chooses folders and metrics, the model never sees it.
        instruction: free text.
        instruction_embedding: its cached embedding ``(L, D)``, where a frozen encoder reads it.
        content: one typed content per modality the item has.
        waveform: target, float32 ``(S,)``; absent at inference and where its latent is cached.
        latent: cached latent of the target, float32 ``(T, C)``.
        num_samples: length of the target where only its latent is here.
        item_name: where the item comes from, for error messages (``manifest:line``).
    """

    audio_id: str
    task: str
    instruction: str
    content: tuple[Content, ...]
    waveform: Tensor | None = None
    latent: Tensor | None = None
    num_samples: int | None = None
    item_name: str = ""
    instruction_embedding: Tensor | None = None


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _to(item, device) for key, item in value.items()}
    if isinstance(value, ContentBatch):
        return replace(value, **{f.name: _to(getattr(value, f.name), device) for f in fields(value)})
    return value


@dataclass(frozen=True)
class ContentBatch:
    """All contents of one modality in a batch.

    Attributes:
        index: int64 ``(N,)``, which item of the batch each row belongs to.
        inputs: what the modality's encoder takes as keyword arguments.
        durations_s: ``(N, L)`` seconds per unit, zero at padding; a row of zeros is unknown; None when no row is known.
    """

    index: Tensor
    inputs: dict[str, Tensor]
    durations_s: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Samples grouped by modality, so that every encoder runs once whatever the task mix.

    Attributes:
        instruction: what the instruction encoder takes as keyword arguments: ``tokens`` int64 ``(B, L)``, zero at
            padding, or cached ``embedding (B, L, D)`` and its ``lengths (B,)``.
        contents: modality -> ContentBatch.
        waveform: ``(B, S)`` targets, zero at padding; None at inference, and where their latents are cached.
        waveform_lengths: int64 ``(B,)`` samples.
        latent: ``(B, T, C)`` cached latents of the targets, zero at padding.
        latent_lengths: int64 ``(B,)`` frames.
        task_index: int64 ``(B,)``, position in the task table; for logging only.
        is_full: no target has padding: attention then needs no mask, and fast kernels take none. Known before the
            batch is on a device, which must not be asked.
    """

    audio_ids: tuple[str, ...]
    tasks: tuple[str, ...]
    task_index: Tensor
    instruction: dict[str, Tensor]
    contents: dict[str, ContentBatch] = field(default_factory=dict)
    waveform: Tensor | None = None
    waveform_lengths: Tensor | None = None
    latent: Tensor | None = None
    latent_lengths: Tensor | None = None
    is_full: bool = False

    def __len__(self) -> int:
        return len(self.audio_ids)

    def to(self, device: torch.device | str) -> Batch:
        device = torch.device(device)
        return replace(self, **{f.name: _to(getattr(self, f.name), device) for f in fields(self)})


@dataclass(frozen=True)
class Condition:
    """Encoded content: ``tensor (B, L, D)`` and ``mask (B, L)``, True where valid."""

    tensor: Tensor
    mask: Tensor


def length_mask(lengths: Tensor, max_length: int) -> Tensor:
    """bool ``(B, max_length)``, True where valid."""
    return torch.arange(max_length, device=lengths.device)[None, :] < lengths[:, None]
