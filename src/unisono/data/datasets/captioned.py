"""Sounds and music with captions."""

from __future__ import annotations

import numpy as np

from unisono.data.datasets.base import AudioGenerationDataset, Target
from unisono.data.manifest import Fields
from unisono.types import Content


class CaptionedDataset(AudioGenerationDataset):
    """Captions and recordings. Of several captions one is drawn; without targets the first is taken.

    A crop keeps the caption: right for music and for steady sounds, wrong where the caption tells an order of events.
    """

    def check(self, line: Fields, duration_s: float | None) -> None:
        line.texts("caption")

    def load_content(self, line: Fields, target: Target, rng: np.random.Generator) -> tuple[Content, ...]:
        return (self.caption(line, target, rng),)

    def describe(self, line: Fields) -> str:
        return line.texts("caption")[0]


class TextToAudioDataset(CaptionedDataset):
    """Captions and sounds."""

    task = "text_to_audio"


class TextToMusicDataset(CaptionedDataset):
    """Captions and music."""

    task = "text_to_music"
