"""The index of large manifests, kept in the cache folder for the next start.

It is used again while the manifests are the same files (size and times of change) and the code that checks lines is the
same. Where a data set checks files, every file that was looked at is looked at again by its size and times of change,
and the items of those that changed or vanished are checked anew: what ``check_files`` promises holds at each start.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unisono.data.vocabulary import Vocabulary
from unisono.files import cache_dir, locked, replaced_folder

if TYPE_CHECKING:
    from unisono.data.index import Index

logger = logging.getLogger(__name__)

_VERSION = 3
_CHECKING = (
    "unisono.data.index",
    "unisono.data.kept_index",
    "unisono.data.manifest",
    "unisono.data.vocabulary",
    "unisono.media.audio",
    "unisono.media.locations",
)
"""Modules that decide, beside the data set's own, which lines are accepted and what is kept of them."""
_KNOWN_FILES = 65_536
_STAT_THREADS = 16
_FILES_AT_ONCE = 4096
_GONE = 0
_MASK = (1 << 64) - 1


def stamp_of(path: str | bytes) -> int:
    """Size and times of change of a file in one number, 0 where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return _GONE
    # Odd factors mix without losing a bit; a chance of 2**-64 that a change is not seen.
    mixed = status.st_size * 0x9E3779B97F4A7C15 ^ status.st_mtime_ns * 0xC2B2AE3D27D4EB4F
    return (mixed ^ status.st_ctime_ns * 0x165667B19E3779F9) & _MASK | 1


@dataclass
class NamedFiles:
    """The files that the items of an index name, 8 bytes and its path each, and 8 bytes for each item of one.

    Attributes:
        paths: absolute, with a zero byte after each.
        stamps: uint64, see ``stamp_of``.
        file, row: int32, which file each row names, in the order of the rows.
    """

    paths: bytearray = field(default_factory=bytearray)
    stamps: Any = field(default_factory=lambda: array("Q"))
    file: Any = field(default_factory=lambda: array("i"))
    row: Any = field(default_factory=lambda: array("i"))
    _known: dict[Path, int] = field(default_factory=dict)

    def add(self, row: int, path: Path) -> None:
        if (number := self._known.get(path)) is None:
            if len(self._known) == _KNOWN_FILES:  # archives come again and again, files of items do not
                self._known.clear()
            number = self._known[path] = len(self.stamps)
            absolute = os.path.abspath(path)
            self.paths += os.fsencode(absolute) + b"\0"
            self.stamps.append(stamp_of(absolute))
        self.file.append(number)
        self.row.append(row)

    def changed_rows(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Among the first ``rows``, those with a file that is not as it was; and the stamps as they are now."""
        file, row = np.asarray(self.file, dtype=np.int32), np.asarray(self.row, dtype=np.int32)
        file = file[: np.searchsorted(row, rows)]
        looked_at = int(file.max()) + 1 if len(file) else 0
        now = np.array(self.stamps, dtype=np.uint64)
        paths = islice(_split(self.paths), looked_at)
        with ThreadPoolExecutor(_STAT_THREADS) as pool:  # waiting for a network's disk takes no processor
            begin = 0
            while blocks := [block for _ in range(_STAT_THREADS) if (block := list(islice(paths, _FILES_AT_ONCE)))]:
                for stamps in pool.map(lambda block: [stamp_of(path) for path in block], blocks):
                    now[begin : begin + len(stamps)] = stamps
                    begin += len(stamps)
        changed = now != np.asarray(self.stamps, dtype=np.uint64)
        return np.unique(row[: len(file)][changed[file]]), now


def _split(paths: bytes | bytearray | memoryview) -> Iterator[bytes]:
    """The paths one by one, a few at a time in memory."""
    rest, step = b"", 1 << 20
    for begin in range(0, len(paths), step):
        *whole, rest = (rest + bytes(paths[begin : begin + step])).split(b"\0")
        yield from whole


