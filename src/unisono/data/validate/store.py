"""Measurements that outlive a run: one file in the cache folder, so that what was read once is not read again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unisono.files import cache_dir
from unisono.media.locations import Location

logger = logging.getLogger(__name__)

_COMMIT_EVERY_S = 2.0
_VERSION = 1


def default_store() -> Path:
    return cache_dir() / "audio_facts" / f"facts_{_VERSION}.sqlite"


def key_of(kind: str, *parts: str) -> str:
    """A name for what was measured; file names need not be UTF-8."""
    digest = hashlib.blake2b(kind.encode(), digest_size=16)
    for part in parts:
        digest.update(b"\0" + os.fsencode(part))
    return digest.hexdigest()


def stamp_of(locations: Sequence[Location]) -> str | None:
    """Changes with the files; None if one is not there, and then nothing is kept."""
    try:
        return json.dumps([location.stamp() for location in locations])
    except (OSError, ValueError):
        return None


class FactStore:
    """``key -> (stamp, value)``; a store that cannot be used costs time, nothing else."""

    def __init__(self, connection: sqlite3.Connection | None) -> None:
        self.connection = connection
        self.committed_at_s = time.monotonic()

    def get(self, key: str, stamp: str | None) -> dict[str, Any] | None:
        if self.connection is None or stamp is None:
            return None
        try:
            row = self.connection.execute("SELECT value FROM facts WHERE key=? AND stamp=?", (key, stamp)).fetchone()
            return None if row is None else json.loads(row[0])
        except (sqlite3.Error, ValueError) as error:
            self._give_up(error)
            return None

    def put(self, key: str, stamp: str | None, value: dict[str, Any]) -> None:
        if self.connection is None or stamp is None:
            return
        try:
            self.connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (key, stamp, json.dumps(value)))
            if time.monotonic() - self.committed_at_s > _COMMIT_EVERY_S:
                self.connection.commit()
                self.committed_at_s = time.monotonic()
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        logger.warning("the measurements' store cannot be used (%s); everything is read, nothing kept", error)
        self.connection = None


@contextmanager
def open_store(path: Path | None) -> Iterator[FactStore]:
    """The store at ``path``; None keeps nothing. What was measured is kept even if the run is broken off."""
    connection = None if path is None else _connect(path)
    store = FactStore(connection)
    try:
        yield store
    finally:
        if connection is not None:
            try:
                connection.commit()
            except sqlite3.Error as error:
                logger.warning("%s: the last measurements are not kept (%s)", path, error)
            connection.close()


def _connect(path: Path) -> sqlite3.Connection | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=30)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, stamp TEXT NOT NULL, value TEXT NOT NULL)"
        )
        connection.commit()
        return connection
    except (OSError, sqlite3.Error) as error:
        logger.warning(
            "%s: no measurements are kept (%s); remove the file, or set UNISONO_CACHE to another folder", path, error
        )
        return None
