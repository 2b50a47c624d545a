"""What a file holds, in 128 bits; remembered by path and time of change, so that a file is read only once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from unisono.data.feature_cache.table import KEY_BYTES, KeyTable, split_keys
from unisono.errors import UserError
from unisono.files import locked
from unisono.media.locations import Location, hdf5_dataset, read_array

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 20
# File systems note changes in steps of up to 10 ms: two within one step have the same stamp.
_STAMP_STEP_S = 0.05
_ATTEMPTS = 3
_MAX_UNSAVED = 1 << 18


def text_digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()


def content_digest(location: Location) -> bytes:
    """Digest of the bytes of a file or an archive's member; of an array, of its values, type, shape and sample rate.

    Raises:
        UserError: missing or damaged.
    """
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    try:
        if location.member is None:
            with location.path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
        elif location.is_tar:
            digest.update(location.read_bytes())
        else:
            digest.update(_array_bytes(location))
    except OSError as error:
        raise _unreadable(location, error) from error
    return digest.digest()


def _array_bytes(location: Location) -> bytes:
    rate: Any = None
    if location.is_hdf5:
        data = hdf5_dataset(location)
        rate = data.attrs.get("sample_rate")
        array = np.asarray(data[()])
    else:
        array = np.ascontiguousarray(read_array(location))
    # The same bytes at another rate, or as another type, are another recording.
    described = json.dumps([array.dtype.str, array.shape, None if rate is None else float(rate)])
    return described.encode() + b"\0" + array.tobytes()


def _unreadable(location: Location, error: OSError) -> UserError:
    return UserError(f"{location}: {error.strerror or error}; correct the path or the permissions")


def stamp_key(location: Location, stamp: list[int]) -> bytes:
    """Key of a file in a certain state. The path is made absolute: a run may be started from any folder."""
    named = f"{os.path.abspath(location.path)}\0{location.member or ''}\0{stamp}"
    return hashlib.blake2b(named.encode("utf-8", "surrogateescape"), digest_size=KEY_BYTES).digest()


def read_stamp(location: Location) -> list[int]:
    """``Location.stamp``; a missing file is a ``UserError``."""
    try:
        return location.stamp()
    except OSError as error:
        raise _unreadable(location, error) from error


def settled_digest(location: Location) -> tuple[bytes, bytes]:
    """Key and content digest of a file that did not change while it was read.

    A file that was written a moment ago is waited for: changed again within the same step of the file system's clock,
    it would keep its stamp.

    Raises:
        UserError: missing or damaged, or being written all the time.
    """
    for _ in range(_ATTEMPTS):
        stamp = read_stamp(location)
        age_s = time.time() - max(stamp[1:]) / 1e9
        if 0 <= age_s < _STAMP_STEP_S:
            time.sleep(_STAMP_STEP_S - age_s)
        digest = content_digest(location)
        if read_stamp(location) == stamp:
            return stamp_key(location, stamp), digest
    raise UserError(f"{location} is being changed while it is read; wait until it is written")


class FileDigests:
    """Content digests of files, remembered on disk: 32 bytes a file.

    A file is known by its absolute path, size and times of change (the system's own among them, which nobody can set).
    Where any of these differs it is read again; so what is remembered is never wrong, only of no use.

    Args:
        folder: of the tables; several processes may add to it at once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._table: KeyTable | None = None
        self._new: dict[bytes, bytes] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_table": None, "_new": {}}

    @property
    def table(self) -> KeyTable:
        if self._table is None:
            self._table = _join(self.folder)
        return self._table

    def known(self, location: Location) -> bytes | None:
        """The digest, if the file is remembered as it is now; costs a look at the file's status."""
        return self.known_state(stamp_key(location, read_stamp(location)))

    def known_state(self, key: bytes) -> bytes | None:
        """The digest of the file in the state that ``stamp_key`` names."""
        row = self.table.find(key)
        if row is None:
            return self._new.get(key)
        high, low = self.table.values(row)
        return high.to_bytes(KEY_BYTES // 2, "big") + low.to_bytes(KEY_BYTES // 2, "big")

    def digest(self, location: Location) -> bytes:
        """The digest, from memory or from the file's content.

        Raises:
            UserError: the file is missing or damaged.
        """
        digest = self.known(location)
        if digest is None:
            key, digest = settled_digest(location)
            self.remember(key, digest)
        return digest

    def remember(self, key: bytes, digest: bytes) -> None:
        """Keep in memory what ``settled_digest`` found, until it is saved."""
        if len(self._new) >= _MAX_UNSAVED and not self.save():
            self._new.clear()  # what cannot be kept is found again
        self._new[key] = digest

    def save(self) -> bool:
        """Write what is new; where the folder cannot be written to, files are only read again next time."""
        if not self._new:
            return True
        columns = np.concatenate([split_keys(self._new), split_keys(self._new.values())])
        name = hashlib.blake2b(columns.tobytes(), digest_size=8).hexdigest()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            KeyTable.of([columns], 2).write(self.folder / f"files-{name}.npy")
        except OSError as error:
            logger.warning("%s cannot be written to (%s); files are read again to be recognised", self.folder, error)
            return False
        self._table, self._new = None, {}
        return True


def _join(folder: Path) -> KeyTable:
    """All tables of a folder as one, which takes their place where the folder can be written to."""
    if len(list(folder.glob("files-*.npy"))) <= 1:
        return _read(folder)[1]
    with suppress(OSError), locked(folder / "files.lock"):
        paths, table = _read(folder)
        if len(paths) > 1:
            name = hashlib.blake2b(table.columns.tobytes(), digest_size=8).hexdigest()
            joined = folder / f"files-{name}.npy"
            table.write(joined)
            for path in paths:
                if path != joined:
                    path.unlink(missing_ok=True)
            return KeyTable.read(joined, 2)
        return table
    return _read(folder)[1]


def _read(folder: Path) -> tuple[list[Path], KeyTable]:
    paths, tables = sorted(folder.glob("files-*.npy")), []
    for path in paths:
        try:
            tables.append(KeyTable.read(path, 2))
        except FileNotFoundError:  # another process has just joined it with others
            continue
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be used (%s); its files are read again to be recognised", path, error)
    if len(tables) == 1:
        return paths, tables[0]
    return paths, KeyTable.of([table.columns for table in tables], 2)
