"""What generation gives back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unisono.media.audio import write_audio

_FADE_S = 0.005


@dataclass(frozen=True)
class GeneratedAudio:
    """One generated sound.

    Attributes:
        audio_id: of the item, where it came from a data set.
        waveform: float32 ``(S,)``.
        sample_rate: Hz.
        task: its name.
        seed: of its noise.
        reason: why this task, where nobody named it.
        text: what was captioned, spoken or sung.
    """

    audio_id: str
    waveform: np.ndarray
    sample_rate: int
    task: str = ""
    seed: int = 0
    reason: str = ""
    text: str = ""

    @property
    def duration_s(self) -> float:
        return len(self.waveform) / self.sample_rate

    def save(self, path: str | os.PathLike) -> Path:
        """Write a file, its format by its extension: .wav, .flac, .ogg or .mp3."""
        return write_audio(path, self.waveform, self.sample_rate)


def joined(parts: Sequence[np.ndarray], sample_rate: int) -> np.ndarray:
    """One waveform after the other, ends faded over 5 ms where they meet, so that nothing clicks."""
    faded = []
    for index, part in enumerate(parts):
        fade = np.linspace(0.0, 1.0, min(round(_FADE_S * sample_rate), len(part)), dtype=np.float32)
        gain = np.ones(len(part), dtype=np.float32)
        if index > 0:
            gain[: len(fade)] *= fade
        if index + 1 < len(parts):
            gain[len(gain) - len(fade) :] *= fade[::-1]
        faded.append(part * gain)
    return np.concatenate(faded)
