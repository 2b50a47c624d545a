"""The order of one stream of tar shards: mixed, shuffled, batched by length, within a bound of bytes.

Which items a batch holds follows from the seed, the stream's number and the lengths and sizes of the items that came
before. Both are noted for each shard when it is read to its end, so a later run can follow the order without reading:
it passes over what was seen by the notes, and reads only the shards whose items are still held back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol

import numpy as np

from unisono.data.manifest import Fields
from unisono.errors import UserError
from unisono.files import cache_dir, write_array
from unisono.media.locations import Location
from unisono.objectives.noise import derive_seed
from unisono.timing import clip_frames

logger = logging.getLogger(__name__)

_NOTES_VERSION = 1
_EDGE_RATIO = 1.15
"""Of the lengths that batches are sorted into: at most 15 % of a batch is padding."""
_TOP_UP_LENGTHS = 3
"""A batch that cannot wait any longer takes items of so many shorter lengths: at most a third of it is padding."""
LONGEST_WAIT_BATCHES = 64
"""An item waits for others of its length while its stream gives at most so many batches' worth of items."""
_OBJECT_BYTES = 4096
"""What an item costs besides its files."""


class StreamedFields(Fields):
    """The line of an item whose files came with it; ``num_bytes`` of them in all."""

    def __init__(self, shard: str, key: str, record: dict, files: dict[str, Location], num_bytes: int) -> None:
        super().__init__(Path(shard), 0, record)
        self.shard, self.key, self.files, self.num_bytes = shard, key, files, num_bytes

    @property
    def where(self) -> str:
        return f"{self.shard}::{self.key}"

    def location(self, name: str) -> Location:
        if name in self.files:
            return self.files[name]
        if self.record.get(name) is None:
            self.get(name, "a member of the shard", lambda _: True)
        raise self.fail(
            f"field {name!r} names {self.record[name]!r}; in a stream it must be a member, {self.key}.{name}.…"
        )

    def file(self, name: str) -> Location:
        return self.location(name)


class Source(Protocol):
    """A set of shards, see ``TarShards``."""

    name: str
    urls: list[str]
    weight: float

    @property
    def crop_s(self) -> float | None: ...

    @property
    def max_duration_s(self) -> float | None: ...

    def items(self, url: str) -> Iterator[tuple[StreamedFields, float]]:
        """A shard's items, undecoded, and their recordings' seconds."""
        ...

    def refuse_long(self, fields: StreamedFields, whole_s: float) -> None: ...


@dataclass(slots=True)
class Item:
    """An item that is not decoded, and not even read while what was seen is passed over.

    Attributes:
        source, turn: its set of shards, and how often that was begun before.
        url, place: its shard, and its number in it.
        whole_s: seconds of its recording.
        num_bytes: of its files.
        fields: its line and files; None before they are read.
    """

    source: int
    turn: int
    url: str
    place: int
    whole_s: float
    num_bytes: int
    fields: StreamedFields | None = None
    arrived: int = 0

    @property
    def held_bytes(self) -> int:
        return self.num_bytes + _OBJECT_BYTES


# -- notes ------------------------------------------------------------------------------------------------------------


def is_address(url: str) -> bool:
    return "://" in url or url.startswith("pipe:")


