"""Where the items of a pair of manifests lie: arrays of numbers, not lists of objects.

An item costs 36 bytes here, whatever its line holds; the line is read from the file when the item is asked for. So ten
million items take 360 MB once, in pages that all workers of a machine share: the index of large manifests is kept in
the cache folder and mapped into memory, and the next start does not read the manifests at all
(:mod:`unisono.data.kept_index`).
"""

from __future__ import annotations

import hashlib
import logging
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unisono.data.kept_index import (
    KeptIndex,
    NamedFiles,
    cache_place,
    keep,
    load_kept,
    manifest_stamps,
    with_new_stamps,
)
from unisono.data.manifest import MAX_LINE_BYTES, Fields, parse_line, scan_lines, too_long_line
from unisono.data.vocabulary import Vocabulary
from unisono.errors import UserError
from unisono.media.locations import Location

logger = logging.getLogger(__name__)

CACHED_FROM_ITEMS = 50_000
"""Smaller manifests are read at each start; that takes less than a second or two."""

_NONE = -1
_LINE_BYTES = 4096
_MOST_READ_BYTES = 2**24
_AHEAD_LINES = 10_000
"""So far apart, in lines, an item's two lines may be for the second to be parsed once only."""


class Items(Protocol):
    """What an index asks a data set about its lines; see ``AudioGenerationDataset``."""

    @property
    def check_files(self) -> bool: ...

    def check_item(self, line: Fields, target: Fields | None) -> float: ...

    def input_files(self, line: Fields) -> tuple[tuple[str, Location], ...]: ...

    def other_files(self, line: Fields) -> tuple[tuple[str, Location], ...]: ...

    def symbolic_content(self, line: Fields) -> Sequence[Any]: ...


class ManifestFile:
    """Random access to the lines of a manifest, through one descriptor per process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, int] | None = None  # process, descriptor

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": None}

    def fields(self, offset: int, line: int) -> Fields:
        """The line that begins at byte ``offset``.

        Raises:
            UserError: it is no JSON object, or longer than ``MAX_LINE_BYTES``.
        """
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), os.open(self.path, os.O_RDONLY))
        parts, length, size = [], 0, _LINE_BYTES
        # Not a memory map: a file that is cut off under it would end the process.
        while part := os.pread(self._opened[1], size, offset + length):
            end = part.find(b"\n")
            parts.append(part if end < 0 else part[:end])
            length += len(parts[-1])
            if length > MAX_LINE_BYTES:
                raise too_long_line(f"{self.path}:{line}")
            if end >= 0:
                break
            size = min(2 * size, _MOST_READ_BYTES)
        return Fields(self.path, line, parse_line(f"{self.path}:{line}", b"".join(parts)))

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
        vocabulary: the symbols of all items that were read, those of rows left out later included.
    """

    content_offset: np.ndarray
    content_line: np.ndarray
    audio_offset: np.ndarray
    audio_line: np.ndarray
    id_hash: np.ndarray
    duration_s: np.ndarray
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    def __len__(self) -> int:
        return len(self.duration_s)

    def __reduce__(self) -> tuple[Any, ...]:
        """A mapped column travels as the place of its file, so that spawned workers share its pages too."""
        return _from_columns, ({name: _packed(getattr(self, name)) for name in COLUMNS}, self.vocabulary)

    def rows(self, chosen: np.ndarray | slice) -> Index:
        """Some of the rows; a slice copies nothing."""
        return Index(**{name: getattr(self, name)[chosen] for name in COLUMNS}, vocabulary=self.vocabulary)

    def lines(self, row: int, content: ManifestFile, audio: ManifestFile | None) -> tuple[Fields, Fields | None]:
        """A row's lines of both manifests."""
        line = content.fields(int(self.content_offset[row]), int(self.content_line[row]))
        if audio is None:
            return line, None
        return line, audio.fields(int(self.audio_offset[row]), int(self.audio_line[row]))


COLUMNS: dict[str, Any] = {
    "content_offset": np.int64,
    "content_line": np.int32,
    "audio_offset": np.int64,
    "audio_line": np.int32,
    "id_hash": np.uint64,
    "duration_s": np.float32,
}
_TYPE_CODES: dict[Any, str] = {np.int64: "q", np.int32: "i", np.uint64: "Q", np.float32: "f"}


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


