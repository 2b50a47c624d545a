"""Text to speech."""

from __future__ import annotations

import numpy as np

from unisono.data.datasets.base import Target
from unisono.data.datasets.units import UnitDataset, seconds_of
from unisono.data.manifest import Fields
from unisono.types import Content, PhonemeContent, Speaker


class TextToSpeechDataset(UnitDataset):
    """Phonemes with durations, and speech. A crop begins and ends between phonemes."""

    task = "text_to_speech"

    def load_content(self, line: Fields, target: Target, rng: np.random.Generator) -> tuple[Content, ...]:
        return (self._content(line, self.units_of(target), self.voice(line)),)

    def symbolic_content(self, line: Fields) -> tuple[PhonemeContent, ...]:
        return (self._content(line, slice(None), line.record.get("speaker")),)

    def _content(self, line: Fields, units: slice, speaker: Speaker) -> PhonemeContent:
        return PhonemeContent(
            phonemes=tuple(line.record["phonemes"][units]),
            durations_s=seconds_of(line, "durations_s", units),
            speaker=speaker,
            text=line.any_text("text"),
        )
