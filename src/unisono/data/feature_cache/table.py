"""Numbers found by 128-bit keys: sorted arrays, 8 bytes a value, that processes share by mapping one file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from unisono.files import write_array

KEY_BYTES = 16
_HALF = KEY_BYTES // 2


def split_keys(keys: Iterable[bytes]) -> np.ndarray:
    """Keys as uint64 ``(2, N)``: their high and low halves."""
    return np.ascontiguousarray(np.frombuffer(b"".join(keys), dtype=">u8").reshape(-1, 2).T.astype(np.uint64))


def join_key(high: int, low: int) -> bytes:
    return int(high).to_bytes(_HALF, "big") + int(low).to_bytes(_HALF, "big")


class KeyTable:
    """Rows found by their keys.

    Args:
        columns: uint64 ``(2 + V, N)``: high and low halves of the keys, then V values each; sorted, no key twice.
    """

    def __init__(self, columns: np.ndarray) -> None:
        assert columns.ndim == 2 and columns.shape[0] >= 2 and columns.dtype == np.uint64
        # Not np.memmap's own slices: each costs microseconds.
        self.columns = np.asarray(columns)
        self._high, self._low = self.columns[0], self.columns[1]

    @staticmethod
    def of(parts: Iterable[np.ndarray], num_values: int) -> KeyTable:
        """Parts ``(2 + V, n)`` in any order joined and sorted; of a key that comes twice the last is kept."""
        columns = np.concatenate([np.zeros((2 + num_values, 0), np.uint64), *parts], axis=1)
        order = np.lexsort((columns[1], columns[0]))
        columns = columns[:, order]
        repeated = (columns[0, 1:] == columns[0, :-1]) & (columns[1, 1:] == columns[1, :-1])
        return KeyTable(columns[:, ~np.append(repeated, False)] if repeated.any() else columns)

    def __len__(self) -> int:
        return self.columns.shape[1]

    def find(self, key: bytes) -> int | None:
        """Row of a key."""
        high, low = np.uint64(int.from_bytes(key[:_HALF], "big")), np.uint64(int.from_bytes(key[_HALF:], "big"))
        row = int(self._high.searchsorted(high))
        while row < len(self._high) and self._high[row] == high:
            if self._low[row] == low:
                return row
            row += 1
        return None

    def values(self, row: int) -> list[int]:
        return self.columns[2:, row].tolist()

    def contains(self, keys: np.ndarray) -> np.ndarray:
        """Which of ``keys``, uint64 ``(2, N)``, are there: bool ``(N,)``."""
        if not len(self):
            return np.zeros(keys.shape[1], dtype=bool)
        rows = np.minimum(self._high.searchsorted(keys[0]), len(self) - 1)
        same_high = self._high[rows] == keys[0]
        found = same_high & (self._low[rows] == keys[1])
        for place in np.flatnonzero(same_high & ~found):  # two keys with one high half
            found[place] = self.find(join_key(keys[0, place], keys[1, place])) is not None
        return found

    def write(self, path: Path) -> None:
        """Write to a ``.npy`` file, whole or not at all."""
        write_array(path, self.columns)

    @staticmethod
    def read(path: Path, num_values: int) -> KeyTable:
        """Map a file into memory.

        Raises:
            OSError, ValueError: it is missing, truncated, or no such table.
        """
        columns = np.load(path, mmap_mode="r", allow_pickle=False)
        if columns.dtype != np.uint64 or columns.ndim != 2 or columns.shape[0] != 2 + num_values:
            raise ValueError(f"{path} is no table of keys with {num_values} values")
        return KeyTable(columns)
