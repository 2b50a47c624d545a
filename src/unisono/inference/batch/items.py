"""The items of a run: what tells one from another, how long they will be, and which are generated together."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unisono.data.datasets.if_present import IF_PRESENT
from unisono.errors import UserError
from unisono.inference.batch.manifest import Key
from unisono.media.audio import audio_info
from unisono.timing import clip_frames
from unisono.types import AudioContent, PhonemeContent, PitchContent, Sample, ScoreContent

if TYPE_CHECKING:
    from unisono.data.datasets import AudioGenerationDataset
    from unisono.data.manifest import Fields
    from unisono.models.generation import GenerationSettings

# Settings of a data set that decide which items there are, not what is in them; files count by their content.
_CHOOSING = ("content", "audio", "max_samples", "max_duration_s", "split", "weight", "check_files", IF_PRESENT)
_WITH_UNITS = (PhonemeContent.modality, ScoreContent.modality)
_UNIT_S = 0.1
"""About what a phoneme takes, where nothing else is known."""


@dataclass(frozen=True)
class ItemSet:
    """A data set, and the settings of its node that change what its items are."""

    dataset: AudioGenerationDataset
    facts: str

    @staticmethod
    def of(dataset: AudioGenerationDataset, node: Mapping[str, Any]) -> ItemSet:
        kept = {key: value for key, value in node.items() if key not in _CHOOSING}
        return ItemSet(dataset, json.dumps(kept, sort_keys=True, default=str))

    @property
    def task(self) -> str:
        return self.dataset.task

    @contextmanager
    def _reading(self, index: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.dataset.line(index).where}: {error}") from error

    def sample(self, index: int) -> Sample:
        """What the model is given.

        Raises:
            UserError: a file that is damaged or gone.
        """
        with self._reading(index):
            return dataclasses.replace(self.dataset[index], waveform=None)

    def content_hash(self, index: int) -> str:
        """Hash of what an item is made of: instruction, content line, input recordings and other files.

        Raises:
            UserError: a file that cannot be read.
        """
        line, dataset = self.dataset.line(index), self.dataset
        digest = hashlib.sha256(dataset.instruction(line, epoch=0).encode())
        digest.update(json.dumps([line.record, self.facts], sort_keys=True).encode())
        places = [location for _, location in (*dataset.input_files(line), *dataset.other_files(line))]
        target = dataset.target(index)
        if dataset.needs_waveform and target is not None:  # the input is made from it
            places.append(target)
        with self._reading(index):
            for location in places:
                digest.update(location.read_bytes())
        return digest.hexdigest()[:16]

    def expected_frames(self, index: int, settings: GenerationSettings) -> int:
        """About how many latent frames an item will have; the most it can have where nothing tells."""
        modality = self.dataset.task_row.modality
        seconds = float(self.dataset.durations_s[index]) or self._content_s(self.dataset.line(index))
        if modality in _WITH_UNITS:
            seconds /= settings.speed
        if seconds == 0 or modality not in (AudioContent.modality, PitchContent.modality):
            seconds = min(seconds or settings.max_duration_s, settings.max_duration_s)
        return clip_frames(seconds, self.dataset.sample_rate, self.dataset.hop_samples)

    def _content_s(self, line: Fields) -> float:
        """Seconds that the content itself tells, 0 for none."""
        record = line.record
        for name in ("durations_s", "note_durations_s"):
            if isinstance(record.get(name), list):
                # Notes are named with each of their phonemes: their sum is too long, and long is the safe side.
                return float(sum(record[name]))
        if isinstance(record.get("phonemes"), list):
            return _UNIT_S * len(record["phonemes"])
        for _, location in self.dataset.input_files(line):
            try:
                return audio_info(location).duration_s
            except UserError:
                return 0.0  # said when the item is loaded
        return 0.0


@dataclass(frozen=True)
class Batch:
    """Items of one task that are generated together.

    Attributes:
        places: of each item: number of its set, index in it.
        frames: latent frames, padding included, that it is expected to have.
    """

    task: str
    places: tuple[tuple[int, int], ...]
    frames: int


def all_items(sets: Sequence[ItemSet]) -> dict[Key, tuple[int, int]]:
    """Where every item is, by task and id; one output name for two items is an error."""
    items: dict[Key, tuple[int, int]] = {}
    for number, own in enumerate(sets):
        for index in range(len(own.dataset)):
            line = own.dataset.line(index)
            key = (own.task, line.record["audio_id"])
            if key in items:
                other_set, other_index = items[key]
                other = sets[other_set].dataset.line(other_index).where
                raise line.fail(f"audio_id {key[1]!r} of {key[0]} is also at {other}; ids name output files")
            items[key] = (number, index)
    return items


def make_batches(
    sets: Sequence[ItemSet],
    places: Sequence[tuple[int, int]],
    settings: Mapping[str, GenerationSettings],
    batch_size: int,
    max_batch_frames: int,
) -> list[Batch]:
    """Items of one task and like length together; the largest batches first, so that too little memory shows at once.

    Args:
        places: items that are left to do.
        settings: of each task.
        batch_size: items of a batch, at most.
        max_batch_frames: its latent frames with padding, at most; an item that is longer stands alone.
    """
    by_task: dict[str, list[tuple[int, tuple[int, int]]]] = {}
    for number, index in places:
        own = sets[number]
        frames = own.expected_frames(index, settings[own.task])
        by_task.setdefault(own.task, []).append((frames, (number, index)))
    batches: list[Batch] = []
    for task, items in by_task.items():
        items.sort(key=lambda item: (-item[0], item[1]))
        begin = 0
        while begin < len(items):
            longest = items[begin][0]
            size = max(1, min(batch_size, max_batch_frames // longest))
            chunk = items[begin : begin + size]
            batches.append(Batch(task, tuple(place for _, place in chunk), longest * len(chunk)))
            begin += size
    return sorted(batches, key=lambda batch: (-batch.frames, batch.task, batch.places))
