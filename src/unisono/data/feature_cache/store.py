"""A folder of features that one frozen encoder made, each found by the digest of what it was made from."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from unisono.data.feature_cache.shards import (
    DTYPES,
    NUM_VALUES,
    DamagedShard,
    Entry,
    Feature,
    OpenShards,
    read_entries,
    remove_abandoned,
    shard_sizes,
    write_shard,
)
from unisono.data.feature_cache.table import KeyTable
from unisono.errors import UserError
from unisono.files import locked, write_json

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the files' layout and of how inputs are read; raised where either changes, so that nothing older is found."""

_INDEXED_FROM_SHARDS = 8


@dataclass(frozen=True)
class StoreSpec:
    """What the features of a store have in common, apart from their inputs.

    Attributes:
        kind: latents, texts, speakers, video.
        encoder: fingerprint of the encoder's settings and weights.
        made_by: the encoder in words, for people.
        settings: how inputs are read (sample rate, frame rate …).
        dtype: values are stored as float32 (exactly what the encoder gave), bfloat16 or float16.
    """

    kind: str
    encoder: str
    made_by: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"features cannot be stored as {self.dtype!r}; choose {', '.join(DTYPES)}")

    @property
    def fingerprint(self) -> str:
        """Names the folder; whatever changes a feature changes it, so a stale one is never found."""
        what = json.dumps([VERSION, self.kind, self.encoder, dict(self.settings), self.dtype], sort_keys=True)
        return hashlib.blake2b(what.encode(), digest_size=8).hexdigest()

    def folder(self, cache: Path) -> Path:
        return cache / self.kind / self.fingerprint

    def described(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "encoder": self.encoder,
            "made_by": self.made_by,
            "settings": dict(self.settings),
            "dtype": self.dtype,
        }


