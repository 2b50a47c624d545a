"""Every audio file read once before training starts: damage and NaN samples cannot be seen in a header."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from unisono.audio import verify_audio_file
from unisono.data.datasets import AudioGenerationDataset
from unisono.errors import UserError

logger = logging.getLogger(__name__)

_CACHE_VERSION = 1
_MAX_FAULTS_SHOWN = 20

# Size in bytes and time of the last change in nanoseconds: a file with the same of both is not read again.
_Stamp = list[int]


def verify_audio(
    datasets: Iterable[AudioGenerationDataset], *, cache: str | os.PathLike | None = None, workers: int | None = None
) -> None:
    """Decode every audio file of the data sets; all that cannot be used are listed in one error.

    Args:
        datasets: their targets and inputs are read, each file once.
        cache: JSON file that remembers the good files by path, size and time of change, so that the next start reads
            only what is new; None reads everything.
        workers: threads (decoding releases Python's lock); default: one per core, at most 16.

    Raises:
        UserError: with file, line, field and reason of up to 20 faults.
    """
    places: dict[str, str] = {}
    for dataset in datasets:
        for line, field, path in dataset.audio_files():
            places.setdefault(str(path.resolve()), f"{line.where}: field {field!r}")
    known = _read_cache(Path(cache)) if cache is not None else {}
    stamps = {path: _stamp(path) for path in places}
    unread = [path for path, stamp in stamps.items() if stamp is None or known.get(path) != stamp]
    faults = _faults(unread, workers or min(16, os.cpu_count() or 1))
    if cache is not None and unread:
        good = {path: stamp for path, stamp in stamps.items() if stamp is not None and path not in faults}
        _write_cache(Path(cache), known | good)
    if faults:
        shown = "\n  ".join(f"{places[path]}: {reason}" for path, reason in list(faults.items())[:_MAX_FAULTS_SHOWN])
        hidden = len(faults) - _MAX_FAULTS_SHOWN
        more = f"\n  … and {hidden} more" if hidden > 0 else ""
        raise UserError(f"{len(faults)} of {len(places)} audio files cannot be used:\n  {shown}{more}")


def _faults(paths: list[str], workers: int) -> dict[str, str]:
    """Reason per path that cannot be used, in the order given."""
    if not paths:
        return {}
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(pool.map(_fault, paths), total=len(paths), unit="file", desc="verify audio", dynamic_ncols=True) as bar,
    ):
        return {path: reason for path, reason in zip(paths, bar, strict=True) if reason is not None}


def _fault(path: str) -> str | None:
    try:
        verify_audio_file(path)
    except UserError as error:
        return str(error)
    return None


def _stamp(path: str) -> _Stamp | None:
    """None if the file has gone since its manifest was read; reading it will say so."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _read_cache(cache: Path) -> dict[str, _Stamp]:
    """What is known to be good; a cache that cannot be read costs time, not correctness."""
    try:
        stored = json.loads(cache.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s is no readable cache (%s); every audio file is read again", cache, error)
        return {}
    if not isinstance(stored, dict) or stored.get("version") != _CACHE_VERSION:
        logger.warning("%s is no cache of version %d; every audio file is read again", cache, _CACHE_VERSION)
        return {}
    files = stored.get("files")
    return files if isinstance(files, dict) else {}


def _write_cache(cache: Path, files: dict[str, _Stamp]) -> None:
    """Whole or not at all, so that two runs of one folder never read half a cache."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}.tmp")
    try:
        # Escaped, because a file's name need not be UTF-8.
        temporary.write_text(json.dumps({"version": _CACHE_VERSION, "files": files}), encoding="utf-8")
        os.replace(temporary, cache)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
