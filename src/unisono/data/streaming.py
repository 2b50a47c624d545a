"""Training from tar shards that are read in their order: from a slow disk, a web server, an object store.

The shards follow the WebDataset convention: the files of one item lie side by side and share their name up to the first
dot. ``clip.json`` holds the item's line, ``clip.flac`` (or another recording) its target, ``clip.noisy_audio.flac``,
``clip.f0_hz.npy`` … the files of its fields, ``clip.txt`` a caption, ``clip.mp4`` a video.

Batch *k* is a function of ``(seed, k)`` here as well. The shards are dealt to ``num_streams`` streams, and batch *k*
comes from stream *k* modulo their number, whoever reads it. So processes times workers must divide that number. What a
resumed run has seen is passed over by reading it again without decoding; shards on a local disk are better named member
by member in a manifest (docs/data_format.md), where any batch is found at once.
"""

from __future__ import annotations

import glob
import logging
import math
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from unisono.data.datasets.base import AudioGenerationDataset
from unisono.data.manifest import Fields, parse_line
from unisono.errors import UserError
from unisono.media.locations import MAX_MEMBER_BYTES, Location, StrictTarInfo
from unisono.objectives.noise import derive_seed
from unisono.timing import latent_rate_hz
from unisono.types import Sample

logger = logging.getLogger(__name__)

_RECORDINGS = frozenset(["flac", "wav", "ogg", "opus", "mp3", "m4a", "aac", "aiff", "aif"])
_VIDEOS = frozenset(["mp4", "webm", "mkv", "mov", "avi"])
_EDGE_RATIO = 1.15
"""Of the lengths that batches are sorted into: at most 15 % of a batch is padding."""


class StreamedFields(Fields):
    """The line of an item whose files came with it."""

    def __init__(self, shard: str, key: str, record: dict[str, Any], files: dict[str, Location]) -> None:
        super().__init__(Path(shard), 0, record)
        self.shard, self.key, self.files = shard, key, files

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


class TarShards:
    """A set of shards of one task.

    Args:
        shards: path or address, or a list of such; ``{000..127}`` and, in paths, ``*`` stand for many. Addresses are
            opened by webdataset (``https://…``, ``pipe:command`` …), which needs ``curl`` for the web.
        dataset: reads the task's lines: a data set with ``content: null``.
        weight: how often its items are drawn relative to those of other sets.
    """

    def __init__(self, shards: str | Sequence[str], dataset: AudioGenerationDataset, weight: float = 1.0) -> None:
        if not weight > 0:
            raise UserError(f"{shards}: weight is {weight}; it must be above 0")
        self.urls = [url for text in ([shards] if isinstance(shards, str) else shards) for url in _expanded(text)]
        if not self.urls:
            raise UserError("the list of shards is empty; name at least one")
        self.dataset, self.weight = dataset, weight
        self.name = self.urls[0]

    def items(self, urls: Sequence[str]) -> Iterator[StreamedFields]:
        """The items of some shards, undecoded.

        Raises:
            UserError: an archive or a line that is damaged, with shard and member.
        """
        from webdataset.tariterators import group_by_keys

        for url in urls:
            try:
                for group in group_by_keys(_members(url)):
                    yield _fields(url, group)
            except UserError:
                raise
            except ValueError as error:  # two members of one name
                raise UserError(f"{url}: {error.args[0]}; names must be unique") from error


def _expanded(text: str) -> list[str]:
    try:
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise UserError(f"tar shards need webdataset ({error}); run: pip install 'unisono[archives]'") from error
    urls = expand_urls(text)
    if _is_address(text):
        return urls
    found = []
    for url in urls:
        matches = sorted(glob.glob(url)) if glob.has_magic(url) else [url]
        if not matches or not Path(matches[0]).is_file():
            raise UserError(f"{url}: no such shard; check the path")
        found += matches
    return found


def _is_address(url: str) -> bool:
    return "://" in url or url.startswith("pipe:")


def _open(url: str) -> BinaryIO:
    if not _is_address(url):
        return open(url, "rb")
    from webdataset.gopen import gopen

    return gopen(url)


