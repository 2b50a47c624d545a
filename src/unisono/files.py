"""Files and folders that are there whole or not at all, and the project's cache folder."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisono.errors import UserError

if TYPE_CHECKING:
    from numpy import ndarray

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "UNISONO_CACHE"


def cache_dir() -> Path:
    """Where what can be made again is kept: ``$UNISONO_CACHE``, else ``unisono`` in the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unisono"


@contextmanager
def locked(path: Path, *, refusal: str | None = None) -> Iterator[None]:
    """Hold a lock file; the system frees it when the process dies.

    Args:
        path: of the lock file; it vanishes in the end.
        refusal: message of the error if another process holds it; None waits for that process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if fcntl is None:
            break
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if refusal is not None:
                os.close(handle)
                raise UserError(refusal) from None
            logger.info("waiting for another process that works beside %s", path)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            break  # a file system without locks is trusted
        # Whoever held it before removed the file; only the file that lies there now locks anything.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                break
        os.close(handle)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def exists(path: Path) -> bool:
    """Like ``Path.exists``, also for texts that no file system takes for a name."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def sync_path(path: Path) -> None:
    """Flush a file, or a folder's own entries (renames, links), to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Flush a folder's files and the folder itself to disk."""
    for path in [*folder.iterdir(), folder]:
        sync_path(path)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` when the context ends well, and vanishes if not.

    Several processes may replace one file: the last one wins, and none sees half of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Threads may write one file as well; what a file system takes for a name is 255 bytes.
    short = path.name if len(os.fsencode(path.name)) <= 200 else path.name[:40]
    temporary = path.with_name(f".{short}.{os.getpid()}.{threading.get_native_id()}.tmp")
    try:
        yield temporary
        sync_path(temporary)  # else a power cut may leave the new name with an empty file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


_TEMPORARY = re.compile(r"\..+\.(\d+)\.\d+\.(tmp|\w+)")


def remove_abandoned(folder: Path) -> None:
    """Remove what ``replaced_file`` was writing in processes of this machine that are gone."""
    for path in folder.glob(".*.*.*.*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        try:
            os.kill(int(match[1]), 0)
        except (ProcessLookupError, OverflowError):
            logger.info("%s: removed, a killed run left it", path)
            path.unlink(missing_ok=True)
        except PermissionError:  # somebody else's, and alive
            continue


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    with replaced_file(path) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_array(path: Path, array: ndarray) -> None:
    """Write .npy whole or not at all."""
    import numpy as np  # not needed by most who come here

    with replaced_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``folder`` when the context ends well, and vanishes if not."""
    temporary, retired = (folder.with_name(f".{kind}_{folder.name}") for kind in ("tmp", "old"))
    if retired.exists() and not folder.exists():  # a replacement that was killed half-way
        os.replace(retired, folder)
    for left in (temporary, retired):
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sync_folder(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        os.replace(folder, retired)
    os.replace(temporary, folder)
    sync_path(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)
