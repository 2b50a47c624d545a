"""Recordings, ids and texts that stand in two places where they should stand in one.

An item is a number here, counted over all corpora one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from unisono.data.validate.facts import FINGERPRINT_BYTES, fingerprint_vectors
from unisono.data.validate.limits import Limits
from unisono.data.validate.lines import Corpus, SplitNames
from unisono.data.validate.recordings import NONE, Recordings
from unisono.data.validate.spool import RowFile, group_numbers, repeated

Shared = tuple[int, str, str, str | float]
"""The item to blame, kind, message, value."""

_SAME_LENGTH_S = 0.12  # codecs add silence at the ends
_MAX_COMPARISONS = 20_000_000_000
_ROWS = 1024
_TOLD_SHARED, _TOLD_DUPLICATE = 1, 2


class Items:
    """Items of all corpora, by number."""

    def __init__(self, corpora: Sequence[Corpus], splits: SplitNames) -> None:
        self.corpora, self._splits = corpora, splits
        self.ends = np.cumsum([len(corpus) for corpus in corpora])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def first(self, corpus: Corpus) -> int:
        """Number of a corpus' first item."""
        return int(self.ends[corpus.place]) - len(corpus)

    def locate(self, item: int) -> tuple[Corpus, int]:
        corpus = self.corpora[int(np.searchsorted(self.ends, item, side="right"))]
        return corpus, int(item) - self.first(corpus)

    def column(self, name: str) -> np.ndarray:
        """A column of all corpora."""
        parts = [corpus.items[name] for corpus in self.corpora]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)

    def split(self, item: int) -> str:
        corpus, row = self.locate(item)
        return self._splits.names[int(corpus.items["split"][row])]

    def audio_id(self, item: int) -> str:
        corpus, row = self.locate(item)
        return corpus.line(row).record["audio_id"]

    def place(self, item: int) -> str:
        corpus, row = self.locate(item)
        number = int(corpus.items["content_line"][row])
        return f"{self.audio_id(item)!r} ({corpus.manifests.content}:{number})"


def shared_audio(items: Items, recordings: Recordings) -> Iterator[Shared]:
    """Equal recordings: twice in a split of a task, or in two splits of any tasks.

    One model learns all tasks, so a recording that one task trains on is no test of another. A degraded recording of
    each own may have a target that stands there often.
    """
    sounds, audio = recordings.sounds(), items.column("audio")
    having = np.flatnonzero(audio != NONE).astype(np.uint32)
    for rows in repeated(sounds[audio[having]]):
        yield from _across(having[rows], items, "shared_audio", "the same recording as")
        yield from _within(having[rows], items, sounds)


def _across(members: Sequence[int] | np.ndarray, items: Items, kind: str, words: str) -> Iterator[Shared]:
    """Blame the items of the split that can spare them: those to train on."""
    split_of = {int(item): items.split(item) for item in members}
    splits = {split for split in split_of.values() if split}
    if len(splits) < 2:
        return
    spared = max(splits, key=_worth)
    other = next(item for item, split in split_of.items() if split == spared)
    place, audio_id = items.place(other), items.audio_id(other)
    for item, split in split_of.items():
        if split and split != spared:
            message = f"{words} {place} of the split {spared!r}, while this is {split!r}; keep it in one of them"
            yield item, kind, message, audio_id


def _worth(split: str) -> tuple[int, str]:
    return ({"train": 0, "val": 2, "validation": 2, "test": 3}.get(split, 1), split)


def _within(members: np.ndarray, items: Items, sounds: np.ndarray) -> Iterator[Shared]:
    first: dict[tuple, int] = {}
    for item in map(int, members):
        corpus, row = items.locate(item)
        degraded = int(corpus.items["input"][row])
        key = (corpus.task, int(corpus.items["split"][row]), NONE if degraded == NONE else int(sounds[degraded]))
        if key in first:
            message = f"the same recording as {items.place(first[key])}; it counts twice: remove one"
            yield item, "duplicate_audio", message, items.audio_id(first[key])
        else:
            first[key] = item


def near_audio(items: Items, recordings: Recordings, limits: Limits) -> Iterator[Shared | int]:
    """Sounds that are nearly the same; a number, that of recordings, where these are too many to be compared."""
    near = _Near(items, recordings)
    lengths = near.duration_s
    ends = np.searchsorted(lengths, lengths + _SAME_LENGTH_S, side="right")
    if int((ends - np.arange(len(lengths))).sum()) > _MAX_COMPARISONS:
        yield len(lengths)
        return
    for start in range(0, len(lengths), _ROWS):
        stop = min(start + _ROWS, len(lengths))
        rows = near.vectors(start, stop)
        for first in range(start, int(ends[stop - 1]), 8 * _ROWS):
            last = min(first + 8 * _ROWS, int(ends[stop - 1]))
            alike = rows @ near.vectors(first, last).T >= limits.near_similarity
            for row, column in np.argwhere(alike):
                a, b = start + int(row), first + int(column)
                if a < b < ends[a]:
                    yield from near.told(a, b)


