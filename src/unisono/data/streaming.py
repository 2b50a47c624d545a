"""Training from tar shards that are read in their order: from a slow disk, a web server, an object store.

The shards follow the WebDataset convention: the files of one item lie side by side and share their name up to the first
dot. ``clip.json`` holds the item's line, ``clip.flac`` (or another recording) its target, ``clip.noisy_audio.flac``,
``clip.f0_hz.npy`` … the files of its fields, ``clip.txt`` a caption, ``clip.mp4`` a video.

Batch *k* is a function of ``(seed, k)`` here as well. The shards are dealt to ``num_streams`` streams, and batch *k*
comes from stream *k* modulo their number, whoever reads it. So processes times workers must divide that number. What a
resumed run has seen it passes over without reading, where the lengths of the shards' items were noted when they were
read first (:mod:`unisono.data.stream_order`).
"""

from __future__ import annotations

import glob
import math
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from unisono.data.datasets.base import AudioGenerationDataset
from unisono.data.manifest import parse_line
from unisono.data.stream_order import Item, Limits, Stream, StreamedFields, is_address
from unisono.errors import UserError
from unisono.media.locations import MAX_MEMBER_BYTES, Location, StrictTarInfo
from unisono.types import Sample

_RECORDINGS = frozenset(["flac", "wav", "ogg", "opus", "mp3", "m4a", "aac", "aiff", "aif"])
_VIDEOS = frozenset(["mp4", "webm", "mkv", "mov", "avi"])
_MOST_STREAMS = 16
"""Of those that are chosen: enough for any number of workers of a machine, few enough for its memory."""


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

    @property
    def crop_s(self) -> float | None:
        return self.dataset.crop_s

    @property
    def max_duration_s(self) -> float | None:
        return self.dataset.max_duration_s

    def refuse_long(self, fields: StreamedFields, whole_s: float) -> None:
        self.dataset.refuse_long(fields, whole_s)

    def items(self, url: str) -> Iterator[tuple[StreamedFields, float]]:
        """The items of a shard, undecoded but checked, and their recordings' seconds.

        Raises:
            UserError: an archive or a line that is damaged, with shard and member.
        """
        from webdataset.tariterators import group_by_keys

        try:
            for group in group_by_keys(_members(url)):
                fields = _fields(url, group)
                yield fields, self.dataset.check_item(fields, fields)
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
    if is_address(text):
        return urls
    found = []
    for url in urls:
        matches = sorted(glob.glob(url)) if glob.has_magic(url) else [url]
        if not matches or not Path(matches[0]).is_file():
            raise UserError(f"{url}: no such shard; check the path")
        found += matches
    return found


def _open(url: str) -> BinaryIO:
    if not is_address(url):
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
    num_bytes = sum(map(len, group.values()))
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
    return StreamedFields(url, key, record, files, num_bytes)


