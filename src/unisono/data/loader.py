"""The loaders of training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Sampler

from unisono.data.sampler import EvalBatchSampler, Mixture, TrainBatchSampler, mixture_shares
from unisono.errors import UserError
from unisono.timing import clip_frames


class TimedDataset(Protocol):
    """What a loader needs to know of a data set: ``durations_s``, the length of each item."""

    @property
    def durations_s(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def frames_of(dataset: TimedDataset, sample_rate: int, hop_samples: int) -> np.ndarray:
    """Latent frames per item, at least 1, int32."""
    durations_s = np.asarray(dataset.durations_s, dtype=np.float64)
    return clip_frames(durations_s, sample_rate, hop_samples).astype(np.int32)


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
    max_batch_frames: int | None = None,
    sample_rate: int = 24_000,
    hop_samples: int = 480,
    num_buckets: int = 16,
    mixture: Mixture = "proportional",
    static_shapes: bool = False,
    num_workers: int = 0,
    pin_memory: bool = False,
    persistent_workers: bool = False,
    prefetch_factor: int | None = None,
) -> DataLoader:
    """Endless loader over ``TrainBatchSampler``; the last four are those of ``torch.utils.data.DataLoader``.

    Args:
        dataset: a ``ConcatDataset``, or any data set with ``durations_s``.
        batch_size: items per micro-batch at most.
        collate_fn: samples to a batch.
        seed: of the order.
        max_batch_frames: most latent frames of a micro-batch, padding included; long items come in smaller batches.
        sample_rate, hop_samples: of the model; they say how many latent frames an item has.
        num_buckets: lengths to tell apart.
        mixture: how often each task is drawn, see ``mixture_shares``.
        static_shapes: pad every batch of a bucket to the bucket's length, and captions to powers of two, so that
            ``torch.compile`` with ``dynamic=False`` meets few shapes. ``collate_fn`` must be a ``Collator``, or have
            its ``with_static_shapes``.
    """
    parts = getattr(dataset, "datasets", None)
    shares, ends, names = None, None, ()
    if parts is not None:
        sizes, tasks = [len(part) for part in parts], [part.task for part in parts]
        shares = mixture_shares(sizes, tasks, [part.weight for part in parts], mixture)
        ends, names = np.cumsum(sizes), tuple(part.name for part in parts)
        for part in parts if num_workers else ():
            # What a degradation computes once is then there before the workers are forked.
            if callable(warm_up := getattr(getattr(part, "degradation", None), "warm_up", None)):
                warm_up(part.sample_rate)
    frames = frames_of(dataset, sample_rate, hop_samples)
    sampler = TrainBatchSampler(frames, batch_size, seed, max_batch_frames, num_buckets, ends, shares, names)
    if static_shapes:
        if not hasattr(collate_fn, "with_static_shapes"):
            raise UserError(
                f"static_shapes is true, but {type(collate_fn).__name__} has no with_static_shapes(lengths); "
                "give it one (see unisono.data.collate.Collator), or set static_shapes to false"
            )
        collate_fn = collate_fn.with_static_shapes([bucket.max_frames for bucket in sampler.buckets])
    return _loader(dataset, sampler, collate_fn, num_workers, pin_memory, persistent_workers, prefetch_factor)


def eval_dataloader(
    dataset: TimedDataset,
    batch_size: int,
    collate_fn: Callable[[Sequence[Any]], Any],
    max_batch_frames: int | None = None,
    sample_rate: int = 24_000,
    hop_samples: int = 480,
    num_workers: int = 0,
    pin_memory: bool = False,
    persistent_workers: bool = False,
    prefetch_factor: int | None = None,
) -> DataLoader:
    """Each item once, in a fixed order."""
    sampler = EvalBatchSampler(frames_of(dataset, sample_rate, hop_samples), batch_size, max_batch_frames)
    return _loader(dataset, sampler, collate_fn, num_workers, pin_memory, persistent_workers, prefetch_factor)