class _Near:
    """Sounds that have a fingerprint, each once, by length; the fingerprints lie in a file in that order.

    Attributes:
        duration_s: float64 ``(U,)``, ascending.
    """

    def __init__(self, items: Items, recordings: Recordings) -> None:
        self.items = items
        sounds, audio = recordings.sounds(), items.column("audio")
        usable = np.zeros(len(recordings), dtype=bool)
        usable[audio[audio != NONE]] = True
        usable &= recordings.known
        numbers = np.flatnonzero(usable)
        _, firsts = np.unique(sounds[numbers], return_index=True)
        numbers = numbers[np.sort(firsts)]
        numbers = numbers[np.argsort(recordings.duration_s[numbers], kind="stable")]
        numbers, self._file = self._sorted(recordings, numbers)
        self.duration_s = recordings.duration_s[numbers]
        # The items that have each sound, found by bisection.
        place = np.full(int(sounds.max(initial=-1)) + 1, NONE, dtype=np.int32)
        place[sounds[numbers]] = np.arange(len(numbers), dtype=np.int32)
        place_of_item = np.where(audio == NONE, NONE, place[sounds[audio]]) if len(sounds) else audio
        self._having = np.argsort(place_of_item, kind="stable").astype(np.uint32)
        self._places = place_of_item[self._having].astype(np.int32)
        self._told = np.zeros(len(items), dtype=np.uint8)

    @staticmethod
    def _sorted(recordings: Recordings, numbers: np.ndarray) -> tuple[np.ndarray, RowFile]:
        """Those of ``numbers`` that have fingerprints, and these in a file."""
        file, kept = RowFile(FINGERPRINT_BYTES), np.zeros(len(numbers), dtype=bool)
        written = 0
        for start in range(0, len(numbers), _ROWS):
            part = numbers[start : start + _ROWS]
            prints = np.concatenate([recordings.fingerprints.read(int(number), 1) for number in part])
            has = prints.any(axis=1)
            file.write(written, prints[has])
            kept[start : start + len(part)] = has
            written += int(has.sum())
        return numbers[kept], file

    def vectors(self, first: int, end: int) -> np.ndarray:
        return fingerprint_vectors(self._file.read(first, end - first))

    def told(self, a: int, b: int) -> Iterator[Shared]:
        """What is to be said of two sounds; of many that are alike, each item is told of once."""
        some, others = self._items(a), self._items(b)
        for item, kind, message, value in self._pair(some, others):
            flag = _TOLD_SHARED if kind == "near_shared_audio" else _TOLD_DUPLICATE
            if not self._told[item] & flag:
                self._told[item] |= flag
                yield item, kind, message, value

    def _items(self, place: int) -> np.ndarray:
        first, end = np.searchsorted(self._places, [place, place + 1])
        return self._having[first:end]

    def _pair(self, some: np.ndarray, others: np.ndarray) -> Iterator[Shared]:
        items = self.items
        a, b = sorted((int(some[0]), int(others[0])))
        splits = {split for item in (*some, *others) if (split := items.split(item))}
        if len(splits) > 1:
            yield from _across([*some, *others], items, "near_shared_audio", "nearly the same sound as")
        elif items.locate(a)[0].task == items.locate(b)[0].task:
            message = f"nearly the same sound as {items.place(a)}: another level, format or rate? Keep one"
            yield b, "near_duplicate_audio", message, items.audio_id(a)


def shared_ids(items: Items) -> Iterator[Shared]:
    """One id in two splits of a task."""
    for task in dict.fromkeys(corpus.task for corpus in items.corpora):
        own = [corpus for corpus in items.corpora if corpus.task == task]
        numbers = np.concatenate([np.arange(len(corpus)) + items.first(corpus) for corpus in own]).astype(np.uint32)
        for rows in repeated(group_numbers(np.concatenate([corpus.items["id"] for corpus in own]))):
            yield from _across(numbers[rows], items, "shared_audio_id", "has the audio_id of")


def shared_texts(texts: np.ndarray, having: np.ndarray, items: Items) -> Iterator[Shared]:
    """``texts``: keys ``(n, 2)`` of task and text; ``having``: the items ``(n,)`` that have them."""
    for rows in repeated(group_numbers(texts)):
        yield from _across(np.unique(having[rows]), items, "shared_text", "the same text as")
