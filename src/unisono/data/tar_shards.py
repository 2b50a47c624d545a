"""Writing tar shards in the WebDataset convention, which ``unisono.data.streaming`` reads.

A first pass over the lines says how large each item will be, and so which items each shard holds; then shards are
written side by side. A shard is there whole or not at all, so a run that was killed goes on with those that are
missing, and the result is the same bytes as in one go.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile as sf
from tqdm import tqdm

from unisono.data.datasets.base import AudioGenerationDataset
from unisono.data.kept_index import stamp_of
from unisono.data.vocabulary import Vocabulary
from unisono.errors import UserError
from unisono.files import locked, replaced_file, write_json
from unisono.media.audio import open_audio
from unisono.media.locations import Location, hdf5_dataset, read_array
from unisono.workers import default_workers, worker_pool

_LAYOUT_VERSION = 1
_MOST_BYTES = 1_000_000_000
_LEAST_SHARDS = 32
"""Of shards without a given size, where there are as many items: twice as many as a stream's loader deals them to."""
_PLANNED_ITEMS = 2000
_JOBS_AHEAD = 256
_SERIAL_ITEMS = 500
"""Fewer items are written sooner than processes start."""

T = TypeVar("T")
R = TypeVar("R")


def write_shards(
    dataset: AudioGenerationDataset,
    folder: Path,
    *,
    max_bytes: int | None = None,
    name: str = "shard",
    workers: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Write a data set's items as tar shards ``NAME-000000.tar`` …, the files as they are.

    Args:
        dataset: made from manifests.
        folder: for the shards; made if it is not there. It holds no shards of that name, or those of a run for the same
            data that did not come to its end.
        max_bytes: a shard is ended before it exceeds this, unless a single item does; None makes 32 shards, or more of
            a gigabyte.
        name: the shards' first name.
        workers: processes; default: one per core, one for few items.
        progress: show a bar.

    Returns:
        The shards' paths; each is there whole or not at all.

    Raises:
        UserError: there are other shards of that name already; two items whose names in a shard would be one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if workers is None:
        workers = default_workers() if len(dataset) >= _SERIAL_ITEMS else 1
    refusal = f"another process writes shards {name} in {folder}; wait for its end, or choose another folder or name"
    with (
        locked(folder / f".{name}.lock", refusal=refusal),
        worker_pool(workers) if workers > 1 else nullcontext() as pool,
    ):
        try:
            return _written(dataset, folder, max_bytes, name, pool, progress)
        except BaseException as error:
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, BrokenProcessPool | OSError):  # want of memory, or of room on the disk
                raise UserError(
                    f"{folder}: {error}; finished shards are kept: mend that and give the same command again, with "
                    "fewer --workers where a process was killed"
                ) from error
            raise


def _written(
    dataset: AudioGenerationDataset,
    folder: Path,
    max_bytes: int | None,
    name: str,
    pool: ProcessPoolExecutor | None,
    progress: bool,
) -> list[Path]:
    plan_file = folder / f".{name}.plan.json"
    if not plan_file.is_file():
        _refuse_present(folder, name)  # before the work of planning
    plan = _planned(dataset, max_bytes, pool, progress)
    if plan_file.is_file() and json.loads(plan_file.read_text(encoding="utf-8")) != plan.digest:
        _refuse_present(folder, name, f" for other data or another size (with {plan_file.name})")
    write_json(plan_file, plan.digest)
    for half in folder.glob(f".{name}-*.tar.*.tmp"):
        half.unlink()
    paths = [folder / f"{name}-{number:06d}.tar" for number in range(len(plan.begins))]
    ends = [*plan.begins[1:], len(dataset)]
    missing = [
        (_part(dataset, begin, end), path)
        for path, begin, end in zip(paths, plan.begins, ends, strict=True)
        if not path.is_file()
    ]
    left = sum(len(part) for part, _ in missing)
    with tqdm(
        total=len(dataset),
        initial=len(dataset) - left,
        unit="item",
        desc="shards",
        disable=not progress,
        dynamic_ncols=True,
    ) as bar:
        for number in _done(pool, _write_shard, missing):
            bar.update(number)
    plan_file.unlink()
    return paths