def _caption(where: str, text: bytes) -> str:
    try:
        return text.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error}); save it as UTF-8") from None


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
        num_streams: int | None = None,
        shuffle_items: int = 256,
        shuffle_mb: float = 64.0,
    ) -> None:
        if not datasets:
            raise UserError("the list of shards' data sets is empty; name at least one")
        self.num_streams = _default_streams(datasets) if num_streams is None else num_streams
        for name, value in (
            ("batch_size", batch_size),
            ("num_streams", self.num_streams),
            ("shuffle_items", shuffle_items),
        ):
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        if not 0 < shuffle_mb < math.inf:
            raise UserError(f"shuffle_mb is {shuffle_mb}; it must be above 0, megabytes that each stream may hold back")
        for source in datasets:
            if len(source.urls) < self.num_streams:
                remedy = _remedy(source, self.num_streams)
                raise UserError(
                    f"{source.name}: {len(source.urls)} shards cannot feed {self.num_streams} streams; set num_streams "
                    f"to null (here {_default_streams(datasets)}) or make more shards{remedy}"
                )
        self.datasets, self.seed = list(datasets), seed
        self.limits = Limits(
            batch_size, max_batch_frames, sample_rate, hop_samples, shuffle_items, round(shuffle_mb * 1e6)
        )
        self.rank, self.num_ranks, self.start = 0, 1, 0

    def shard(self, rank: int, num_ranks: int) -> None:
        """Which part of the stream this process takes."""
        self.rank, self.num_ranks = rank, num_ranks

    def __iter__(self) -> Iterator[list[Sample]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        step = self.num_ranks * workers
        if self.num_streams % step:
            self._refuse_step(workers, step)
        streams: dict[int, Stream] = {}
        # The loader takes batches from its workers in turn.
        for k in count(self.start + self.rank + self.num_ranks * worker, step):
            which = k % self.num_streams
            if which not in streams:
                streams[which] = Stream(self.datasets, which, self.num_streams, self.seed, self.limits)
            yield [self._decode(item) for item in streams[which].take(k // self.num_streams)]

    def _refuse_step(self, workers: int, step: int) -> None:
        source = min(self.datasets, key=lambda source: len(source.urls))
        most = len(source.urls)
        remedy = f"set it to a multiple of {step}"
        if most < step:
            remedy += f", for which {most} shards are too few: lower num_workers, or make more{_remedy(source, step)}"
        raise UserError(
            f"{self.num_ranks} processes x {workers} workers do not divide num_streams ({self.num_streams}); {remedy}"
        )

    def _decode(self, item: Item) -> Sample:
        fields = item.fields
        assert fields is not None, "what a stream gives is read"
        try:
            return self.datasets[item.source].dataset.sample_of(fields, fields, item.whole_s, item.turn)
        except UserError as error:
            raise UserError(f"{fields.where}: {error}") from error


def _default_streams(datasets: Sequence[TarShards]) -> int:
    """A power of two that the shards can feed: processes and workers divide it. It follows from the shards alone."""
    shards = min(_MOST_STREAMS, *(len(source.urls) for source in datasets))
    return 1 << (shards.bit_length() - 1)


def _remedy(source: TarShards, shards: int) -> str:
    """How to make so many shards of a set that lies on a disk."""
    if any(is_address(url) for url in source.urls):
        return " (unisono shard --max-mb)"
    size = sum(os.path.getsize(url) for url in source.urls)
    return f" (unisono shard --max-mb {max(0.01, size / 1e6 / (1.5 * shards)):.2g})"


def streamed_dataloader(
    datasets: Sequence[TarShards],
    batch_size: int,
    collate_fn: Callable[[Sequence[Any]], Any],
    seed: int = 0,
    max_batch_frames: int | None = None,
    sample_rate: int = 24_000,
    hop_samples: int = 480,
    num_streams: int | None = None,
    shuffle_items: int = 256,
    shuffle_mb: float = 64.0,
    num_workers: int = 0,
    pin_memory: bool = False,
    prefetch_factor: int | None = None,
) -> DataLoader:
    """Endless loader over tar shards. Training from it needs ``epoch_length``: a stream does not know its own.

    Undecoded files take ``shuffle_mb`` for each stream, and a worker has ``num_streams`` divided by processes times
    workers of them; on top come three items of each stream and the batch that is being decoded.

    Args:
        datasets: sets of shards; their weights tell how often each is drawn.
        batch_size: items per micro-batch at most.
        collate_fn: samples to a batch.
        seed: of the order.
        max_batch_frames: most latent frames of a micro-batch, padding included.
        sample_rate, hop_samples: of the model.
        num_streams: the shards are dealt to so many streams; processes times workers must divide it. None takes the
            largest power of two that there are shards for, 16 at most.
        shuffle_items: items that each stream holds back, undecoded, to draw from, at most.
        shuffle_mb: megabytes of undecoded files that each stream holds back at most: half to draw from, half waiting
            for items of like length. Where there is no room to wait, batches are smaller or less alike.
        num_workers, pin_memory, prefetch_factor: those of ``torch.utils.data.DataLoader``.
    """
    batches = StreamedBatches(
        datasets, batch_size, seed, max_batch_frames, sample_rate, hop_samples, num_streams, shuffle_items, shuffle_mb
    )
    return DataLoader(
        batches,
        batch_size=None,
        collate_fn=collate_fn,
        num_workers=num_workers,
        pin_memory=pin_memory,
        prefetch_factor=prefetch_factor,
    )
