"""Owning the order: micro-batch *k* of any loader is a pure function of ``(seed, k)``.

A plain ``DataLoader`` remembers where it is in random generators, which a killed run cannot bring back. Here its
sampler is asked for one epoch at a time with generators seeded for that epoch, and each item is read with generators
seeded for that item. So any run can start at any micro-batch, with any number of workers and processes.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import count, islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from unisono.data.randomness import RandomStream, seed_all
from unisono.errors import UserError
from unisono.objectives.noise import derive_seed

_WORKER_GRACE_S = 600
_END = object()


@runtime_checkable
class OrderedSampler(Protocol):
    """A batch sampler that can begin anywhere: an endless stream, from micro-batch ``start`` on, this rank's share."""

    start: int

    def shard(self, rank: int, num_ranks: int) -> None: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


@runtime_checkable
class OrderedStream(Protocol):
    """An iterable data set of whole batches that can begin anywhere, see ``StreamedBatches``."""

    start: int

    def shard(self, rank: int, num_ranks: int) -> None: ...

    def __iter__(self) -> Iterator[Any]: ...


class EpochOrder(Sampler[Any]):
    """The endless, shardable order that repeats a sampler's epochs, each with its own seed.

    Args:
        sampler: gives one epoch. With ``set_epoch`` or a ``generator`` of its own it is told the epoch; else it is to
            draw from the global generators, as torch's samplers do.
        seed: of the order.
        is_batched: the sampler gives batches of keys; else keys, each of a whole batch.
    """

    def __init__(self, sampler: Any, seed: int, is_batched: bool = True) -> None:
        self.sampler, self.seed, self.is_batched = sampler, seed, is_batched
        self.rank, self.num_ranks, self.start = 0, 1, 0
        self._cached: tuple[int, list[Any]] | None = None

    def shard(self, rank: int, num_ranks: int) -> None:
        self.rank, self.num_ranks = rank, num_ranks

    def __len__(self) -> int:
        """Micro-batches per epoch, over all ranks."""
        return _length(self.sampler)

    def epoch(self, epoch: int) -> list[Any]:
        """One epoch as the sampler gives it."""
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, one_epoch(self.sampler, self.seed, epoch))
        return self._cached[1]

    def __iter__(self) -> Iterator[Any]:
        for k in count(self.start + self.rank, self.num_ranks):
            epoch, position = divmod(k, len(self))
            entry = self.epoch(epoch)[position]
            yield placed(epoch, entry, self.is_batched)


def placed(epoch: int, entry: Any, is_batched: bool) -> Any:
    """What a sampler gave, with the epoch beside each key, for ``SeededItems``."""
    return [(epoch, _key(key)) for key in entry] if is_batched else (epoch, entry)


def _key(key: Any) -> Any:
    return key.item() if isinstance(key, torch.Tensor | np.integer) else key  # equal keys must print alike for the seed


def _sampler_of(loader: DataLoader) -> tuple[Any, bool]:
    """A loader's sampler, and whether it gives batches of keys.

    Raises:
        UserError: it shares the data among processes, which is done here.
    """
    is_batched = loader.batch_sampler is not None
    sampler: Any = loader.batch_sampler if is_batched else loader.sampler
    for part in (sampler, getattr(sampler, "sampler", None)):
        if getattr(part, "num_replicas", 1) > 1:
            raise UserError(
                f"{type(part).__name__} shares the data among processes, and so does the trainer; give the loader a "
                "plain sampler (shuffle=True)"
            )
    return sampler, is_batched


def _length(sampler: Any) -> int:
    try:
        return len(sampler)
    except TypeError:
        name = type(sampler).__name__
        raise UserError(f"the sampler {name} has no length; give it one, or make the data set iterable") from None


