"""Owning the order: micro-batch *k* of any loader is a pure function of ``(seed, k)``.

A plain ``DataLoader`` remembers where it is in random generators, which a killed run cannot bring back. Here its
sampler is asked for one epoch at a time with generators seeded for that epoch, and each item is read with generators
seeded for that item. So any run can start at any micro-batch, with any number of workers and processes.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate.utils import find_batch_size
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from unisono.errors import UserError
from unisono.objectives.noise import derive_seed

_WORKER_GRACE_S = 30


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # data sets of others draw from the global generator
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the context the global generators start from ``seed``; afterwards they are where they were before."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    seed_all(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.random.set_rng_state(states[2])


@runtime_checkable
class OrderedSampler(Protocol):
    """A batch sampler that can begin anywhere: an endless stream, from micro-batch ``start`` on, this rank's share."""

    start: int

    def shard(self, rank: int, num_ranks: int) -> None: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class EpochOrder(Sampler[Any]):
    """The endless, shardable order that repeats a sampler's epochs, each with its own seed.

    Args:
        sampler: gives one epoch: batches of keys, or single keys. With ``set_epoch`` or a ``generator`` of its own it
            is told the epoch; else it is to draw from the global generators, as torch's samplers do.
        seed: of the order.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self.sampler, self.seed = sampler, seed
        self.rank, self.num_ranks, self.start = 0, 1, 0
        self._cached: tuple[int, list[Any]] | None = None

    def shard(self, rank: int, num_ranks: int) -> None:
        self.rank, self.num_ranks = rank, num_ranks

    def __len__(self) -> int:
        """Micro-batches per epoch, over all ranks."""
        return len(self.sampler)

    def epoch(self, epoch: int) -> list[Any]:
        """One epoch as the sampler gives it."""
        if self._cached is None or self._cached[0] != epoch:
            entries = one_epoch(self.sampler, self.seed, epoch)
            if len(entries) != len(self):
                raise UserError(
                    f"{type(self.sampler).__name__} gave {len(entries)} batches in epoch {epoch}, and its length is "
                    f"{len(self)}; a sampler whose epochs differ in length cannot be resumed: fix its length"
                )
            self._cached = (epoch, entries)
        return self._cached[1]

    def __iter__(self) -> Iterator[Any]:
        for k in count(self.start + self.rank, self.num_ranks):
            epoch, position = divmod(k, len(self))
            entry = self.epoch(epoch)[position]
            yield [(epoch, key) for key in entry] if isinstance(entry, Sequence) else (epoch, entry)


def one_epoch(sampler: Any, seed: int, epoch: int) -> list[Any]:
    """All that ``sampler`` gives in an epoch, whatever was drawn before."""
    own_seed = derive_seed(seed, "order", epoch)
    part: Any
    for part in (sampler, getattr(sampler, "sampler", None)):
        if callable(getattr(part, "set_epoch", None)):
            part.set_epoch(epoch)
        if isinstance(getattr(part, "generator", None), torch.Generator):
            part.generator.manual_seed(own_seed)
    with seeded(own_seed):
        return list(sampler)


class SeededItems(Dataset[Any]):
    """Items by ``(epoch, key)``; what a data set draws while it reads one follows from seed, epoch and key."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, place: tuple[int, Any]) -> Any:
        epoch, key = place
        seed_all(derive_seed(self.seed, "item", epoch, key))
        try:
            return self.dataset[key]
        except UserError:
            raise
        except Exception as error:
            name = type(self.dataset).__name__
            raise RuntimeError(f"item {key} of {name} could not be read: {type(error).__name__}: {error}") from error


