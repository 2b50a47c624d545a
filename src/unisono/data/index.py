"""Where the items of a pair of manifests lie: arrays of numbers, not lists of objects.

An item costs 36 bytes here, whatever its line holds; the line is read from the file when the item is asked for. So ten
million items take 360 MB once, in pages that all workers of a machine share: the index of large manifests is kept in
the cache folder and mapped into memory, and the next start does not read the manifests at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from array import array
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from unisono.data.manifest import Fields, parse_line, scan_lines
from unisono.errors import UserError
from unisono.files import cache_dir, locked, replaced_folder

logger = logging.getLogger(__name__)

CACHED_FROM_ITEMS = 50_000
"""Smaller manifests are read at each start; that takes less than a second or two."""

_VERSION = 1
_NONE = -1
_LINE_BYTES = 4096

Check = Callable[[Fields, Fields | None], float]
"""Checks an item's content and target lines, and returns the target's seconds (0 without a target)."""


class ManifestFile:
    """Random access to the lines of a manifest, through one descriptor per process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, int] | None = None  # process, descriptor

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": None}

    def fields(self, offset: int, line: int) -> Fields:
        """The line that begins at byte ``offset``."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), os.open(self.path, os.O_RDONLY))
        raw = b""
        # Not a memory map: a file that is cut off under it would end the process.
        while b"\n" not in raw and (part := os.pread(self._opened[1], _LINE_BYTES, offset + len(raw))):
            raw += part
        return Fields(self.path, line, parse_line(f"{self.path}:{line}", raw.partition(b"\n")[0]))

    def __del__(self) -> None:
        if self._opened is not None and self._opened[0] == os.getpid():
            os.close(self._opened[1])


@dataclass(frozen=True)
class Index:
    """One row per item, in the order of ``content.jsonl``.

    Attributes:
        content_offset, audio_offset: int64, first byte of the item's lines; audio is -1 without targets.
        content_line, audio_line: int32 line numbers, for messages.
        id_hash: uint64 of the ``audio_id``; tells whether a manifest was changed under a run.
        duration_s: float32 seconds of the target, 0 without.
    """

    content_offset: np.ndarray
    content_line: np.ndarray
    audio_offset: np.ndarray
    audio_line: np.ndarray
    id_hash: np.ndarray
    duration_s: np.ndarray

    def __len__(self) -> int:
        return len(self.duration_s)

    def __reduce__(self) -> tuple[Any, ...]:
        """A mapped column travels as the place of its file, so that spawned workers share its pages too."""
        return _from_columns, ({f.name: _packed(getattr(self, f.name)) for f in fields(self)},)

    def rows(self, chosen: np.ndarray | slice) -> Index:
        """Some of the rows; a slice copies nothing."""
        return Index(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


def _packed(column: np.ndarray) -> Any:
    """A whole mapped ``.npy`` file as its path and stamp; anything else as it is."""
    path = getattr(column, "filename", None)
    if not isinstance(column, np.memmap) or path is None or column.nbytes + column.offset != os.stat(path).st_size:
        return np.asarray(column)
    return _Mapped(str(path), os.stat(path).st_mtime_ns)


@dataclass(frozen=True)
class _Mapped:
    path: str
    mtime_ns: int


def _from_columns(columns: dict[str, Any]) -> Index:
    return Index(**{name: _unpacked(column) for name, column in columns.items()})


def _unpacked(column: Any) -> np.ndarray:
    if not isinstance(column, _Mapped):
        return column
    if os.stat(column.path).st_mtime_ns != column.mtime_ns:
        raise UserError(f"{column.path} was replaced while this run began; start it again")
    return np.load(column.path, mmap_mode="r", allow_pickle=False)


_TYPES: dict[str, Any] = {
    "content_offset": np.int64,
    "content_line": np.int32,
    "audio_offset": np.int64,
    "audio_line": np.int32,
    "id_hash": np.uint64,
    "duration_s": np.float32,
}

_TYPE_CODES: dict[Any, str] = {np.int64: "q", np.int32: "i", np.uint64: "Q", np.float32: "f"}


def id_hash(audio_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(audio_id.encode(), digest_size=8).digest(), "little")


def build_index(
    content: Path, audio: Path | None, check: Check, *, split: str | None, kind: Any, max_samples: int | None
) -> Index:
    """Read, join and check a pair of manifests, or take the index that was kept from the last time.

    Args:
        content, audio: the manifests; ``audio`` is None where there are no targets.
        check: of each item.
        split: take only lines whose ``split`` (of either manifest) is this one.
        kind: whatever else decides what ``check`` accepts; with it the kept index is found again.
        max_samples: stop after so many items.

    Raises:
        UserError: for the first line that cannot be used.
    """
    for path in (content, audio):
        if path is not None and not path.is_file():
            next(scan_lines(path))  # raises
    place, stamps = _cache_place(content, audio, split, kind), _stamps(content, audio)
    if (kept := _kept(place, stamps)) is not None:
        return kept if max_samples is None else kept.rows(slice(max_samples))
    index = _read(content, audio, check, split, max_samples)
    if len(index) >= CACHED_FROM_ITEMS and max_samples is None:
        _keep(place, index, stamps)
    return index


# -- reading ----------------------------------------------------------------------------------------------------------


class _Targets:
    """The lines of ``audio.jsonl``, found by ``audio_id``."""

    def __init__(self, path: Path) -> None:
        self.file = ManifestFile(path)
        self.offsets, self.lines, self.hashes = array("q"), array("i"), array("Q")
        for number, offset, raw in scan_lines(path):
            audio_id = Fields(path, number, parse_line(f"{path}:{number}", raw)).audio_id()
            self.offsets.append(offset)
            self.lines.append(number)
            self.hashes.append(id_hash(audio_id))
        if not self.hashes:
            raise UserError(f"{path}: the manifest has no items")
        hashes = np.frombuffer(self.hashes, dtype=np.uint64)
        self.order = np.argsort(hashes, kind="stable")
        self.sorted = hashes[self.order]
        _refuse_repeated(self.file, self.sorted, self.order, self.offsets, self.lines)
        self.used = np.zeros(len(hashes), dtype=bool)
        self._next = 0

    def find(self, wanted: int) -> int | None:
        """Row of an ``audio_id``'s hash; usually both manifests have the same order."""
        row = self._next
        if row >= len(self.hashes) or self.hashes[row] != wanted:
            place = int(np.searchsorted(self.sorted, np.uint64(wanted)))
            if place >= len(self.sorted) or int(self.sorted[place]) != wanted:
                return None
            row = int(self.order[place])
        self._next = row + 1
        self.used[row] = True
        return row

    def fields(self, row: int) -> Fields:
        return self.file.fields(self.offsets[row], self.lines[row])