def one_epoch(sampler: Any, seed: int, epoch: int) -> list[Any]:
    """All that ``sampler`` gives in an epoch, whatever was drawn before.

    Raises:
        UserError: it has no length, or another one than it says; such an order cannot be begun anywhere.
    """
    name, length = type(sampler).__name__, _length(sampler)
    own_seed = derive_seed(seed, "order", epoch)
    part: Any
    for part in (sampler, getattr(sampler, "sampler", None)):
        if callable(getattr(part, "set_epoch", None)):
            part.set_epoch(epoch)
        if isinstance(getattr(part, "generator", None), torch.Generator):
            part.generator.manual_seed(own_seed)
    with RandomStream(own_seed):
        entries = list(islice(sampler, length + 1))
    if len(entries) != length:
        found = "more than its length" if len(entries) > length else f"{len(entries)} batches"
        raise UserError(
            f"{name} gave {found} in epoch {epoch}, and its length is {length}; a sampler whose epochs differ in "
            "length cannot be resumed: fix its length"
        )
    return entries


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

    A terminal and most clusters signal every process of a job. SIGTERM works when it comes again, or after a while, in
    case the run is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process

        def end_later(*_: Any) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.alarm(_WORKER_GRACE_S)

        signal.signal(signal.SIGTERM, end_later)


def _init_worker(own: Callable[[int], None] | None, worker_id: int) -> None:
    leave_stopping_to_the_parent(worker_id)
    if own is not None:
        own(worker_id)


def _options(loader: DataLoader) -> dict[str, Any]:
    """What a loader does with its workers and batches; its workers outlive the signals that stop a run."""
    return {
        "collate_fn": loader.collate_fn,
        "num_workers": loader.num_workers,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": partial(_init_worker, loader.worker_init_fn),
        "multiprocessing_context": loader.multiprocessing_context,
        "prefetch_factor": loader.prefetch_factor,
        "persistent_workers": loader.persistent_workers,
    }


def _rebuilt(loader: DataLoader, dataset: Any, sampler: Sampler[Any]) -> DataLoader:
    """A loader like ``loader`` in everything but data set and order."""
    if loader.batch_sampler is None:  # batch_size=None: each key names a whole batch
        return DataLoader(dataset, sampler=sampler, batch_size=None, **_options(loader))
    return DataLoader(dataset, batch_sampler=sampler, **_options(loader))


def _with_lasting_workers(loader: DataLoader) -> DataLoader:
    """A loader of whole batches like ``loader``."""
    return DataLoader(loader.dataset, batch_size=None, **_options(loader))


def end_workers(loader: Any) -> None:
    """End a loader's persistent workers; of no effect on others."""
    if getattr(loader, "_iterator", None) is not None:
        loader._iterator = None