def _from_columns(columns: dict[str, Any], vocabulary: Vocabulary) -> Index:
    return Index(**{name: _unpacked(column) for name, column in columns.items()}, vocabulary=vocabulary)


def _unpacked(column: Any) -> np.ndarray:
    if not isinstance(column, _Mapped):
        return column
    if os.stat(column.path).st_mtime_ns != column.mtime_ns:
        raise UserError(f"{column.path} was replaced while this run began; start it again")
    return np.load(column.path, mmap_mode="r", allow_pickle=False)


def id_hash(audio_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(audio_id.encode(), digest_size=8).digest(), "little")


def build_index(
    content: Path, audio: Path | None, items: Items, *, split: str | None, kind: Any, max_samples: int | None
) -> Index:
    """Read, join and check a pair of manifests, or take the index that was kept from the last time.

    Args:
        content, audio: the manifests; ``audio`` is None where there are no targets.
        items: checks each item, and says which files and symbols it has.
        split: take only lines whose ``split`` (of either manifest) is this one.
        kind: whatever else decides what ``items`` accepts; with it the kept index is found again.
        max_samples: stop after so many items; what comes after them is not looked at.

    Raises:
        UserError: for the first line that cannot be used.
    """
    for path in (content, audio):
        if path is not None and not path.is_file():
            next(scan_lines(path))  # raises
    place, stamps = cache_place(content, audio, split, kind, items), manifest_stamps(content, audio)
    if (kept := load_kept(place, stamps, items.check_files)) is not None:
        return _checked_again(kept, content, audio, items, max_samples, place, stamps)
    index, files = _read(content, audio, items, split, max_samples)
    if len(index) >= CACHED_FROM_ITEMS and max_samples is None:
        keep(place, KeptIndex(index, files), stamps)
    return index


def _checked_again(
    kept: KeptIndex,
    content: Path,
    audio: Path | None,
    items: Items,
    max_samples: int | None,
    place: Path,
    stamps: list[list[int]],
) -> Index:
    """A kept index, after its items were checked whose files have changed."""
    index = kept.index
    number = len(index) if max_samples is None else min(max_samples, len(index))
    if kept.files is not None:
        changed, file_stamps = kept.files.changed_rows(number)
        if len(changed):
            logger.info("%s: files of %d items have changed; these are checked again", content, len(changed))
            files = ManifestFile(content), None if audio is None else ManifestFile(audio)
            duration_s = np.array(index.duration_s)
            for row in changed:
                line, target = index.lines(int(row), *files)
                duration_s[row] = items.check_item(line, target)
                for symbols in items.symbolic_content(line):
                    index.vocabulary.add(line.line, symbols)
            kept = with_new_stamps(kept, duration_s, file_stamps)
            index = kept.index
            if max_samples is None:
                keep(place, kept, stamps)
    return index if max_samples is None else index.rows(slice(max_samples))


# -- reading ----------------------------------------------------------------------------------------------------------


def item_files(items: Items, line: Fields, target: Fields | None) -> Iterator[Path]:
    """The files, or archives, that an item's lines name."""
    if target is not None:
        yield target.location("audio").path
    for _, location in (*items.input_files(line), *items.other_files(line)):
        yield location.path