def leave_stopping_to_the_parent(worker_id: int) -> None:
    """Let a loader's worker outlive the signals that ask a run to stop after its step; the run ends its workers.

    A terminal and most clusters signal every process of a job. SIGTERM works after a while, in case the run is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process

        def end_later(*_: Any) -> None:
            signal.alarm(_WORKER_GRACE_S)

        signal.signal(signal.SIGTERM, end_later)


def _init_worker(own: Callable[[int], None] | None, worker_id: int) -> None:
    leave_stopping_to_the_parent(worker_id)
    if own is not None:
        own(worker_id)


def _rebuilt(loader: DataLoader, dataset: Any, sampler: Sampler[Any]) -> DataLoader:
    """A loader like ``loader`` in everything but data set and order."""
    single = loader.batch_sampler is None  # batch_size=None: each key names a whole batch
    options: dict[str, Any] = {"sampler": sampler, "batch_size": None} if single else {"batch_sampler": sampler}
    return DataLoader(
        dataset,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=partial(_init_worker, loader.worker_init_fn),
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        **options,
    )


def _has_sampler(loader: Any) -> bool:
    return isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)


class TrainBatches:
    """The endless stream of micro-batches that training takes.

    Args:
        loader: a loader of ``unisono.data.loader.train_dataloader``, any ``DataLoader``, or anything that can be
            iterated again and again. Rank *r* of *R* takes micro-batches ``r, R + r, 2R + r, …``, so every rank has as
            many. What has no sampler is iterated from its beginning to where a resumed run goes on.
        seed: of the order, for loaders that do not bring their own.
    """

    def __init__(self, loader: Any, seed: int, rank: int = 0, num_ranks: int = 1) -> None:
        self.seed, self.rank, self.num_ranks = seed, rank, num_ranks
        self.sampler: OrderedSampler | None = None
        if _has_sampler(loader):
            own = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
            if isinstance(own, OrderedSampler):
                self.sampler, self.loader = own, _rebuilt(loader, loader.dataset, own)  # type: ignore[arg-type]
            else:
                order = EpochOrder(own, seed)
                self.sampler, self.loader = order, _rebuilt(loader, SeededItems(loader.dataset, seed), order)
            self.sampler.shard(rank, num_ranks)
            if not len(self.sampler):
                raise UserError(
                    "the training loader has no batch: its data set is empty, or smaller than one batch with drop_last"
                )
        else:
            self.loader = loader

    @property
    def per_epoch(self) -> int | None:
        """Micro-batches of one pass over the data, over all ranks; None where only the end of the data tells."""
        if self.sampler is not None:
            return len(self.sampler)
        try:
            return len(self.loader)
        except TypeError:
            return None

    def keys(self, k: int) -> Any:
        """What names the items of micro-batch ``k``, for messages."""
        if isinstance(self.sampler, EpochOrder):
            epoch, position = divmod(k, len(self.sampler))
            return self.sampler.epoch(epoch)[position]
        return f"of micro-batch {k}"

    def stream(self, start: int) -> Iterator[Any]:
        """This rank's micro-batches without end, from number ``start`` (counted over all ranks) on."""
        if self.sampler is None:
            return islice(self._repeated(), start + self.rank, None, self.num_ranks)
        self.sampler.start = start
        return iter(self.loader)

    def _repeated(self) -> Iterator[Any]:
        for epoch in count():
            # Seeded, and not taken back: the loader draws while it is iterated.
            seed_all(derive_seed(self.seed, "order", epoch))
            if callable(set_epoch := getattr(getattr(self.loader, "dataset", None), "set_epoch", None)):
                set_epoch(epoch)
            is_empty = True
            for batch in self.loader:
                is_empty = False
                yield batch
            if is_empty:
                raise UserError(f"the training loader gave no batch in epoch {epoch}; is its data set empty?")


class EvalBatches:
    """Every batch of a validation loader once, shared by the ranks; all ranks take the same number of turns.

    Sharded models meet in every forward, so a rank that runs out of batches goes through one more that does not count.

    Args:
        loader: any ``DataLoader`` or iterable. Whatever is random in its order or its items is the same each time.
    """

    def __init__(self, loader: Any, rank: int = 0, num_ranks: int = 1) -> None:
        self.rank, self.num_ranks = rank, num_ranks
        self.loader, self.num_batches = loader, None
        if _has_sampler(loader):
            own = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
            entries = one_epoch(own, 0, 0)
            self.num_batches = len(entries)
            if not entries:
                raise UserError("the validation loader has no batch; give it items, or set val_dataloader to null")
            turns = -(-len(entries) // num_ranks)
            share = [entries[(turn * num_ranks + rank) % len(entries)] for turn in range(turns)]
            keyed = [[(0, key) for key in e] if isinstance(e, Sequence) else (0, e) for e in share]
            self.loader = _rebuilt(loader, SeededItems(loader.dataset, 0), keyed)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[int, Any, bool]]:
        """Number of the batch among all, the batch, and whether it counts."""
        if self.num_batches is not None:
            for turn, batch in enumerate(self.loader):
                number = turn * self.num_ranks + self.rank
                yield number % self.num_batches, batch, number < self.num_batches
            return
        yield from self._shared(iter(self.loader))

    def _shared(self, batches: Iterable[Any]) -> Iterator[tuple[int, Any, bool]]:
        batches, first, turn = iter(batches), None, 0
        while row := list(islice(batches, self.num_ranks)):
            first = row[0] if first is None else first
            counts = self.rank < len(row)
            yield turn * self.num_ranks + self.rank, row[self.rank] if counts else first, counts
            turn += 1
        if first is None:
            raise UserError("the validation loader gave no batch; give it items, or set val_dataloader to null")


def num_items(batch: Any) -> int:
    """Items of a batch: the first dimension of its first tensor, or its own length."""
    if isinstance(batch, torch.Tensor | tuple | list | Mapping):
        return int(find_batch_size(batch) or 0)
    return len(batch)


def next_batch(batches: Iterator[Any]) -> Any:
    """The next batch; what a user can mend in a loader's worker is said without the worker's traceback."""
    try:
        return next(batches)
    except UserError as error:
        raise UserError(str(error).rpartition(f"{UserError.__name__}: ")[2].strip()) from error
