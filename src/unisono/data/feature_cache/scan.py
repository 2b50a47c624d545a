"""Which inputs the cache lacks: every file recognised by its content, every content counted once."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from unisono.data.feature_cache.demands import Demand, Source
from unisono.data.feature_cache.digests import FileDigests, read_stamp, settled_digest, stamp_key, text_digest
from unisono.data.feature_cache.encoders import Input, Wanted
from unisono.data.feature_cache.store import FeatureStore
from unisono.data.feature_cache.table import KEY_BYTES, KeyTable, join_key
from unisono.errors import UserError
from unisono.media.locations import Location

_CHUNK = 1024
_SAVE_EVERY_S = 60.0

ItemT = TypeVar("ItemT")


def chunks(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def digests_of(sources: Sequence[Input], files: FileDigests, pool: ThreadPoolExecutor) -> list[bytes | UserError]:
    """Digest of each input, or why it has none; files that are not remembered are read, several at once."""
    found: list[bytes | UserError | None] = [_remembered(source, files) for source in sources]
    unknown = [place for place, digest in enumerate(found) if digest is None]
    for place, result in zip(unknown, pool.map(_settled, [sources[place] for place in unknown]), strict=True):
        if isinstance(result, UserError):
            found[place] = result
        else:
            files.remember(*result)
            found[place] = result[1]
    return [digest for digest in found if digest is not None]


def _remembered(source: Input, files: FileDigests) -> bytes | UserError | None:
    if isinstance(source, str):
        return text_digest(source)
    try:
        return files.known(source)
    except UserError as error:
        return error


def _settled(source: Input) -> tuple[bytes, bytes] | UserError:
    assert isinstance(source, Location)
    try:
        return settled_digest(source)
    except UserError as error:
        return error


@dataclass
class Scan:
    """What a demand's items ask for.

    Attributes:
        demand: whose.
        keys: uint64 ``(2, N)``, the distinct inputs that the store lacks.
        places: int64 ``(3, N)``: an item that names each: number of the part, of the item, of the source.
        num_inputs: distinct inputs altogether.
        faults: inputs that cannot be read, with their manifest lines.
    """

    demand: Demand
    keys: np.ndarray
    places: np.ndarray
    num_inputs: int
    faults: list[str]

    @property
    def num_missing(self) -> int:
        return self.keys.shape[1]

    def wanted(self, files: FileDigests, rows: Iterable[int], faults: list[str]) -> Iterator[Wanted]:
        """The inputs of some rows, read from the manifests again; what has changed since the scan is a fault."""
        for row in rows:
            part, item, slot = self.places[:, row].tolist()
            chosen = self.demand.parts[part]
            dataset, sources = chosen.dataset, chosen.sources
            where, source = sources(dataset, item)[slot]
            digest = join_key(*self.keys[:, row].tolist())
            if isinstance(source, str):
                yield Wanted(digest, source, None, where)
                continue
            try:
                stamp = read_stamp(source)
            except UserError as error:
                faults.append(f"{where}: {error}")
                continue
            if files.known_state(stamp_key(source, stamp)) == digest:
                yield Wanted(digest, source, stamp, where)
            else:
                faults.append(f"{where}: {source} was changed since it was looked at; give the command again")


def scan(demand: Demand, store: FeatureStore, files: FileDigests, workers: int, progress: bool = False) -> Scan:
    """Recognise all inputs of a demand, and look them up.

    Args:
        demand: what is asked for.
        store: where it may be.
        files: remembers what is found.
        workers: threads that read files.
        progress: show a bar.
    """
    faults: list[str] = []
    columns = [array("Q") for _ in range(2)], [array("q") for _ in range(3)]
    saved = time.monotonic()
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(demand), desc=f"look up {store.spec.kind}", unit="item", disable=not progress) as bar,
    ):
        for chunk in chunks(_sources(demand, bar), _CHUNK):
            digests = digests_of([source for _, (_, source) in chunk], files, pool)
            for (place, (where, _)), digest in zip(chunk, digests, strict=True):
                if isinstance(digest, UserError):
                    faults.append(f"{where}: {digest}")
                    continue
                for column, value in zip(columns[0], _halves(digest), strict=True):
                    column.append(value)
                for column, value in zip(columns[1], place, strict=True):
                    column.append(value)
            if time.monotonic() - saved > _SAVE_EVERY_S:
                files.save()
                saved = time.monotonic()
    files.save()
    keys, places = (np.stack([np.frombuffer(column, dtype=column.typecode) for column in half]) for half in columns)
    distinct = KeyTable.of([np.concatenate([keys, places.view(np.uint64)])], 3).columns
    lacking = distinct[:, ~store.table.contains(distinct[:2])]
    # In the order of the manifests, as the files lie.
    order = np.lexsort((lacking[3], lacking[2]))
    lacking = lacking[:, order]
    return Scan(demand, lacking[:2], lacking[2:].view(np.int64), distinct.shape[1], faults)


def _halves(digest: bytes) -> tuple[int, int]:
    half = KEY_BYTES // 2
    return int.from_bytes(digest[:half], "big"), int.from_bytes(digest[half:], "big")


def _sources(demand: Demand, bar: tqdm) -> Iterator[tuple[tuple[int, int, int], Source]]:
    for number, part in enumerate(demand.parts):
        dataset, sources = part.dataset, part.sources
        for item in range(len(dataset)):
            for slot, source in enumerate(sources(dataset, item)):
                yield (number, item, slot), source
            bar.update()