def _members(url: str) -> Iterator[dict[str, Any]]:
    """Files of an archive as webdataset groups them."""
    last = "its beginning"
    try:
        with _open(url) as stream, tarfile.open(fileobj=stream, mode="r|*", tarinfo=StrictTarInfo) as archive:
            for info in archive:
                last = f"member {info.name!r}"
                if info.size > MAX_MEMBER_BYTES:
                    raise UserError(
                        f"{url}: {last} has {info.size} bytes, more than a clip (at most {MAX_MEMBER_BYTES})"
                    )
                if info.isreg() and not info.issparse():
                    file = archive.extractfile(info)
                    assert file is not None
                    yield {"fname": info.name, "data": file.read(), "__url__": url}
                archive.members = []  # type: ignore[attr-defined]  # or it remembers all it has read
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{url}: damaged or cut off at {last} ({error}); copy the shard again") from error


def _fields(url: str, group: dict[str, Any]) -> StreamedFields:
    key = group.pop("__key__")
    group = {name: data for name, data in group.items() if not name.startswith("__")}
    where = f"{url}::{key}"
    record = parse_line(f"{where}.json", group.pop("json")) if "json" in group else {}
    record.setdefault("audio_id", key.removeprefix("./").replace("/", "_"))
    if "txt" in group:
        record.setdefault("caption", _caption(f"{where}.txt", group.pop("txt")))
    files = {}
    for suffix, data in group.items():
        field, _, extension = suffix.rpartition(".")
        location = Location(Path(url), f"{key}.{suffix}", data)
        if not field:
            field = "audio" if extension in _RECORDINGS else "video" if extension in _VIDEOS else extension
        files[field] = location
        record.setdefault(field, location.member)
    if "audio" not in files and "video" in files:  # the video's own sound is the target
        files["audio"], record["audio"] = files["video"], record["video"]
    return StreamedFields(url, key, record, files)


def _caption(where: str, text: bytes) -> str:
    try:
        return text.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error}); save it as UTF-8") from None


@dataclass(frozen=True)
class _Waiting:
    """An item that has been read but not decoded."""

    source: int
    fields: StreamedFields
    whole_s: float
    turn: int