@dataclass(frozen=True)
class KeptIndex:
    """What is kept: the columns, the vocabulary and, where files are checked, the files."""

    index: Index
    files: NamedFiles | None


def cache_place(content: Path, audio: Path | None, split: str | None, kind: Any, items: Any) -> Path:
    """The folder of an index: by its manifests' places, the settings and the code that checks."""
    named = [str(content.resolve()), str(audio and audio.resolve()), split, kind, code_digest(type(items))]
    text = json.dumps(named, sort_keys=True)
    return cache_dir() / "index" / hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def code_digest(kind: type) -> str:
    """Of the source files that decide which lines a data set accepts."""
    names = {*_CHECKING, *(base.__module__ for base in kind.__mro__ if base.__module__ != "builtins")}
    digest = hashlib.blake2b(kind.__qualname__.encode(), digest_size=12)
    for name in sorted(names):
        if file := getattr(sys.modules.get(name), "__file__", None):
            digest.update(name.encode() + Path(file).read_bytes())
    return digest.hexdigest()


def manifest_stamps(content: Path, audio: Path | None) -> list[list[int]]:
    statuses = [os.stat(path) for path in (content, audio) if path is not None]
    return [[status.st_size, status.st_mtime_ns, status.st_ctime_ns] for status in statuses]


def load_kept(place: Path, stamps: list[list[int]], with_files: bool) -> KeptIndex | None:
    """The index of these very manifests, mapped into memory; None where there is none."""
    from unisono.data.index import COLUMNS, Index

    def column(name: str) -> np.ndarray:
        return np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    try:
        state = json.loads((place / "index.json").read_text(encoding="utf-8"))
        if state.get("version") != _VERSION or state.get("manifests") != stamps:
            return None
        columns = {name: column(name) for name in COLUMNS}
        vocabulary = Vocabulary(**state["vocabulary"])
        files = None
        if with_files:
            files = NamedFiles((place / "paths").read_bytes(), column("stamps"), column("file"), column("row"))  # type: ignore[arg-type]
            if len(files.file) != len(files.row) or files.paths.count(b"\0") != len(files.stamps):
                raise ValueError("its lists of files differ in length")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, AttributeError, KeyError, TypeError) as error:
        logger.warning("%s cannot be used (%s); the manifests are read again", place, error)
        return None
    if len({len(column) for column in columns.values()}) != 1:
        return None
    return KeptIndex(Index(**columns, vocabulary=vocabulary), files)


def keep(place: Path, kept: KeptIndex, stamps: list[list[int]]) -> None:
    """Keep an index for the next start; a full or read-only disk costs time there, nothing else."""
    from unisono.data.index import COLUMNS

    columns = {name: getattr(kept.index, name) for name in COLUMNS}
    if kept.files is not None:
        columns |= {"stamps": np.asarray(kept.files.stamps, dtype=np.uint64)}
        columns |= {name: np.asarray(getattr(kept.files, name), dtype=np.int32) for name in ("file", "row")}
    vocabulary = kept.index.vocabulary
    state = {
        "version": _VERSION,
        "manifests": stamps,
        "vocabulary": {"phonemes": vocabulary.phonemes, "speakers": vocabulary.speakers},
    }
    try:
        with locked(place.with_suffix(".lock")), replaced_folder(place) as folder:
            for name, column in columns.items():
                np.save(folder / f"{name}.npy", column, allow_pickle=False)
            if kept.files is not None:
                (folder / "paths").write_bytes(kept.files.paths)
            (folder / "index.json").write_text(json.dumps(state), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(place, ignore_errors=True)
        logger.warning("no index is kept in %s (%s); set UNISONO_CACHE to a folder", place, error)


def with_new_stamps(kept: KeptIndex, duration_s: np.ndarray, stamps: np.ndarray) -> KeptIndex:
    """The same with what was found by checking some of its items again."""
    assert kept.files is not None
    return KeptIndex(replace(kept.index, duration_s=duration_s), replace(kept.files, stamps=stamps))
