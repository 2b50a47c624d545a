"""Every audio file read once before training starts: damage and NaN samples cannot be seen in a header."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from unisono.data.datasets import AudioGenerationDataset
from unisono.errors import UserError
from unisono.files import replaced_file
from unisono.media.audio import verify_audio_file
from unisono.media.locations import Location

logger = logging.getLogger(__name__)

_CACHE_VERSION = 2
_MAX_FAULTS_SHOWN = 20

# See Location.stamp: a file, or an archive, with the same is not read again.
_Stamp = list[int]


def verify_audio(
    datasets: Iterable[AudioGenerationDataset], *, cache: str | os.PathLike | None = None, workers: int | None = None
) -> None:
    """Decode every audio file of the data sets; all that cannot be used are listed in one error.

    Args:
        datasets: their targets and inputs are read, each file once; not of those that do not check files.
        cache: JSON file that remembers the good files by path, size and times of change, so that the next start reads
            only what is new; None reads everything.
        workers: threads (decoding releases Python's lock); default: one per core, at most 16.

    Raises:
        UserError: with file, line, field and reason of up to 20 faults.
    """
    places: dict[str, str] = {}
    locations: dict[str, Location] = {}
    for dataset in datasets:
        if not dataset.check_files:
            continue
        for line, field, location in dataset.audio_files():
            locations.setdefault(str(location), location)
            places.setdefault(str(location), f"{line.where}: field {field!r}")
    known = _read_cache(Path(cache)) if cache is not None else {}
    stamps = {name: _stamp(location) for name, location in locations.items()}
    unread = {name: locations[name] for name, stamp in stamps.items() if stamp is None or known.get(name) != stamp}
    faults = _faults(unread, workers or min(16, os.cpu_count() or 1))
    if cache is not None and unread:
        good = {name: stamp for name, stamp in stamps.items() if stamp is not None and name not in faults}
        _write_cache(Path(cache), known | good)
    if faults:
        shown = "\n  ".join(f"{places[path]}: {reason}" for path, reason in list(faults.items())[:_MAX_FAULTS_SHOWN])
        hidden = len(faults) - _MAX_FAULTS_SHOWN
        more = f"\n  … and {hidden} more" if hidden > 0 else ""
        raise UserError(f"{len(faults)} of {len(places)} audio files cannot be used:\n  {shown}{more}")


def _faults(locations: Mapping[str, Location], workers: int) -> dict[str, str]:
    """Reason per recording that cannot be used, in the order given."""
    if not locations:
        return {}
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(
            pool.map(_fault, locations.values()),
            total=len(locations),
            unit="file",
            desc="verify audio",
            dynamic_ncols=True,
        ) as bar,
    ):
        return {name: reason for name, reason in zip(locations, bar, strict=True) if reason is not None}


def _fault(location: Location) -> str | None:
    try:
        verify_audio_file(location)
    except UserError as error:
        return str(error)
    return None


def _stamp(location: Location) -> _Stamp | None:
    """None if the file has gone since its manifest was read; reading it will say so."""
    try:
        return location.stamp()
    except OSError:
        return None


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
    with replaced_file(cache) as temporary:
        # Escaped, because a file's name need not be UTF-8.
        temporary.write_text(json.dumps({"version": _CACHE_VERSION, "files": files}), encoding="utf-8")
