"""Shards of a feature store: safetensors files of many small tensors, written once and mapped into memory."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unisono.data.feature_cache.table import KEY_BYTES, split_keys
from unisono.errors import UserError
from unisono.files import replaced_file, sync_path

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What values may be stored as; they are read as float32."""

_NAMES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_NUM_SAMPLES = "num_samples"
_MAX_OPEN = 4096


class DamagedShard(UserError):
    """A shard that is truncated, or is none."""


def _damaged(path: Path, why: str) -> DamagedShard:
    return DamagedShard(f"{path}: damaged ({why}); run `unisono cache` again: it makes anew what was in it")


class Entry(NamedTuple):
    """Where a tensor lies.

    Attributes:
        shard: number of its file, in the order of the store's list.
        offset: of its first byte.
        rows, width: its shape ``(rows, width)``; a width of 0 stands for ``(rows,)``.
        num_samples: of the recording that it was made from; 0 where there is none.
    """

    shard: int
    offset: int
    rows: int
    width: int
    num_samples: int

    def packed(self) -> list[int]:
        return [self.shard << 40 | self.offset, self.rows << 32 | self.width, self.num_samples]

    @staticmethod
    def unpacked(values: list[int]) -> Entry:
        place, shape, num_samples = values
        return Entry(place >> 40, place & (1 << 40) - 1, shape >> 32, shape & (1 << 32) - 1, num_samples)


NUM_VALUES = 3
"""Numbers of a packed entry."""


@dataclass(frozen=True)
class Feature:
    """What an encoder made of an input: ``(T, C)`` or ``(D,)``, and the samples of the recording it was made from."""

    tensor: Tensor
    num_samples: int = 0


def write_shard(folder: Path, features: Mapping[bytes, Feature]) -> Path:
    """Write features, contiguous tensors on the CPU, by their digests as one file, whole or not at all.

    It is named by what it holds, so two processes that write the same write one file.
    """
    from safetensors.torch import save_file

    tensors = {key.hex(): feature.tensor for key, feature in features.items()}
    samples = {key.hex(): feature.num_samples for key, feature in features.items()}
    name = hashlib.blake2b("".join(sorted(tensors)).encode(), digest_size=8).hexdigest()
    path = folder / f"shard-{name}.safetensors"
    with replaced_file(path) as temporary:
        save_file(tensors, temporary, metadata={_NUM_SAMPLES: json.dumps(samples)})
    sync_path(folder)
    return path


def shard_sizes(folder: Path) -> dict[str, int]:
    """Name and bytes of every shard."""
    with os.scandir(folder) as files:
        return {
            file.name: file.stat().st_size
            for file in files
            if file.name.startswith("shard-") and file.name.endswith(".safetensors")
        }


def remove_abandoned(folder: Path, older_than_s: float = 3600.0) -> None:
    """Remove what killed processes left half written; younger files may belong to one that works beside this."""
    for path in folder.glob(".tmp-*"):
        try:
            if time.time() - path.stat().st_mtime > older_than_s:
                path.unlink()
        except FileNotFoundError:
            continue


def read_entries(path: Path, number: int, dtype: str) -> np.ndarray:
    """A shard's keys and packed entries, uint64 ``(2 + NUM_VALUES, N)``, from its header.

    Raises:
        DamagedShard: the header is none, or promises more or less than the file holds.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(8)
        length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else size
        if 8 + length > size:
            raise _damaged(path, f"{size} bytes, cut off within its header")
        header = file.read(length)
    try:
        tensors = json.loads(header)
        samples = json.loads(tensors.pop("__metadata__")[_NUM_SAMPLES])
        rows = [_entry(8 + length, number, info, samples[name], dtype).packed() for name, info in tensors.items()]
        keys = [bytes.fromhex(name) for name in tensors]
        end = 8 + length + max((info["data_offsets"][1] for info in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(path, f"its header cannot be read: {type(error).__name__} {error}") from error
    if end != size or any(len(key) != KEY_BYTES for key in keys):
        raise _damaged(path, f"{size} bytes, its header promises {end}")
    values = np.array(rows, dtype=np.uint64).reshape(-1, NUM_VALUES).T
    return np.concatenate([split_keys(keys), values])


def _entry(start: int, number: int, info: dict, num_samples: int, dtype: str) -> Entry:
    shape, (begin, end) = info["shape"], info["data_offsets"]
    if _NAMES.get(info["dtype"]) != DTYPES[dtype] or len(shape) not in (1, 2):
        raise ValueError(f"{info['dtype']} of shape {shape} in a store of {dtype}")
    rows, width = (*shape, 0)[:2]
    if end - begin != rows * (width if len(shape) == 2 else 1) * DTYPES[dtype].itemsize:
        raise ValueError(f"{end - begin} bytes for shape {shape}")
    return Entry(number, start + begin, rows, width, int(num_samples))


class OpenShards:
    """Shards mapped into memory, each when it is first read from."""

    def __init__(self, dtype: str) -> None:
        self.dtype = DTYPES[dtype]
        self._maps: dict[Path, mmap.mmap] = {}

    def tensor(self, path: Path, entry: Entry, first: int = 0, rows: int | None = None) -> Tensor:
        """Rows of a tensor as float32, without a copy where they are stored as that.

        The pages are the process's own when written to: nothing that is done to the tensor reaches the file.
        """
        width = max(entry.width, 1)
        rows = entry.rows - first if rows is None else rows
        flat = torch.frombuffer(
            self._map(path),
            dtype=self.dtype,
            count=rows * width,
            offset=entry.offset + first * width * self.dtype.itemsize,
        )
        return (flat if entry.width == 0 else flat.view(rows, width)).float()

    def _map(self, path: Path) -> mmap.mmap:
        found = self._maps.get(path)
        if found is None:
            try:
                with path.open("rb") as file:
                    found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            except (OSError, ValueError) as error:
                raise _damaged(path, str(error)) from error
            if len(self._maps) >= _MAX_OPEN:
                del self._maps[next(iter(self._maps))]  # it stays mapped while a tensor lies in it
            self._maps[path] = found
        return found