class _Targets:
    """The lines of ``audio.jsonl``, read beside those of ``content.jsonl`` and found by ``audio_id``.

    Where both manifests have one order, or nearly, each line is parsed once; lines that lie far from their place are
    read a second time.
    """

    def __init__(self, path: Path) -> None:
        self.file = ManifestFile(path)
        self.offsets, self.lines, self.hashes = array("q"), array("i"), array("Q")
        self._unread, self._name = scan_lines(path), str(path)
        self._ahead: dict[int, tuple[int, Fields]] = {}  # passed over, by hash: row and line
        self._order: np.ndarray | None = None
        self._sorted = np.zeros(0, dtype=np.uint64)
        self._used = bytearray()

    def _next(self) -> tuple[int, Fields] | None:
        """Row and content of the next line; None behind the last."""
        for number, offset, raw in self._unread:
            fields = Fields(self.file.path, number, parse_line(f"{self._name}:{number}", raw))
            hashed = id_hash(fields.audio_id())
            self.offsets.append(offset)
            self.lines.append(number)
            self.hashes.append(hashed)
            self._used.append(0)
            return len(self.hashes) - 1, fields
        return None

    def find(self, wanted: int) -> tuple[int, Fields] | None:
        """Row and line of an ``audio_id``'s hash; None if there is none."""
        found = self._ahead.pop(wanted, None)
        while found is None and len(self._ahead) < _AHEAD_LINES and (line := self._next()) is not None:
            if self.hashes[line[0]] == wanted:
                found = line
            else:
                self._ahead[self.hashes[line[0]]] = line
        if found is None:
            row = self._row(wanted)
            found = None if row is None else (row, self.file.fields(self.offsets[row], self.lines[row]))
        if found is not None:
            self._used[found[0]] = 1
        return found

    def _row(self, wanted: int) -> int | None:
        """Row of a line anywhere in the file."""
        if self._order is None:
            self._read_rest()
        assert self._order is not None
        place = int(np.searchsorted(self._sorted, np.uint64(wanted)))
        if place >= len(self._sorted) or int(self._sorted[place]) != wanted:
            return None
        return int(self._order[place])

    def _read_rest(self) -> None:
        while self._next() is not None:
            pass
        if not self.hashes:
            raise UserError(f"{self.file.path}: the manifest has no items")
        hashes = np.frombuffer(self.hashes, dtype=np.uint64)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def check_rest(self, content: Path) -> None:
        """Raise for ids that come twice, and for lines that ``content`` did not ask for."""
        if self._order is None:
            self._read_rest()
        assert self._order is not None
        _refuse_repeated(self.file, self._sorted, self._order, self.offsets, self.lines)
        if (row := self._used.find(0)) >= 0:
            extra = self.file.fields(self.offsets[row], self.lines[row])
            raise extra.fail(
                f"audio_id {extra.audio_id()!r} has no line in {content}; add it there or remove this line"
            )


def _read(
    content: Path, audio: Path | None, items: Items, split: str | None, max_samples: int | None
) -> tuple[Index, NamedFiles | None]:
    targets = None if audio is None else _Targets(audio)
    columns: dict[str, array] = {name: array(_TYPE_CODES[kind]) for name, kind in COLUMNS.items()}
    vocabulary, files = Vocabulary(), NamedFiles() if items.check_files else None
    found, name = False, str(content)
    for number, offset, raw in scan_lines(content):
        found = True
        line = Fields(content, number, parse_line(f"{name}:{number}", raw))
        hashed = id_hash(line.audio_id())
        target, place = None, (_NONE, _NONE)
        if targets is not None:
            row, target = _target_of(targets, line, hashed)
            place = (targets.offsets[row], targets.lines[row])
        if not _is_of_split(split, line, target):
            continue
        duration_s = items.check_item(line, target)
        for symbols in items.symbolic_content(line):
            vocabulary.add(number, symbols)
        if files is not None:
            for path in item_files(items, line, target):
                files.add(len(columns["id_hash"]), path)
        for column, value in zip(columns.values(), (offset, number, *place, hashed, duration_s), strict=True):
            column.append(value)
        if max_samples is not None and len(columns["id_hash"]) >= max_samples:
            break
    if not found:
        raise UserError(f"{content}: the manifest has no items")
    arrays = {name: np.frombuffer(column, dtype=COLUMNS[name]) for name, column in columns.items() if len(column)}
    if arrays:
        order = np.argsort(arrays["id_hash"], kind="stable")
        lines = ManifestFile(content)
        _refuse_repeated(lines, arrays["id_hash"][order], order, columns["content_offset"], columns["content_line"])
    if targets is not None and max_samples is None:
        targets.check_rest(content)
    if not arrays:
        raise UserError(f"{content}: no item is of the split {split!r}; correct `split` or the manifest's field")
    return Index(**arrays, vocabulary=vocabulary), files


def _target_of(targets: _Targets, line: Fields, hashed: int) -> tuple[int, Fields]:
    found = targets.find(hashed)
    if found is None:
        raise line.fail(
            f"audio_id {line.audio_id()!r} has no line in {targets.file.path}; add it there or remove this line"
        )
    if (other := found[1].record["audio_id"]) != line.record["audio_id"]:
        raise line.fail(f"audio_id {line.record['audio_id']!r} and {other!r} have one hash; rename one")
    return found


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
