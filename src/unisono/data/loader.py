"""The order of training, as a pure function of seed and position, and the loaders that follow it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Sampler

from unisono.errors import UserError


class TimedDataset(Protocol):
    """What a loader needs to know of a data set: ``durations_s``, the length of each item."""

    durations_s: np.ndarray

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class TrainBatchSampler(Sampler[list[int]]):
    """An endless stream of micro-batches; micro-batch *k* depends on ``(seed, k)`` alone.

    Each epoch shuffles all items, sorts them by length within windows of ``bucket_batches`` batches (little padding)
    and shuffles the batches. Rank *r* of *R* takes micro-batches ``r, R + r, 2R + r, …``, so every rank has the same
    number by construction and one process sees the same stream as many. What does not fill a batch at the end of an
    epoch is left out of that epoch (another few items each time).

    Args:
        durations_s: length per item.
        batch_size: items per micro-batch.
        seed: of the order.
        bucket_batches: batches per window; 1 shuffles without bucketing.
    """

    def __init__(self, durations_s: np.ndarray, batch_size: int, seed: int = 0, bucket_batches: int = 8) -> None:
        if batch_size < 1 or bucket_batches < 1:
            raise ValueError(f"batch_size ({batch_size}) and bucket_batches ({bucket_batches}) must be at least 1")
        self.durations_s = np.asarray(durations_s)
        if not len(self.durations_s):
            raise UserError("the training data set has no item; give it some")
        self.batch_size = min(batch_size, len(self.durations_s))
        self.seed, self.bucket_batches = seed, bucket_batches
        self.rank, self.num_ranks, self.start = 0, 1, 0
        self._cached: tuple[int, np.ndarray] | None = None

    def shard(self, rank: int, num_ranks: int) -> None:
        """Which part of the stream this process takes."""
        self.rank, self.num_ranks = rank, num_ranks

    def __len__(self) -> int:
        """Micro-batches per epoch, over all ranks."""
        return len(self.durations_s) // self.batch_size

    def batch(self, k: int) -> list[int]:
        """Indices of micro-batch ``k``; ``epoch * items + item``, see ``ConcatDataset``."""
        epoch, position = divmod(k, len(self))
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._epoch(epoch))
        return (self._cached[1][position] + epoch * len(self.durations_s)).tolist()

    def _epoch(self, epoch: int) -> np.ndarray:
        """Items of all batches of an epoch, ``(batches, batch_size)``."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.durations_s))[: len(self) * self.batch_size]
        if self.bucket_batches == 1:  # shuffled already; two batches in a row are one of twice the size
            return order.reshape(-1, self.batch_size)
        window = self.batch_size * self.bucket_batches
        for begin in range(0, len(order), window):
            part = order[begin : begin + window]
            order[begin : begin + window] = part[np.argsort(self.durations_s[part], kind="stable")]
        return rng.permutation(order.reshape(-1, self.batch_size))

    def __iter__(self) -> Iterator[list[int]]:
        """From micro-batch ``start`` (counted over all ranks) on, without end."""
        for k in count(self.start + self.rank, self.num_ranks):
            yield self.batch(k)


class EvalBatchSampler(Sampler[list[int]]):
    """Every item once, longest batches first."""

    def __init__(self, durations_s: np.ndarray, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size ({batch_size}) must be at least 1")
        order = np.argsort(-np.asarray(durations_s), kind="stable")
        self.batches = [order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def _loader(
    dataset: TimedDataset,
    sampler: Sampler[list[int]],
    collate_fn: Callable[[Sequence[Any]], Any],
    num_workers: int,
    pin_memory: bool,
    persistent_workers: bool,
    prefetch_factor: int | None,
) -> DataLoader:
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # anything with items will do
        batch_sampler=sampler,
        collate_fn=collate_fn,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers,
        prefetch_factor=prefetch_factor,
    )


def train_dataloader(
    dataset: TimedDataset,
    batch_size: int,
    collate_fn: Callable[[Sequence[Any]], Any],
    seed: int = 0,
    bucket_batches: int = 8,
    num_workers: int = 0,
    pin_memory: bool = False,
    persistent_workers: bool = False,
    prefetch_factor: int | None = None,
) -> DataLoader:
    """Endless loader over ``TrainBatchSampler``; the last four are those of ``torch.utils.data.DataLoader``."""
    sampler = TrainBatchSampler(dataset.durations_s, batch_size, seed, bucket_batches)
    return _loader(dataset, sampler, collate_fn, num_workers, pin_memory, persistent_workers, prefetch_factor)


def eval_dataloader(
    dataset: TimedDataset,
    batch_size: int,
    collate_fn: Callable[[Sequence[Any]], Any],
    num_workers: int = 0,
    pin_memory: bool = False,
    persistent_workers: bool = False,
    prefetch_factor: int | None = None,
) -> DataLoader:
    """Each item once, in a fixed order."""
    sampler = EvalBatchSampler(dataset.durations_s, batch_size)
    return _loader(dataset, sampler, collate_fn, num_workers, pin_memory, persistent_workers, prefetch_factor)
