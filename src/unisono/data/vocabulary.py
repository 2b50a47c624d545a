"""The phonemes and speakers of a manifest, against those of a model.

They are gathered when a manifest is read and kept with its index, so the comparison costs nothing per item.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from unisono.data.collate import Collator
    from unisono.data.datasets import AudioGenerationDataset, ConcatDataset
    from unisono.data.datasets.base import Symbols


@dataclass
class Vocabulary:
    """Symbols in use, each with the line of ``content.jsonl`` where it comes first.

    Attributes:
        phonemes: line by symbol; ``""`` stands for an item without any.
        speakers: line by name.
    """

    phonemes: dict[str, int] = field(default_factory=dict)
    speakers: dict[str, int] = field(default_factory=dict)

    def add(self, line: int, content: Symbols) -> None:
        """The symbols of an item."""
        for symbol in content.phonemes or ("",):
            if symbol not in self.phonemes:
                self.phonemes[symbol] = line
        if isinstance(content.speaker, str) and content.speaker:
            self.speakers.setdefault(content.speaker, line)

    def first_unknown(self, phonemes: Container[str], speakers: Container[str]) -> int | None:
        """The first line with a symbol or a speaker that is not among the given; None if all are."""
        lines = [line for symbol, line in self.phonemes.items() if symbol not in phonemes]
        return min([*lines, *(line for name, line in self.speakers.items() if name not in speakers)], default=None)


def check_vocabulary(dataset: ConcatDataset, collator: Collator) -> None:
    """Raise for an item with a phoneme or speaker that the model does not have; no audio is read.

    Only where there is one are lines read: the first that has it, or all if that one is left out by the data set's
    limits.
    """
    for part in dataset.datasets:
        line = part.index.vocabulary.first_unknown(collator.phoneme_token, collator.speaker_index)
        if line is None:
            continue
        place = int(np.searchsorted(part.index.content_line, line))
        if place < len(part) and part.index.content_line[place] == line:
            _check_item(part, place, collator)
        for position in range(len(part)):
            _check_item(part, position, collator)


def _check_item(part: AudioGenerationDataset, position: int, collator: Collator) -> None:
    line = part.line(position)
    for content in part.symbolic_content(line):
        collator.check(line.where, content)