def _refuse_present(folder: Path, name: str, why: str = "") -> None:
    if present := sorted(folder.glob(f"{name}-*.tar")):
        raise UserError(f"{present[0]} is there already{why}; remove it, or choose another folder or name")


def _done(pool: ProcessPoolExecutor | None, function: Callable[[T], R], jobs: Iterable[T]) -> Iterator[R]:
    """Results in the order of the jobs, of which a few at a time are handed out."""
    if pool is None:
        yield from map(function, jobs)
        return
    running: deque = deque()
    for job in jobs:
        running.append(pool.submit(function, job))
        if len(running) > _JOBS_AHEAD:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _part(dataset: AudioGenerationDataset, begin: int, end: int) -> AudioGenerationDataset:
    """Some of a data set's items, small enough to be sent to another process."""
    part = copy.copy(dataset)
    part.index = replace(dataset.index.rows(slice(begin, end)), vocabulary=Vocabulary())
    part.durations_s = part.index.duration_s
    return part


# -- plan -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """The first item of each shard, and a digest of all that the shards are made from."""

    begins: list[int]
    digest: str


def _planned(
    dataset: AudioGenerationDataset, max_bytes: int | None, pool: ProcessPoolExecutor | None, progress: bool
) -> _Plan:
    tables = []
    parts = (_part(dataset, begin, begin + _PLANNED_ITEMS) for begin in range(0, len(dataset), _PLANNED_ITEMS))
    with tqdm(total=len(dataset), unit="item", desc="plan", disable=not progress, dynamic_ncols=True) as bar:
        for table in _done(pool, _described, parts):
            tables.append(table)
            bar.update(len(table))
    table = np.concatenate(tables)
    _refuse_equal_keys(dataset, table["key"])
    sizes = table["size"].astype(np.int64)
    if max_bytes is None:
        max_bytes = min(_MOST_BYTES, -(-int(sizes.sum()) // _LEAST_SHARDS) + tarfile.RECORDSIZE)
    digest = hashlib.blake2b(json.dumps([_LAYOUT_VERSION, max_bytes]).encode(), digest_size=16)
    digest.update(table.tobytes())
    return _Plan(_begins(sizes, max_bytes), digest.hexdigest())


def _begins(sizes: np.ndarray, max_bytes: int) -> list[int]:
    """First item of each shard, which holds as many as do not exceed ``max_bytes``, one at least."""
    ends, begins = np.cumsum(sizes), [0]
    room = max_bytes - tarfile.RECORDSIZE  # an archive's end is filled up to whole records
    while True:
        used = int(ends[begins[-1] - 1]) if begins[-1] else 0
        end = max(int(np.searchsorted(ends, used + room, side="right")), begins[-1] + 1)
        if end >= len(sizes):
            return begins
        begins.append(end)


_DESCRIPTION = np.dtype([("size", np.uint64), ("key", np.uint64), ("digest", np.uint64)])


def _described(part: AudioGenerationDataset) -> np.ndarray:
    """Per item: bytes in an archive, hash of its key, hash of its line and of its files' stamps."""
    rows = np.zeros(len(part), dtype=_DESCRIPTION)
    for index in range(len(part)):
        record, files = _parts(part, index)
        key, line = _key(record["audio_id"]), _json(record)
        size = _member_bytes(f"{key}.json", len(line))
        seen = [line]
        for field, location in files.items():
            with _told(part, index, field, location):
                size += _member_bytes(f"{key}.{field}.suffix", _size(location))
            seen += [f"{field}={location}".encode(), stamp_of(str(location.path)).to_bytes(8, "little")]
        rows[index] = size, _hash(key.encode()), _hash(b"\0".join(seen))
    return rows


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _member_bytes(name: str, size: int) -> int:
    """A member's header, or headers for a long name or one in another script, and its data in whole blocks."""
    headers = 1 if name.isascii() and len(name) <= tarfile.LENGTH_NAME else 3
    return headers * tarfile.BLOCKSIZE + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _refuse_equal_keys(dataset: AudioGenerationDataset, keys: np.ndarray) -> None:
    order = np.argsort(keys, kind="stable")
    equal = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if len(equal):
        other, index = sorted(int(order[place]) for place in (equal[0], equal[0] + 1))
        raise dataset.line(index).fail(
            f"audio_id {dataset.audio_id(index)!r} and {dataset.audio_id(other)!r} would have one name in a shard, "
            "where dots become underscores; rename one"
        )


def _key(audio_id: str) -> str:
    return audio_id.replace(".", "_")


def _json(record: dict) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


def _size(location: Location) -> int:
    """Bytes of a file of its own, at most: numbers of an archive may be written as float32 with a header."""
    if location.member is None:
        return os.stat(location.path).st_size
    if location.is_hdf5:
        numbers = hdf5_dataset(location)
        return max(numbers.nbytes, 4 * numbers.size) + tarfile.BLOCKSIZE
    return len(location.read_bytes()) + tarfile.BLOCKSIZE


# -- items ------------------------------------------------------------------------------------------------------------


def _write_shard(job: tuple[AudioGenerationDataset, Path]) -> int:
    """Write a part as a shard; returns its number of items."""
    part, path = job
    with replaced_file(path) as temporary, tarfile.open(temporary, "w") as archive:
        for index in range(len(part)):
            _add(archive, part, index)
    return len(part)


def _parts(dataset: AudioGenerationDataset, index: int) -> tuple[dict, dict[str, Location]]:
    """An item's line without its files, and its files by field."""
    line = dataset.line(index)
    files = dict([*dataset.input_files(line), *dataset.other_files(line)])
    record = dict(line.record)
    if dataset.has_targets:
        recording = dataset.target_line(index)
        record = {**recording.record, **record}
        files["audio"] = recording.location("audio")
    return {name: value for name, value in record.items() if name not in files}, files


@contextmanager
def _told(dataset: AudioGenerationDataset, index: int, field: str, location: Location) -> Iterator[None]:
    """Name the line of a file that cannot be read."""
    try:
        yield
    except (OSError, UserError) as error:
        line = dataset.target_line(index) if field == "audio" and dataset.has_targets else dataset.line(index)
        reason = error.strerror if isinstance(error, OSError) else error
        raise line.fail(f"field {field!r} names {location}: {reason}; correct the path or the file") from error


def _file_of(location: Location, is_recording: bool) -> tuple[str, bytes]:
    """Ending and bytes of a file of its own; what lies as numbers in another archive becomes wav or npy."""
    if location.member is None or location.is_tar:
        return location.suffix, location.read_bytes()
    if location.is_hdf5 and hdf5_dataset(location).dtype == np.uint8:
        return (".flac" if is_recording else location.suffix or ".bin"), location.read_bytes()  # read by its content
    buffer = io.BytesIO()
    if is_recording:
        with open_audio(location) as reader:
            sf.write(buffer, reader.read(0, reader.num_frames), reader.sample_rate, format="WAV", subtype="FLOAT")
        return ".wav", buffer.getvalue()
    np.save(buffer, read_array(location))
    return ".npy", buffer.getvalue()


def _add(archive: tarfile.TarFile, dataset: AudioGenerationDataset, index: int) -> None:
    record, files = _parts(dataset, index)
    key = _key(record["audio_id"])
    members = {f"{key}.json": _json(record)}
    recordings = {"audio", *(name for name, _ in dataset.input_files(dataset.line(index)))}
    for field, location in files.items():
        with _told(dataset, index, field, location):
            ending, data = _file_of(location, field in recordings)
        members[f"{key}{ending}" if field == "audio" else f"{key}.{field}{ending}"] = data
    for member, data in members.items():
        info = tarfile.TarInfo(member)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    archive.members = []  # type: ignore[attr-defined]  # or it remembers all it has written
