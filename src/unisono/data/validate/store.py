"""One memory of which recording was read in which state, and what it was like: a file in the cache folder.

``unisono validate`` keeps its measurements there, the check before training what it decoded, and both ask it first.
A file that was changed, whose size or one of whose times of change is another, is read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unisono.data.validate.spool import DIGEST_BYTES, digest_of
from unisono.files import cache_dir, locked
from unisono.media.locations import Location

logger = logging.getLogger(__name__)

READ = "read"
"""What is kept of a recording that was decoded and is good, but not measured."""

MEASURES_VERSION = 2
"""Of what is measured and what counts as readable; what another version noted is of no use."""

_FORMAT = 2  # of the file
_WRITE_EVERY_S = 2.0
_WRITE_EVERY_ROWS = 1000
_WAIT_S = 60.0
_CHECK_BYTES = 8
# File systems note changes in steps of up to 10 ms: two within one step have the same stamp.
_STAMP_STEP_S = 0.05
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def default_store() -> Path:
    return cache_dir() / "audio_facts" / f"facts_{_FORMAT}.sqlite"


def audio_key(location: Location) -> bytes:
    """Of a recording, wherever a run is started from."""
    return digest_of(f"audio {MEASURES_VERSION}", os.path.abspath(location.path), location.member or "")


def stamp_of(locations: Sequence[Location]) -> bytes | None:
    """Changes with the files; None if one is not there, and then nothing is kept."""
    try:
        return digest_of(json.dumps([location.stamp() for location in locations]))
    except (OSError, ValueError):
        return None


def settled_stamp(location: Location) -> bytes | None:
    """The same of one file that is about to be read.

    One that was written a moment ago is waited for: changed again within the same step of the file system's clock, it
    would keep its stamp.
    """
    try:
        stamp = location.stamp()
        age_s = time.time() - max(stamp[1:]) / 1e9
        if 0 <= age_s < _STAMP_STEP_S:
            time.sleep(_STAMP_STEP_S - age_s)
    except (OSError, ValueError):
        return None
    return stamp_of([location])


class FactStore:
    """``key -> (stamp, value)``; a store that cannot be used costs time, nothing else.

    What is put is written every two seconds in one short transaction, so that several processes can share the file; a
    process that is killed loses no more than that.

    Args:
        path: of the SQLite file; None keeps nothing beyond this object.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._unwritten: dict[bytes, tuple[bytes, bytes]] = {}
        self._written_at_s = time.monotonic()
        self._writable = True
        self._connection = _connect(path)

    def get(self, key: bytes, stamp: bytes | None) -> Any:
        """What was put for a file in this very state; None for nothing."""
        if stamp is None:
            return None
        row = self._unwritten.get(key)
        if row is None and self._connection is not None:
            try:
                row = self._connection.execute("SELECT stamp, value FROM facts WHERE key=?", (key,)).fetchone()
            except sqlite3.Error as error:
                self._mend(error)
                return None
        if row is None or row[0] != stamp:
            return None
        return self._value(key, *row)

    def _value(self, key: bytes, stamp: bytes, value: bytes) -> Any:
        if value[:_CHECK_BYTES] != _check(key, stamp, value[_CHECK_BYTES:]):
            self._mend(ValueError("a row was altered"))
            return None
        return json.loads(value[_CHECK_BYTES:])

    def put(self, key: bytes, stamp: bytes | None, value: Any) -> None:
        """``value`` is anything but None that JSON can hold."""
        if stamp is None:
            return
        raw = json.dumps(value, separators=(",", ":")).encode()
        self._unwritten[key] = (stamp, _check(key, stamp, raw) + raw)
        waited_s = time.monotonic() - self._written_at_s
        if waited_s > _WRITE_EVERY_S or len(self._unwritten) >= _WRITE_EVERY_ROWS:
            self.write()

    def write(self) -> None:
        """Put on disk what is not there yet."""
        rows = [(key, stamp, value) for key, (stamp, value) in self._unwritten.items()]
        self._written_at_s = time.monotonic()
        if self._connection is not None and self._writable and rows:
            try:
                with self._connection:
                    self._connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", rows)
            except sqlite3.Error as error:
                if _is_damage(error):
                    self._mend(error)
                    return  # the rows are written the next time
                logger.warning(
                    "%s cannot be written to (%s): what is read from now on is not remembered", self.path, error
                )
                self._writable = False
        self._unwritten.clear()

    def close(self) -> None:
        self.write()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _mend(self, error: Exception) -> None:
        """Make a damaged file anew; do without it where it cannot be used."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
        if self.path is not None and (isinstance(error, ValueError) or _is_damage(error)):
            self._connection = _rebuilt(self.path, error)
        if self._connection is None and self.path is not None:
            logger.warning("%s cannot be used any more (%s): nothing is remembered of what is read", self.path, error)
            self.path = None
            self._connection = _connect(None)


@contextmanager
def open_store(path: Path | str | None = "default") -> Iterator[FactStore]:
    """The store at ``path``, that of the cache folder by default; None keeps nothing.

    What was measured is kept even if the run is broken off.
    """
    store = FactStore(default_store() if path == "default" else None if path is None else Path(path))
    try:
        yield store
    finally:
        store.close()


def _check(key: bytes, stamp: bytes, value: bytes) -> bytes:
    """SQLite does not notice bits that change on a disk."""
    return hashlib.blake2b(key + stamp + value, digest_size=_CHECK_BYTES).digest()


def _is_damage(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED


def _connect(path: Path | None) -> sqlite3.Connection | None:
    """A connection with the table in place; a temporary file of SQLite's own if there is no path or no use of it."""
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _opened(str(path))
        except (OSError, sqlite3.Error) as error:
            if _is_damage(error) and (connection := _rebuilt(path, error)) is not None:
                return connection
            logger.warning(
                "%s: nothing is remembered of what is read (%s); set UNISONO_CACHE to a folder that can be written to",
                path, error,
            )  # fmt: skip
    try:
        return _opened("")
    except sqlite3.Error:
        return None


def _opened(name: str) -> sqlite3.Connection:
    connection = sqlite3.connect(name, timeout=_WAIT_S)
    try:
        with connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS facts (key BLOB PRIMARY KEY, stamp BLOB NOT NULL, value BLOB NOT NULL) "
                "WITHOUT ROWID"
            )
        connection.execute("SELECT key, stamp, value FROM facts WHERE key=?", (bytes(DIGEST_BYTES),)).fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _rebuilt(path: Path, error: Exception) -> sqlite3.Connection | None:
    """An empty store in the place of a damaged one."""
    try:
        with locked(path.with_suffix(".lock")):
            with suppress(sqlite3.Error):
                connection = _opened(str(path))
                if connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",) and _is_damage(error):
                    return connection  # another process has just made it anew
                connection.close()
            logger.warning("%s is damaged (%s) and is made anew; every file is read again", path, error)
            for part in ("", "-journal"):
                path.with_name(path.name + part).unlink(missing_ok=True)
            return _opened(str(path))
    except (OSError, sqlite3.Error) as failure:
        logger.warning("%s is damaged and cannot be made anew (%s); remove it", path, failure)
        return None
