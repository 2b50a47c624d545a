"""Recordings, ids and texts that stand in two places where they should stand in one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from unisono.data.validate.facts import AudioFacts, fingerprint_vector
from unisono.data.validate.limits import Limits
from unisono.data.validate.lines import Corpus, Item

Shared = tuple[Item, str, str, str | float]
"""The item to blame, kind, message, value."""

_SAME_LENGTH_S = 0.12  # codecs add silence at the ends
_MAX_COMPARISONS = 20_000_000_000
_ROWS = 1024


def shared_audio(corpora: Sequence[Corpus], facts: Mapping[str, AudioFacts]) -> Iterator[Shared]:
    """Equal recordings: twice in a split of a task, or in two splits of any tasks.

    One model learns all tasks, so a recording that one task trains on is no test of another. A degraded recording of
    each own may have a target that stands there often.
    """
    groups: dict[str, list[Item]] = defaultdict(list)
    for corpus in corpora:
        for item in corpus.items:
            if item.audio is not None:
                known = facts.get(item.audio)
                groups[f"samples {known.samples_hash}" if known else item.audio].append(item)
    for items in groups.values():
        if len(items) > 1:
            yield from _across(items, corpora, "shared_audio", "the same recording as")
            yield from _within(items, corpora, facts)


def _across(items: Sequence[Item], corpora: Sequence[Corpus], kind: str, words: str) -> Iterator[Shared]:
    """Blame the items of the split that can spare them: those to train on."""
    splits = {item.split for item in items if item.split}
    if len(splits) < 2:
        return
    spared = max(splits, key=_worth)
    other = next(item for item in items if item.split == spared)
    for item in items:
        if item.split and item.split != spared:
            message = (
                f"{words} {_place(other, corpora)} of the split {spared!r}, while this is {item.split!r}; keep it in "
                "one of them"
            )
            yield item, kind, message, other.audio_id


def _worth(split: str) -> tuple[int, str]:
    return ({"train": 0, "val": 2, "validation": 2, "test": 3}.get(split, 1), split)


def _within(items: Sequence[Item], corpora: Sequence[Corpus], facts: Mapping[str, AudioFacts]) -> Iterator[Shared]:
    first: dict[tuple, Item] = {}
    for item in items:
        inputs = tuple(known.samples_hash if (known := facts.get(name)) else name for _, name in item.inputs)
        key = (corpora[item.corpus].task, item.split, inputs)
        if key in first:
            message = f"the same recording as {_place(first[key], corpora)}; it counts twice: remove one"
            yield item, "duplicate_audio", message, first[key].audio_id
        else:
            first[key] = item


def _place(item: Item, corpora: Sequence[Corpus]) -> str:
    corpus = corpora[item.corpus]
    path, number = corpus.manifests.content, item.content_line
    return f"{item.audio_id!r} ({path}:{number})"


def near_audio(corpora: Sequence[Corpus], facts: Mapping[str, AudioFacts], limits: Limits) -> Iterator[Shared | int]:
    """Sounds that are nearly the same; a number, that of recordings, where these are too many to be compared."""
    by_hash: dict[str, list[Item]] = defaultdict(list)
    durations: dict[str, float] = {}
    prints: dict[str, str] = {}
    for corpus in corpora:
        for item in corpus.items:
            known = facts.get(item.audio) if item.audio else None
            if known is not None and known.fingerprint:
                by_hash[known.samples_hash].append(item)
                durations[known.samples_hash] = known.duration_s
                prints[known.samples_hash] = known.fingerprint
    names = sorted(by_hash, key=lambda name: (durations[name], name))
    lengths = np.array([durations[name] for name in names])
    ends = np.searchsorted(lengths, lengths + _SAME_LENGTH_S, side="right")
    if int((ends - np.arange(len(names))).sum()) > _MAX_COMPARISONS:
        yield len(names)
        return
    vectors = np.stack([fingerprint_vector(prints[name]) for name in names]) if names else np.zeros((0, 1), np.float32)
    for start in range(0, len(names), _ROWS):
        stop = min(start + _ROWS, len(names))
        for first in range(start, int(ends[stop - 1]), 8 * _ROWS):
            last = min(first + 8 * _ROWS, int(ends[stop - 1]))
            alike = vectors[start:stop] @ vectors[first:last].T >= limits.near_similarity
            for row, column in np.argwhere(alike):
                a, b = start + int(row), first + int(column)
                if a < b < ends[a]:
                    yield from _near(by_hash[names[a]], by_hash[names[b]], corpora)


def _near(some: Sequence[Item], others: Sequence[Item], corpora: Sequence[Corpus]) -> Iterator[Shared]:
    a, b = sorted((some[0], others[0]), key=lambda item: (item.corpus, item.content_line))
    splits = {item.split for item in (*some, *others) if item.split}
    if len(splits) > 1:
        yield from _across([*some, *others], corpora, "near_shared_audio", "nearly the same sound as")
    elif corpora[a.corpus].task == corpora[b.corpus].task:
        message = f"nearly the same sound as {_place(a, corpora)}: another level, format or rate? Keep one"
        yield b, "near_duplicate_audio", message, a.audio_id


def shared_ids(corpora: Sequence[Corpus]) -> Iterator[Shared]:
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for corpus in corpora:
        for item in corpus.items:
            groups[corpus.task, item.audio_id].append(item)
    for items in groups.values():
        if len(items) > 1:
            yield from _across(items, corpora, "shared_audio_id", "has the audio_id of")


def shared_texts(places: Mapping[tuple[str, str], Sequence[Item]], corpora: Sequence[Corpus]) -> Iterator[Shared]:
    """``places``: items by task and normalised text."""
    for items in places.values():
        if len(items) > 1:
            yield from _across(items, corpora, "shared_text", "the same text as")
