"""The order of training: buckets of like length, a mixture of data sets, a budget of frames per batch.

Micro-batch *k* is a pure function of ``(seed, k)``. Items are sorted into buckets by length; a bucket has one batch
size, as many items as the budget allows at its greatest length, so shapes are few. Each pair of data set and bucket is
an endless stream of permutations of its items, each bucket an endless mixture of such streams, and the sequence of
buckets is drawn epoch by epoch. Nothing is left out and nothing repeated beyond the mixture: within a data set, items
of one bucket have been seen equally often at any time, to within one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from torch.utils.data import Sampler

from unisono.data.buckets import bucket_edges
from unisono.errors import UserError

_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, fill [0, 1) evenly


@dataclass(frozen=True)
class Bucket:
    """Items of like length, and how they are batched.

    Attributes:
        max_frames: length of the longest.
        batch_size: items per batch.
        members: per data set the items that fall here.
        edges: cumulative share of each data set in a batch, times ``batch_size``; begins with 0.
    """

    max_frames: int
    batch_size: int
    members: tuple[np.ndarray, ...]
    edges: np.ndarray


class TrainBatchSampler(Sampler[list[int]]):
    """An endless stream of micro-batches; micro-batch *k* depends on ``(seed, k)`` alone.

    Rank *r* of *R* takes micro-batches ``r, R + r, 2R + r, …``, so every rank has the same number by construction and
    one process sees the same stream as many.

    Args:
        frames: length per item, whole numbers of one unit.
        batch_size: items per micro-batch at most.
        seed: of the order.
        max_batch_frames: most frames of a micro-batch, padding included; None sets no limit.
        num_buckets: lengths to tell apart; 1 shuffles without bucketing. Fewer where there are few items.
        ends: where each data set ends among the items; None for a single one.
        shares: share of an epoch's items that each data set gives; None draws all items alike.
        names: of the data sets, for messages.
    """

    def __init__(
        self,
        frames: np.ndarray,
        batch_size: int,
        seed: int = 0,
        max_batch_frames: int | None = None,
        num_buckets: int = 16,
        ends: Sequence[int] | np.ndarray | None = None,
        shares: Sequence[float] | np.ndarray | None = None,
        names: Sequence[str] = (),
    ) -> None:
        if batch_size < 1 or num_buckets < 1:
            raise UserError(f"batch_size ({batch_size}) and num_buckets ({num_buckets}) must be at least 1")
        frames = np.asarray(frames)
        if not len(frames):
            raise UserError("the training data set has no item; give it some")
        self.frames, self.seed = frames, seed
        self.num_items, self.batch_size = len(frames), min(batch_size, len(frames))
        self.max_batch_frames = max_batch_frames
        self.ends = np.asarray([len(frames)] if ends is None else ends)
        self.sizes = np.diff(self.ends, prepend=0)
        self.names = tuple(names) or tuple(f"data set {index}" for index in range(len(self.sizes)))
        self.shares = self.sizes / self.num_items if shares is None else np.asarray(shares, dtype=np.float64)
        self._check_budget(int(frames.max()))
        self.buckets = self._make_buckets(num_buckets)
        self.rank, self.num_ranks, self.start = 0, 1, 0
        # Batches of each bucket in an epoch, on average; their sum is whole.
        batches = np.array([self._items_per_epoch(b.members).sum() / b.batch_size for b in self.buckets])
        self._length = max(1, round(float(batches.sum())))
        self._bucket_edges = np.concatenate([[0.0], np.cumsum(batches) / batches.sum() * self._length])
        self._bucket_edges[-1] = self._length
        self._epoch_cache: tuple[int, np.ndarray, np.ndarray] | None = None
        self._permutations: dict[tuple[int, int], tuple[int, np.ndarray]] = {}
        self._served: dict[int, tuple[int, np.ndarray]] = {}

    # -- buckets ------------------------------------------------------------------------------------------------------

    def _check_budget(self, longest: int) -> None:
        if self.max_batch_frames is not None and longest > self.max_batch_frames:
            item = int(np.argmax(self.frames))
            name = self.names[int(np.searchsorted(self.ends, item, side="right"))]
            raise UserError(
                f"{name}: an item has {longest} latent frames, and max_batch_frames is {self.max_batch_frames}; raise "
                "it, or set max_duration_s or crop_s of the data set"
            )

    def _make_buckets(self, num_buckets: int) -> tuple[Bucket, ...]:
        # Four batches' worth in each, or a few items would meet in the same batches again and again.
        least = min(self.num_items, 4 * self.batch_size)
        edges = bucket_edges(self.frames, min(num_buckets, self.num_items // least), least)
        bucket_of = np.searchsorted(edges, self.frames, side="left")
        order = np.argsort(bucket_of, kind="stable").astype(np.int32 if self.num_items < 2**31 else np.int64)
        begins = np.searchsorted(bucket_of[order], np.arange(len(edges) + 1))
        return tuple(
            self._make_bucket(int(edge), order[begin:end])
            for edge, begin, end in zip(edges, begins[:-1], begins[1:], strict=True)
        )

    def _make_bucket(self, max_frames: int, items: np.ndarray) -> Bucket:
        size = self.batch_size
        if self.max_batch_frames is not None:
            size = min(size, self.max_batch_frames // max_frames)
        members = tuple(np.split(items, np.searchsorted(items, self.ends[:-1])))
        wanted = self._items_per_epoch(members)
        edges = np.concatenate([[0.0], np.cumsum(wanted) / wanted.sum() * size])
        edges[-1] = size
        return Bucket(max_frames, size, members, edges)

    def _items_per_epoch(self, members: Sequence[np.ndarray]) -> np.ndarray:
        """Items that each data set gives to a bucket in an epoch, on average."""
        return self.shares * self.num_items / self.sizes * np.array([len(items) for items in members])

    # -- stream -------------------------------------------------------------------------------------------------------

    def shard(self, rank: int, num_ranks: int) -> None:
        """Which part of the stream this process takes."""
        self.rank, self.num_ranks = rank, num_ranks

    def __len__(self) -> int:
        """Micro-batches per epoch, over all ranks; an epoch has as many items as there are."""
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        """From micro-batch ``start`` (counted over all ranks) on, without end."""
        for k in count(self.start + self.rank, self.num_ranks):
            yield self.batch(k)

    def batch(self, k: int) -> list[int]:
        """Indices of micro-batch ``k``; ``pass * items + item``, see ``ConcatDataset``."""
        epoch, position = divmod(k, len(self))
        which, before = self._epoch(epoch)
        bucket = int(which[position])
        ordinal = int(before[bucket]) + int(np.count_nonzero(which[:position] == bucket))
        return self._bucket_batch(bucket, ordinal)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The bucket of each batch of an epoch, and how many batches each bucket gave before it."""
        if self._epoch_cache is None or self._epoch_cache[0] != epoch:
            counts = _systematic(self._bucket_edges, np.array([epoch]), self._offset("epochs"))[0]
            which = np.repeat(np.arange(len(self.buckets)), counts)
            np.random.default_rng([self.seed, 0, epoch]).shuffle(which)
            before = _total(self._bucket_edges, epoch, self._offset("epochs"))
            self._epoch_cache = (epoch, which, before)
        return self._epoch_cache[1], self._epoch_cache[2]

    def _bucket_batch(self, bucket: int, ordinal: int) -> list[int]:
        """The ``ordinal``-th batch of a bucket."""
        edges, offset = self.buckets[bucket].edges, self._offset(bucket)
        counts = _systematic(edges, np.array([ordinal]), offset)[0]
        before = self._before(bucket, ordinal)
        items = [
            self._stream(bucket, which, int(first), int(number))
            for which, (first, number) in enumerate(zip(before, counts, strict=True))
            if number
        ]
        return np.concatenate(items).tolist()

    def _before(self, bucket: int, ordinal: int) -> np.ndarray:
        """Items that each data set gave to a bucket before its batch ``ordinal``."""
        edges, offset = self.buckets[bucket].edges, self._offset(bucket)
        known, served = self._served.get(bucket, (0, np.zeros(len(edges) - 1, dtype=np.int64)))
        if known > ordinal:
            known, served = 0, np.zeros_like(served)
        served = served + _total(edges, ordinal, offset, begin=known)
        self._served[bucket] = (ordinal, served)
        return served

    def _stream(self, bucket: int, which: int, first: int, number: int) -> np.ndarray:
        """Items ``first`` to ``first + number`` of the endless stream of a data set's items in a bucket."""
        members = self.buckets[bucket].members[which]
        parts = []
        while number:
            turn, place = divmod(first, len(members))
            part = self._permutation(bucket, which, turn)[place : place + number]
            parts.append(members[part] + turn * self.num_items)
            first, number = first + len(part), number - len(part)
        return np.concatenate(parts)

    def _permutation(self, bucket: int, which: int, turn: int) -> np.ndarray:
        cached = self._permutations.get((bucket, which))
        if cached is None or cached[0] != turn:
            members = self.buckets[bucket].members[which]
            rng = np.random.default_rng([self.seed, 1, bucket, which, turn])
            cached = (turn, rng.permutation(len(members)).astype(members.dtype))
            self._permutations[bucket, which] = cached
        return cached[1]

    def _offset(self, key: str | int) -> float:
        """Where a sequence of draws begins, different for each seed."""
        number = 0 if isinstance(key, str) else key + 1
        return float(np.random.default_rng([self.seed, 2, number]).random())

    # -- what it comes to ---------------------------------------------------------------------------------------------

    def padding_share(self, num_batches: int | None = None) -> float:
        """Share of padding in the frames of the first batches (of one epoch, at most 1000)."""
        whole = padded = 0
        for k in range(min(len(self), 1000) if num_batches is None else num_batches):
            lengths = self.frames[np.asarray(self.batch(k)) % self.num_items]
            whole += int(lengths.sum())
            padded += int(lengths.max()) * len(lengths)
        return 1 - whole / max(1, padded)

    def summary(self) -> list[str]:
        """What an epoch takes from each data set, how often it sees an item of it, and the padding."""
        lines = []
        for name, size, share in zip(self.names, self.sizes, self.shares, strict=True):
            passes = share * self.num_items / size
            lines.append(f"{name}: {size} items, {share:.1%} of an epoch, each seen {passes:.3g} times in it")
        sizes = sorted({bucket.batch_size for bucket in self.buckets})
        items = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        lines.append(
            f"{len(self)} batches of {items} items an epoch, {len(self.buckets)} lengths, "
            f"{self.padding_share():.1%} padding"
        )
        return lines