def _drawing_apart(loader: Any, seed: int) -> Iterator[Any]:
    """Batches of a loader that draws from the global generators while it is iterated, as training does in between."""
    random_stream = RandomStream(seed)
    with random_stream:
        batches = _plainly(loader)
        batch = next(batches, _END)
    while batch is not _END:
        yield batch
        with random_stream:
            batch = next(batches, _END)


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
        self.stream_of: OrderedStream | None = None
        if _has_sampler(loader):
            own, is_batched = _sampler_of(loader)
            if isinstance(own, OrderedSampler):
                self.sampler, self.loader = own, _rebuilt(loader, loader.dataset, own)  # type: ignore[arg-type]
            else:
                order = EpochOrder(own, seed, is_batched)
                self.sampler, self.loader = order, _rebuilt(loader, SeededItems(loader.dataset, seed), order)
            self.sampler.shard(rank, num_ranks)
            if not len(self.sampler):
                raise UserError(
                    "the training loader has no batch: its data set is empty, or smaller than one batch with drop_last"
                )
        elif isinstance(dataset := getattr(loader, "dataset", None), OrderedStream):
            dataset.shard(rank, num_ranks)
            self.stream_of, self.loader = dataset, _with_lasting_workers(loader)
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

    def close(self) -> None:
        """End workers that persist: the interpreter's own way is a SIGTERM, which they are slow to take."""
        end_workers(self.loader)

    def keys(self, k: int) -> Any:
        """What names the items of micro-batch ``k``, for messages."""
        if isinstance(self.sampler, EpochOrder):
            epoch, position = divmod(k, len(self.sampler))
            return self.sampler.epoch(epoch)[position]
        return f"of micro-batch {k}"

    def stream(self, start: int) -> Iterator[Any]:
        """This rank's micro-batches without end, from number ``start`` (counted over all ranks) on."""
        if self.stream_of is not None:
            self.stream_of.start = start
            return _plainly(self.loader)
        if self.sampler is None:
            return islice(self._repeated(), start + self.rank, None, self.num_ranks)
        self.sampler.start = start
        return _plainly(self.loader)

    def _repeated(self) -> Iterator[Any]:
        for epoch in count():
            if callable(set_epoch := getattr(getattr(self.loader, "dataset", None), "set_epoch", None)):
                set_epoch(epoch)
            is_empty = True
            for batch in _drawing_apart(self.loader, derive_seed(self.seed, "order", epoch)):
                is_empty = False
                yield batch
            if is_empty:
                why = "is its data set empty?" if epoch == 0 else "a generator can be iterated once; give a list"
                raise UserError(f"the training loader gave no batch in epoch {epoch}; {why}")


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
            own, is_batched = _sampler_of(loader)
            if isinstance(own, OrderedSampler):
                raise UserError("the validation loader is one for training, which never ends; use eval_dataloader")
            entries = one_epoch(own, 0, 0)
            self.num_batches = len(entries)
            if not entries:
                raise UserError("the validation loader has no batch; give it items, or set val_dataloader to null")
            turns = -(-len(entries) // num_ranks)
            share = [entries[(turn * num_ranks + rank) % len(entries)] for turn in range(turns)]
            keyed = [placed(0, entry, is_batched) for entry in share]
            self.loader = _rebuilt(loader, SeededItems(loader.dataset, 0), keyed)  # type: ignore[arg-type]

    def close(self) -> None:
        end_workers(self.loader)

    def __iter__(self) -> Iterator[tuple[int, Any, bool]]:
        """Number of the batch among all, the batch, and whether it counts."""
        if self.num_batches is not None:
            for turn, batch in enumerate(_plainly(self.loader)):
                number = turn * self.num_ranks + self.rank
                yield number % self.num_batches, batch, number < self.num_batches
            return
        yield from self._shared(_drawing_apart(self.loader, 0))

    def _shared(self, batches: Iterator[Any]) -> Iterator[tuple[int, Any, bool]]:
        first, turn = None, 0
        while row := list(islice(batches, self.num_ranks)):
            first = row[0] if first is None else first
            counts = self.rank < len(row)
            yield turn * self.num_ranks + self.rank, row[self.rank] if counts else first, counts
            turn += 1
        if first is None:
            raise UserError(
                "the validation loader gave no batch; give it items (a generator can be iterated once: give a list), "
                "or set val_dataloader to null"
            )


def to_device(batch: Any, device: torch.device) -> Any:
    """Tensors in any nesting, or an object with a method ``to``."""
    if hasattr(batch, "to") and not isinstance(batch, torch.Tensor):
        return batch.to(device)
    return send_to_device(batch, device, non_blocking=True)


def num_items(batch: Any) -> int:
    """Items of a batch: the first dimension of its first array, the length of its first list of texts, or its own."""
    if isinstance(batch, torch.Tensor | np.ndarray):
        return batch.shape[0] if batch.ndim else 1
    if isinstance(batch, Mapping | tuple | list) and len(batch):
        parts = list(batch.values() if isinstance(batch, Mapping) else batch)
        arrays = [part for part in parts if isinstance(part, torch.Tensor | np.ndarray) and part.ndim]
        nested = [part for part in parts if isinstance(part, Mapping | tuple | list) and len(part)]
        if arrays or nested:
            return num_items((arrays or nested)[0])
        return len(batch) if isinstance(batch, list) else 1
    return len(batch) if hasattr(batch, "__len__") else 1


def _plainly(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches; what a user can mend in a loader's worker is said without the worker's traceback."""
    iterator = iter(batches)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except UserError as error:
            raise UserError(str(error).rpartition(f"{UserError.__name__}: ")[2].strip()) from error
        yield batch