class StreamedBatches(IterableDataset[list[Sample]]):
    """An endless stream of batches from tar shards; see the module's text and ``streamed_dataloader``."""

    def __init__(
        self,
        datasets: Sequence[TarShards],
        batch_size: int,
        seed: int = 0,
        max_batch_frames: int | None = None,
        sample_rate: int = 24_000,
        hop_samples: int = 480,
        num_streams: int = 8,
        shuffle_items: int = 256,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("num_streams", num_streams), ("shuffle_items", shuffle_items)):
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        if not datasets:
            raise UserError("the list of shards' data sets is empty; name at least one")
        for source in datasets:
            if len(source.urls) < num_streams:
                raise UserError(
                    f"{source.name}: {len(source.urls)} shards cannot feed {num_streams} streams; lower num_streams or "
                    "make smaller shards"
                )
        self.datasets, self.batch_size, self.seed = list(datasets), batch_size, seed
        self.max_batch_frames, self.rate_hz = max_batch_frames, latent_rate_hz(sample_rate, hop_samples)
        self.num_streams, self.shuffle_items = num_streams, shuffle_items
        self.rank, self.num_ranks, self.start = 0, 1, 0

    def shard(self, rank: int, num_ranks: int) -> None:
        """Which part of the stream this process takes."""
        self.rank, self.num_ranks = rank, num_ranks

    def __iter__(self) -> Iterator[list[Sample]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        step = self.num_ranks * workers
        if self.num_streams % step:
            raise UserError(
                f"{self.num_ranks} processes x {workers} workers do not divide num_streams ({self.num_streams}); set "
                f"it to a multiple of {step}"
            )
        streams: dict[int, Iterator[list[_Waiting]]] = {}
        read: dict[int, int] = {}
        # The loader takes batches from its workers in turn.
        for k in count(self.start + self.rank + self.num_ranks * worker, step):
            which, wanted = k % self.num_streams, k // self.num_streams
            stream = streams.setdefault(which, self._batches(which))
            batch = next(stream)
            for _ in range(wanted - read.get(which, 0)):  # a resumed run passes over what it has seen
                batch = next(stream)
            read[which] = wanted + 1
            yield [self._decode(item) for item in batch]

    def _decode(self, item: _Waiting) -> Sample:
        try:
            return self.datasets[item.source].dataset.sample_of(item.fields, item.fields, item.whole_s, item.turn)
        except UserError as error:
            raise UserError(f"{item.fields.where}: {error}") from error

    # -- one stream ---------------------------------------------------------------------------------------------------

    def _batches(self, which: int) -> Iterator[list[_Waiting]]:
        """Batches of items of like length, each as large as the budget allows."""
        waiting: dict[int, list[_Waiting]] = {}
        for item in self._shuffled(which):
            frames = self._frames(item)
            bucket = math.ceil(math.log(max(frames, 1)) / math.log(_EDGE_RATIO))
            items = waiting.setdefault(bucket, [])
            items.append(item)
            size = self.batch_size
            if self.max_batch_frames is not None:
                size = max(1, min(size, self.max_batch_frames // math.floor(_EDGE_RATIO**bucket)))
            if len(items) == size:
                yield waiting.pop(bucket)

    def _frames(self, item: _Waiting) -> int:
        crop_s = self.datasets[item.source].dataset.crop_s
        seconds = item.whole_s if crop_s is None else min(item.whole_s, crop_s)
        frames = max(1, math.ceil(seconds * self.rate_hz - 1e-4))
        if self.max_batch_frames is not None and frames > self.max_batch_frames:
            raise item.fields.fail(
                f"has {frames} latent frames, and max_batch_frames is {self.max_batch_frames}; raise it or set crop_s"
            )
        return frames

    def _shuffled(self, which: int) -> Iterator[_Waiting]:
        """Items in the order of a buffer from which one is drawn whenever one comes in."""
        rng = np.random.default_rng([derive_seed(self.seed, "shuffle", which)])
        buffer: list[_Waiting] = []
        for item in self._mixed(which, rng):
            if len(buffer) < self.shuffle_items:
                buffer.append(item)
                continue
            place = int(rng.integers(len(buffer)))
            buffer[place], item = item, buffer[place]
            yield item

    def _mixed(self, which: int, rng: np.random.Generator) -> Iterator[_Waiting]:
        """Items of all data sets in proportion to their weights."""
        sources = [self._endless(index, which) for index in range(len(self.datasets))]
        weights = np.array([source.weight for source in self.datasets])
        while True:
            yield next(sources[int(rng.choice(len(sources), p=weights / weights.sum()))])

    def _endless(self, source: int, which: int) -> Iterator[_Waiting]:
        """Items of one data set's shards that fall to a stream, turn after turn, each in another order."""
        shards = self.datasets[source]
        for turn in count():
            order = np.random.default_rng([derive_seed(self.seed, "shards", source, turn)]).permutation(
                len(shards.urls)
            )
            found, left_out = False, 0
            for fields in shards.items([shards.urls[i] for i in order[which :: self.num_streams]]):
                whole_s = shards.dataset.check_item(fields, fields)
                if shards.dataset.max_duration_s is not None and whole_s > shards.dataset.max_duration_s:
                    left_out += 1
                    continue
                shards.dataset.refuse_long(fields, whole_s)
                found = True
                yield _Waiting(source, fields, whole_s, turn)
            if left_out and turn == 0:
                logger.info("%s, stream %d: %d items are longer than max_duration_s", shards.name, which, left_out)
            if not found:
                raise UserError(
                    f"{shards.name}: the shards of stream {which} hold no items ({left_out} are longer than "
                    "max_duration_s); make them again"
                )


def streamed_dataloader(
    datasets: Sequence[TarShards],
    batch_size: int,
    collate_fn: Callable[[Sequence[Any]], Any],
    seed: int = 0,
    max_batch_frames: int | None = None,
    sample_rate: int = 24_000,
    hop_samples: int = 480,
    num_streams: int = 8,
    shuffle_items: int = 256,
    num_workers: int = 0,
    pin_memory: bool = False,
    prefetch_factor: int | None = None,
) -> DataLoader:
    """Endless loader over tar shards. Training from it needs ``epoch_length``: a stream does not know its own.

    Args:
        datasets: sets of shards; their weights tell how often each is drawn.
        batch_size: items per micro-batch at most.
        collate_fn: samples to a batch.
        seed: of the order.
        max_batch_frames: most latent frames of a micro-batch, padding included.
        sample_rate, hop_samples: of the model.
        num_streams: the shards are dealt to so many streams; processes times workers must divide it.
        shuffle_items: items that each stream holds back, undecoded, to draw from.
        num_workers, pin_memory, prefetch_factor: those of ``torch.utils.data.DataLoader``.
    """
    batches = StreamedBatches(
        datasets, batch_size, seed, max_batch_frames, sample_rate, hop_samples, num_streams, shuffle_items
    )
    return DataLoader(
        batches,
        batch_size=None,
        collate_fn=collate_fn,
        num_workers=num_workers,
        pin_memory=pin_memory,
        prefetch_factor=prefetch_factor,
    )