def _read(content: Path, audio: Path | None, check: Check, split: str | None, max_samples: int | None) -> Index:
    targets = None if audio is None else _Targets(audio)
    columns: dict[str, array] = {name: array(_TYPE_CODES[kind]) for name, kind in _TYPES.items()}
    found = False
    for number, offset, raw in scan_lines(content):
        found = True
        line = Fields(content, number, parse_line(f"{content}:{number}", raw))
        hashed = id_hash(line.audio_id())
        target, row = None, _NONE
        if targets is not None:
            match = targets.find(hashed)
            if match is None:
                raise line.fail(
                    f"audio_id {line.audio_id()!r} has no line in {audio}; add it there or remove this line"
                )
            row, target = match, targets.fields(match)
            if target.audio_id() != line.audio_id():
                raise line.fail(f"audio_id {line.audio_id()!r} and {target.audio_id()!r} have one hash; rename one")
        if not _is_of_split(split, line, target):
            continue
        duration_s = check(line, target)
        at = (targets.offsets[row], targets.lines[row]) if targets is not None else (_NONE, _NONE)
        values = (offset, number, *at, hashed, duration_s)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
        if max_samples is not None and len(columns["id_hash"]) >= max_samples:
            break
    if not found:
        raise UserError(f"{content}: the manifest has no items")
    index = Index(**{name: np.frombuffer(column, dtype=_TYPES[name]) for name, column in columns.items()})
    order = np.argsort(index.id_hash, kind="stable")
    _refuse_repeated(ManifestFile(content), index.id_hash[order], order, index.content_offset, index.content_line)
    if targets is not None and max_samples is None and not targets.used.all():
        extra = targets.fields(int(np.flatnonzero(~targets.used)[0]))
        raise extra.fail(f"audio_id {extra.audio_id()!r} has no line in {content}; add it there or remove this line")
    if not len(index):
        raise UserError(f"{content}: no item is of the split {split!r}; correct `split` or the manifest's field")
    return index


def _is_of_split(split: str | None, line: Fields, target: Fields | None) -> bool:
    if split is None:
        return True
    own = line.text("split", None)
    return (own if own is not None or target is None else target.text("split", None)) == split


def _refuse_repeated(file: ManifestFile, hashes: np.ndarray, order: np.ndarray, offsets: Any, lines: Any) -> None:
    repeated = np.flatnonzero(hashes[1:] == hashes[:-1])
    if len(repeated):
        first, second = sorted(int(order[place]) for place in (repeated[0], repeated[0] + 1))
        again = file.fields(int(offsets[second]), int(lines[second]))
        raise again.fail(
            f"audio_id {again.record['audio_id']!r} was used on line {int(lines[first])} already; ids are unique"
        )


# -- keeping ----------------------------------------------------------------------------------------------------------


def _cache_place(content: Path, audio: Path | None, split: str | None, kind: Any) -> Path:
    named = json.dumps([str(content.resolve()), str(audio and audio.resolve()), split, kind], sort_keys=True)
    return cache_dir() / "index" / hashlib.blake2b(named.encode(), digest_size=12).hexdigest()


def _stamps(content: Path, audio: Path | None) -> list[list[int]]:
    statuses = [os.stat(path) for path in (content, audio) if path is not None]
    return [[status.st_size, status.st_mtime_ns, status.st_ctime_ns] for status in statuses]


def _kept(place: Path, stamps: list[list[int]]) -> Index | None:
    """The index of these very files, mapped into memory; None where there is none."""
    try:
        state = json.loads((place / "index.json").read_text(encoding="utf-8"))
        if state != {"version": _VERSION, "manifests": stamps}:
            return None
        columns = {name: np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _TYPES}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        logger.warning("%s cannot be used (%s); the manifests are read again", place, error)
        return None
    return Index(**columns) if len({len(column) for column in columns.values()}) == 1 else None


def _keep(place: Path, index: Index, stamps: list[list[int]]) -> None:
    """Keep an index for the next start; a full or read-only disk costs time there, nothing else."""
    try:
        with locked(place.with_suffix(".lock")), replaced_folder(place) as folder:
            for name in _TYPES:
                np.save(folder / f"{name}.npy", getattr(index, name), allow_pickle=False)
            state = {"version": _VERSION, "manifests": stamps}
            (folder / "index.json").write_text(json.dumps(state), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(place, ignore_errors=True)
        logger.warning("no index is kept in %s (%s); set UNISONO_CACHE to a folder", place, error)