class FeatureStore:
    """Features by digest: shards, and a table of where each lies (40 bytes a feature, shared by all processes).

    Args:
        cache: folder of all stores.
        spec: which store of it.

    A store that does not exist is empty; it is made when something is written. It may be pickled: the copy opens the
    files anew.
    """

    def __init__(self, cache: Path, spec: StoreSpec) -> None:
        self.cache, self.spec = cache, spec
        self.folder = spec.folder(cache)
        self._reset()

    def _reset(self) -> None:
        self._table: KeyTable | None = None
        self._sizes: dict[str, int] = {}
        self._names: list[str] = []
        self._open = OpenShards(self.spec.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {"cache": self.cache, "spec": self.spec, "folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def table(self) -> KeyTable:
        if self._table is None:
            self.refresh()
        assert self._table is not None
        return self._table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def size_bytes(self) -> int:
        """Of all shards."""
        self.table  # noqa: B018  # opens the store
        return sum(self._sizes.values())

    def find(self, digest: bytes) -> Entry | None:
        row = self.table.find(digest)
        return None if row is None else Entry.unpacked(self.table.values(row))

    def read(self, entry: Entry, first: int = 0, rows: int | None = None) -> Tensor:
        """A feature, or some of its rows, float32; pages of the file itself, read when they are used."""
        return self._open.tensor(self.folder / self._names[entry.shard], entry, first, rows)

    def refresh(self, repair: bool = False) -> int:
        """Take up the shards that are new; returns how many there were.

        Args:
            repair: remove damaged shards instead of raising.

        Raises:
            DamagedShard: a shard is truncated, or is none.
        """
        sizes = shard_sizes(self.folder) if self.folder.is_dir() else {}
        if self._table is None or any(sizes.get(name) != size for name, size in self._sizes.items()):
            self._names, self._sizes, self._table = self._indexed(sizes)
        new = [name for name in sorted(sizes) if name not in self._sizes]
        parts = [self._table.columns]
        for name in new:
            try:
                parts.append(read_entries(self.folder / name, len(self._names), self.spec.dtype))
            except DamagedShard as error:
                if not repair:
                    raise
                logger.warning("%s (removed)", error)
                (self.folder / name).unlink(missing_ok=True)
                continue
            self._names.append(name)
            self._sizes[name] = sizes[name]
        if new:
            self._table = KeyTable.of(parts, NUM_VALUES)
        return len(new)

    # -- the index ----------------------------------------------------------------------------------------------------

    def _indexed(self, sizes: Mapping[str, int]) -> tuple[list[str], dict[str, int], KeyTable]:
        """What the index file knows, if all its shards are still as they were."""
        empty: tuple[list[str], dict[str, int], KeyTable] = ([], {}, KeyTable.of([], NUM_VALUES))
        try:
            index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
            known: dict[str, int] = dict(index["shards"])
            if any(sizes.get(name) != size for name, size in known.items()):
                return empty
            return list(known), known, KeyTable.read(self.folder / str(index["table"]), NUM_VALUES)
        except FileNotFoundError:
            return empty
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s/index.json cannot be used (%s); the shards themselves are read", self.folder, error)
            return empty

    def write_index(self) -> None:
        """Keep the table in a file of its own, so that opening takes no longer for a million features than for ten."""
        if len(self._names) < _INDEXED_FROM_SHARDS:
            return
        name = f"index-{hashlib.blake2b(self.table.columns.tobytes(), digest_size=8).hexdigest()}.npy"
        with suppress(OSError), locked(self.folder / "index.lock"):
            self.table.write(self.folder / name)
            sizes = [[shard, self._sizes[shard]] for shard in self._names]
            write_json(self.folder / "index.json", {"table": name, "shards": sizes})
            for path in self.folder.glob("index-*.npy"):
                if path.name != name:
                    path.unlink(missing_ok=True)

    # -- writing ------------------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the folder and say in ``store.json`` what is in it.

        Raises:
            UserError: the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self.folder)
            write_json(self.folder / "store.json", self.spec.described())
        except OSError as error:
            raise UserError(
                f"the feature cache {self.folder} cannot be written to ({error.strerror or error}); choose another "
                "folder with feature_cache=FOLDER"
            ) from error

    def writer(self, max_bytes: int = 128 << 20, max_features: int = 16_384, max_age_s: float = 60.0) -> ShardWriter:
        return ShardWriter(self.folder, self.spec.dtype, max_bytes, max_features, max_age_s)


class ShardWriter:
    """Collects features and writes them as a shard when they are enough, or old enough: a kill loses no more than that.

    Args:
        folder: of the store.
        dtype: see ``StoreSpec``.
        max_bytes, max_features, max_age_s: when a shard is written.
    """

    def __init__(self, folder: Path, dtype: str, max_bytes: int, max_features: int, max_age_s: float) -> None:
        self.folder, self.dtype = folder, dtype
        self.max_bytes, self.max_features, self.max_age_s = max_bytes, max_features, max_age_s
        self._waiting: dict[bytes, Feature] = {}
        self._bytes, self._since = 0, 0.0

    def add(self, digest: bytes, feature: Feature) -> None:
        if not self._waiting:
            self._since = time.monotonic()
        # A copy: the encoder may give parts of one large tensor, or the same again.
        tensor = feature.tensor.detach().to("cpu", DTYPES[self.dtype], copy=True).contiguous()
        self._waiting[digest] = Feature(tensor, feature.num_samples)
        self._bytes += tensor.nbytes
        aged = time.monotonic() - self._since >= self.max_age_s
        if self._bytes >= self.max_bytes or len(self._waiting) >= self.max_features or aged:
            self.flush()

    def flush(self) -> None:
        """Write what was collected.

        Raises:
            UserError: the folder cannot be written to, or is full.
        """
        if self._waiting:
            try:
                write_shard(self.folder, self._waiting)
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"the feature cache {self.folder} cannot be written to ({error}); make room, or choose another "
                    "folder with feature_cache=FOLDER, and give the command again: what was written before is kept"
                ) from error
        self._waiting, self._bytes = {}, 0
