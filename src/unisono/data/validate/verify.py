"""Every recording decoded once before training starts: damage and NaN samples cannot be seen in a header.

What ``unisono validate`` has measured, and what any training has decoded, is known from the store; only the rest is
read. A large data set that is known as a whole is not even walked through.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unisono.data.datasets import AudioGenerationDataset
from unisono.data.index import CACHED_FROM_ITEMS
from unisono.data.validate.spool import digest_of
from unisono.data.validate.store import (
    MEASURES_VERSION,
    READ,
    FactStore,
    audio_key,
    open_store,
    settled_stamp,
    stamp_of,
)
from unisono.errors import UserError
from unisono.media.audio import verify_audio_file
from unisono.media.locations import Location

_MAX_FAULTS_SHOWN = 20
_MAX_FAULTS = 10_000
_MAX_FOLDERS = 20_000
_SAMPLED = 1000
_BAR_AFTER_S = 2.0


def verify_audio(
    datasets: Iterable[AudioGenerationDataset], *, store: Path | str | None = "default", workers: int | None = None
) -> None:
    """Decode every recording of the data sets that is not known to be good; all faults are listed in one error.

    Of a data set of 50 000 items and more that was good as a whole, only its manifests, the folders and archives with
    its recordings and 1000 of the recordings are looked at: seconds for any number of items. A file in it that was
    written over in place, without its folder's change, is noticed if it is among those.

    Args:
        datasets: their targets and inputs are read, each file once; not of those that do not check files.
        store: SQLite file that remembers the good ones by path, size and times of change; default: the one in the cache
            folder that ``unisono validate`` fills too; None remembers nothing.
        workers: threads (decoding releases Python's lock); default: one per core, at most 16.

    Raises:
        UserError: with file, line, field and reason of up to 20 faults.
    """
    with open_store(store) as known, ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
        check = _Check(known, pool, 4 * (workers or 16))
        for dataset in datasets:
            if not dataset.check_files:
                continue
            whole = _Whole.of(dataset) if len(dataset) >= CACHED_FROM_ITEMS else None
            if whole is not None and whole.is_known(known):
                continue
            before = len(check.faults)
            check.walk(dataset, whole)
            if whole is not None and len(check.faults) == before:
                whole.remember(known)
    if check.faults:
        check.complain()


@dataclass
class _Check:
    """Recordings on their way through the threads."""

    store: FactStore
    pool: ThreadPoolExecutor
    most_running: int
    running: deque[tuple[bytes, bytes | None, Future[str | None]]] = field(default_factory=deque)
    places: dict[bytes, str] = field(default_factory=dict)  # of those that are being read
    faults: dict[bytes, str] = field(default_factory=dict)
    seen: array = field(default_factory=lambda: array("Q"))

    def walk(self, dataset: AudioGenerationDataset, whole: _Whole | None) -> None:
        """Read what is not known; a bar comes after some seconds."""
        with tqdm(total=len(dataset), desc="verify audio", unit="item", delay=_BAR_AFTER_S, dynamic_ncols=True) as bar:
            for line, name, location in dataset.audio_files():
                if name == "audio":
                    bar.update(1)
                if whole is not None:
                    whole.add(location)
                key = audio_key(location)
                self.seen.append(int.from_bytes(key[:8], "little"))
                if key in self.places or key in self.faults or _is_good(self.store.get(key, stamp_of([location]))):
                    continue
                self.places[key] = f"{line.where}: field {name!r}"
                self.running.append((key, settled_stamp(location), self.pool.submit(_fault, location)))
                self._take(self.most_running)
            self._take(0)

    def _take(self, left: int) -> None:
        """Note the results of all but the last ``left``."""
        while len(self.running) > left:
            key, stamp, future = self.running.popleft()
            reason, place = future.result(), self.places.pop(key)
            if reason is None:
                self.store.put(key, stamp, READ)
                continue
            self.faults[key] = f"{place}: {reason}"
            if len(self.faults) >= _MAX_FAULTS:
                self.complain()

    def complain(self) -> None:
        """Raise for what cannot be used."""
        count = len(np.unique(np.asarray(self.seen)))
        shown = "\n  ".join(list(self.faults.values())[:_MAX_FAULTS_SHOWN])
        hidden = len(self.faults) - _MAX_FAULTS_SHOWN
        more = f"\n  … and {hidden} more" if hidden > 0 else ""
        stopped = "the first " if len(self.faults) >= _MAX_FAULTS else ""
        raise UserError(f"{len(self.faults)} of {stopped}{count} audio files cannot be used:\n  {shown}{more}")


def _fault(location: Location) -> str | None:
    try:
        verify_audio_file(location)
    except UserError as error:
        return str(error)
    return None


def _is_good(known: Any) -> bool:
    """Whether what the store has says that ``read_audio`` takes the recording."""
    if known is None or known == READ:
        return known == READ
    from unisono.data.validate.facts import AudioFacts

    return AudioFacts(*known).non_finite < 0


@dataclass
class _Whole:
    """A large data set, known by its manifests and by the folders and archives that its recordings lie in.

    Attributes:
        dataset: which.
        key: of its items; ``stamp``: of its manifests.
        folders: paths with their stamps; None for too many, and then it is walked through at each start.
    """

    dataset: AudioGenerationDataset
    key: bytes
    stamp: bytes | None
    folders: dict[str, list[int]] | None = field(default_factory=dict)

    @staticmethod
    def of(dataset: AudioGenerationDataset) -> _Whole:
        files = [file.path for file in (dataset.content_file, dataset.audio_file) if file is not None]
        options = json.dumps([dataset.task, *map(os.path.abspath, files), *dataset.check_options()])
        items = hashlib.blake2b(np.ascontiguousarray(dataset.index.id_hash).data, digest_size=16)
        key = digest_of(f"data set {MEASURES_VERSION}", options, items.hexdigest())
        return _Whole(dataset, key, stamp_of([Location(path) for path in files]))

    def add(self, location: Location) -> None:
        """Note the folder, or the archive, of a recording."""
        if self.folders is None:
            return
        folder = str(location.path if location.member is not None else location.path.parent)
        if folder not in self.folders and (stamp := _stamp(folder)) is not None:
            self.folders[folder] = stamp
            if len(self.folders) > _MAX_FOLDERS:
                self.folders = None

    def remember(self, store: FactStore) -> None:
        """Note that all of it is good, unless something changed meanwhile."""
        if self.folders is not None and all(_stamp(folder) == stamp for folder, stamp in self.folders.items()):
            store.put(self.key, self.stamp, list(self.folders.items()))

    def is_known(self, store: FactStore) -> bool:
        folders = store.get(self.key, self.stamp)
        if folders is None or any(_stamp(folder) != stamp for folder, stamp in folders):
            return False
        return all(_is_good(store.get(audio_key(one), stamp_of([one]))) for one in self._some())

    def _some(self) -> Iterator[Location]:
        """Recordings spread over the data set."""
        for item in np.linspace(0, len(self.dataset) - 1, min(_SAMPLED, len(self.dataset))).astype(int):
            if self.dataset.has_targets:
                yield self.dataset.target_line(int(item)).location("audio")
            for _, location in self.dataset.input_files(self.dataset.line(int(item))):
                yield location


def _stamp(folder: str) -> list[int] | None:
    try:
        return Location(Path(folder)).stamp()
    except OSError:
        return None
