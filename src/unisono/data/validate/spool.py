"""What is too much for memory: records in a temporary file, and digests in arrays of numbers."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from unisono.errors import UserError

DIGEST_BYTES = 16
_AT_ONCE_BYTES = 4096  # more than most records have
_LENGTH_BYTES = 4


class Spool:
    """Records in a file without a name, found again by their offset; it is gone with the process, however that ends."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._end = 0
        self._flushed = True

    def add(self, record: bytes) -> int:
        """Append a record; returns where it lies."""
        offset = self._end
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="unisono_")  # noqa: SIM115
            self._file.write(len(record).to_bytes(_LENGTH_BYTES, "little") + record)
        except OSError as error:
            raise _no_room(error) from error
        self._end += _LENGTH_BYTES + len(record)
        self._flushed = False
        return offset

    def read(self, offset: int) -> bytes:
        """The record that was added there."""
        assert self._file is not None, "nothing was added"
        if not self._flushed:
            try:
                self._file.flush()
            except OSError as error:
                raise _no_room(error) from error
            self._flushed = True
        handle = self._file.fileno()
        raw = os.pread(handle, _AT_ONCE_BYTES, offset)
        end = _LENGTH_BYTES + int.from_bytes(raw[:_LENGTH_BYTES], "little")
        if len(raw) < end:
            raw += os.pread(handle, end - len(raw), offset + len(raw))
        return raw[_LENGTH_BYTES:end]


class RowFile:
    """Rows of equal size in a file without a name, uint8 ``(size,)`` each; rows that were not written are zeros."""

    def __init__(self, size: int) -> None:
        self.size = size
        try:
            self._file = tempfile.TemporaryFile(prefix="unisono_", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise _no_room(error) from error

    def write(self, first: int, rows: np.ndarray) -> None:
        """Put rows ``(n, size)``, or one ``(size,)``, from row ``first`` on."""
        try:
            os.pwrite(self._file.fileno(), np.ascontiguousarray(rows, dtype=np.uint8).tobytes(), first * self.size)
        except OSError as error:
            raise _no_room(error) from error

    def read(self, first: int, count: int) -> np.ndarray:
        """``(count, size)``."""
        raw = os.pread(self._file.fileno(), count * self.size, first * self.size)
        return np.frombuffer(raw.ljust(count * self.size, b"\0"), dtype=np.uint8).reshape(count, self.size)


def _no_room(error: OSError) -> UserError:
    return UserError(
        f"{tempfile.gettempdir()}: no room for temporary files ({error.strerror or error}); set TMPDIR to a folder "
        "that has some"
    )


def digest_of(*parts: str) -> bytes:
    """16 bytes; file names need not be UTF-8."""
    return hashlib.blake2b(
        b"\0".join(part.encode("utf-8", "surrogateescape") for part in parts), digest_size=DIGEST_BYTES
    ).digest()


class Digests:
    """A list of digests, 16 bytes each."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, digest: bytes | None) -> None:
        """Append one; None is zeros."""
        self._bytes += digest or bytes(DIGEST_BYTES)

    def __len__(self) -> int:
        return len(self._bytes) // DIGEST_BYTES

    def keys(self) -> np.ndarray:
        """uint64 ``(n, 2)``; nothing can be added any more."""
        return np.frombuffer(self._bytes, dtype=np.uint64).reshape(-1, 2)


def group_numbers(keys: np.ndarray) -> np.ndarray:
    """int32 ``(n,)``: equal rows of ``keys`` ``(n, 2)`` have equal numbers, from 0 up in no particular order."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    changes = np.zeros(len(keys), dtype=np.int32)
    if len(keys):
        ordered = keys[order]
        changes[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    numbers = np.empty(len(keys), dtype=np.int32)
    numbers[order] = np.cumsum(changes, dtype=np.int32)
    return numbers


def repeated(numbers: np.ndarray) -> Iterator[np.ndarray]:
    """Places of equal ``numbers`` that occur more than once, each time all of them in ascending order."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else order
    ends = np.append(starts[1:], len(ordered))
    for which in np.flatnonzero(ends - starts > 1):
        yield order[starts[which] : ends[which]]