def notes_path(url: str) -> Path:
    """Where a shard's lengths and sizes are noted: by its address, or by its path, size and times of change."""
    key: list[object] = [_NOTES_VERSION, url]
    if not is_address(url):
        status = os.stat(url)
        key = [_NOTES_VERSION, os.path.abspath(url), status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return cache_dir() / "streams" / f"{hashlib.blake2b(json.dumps(key).encode(), digest_size=12).hexdigest()}.npy"


def read_notes(url: str) -> np.ndarray | None:
    """float64 ``(items, 2)``, seconds and bytes of a shard's items; None where there are none that can be used."""
    path = notes_path(url)
    try:
        notes = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        logger.warning("%s cannot be used (%s); %s is read again", path, error, url)
        return None
    return notes if notes.ndim == 2 and notes.shape[1] == 2 and notes.dtype == np.float64 else None


def write_notes(url: str, notes: Sequence[tuple[float, int]]) -> None:
    """Note what a shard holds; a full or read-only disk costs a resumed run time, nothing else."""
    try:
        table, known = np.array(notes, dtype=np.float64).reshape(-1, 2), read_notes(url)
        if known is None or not np.array_equal(known, table):
            write_array(notes_path(url), table)
    except OSError as error:
        logger.warning("what %s holds is not noted (%s); a resumed run will read it again", url, error)


# -- order ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What a stream's batches keep to.

    Attributes:
        batch_size: items of a batch at most.
        max_batch_frames: latent frames of a batch at most, padding included; None sets no limit.
        sample_rate, hop_samples: of the model.
        shuffle_items: items held back to draw from, at most.
        held_bytes: of all items that are held back.
    """

    batch_size: int
    max_batch_frames: int | None
    sample_rate: int
    hop_samples: int
    shuffle_items: int
    held_bytes: int

    def size(self, length: int) -> int:
        """Items of a batch whose longest item has a certain length."""
        if self.max_batch_frames is None:
            return self.batch_size
        return max(1, min(self.batch_size, self.max_batch_frames // math.floor(_EDGE_RATIO**length)))


@dataclass
class _Waiting:
    """Items by length that wait for others alike; ``num_bytes`` in all."""

    limits: Limits
    by_length: dict[int, list[Item]] = field(default_factory=dict)
    num_bytes: int = 0

    def add(self, length: int, item: Item) -> None:
        self.by_length.setdefault(length, []).append(item)
        self.num_bytes += item.held_bytes

    def is_full(self, length: int) -> bool:
        return len(self.by_length[length]) >= self.limits.size(length)

    def fullest(self) -> int:
        """The length whose batch is nearest to full, with shorter items that may join it."""
        return max(self.by_length, key=lambda length: (self._joined(length) / self.limits.size(length), length))

    def _joined(self, length: int) -> int:
        near = (len(self.by_length.get(length - step, ())) for step in range(_TOP_UP_LENGTHS + 1))
        return min(self.limits.size(length), sum(near))

    def oldest(self) -> int | None:
        return min(self.by_length, key=lambda length: self.by_length[length][0].arrived, default=None)

    def take(self, length: int) -> list[Item]:
        """A batch of a length, topped up by the next shorter ones."""
        batch: list[Item] = []
        for near in range(length, length - _TOP_UP_LENGTHS - 1, -1):
            items = self.by_length.get(near, [])
            wanted = self.limits.size(length) - len(batch)
            batch += items[:wanted]
            del items[:wanted]
            if near in self.by_length and not items:
                del self.by_length[near]
        self.num_bytes -= sum(item.held_bytes for item in batch)
        return batch


class Stream:
    """The batches of one of the streams that shards are dealt to.

    At most ``limits.held_bytes`` are held back: half of them to shuffle, half waiting for items of like length.

    Args:
        sources: sets of shards.
        which, num_streams: this stream's number, and how many there are.
        seed: of the order.
        limits: of batches and memory.
    """

    def __init__(self, sources: Sequence[Source], which: int, num_streams: int, seed: int, limits: Limits) -> None:
        self.sources, self.which, self.num_streams, self.seed, self.limits = sources, which, num_streams, seed, limits
        self.position = 0
        self._is_passing = False
        self._buffer: list[Item] = []
        self._waiting = _Waiting(limits)
        self._batches = self._batched()

    def take(self, position: int) -> list[Item]:
        """Batch number ``position`` of this stream; those before it are passed over, not to come again."""
        if position > self.position:
            self._is_passing = True
            while self.position < position:
                next(self._batches)
                self.position += 1
            self._is_passing = False
            self._read_held()
        self.position += 1
        return next(self._batches)

    def _batched(self) -> Iterator[list[Item]]:
        """Items of like length, as many as the limits allow; fewer, or less alike, where they would wait too long."""
        waiting, longest_wait = self._waiting, LONGEST_WAIT_BATCHES * self.limits.batch_size
        for number, item in enumerate(self._shuffled()):
            item.arrived = number
            length = math.ceil(math.log(self._frames(item)) / math.log(_EDGE_RATIO))
            waiting.add(length, item)
            if waiting.is_full(length):
                yield waiting.take(length)
            while waiting.num_bytes > self.limits.held_bytes // 2:
                yield waiting.take(waiting.fullest())
            if number % self.limits.batch_size == 0:
                while (old := waiting.oldest()) is not None and number - waiting.by_length[old][
                    0
                ].arrived > longest_wait:
                    yield waiting.take(old)

    def _frames(self, item: Item) -> int:
        crop_s, most = self.sources[item.source].crop_s, self.limits.max_batch_frames
        seconds = item.whole_s if crop_s is None else min(item.whole_s, crop_s)
        frames = clip_frames(seconds, self.limits.sample_rate, self.limits.hop_samples)
        if most is not None and frames > most:
            where = f"{item.url}: item {item.place}" if item.fields is None else item.fields.where
            raise UserError(
                f"{where}: has {frames} latent frames, and max_batch_frames is {most}; raise it or set crop_s"
            )
        return frames

    def _shuffled(self) -> Iterator[Item]:
        """Items drawn from a buffer whenever one comes in that is too many."""
        rng = np.random.default_rng([derive_seed(self.seed, "shuffle", self.which)])
        buffer, num_bytes = self._buffer, 0
        for item in self._mixed():
            buffer.append(item)
            num_bytes += item.held_bytes
            while len(buffer) > self.limits.shuffle_items or num_bytes > self.limits.held_bytes // 2:
                place = int(rng.random() * len(buffer))
                buffer[place], buffer[-1] = buffer[-1], buffer[place]
                drawn = buffer.pop()
                num_bytes -= drawn.held_bytes
                yield drawn

    def _mixed(self) -> Iterator[Item]:
        """Items of all sources in proportion to their weights."""
        rng = np.random.default_rng([derive_seed(self.seed, "mixture", self.which)])
        sources = [self._endless(index) for index in range(len(self.sources))]
        edges = np.cumsum([source.weight for source in self.sources])
        while True:
            which = 0 if len(sources) == 1 else int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
            yield next(sources[which])

    def _endless(self, source: int) -> Iterator[Item]:
        """Items of one source's shards that fall to this stream, turn after turn, each in another order."""
        shards = self.sources[source]
        for turn in count():
            rng = np.random.default_rng([derive_seed(self.seed, "shards", source, turn)])
            order = rng.permutation(len(shards.urls))[self.which :: self.num_streams]
            found = left_out = 0
            for url in (shards.urls[number] for number in order):
                for item in self._of_shard(source, turn, url):
                    if shards.max_duration_s is not None and item.whole_s > shards.max_duration_s:
                        left_out += 1
                        continue
                    if item.fields is not None:
                        shards.refuse_long(item.fields, item.whole_s)
                    found += 1
                    yield item
            if left_out and turn == 0 and not self._is_passing:
                logger.info("%s, stream %d: %d items are longer than max_duration_s", shards.name, self.which, left_out)
            if not found:
                raise UserError(
                    f"{shards.name}: the shards of stream {self.which} hold no items ({left_out} are longer than "
                    "max_duration_s); make them again"
                )

    # -- shards -------------------------------------------------------------------------------------------------------

    def _of_shard(self, source: int, turn: int, url: str) -> Iterator[Item]:
        """A shard's items; by its notes alone as long as items are passed over."""
        notes = read_notes(url) if self._is_passing else None
        passed = 0
        for place, (whole_s, num_bytes) in enumerate(() if notes is None else notes.tolist()):
            if not self._is_passing:
                break
            passed = place + 1
            yield Item(source, turn, url, place, whole_s, int(num_bytes))
        if notes is not None and passed == len(notes):
            return
        found: list[tuple[float, int]] = []
        for place, (fields, whole_s) in enumerate(self.sources[source].items(url)):
            found.append((whole_s, fields.num_bytes))
            if notes is not None:
                seen = tuple(notes[place]) if place < len(notes) else None
                _refuse_change(seen, (whole_s, fields.num_bytes), url, place)
            if place >= passed:
                yield Item(source, turn, url, place, whole_s, fields.num_bytes, fields)
        write_notes(url, found)

    def _read_held(self) -> None:
        """Read the items that are held back and were only passed over so far."""
        unread: dict[tuple[int, str], dict[int, list[Item]]] = {}
        for item in (*self._buffer, *(item for items in self._waiting.by_length.values() for item in items)):
            if item.fields is None:
                unread.setdefault((item.source, item.url), {}).setdefault(item.place, []).append(item)
        for (source, url), wanted in unread.items():
            for place, (fields, whole_s) in enumerate(self.sources[source].items(url)):
                for item in wanted.pop(place, ()):
                    _refuse_change((item.whole_s, item.num_bytes), (whole_s, fields.num_bytes), url, place)
                    item.fields = fields
                if not wanted and not is_address(url):  # a command is let run to its end
                    break
            if wanted:
                raise UserError(f"{url}: has fewer items than this run saw; put the shard back or begin a new run")


def _refuse_change(seen: tuple[float, float] | None, found: tuple[float, int], url: str, place: int) -> None:
    if seen != found:
        raise UserError(
            f"{url}: item {place} is another than this run saw; a run cannot go on with changed shards: begin a new "
            f"one, after removing {notes_path(url)}"
        )