def _systematic(edges: np.ndarray, turns: np.ndarray, offset: float) -> np.ndarray:
    """Whole counts per turn, ``(turns, parts)``, that sum to ``edges[-1]`` (whole) and on average to ``diff(edges)``.

    Systematic sampling: a comb of spacing 1 is laid over the cumulative shares, shifted anew each turn.
    """
    shift = (offset + turns * _GOLDEN) % 1.0
    return np.diff(np.floor(edges[None, :] + shift[:, None]), axis=1).astype(np.int64)


def _total(edges: np.ndarray, end: int, offset: float, begin: int = 0) -> np.ndarray:
    """Sum of the counts of turns ``begin`` up to, not including, ``end``; in pieces that fit into memory."""
    total = np.zeros(len(edges) - 1, dtype=np.int64)
    for first in range(begin, end, 65_536):
        total += _systematic(edges, np.arange(first, min(end, first + 65_536)), offset).sum(axis=0)
    return total


class EvalBatchSampler(Sampler[list[int]]):
    """Every item once, longest batches first, each within the budget of frames."""

    def __init__(self, frames: np.ndarray, batch_size: int, max_batch_frames: int | None = None) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size ({batch_size}) must be at least 1")
        frames = np.asarray(frames)
        order = np.argsort(-frames, kind="stable")
        self.batches: list[list[int]] = []
        begin = 0
        while begin < len(order):
            size = batch_size
            if max_batch_frames is not None:
                size = max(1, min(size, max_batch_frames // max(1, int(frames[order[begin]]))))
            self.batches.append(order[begin : begin + size].tolist())
            begin += size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


Mixture = str | Mapping[str, object]


def mixture_shares(
    sizes: Sequence[int], tasks: Sequence[str], weights: Sequence[float], mixture: Mixture = "proportional"
) -> np.ndarray:
    """Share of an epoch that each data set gives.

    Within a task, data sets share in proportion to their items times their own ``weight``. Between tasks:

    Args:
        sizes, tasks, weights: of the data sets.
        mixture: ``proportional`` (to the items of each task), ``balanced`` (all tasks alike), ``{temperature: t}``
            (items to the power 1/t: 1 is proportional, large is balanced; Arivazhagan et al. 2019, "Massively
            Multilingual NMT in the Wild", section 4), or ``{weights: {task: weight, …}}`` for every task.

    Raises:
        UserError: an unknown mixture, a task without a weight or a weight without a task.
    """
    items = np.asarray(sizes, dtype=np.float64) * np.asarray(weights, dtype=np.float64)
    names = list(dict.fromkeys(tasks))
    of_task = {name: sum(n for n, task in zip(items, tasks, strict=True) if task == name) for name in names}
    task_share = _task_shares(of_task, mixture)
    total = sum(task_share.values())
    return np.array([task_share[task] / total * n / of_task[task] for n, task in zip(items, tasks, strict=True)])


def _task_shares(items: Mapping[str, float], mixture: Mixture) -> dict[str, float]:
    if mixture == "proportional":
        return dict(items)
    if mixture == "balanced":
        return dict.fromkeys(items, 1.0)
    if isinstance(mixture, Mapping) and set(mixture) == {"temperature"}:
        temperature = mixture["temperature"]
        if isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature > 0:
            return {task: n ** (1.0 / temperature) for task, n in items.items()}
        raise UserError(f"mixture.temperature is {temperature!r}; it must be a number above 0")
    if isinstance(mixture, Mapping) and set(mixture) == {"weights"}:
        return _given_shares(items, mixture["weights"])
    raise UserError(
        f"mixture is {mixture!r}; choose proportional, balanced, {{temperature: 3}} or "
        "{weights: {text_to_audio: 2, …}}"
    )


def _given_shares(items: Mapping[str, float], weights: object) -> dict[str, float]:
    if not isinstance(weights, Mapping) or set(weights) != set(items):
        have = ", ".join(sorted(weights)) if isinstance(weights, Mapping) else repr(weights)
        raise UserError(
            f"mixture.weights names {have}; it must name the tasks of the training sets: {', '.join(items)}"
        )
    for task, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise UserError(
                f"mixture.weights.{task} is {weight!r}; it must be a number above 0 (or remove the task's data sets)"
            )
    return {task: float(weight) for task, weight in weights.items()}
