"""The order of training: any loader, from any micro-batch on, with any number of workers and ranks."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)  # fmt: skip

from conftest import TASKS
from plain import plain_trainer
from toy import toy_collator, toy_dataset
from unisono.data.datasets import ConcatDataset
from unisono.data.loader import eval_dataloader, train_dataloader
from unisono.data.order import EvalBatches, TrainBatches, seed_all
from unisono.errors import UserError

NUM, BATCH, PER_EPOCH = 10, 3, 4


class Keys(Dataset[Any]):
    """Each item is its key and what was drawn from each of the three global generators."""

    def __len__(self) -> int:
        return NUM

    def __getitem__(self, key: Any) -> Tensor:
        drawn = [float(torch.rand(())), float(np.random.rand()), random.random()]  # noqa: NPY002
        return torch.tensor([key, *drawn], dtype=torch.float64)


class Countdown(IterableDataset[Tensor]):
    """Items in a random order, drawn while they are read; workers share them."""

    def __iter__(self) -> Iterator[Tensor]:
        info = torch.utils.data.get_worker_info()
        left = list(range(NUM))[info.id :: info.num_workers] if info else list(range(NUM))
        while left:
            yield torch.tensor([left.pop(random.randrange(len(left))), torch.rand(()), np.random.rand()])  # noqa: NPY002


class Reshuffled:
    """A sampler that is told its epoch and draws from nothing else."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return NUM

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng(self.epochs[-1]).permutation(NUM).tolist())


def loader(kind: str, **options: Any) -> Any:
    """A new loader, as a new process would make it."""
    generator = torch.Generator().manual_seed(99)
    batches = {"batch_size": BATCH, **options}
    made = {
        "shuffled": lambda: DataLoader(Keys(), shuffle=True, **batches),
        "in order": lambda: DataLoader(Keys(), **batches),
        "dropping": lambda: DataLoader(Keys(), shuffle=True, drop_last=True, **batches),
        "with a generator": lambda: DataLoader(Keys(), shuffle=True, generator=generator, **batches),
        "with replacement": lambda: DataLoader(Keys(), sampler=RandomSampler(Keys(), True, 9), **batches),
        "sampler with a generator": lambda: DataLoader(
            Keys(), sampler=RandomSampler(Keys(), generator=generator), **batches
        ),
        "weighted": lambda: DataLoader(Keys(), sampler=WeightedRandomSampler([1.0, 5.0] * 5, NUM), **batches),
        "subset": lambda: DataLoader(Keys(), sampler=SubsetRandomSampler([1, 5, 7, 8]), **batches),
        "set_epoch": lambda: DataLoader(Keys(), sampler=Reshuffled(), **batches),
        "distributed of one": lambda: DataLoader(Keys(), sampler=DistributedSampler(Keys(), 1, 0), **batches),
        "batch sampler": lambda: DataLoader(
            Keys(), batch_sampler=BatchSampler(RandomSampler(Keys()), 4, False), **options
        ),
        "tensors of keys": lambda: DataLoader(Keys(), batch_sampler=list(torch.arange(NUM).split(4)), **options),
        "single": lambda: DataLoader(Keys(), shuffle=True, batch_size=None, **options),
        "iterable": lambda: DataLoader(Countdown(), batch_size=BATCH, **options),
        "list": lambda: [torch.full((2,), float(i)) for i in range(PER_EPOCH)],
    }  # fmt: skip
    return made[kind]()


KINDS = ["shuffled", "in order", "dropping", "with a generator", "with replacement", "sampler with a generator",
         "weighted", "subset", "set_epoch", "distributed of one", "batch sampler", "tensors of keys", "single",
         "iterable", "list"]  # fmt: skip


def taken(made: Any, num: int, start: int = 0, rank: int = 0, ranks: int = 1, seed: int = 7) -> list[Tensor]:
    """Micro-batches of the stream, while something else draws between them."""
    found, batches = [], TrainBatches(made, seed, rank, ranks).stream(start)
    for number in range(num):
        seed_all(1000 + start + number * ranks)
        found.append(next(batches))
        torch.rand(number + 1), random.random()
    return found


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_stream_begins_anywhere(kind: str) -> None:
    """Also after a process that drew other things before."""
    whole = taken(loader(kind), 3 * PER_EPOCH)
    for start in (1, PER_EPOCH - 1, PER_EPOCH, 2 * PER_EPOCH + 1):
        seed_all(start)
        assert same(taken(loader(kind), 3 * PER_EPOCH - start, start), whole[start:]), start


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_share_the_single_stream(kind: str) -> None:
    whole = taken(loader(kind), 12)
    for ranks in (2, 3):
        parts = [taken(loader(kind), 12 // ranks, 0, rank, ranks) for rank in range(ranks)]
        assert same([parts[k % ranks][k // ranks] for k in range(12)], whole)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("iterable", "list")])
def test_workers_change_nothing(kind: str) -> None:
    whole = taken(loader(kind), 6)
    assert same(taken(loader(kind, num_workers=2), 6), whole)
    assert same(taken(loader(kind, num_workers=1, prefetch_factor=1, persistent_workers=True), 4, 2), whole[2:])


@pytest.mark.parametrize("kind", ["shuffled", "weighted", "iterable"])
def test_epochs_and_seeds_differ(kind: str) -> None:
    batches = taken(loader(kind), 2 * PER_EPOCH)
    assert not same(batches[:PER_EPOCH], batches[PER_EPOCH:])
    assert not same(taken(loader(kind), 2 * PER_EPOCH, seed=8), batches)


def test_an_epoch_has_each_item_once() -> None:
    for kind in ("shuffled", "with a generator", "set_epoch", "batch sampler", "tensors of keys", "single", "iterable"):
        made = loader(kind)
        num = TrainBatches(made, 7).per_epoch or PER_EPOCH
        keys = torch.cat([batch.reshape(-1, batch.shape[-1])[:, 0] for batch in taken(made, num)])
        assert sorted(keys.tolist()) == list(range(NUM)), kind


def test_augmentation_is_drawn_anew_each_epoch() -> None:
    first, second = (taken(loader("in order"), 2 * PER_EPOCH)[k] for k in (0, PER_EPOCH))
    assert torch.equal(first[:, 0], second[:, 0]) and not (first[:, 1:] == second[:, 1:]).any()
    assert len({*first[:, 1].tolist(), *first[:, 2].tolist(), *first[:, 3].tolist()}) == 3 * BATCH


def test_an_iterable_with_workers_goes_on_with_as_many() -> None:
    whole = taken(loader("iterable", num_workers=2), 10)
    assert same(taken(loader("iterable", num_workers=2), 4, 6), whole[6:])


@pytest.mark.parametrize("batch_size", [2, 3])
def test_a_data_set_may_be_read_by_lists_of_keys(batch_size: int) -> None:
    """torch's way to read whole batches at once: the sampler gives lists, ``batch_size`` is None."""

    class Whole(Keys):
        def __getitem__(self, keys: Any) -> Tensor:
            return torch.tensor(keys)

    made = DataLoader(Whole(), sampler=BatchSampler(SequentialSampler(Keys()), batch_size, False), batch_size=None)
    assert same(taken(made, 3), list(torch.arange(3 * batch_size).split(batch_size)))
    assert same([batch for _, batch, _ in EvalBatches(made)], list(torch.arange(NUM).split(batch_size)))


@pytest.mark.parametrize("batch_size", [None, 2])
def test_keys_may_be_words_or_pairs(batch_size: int | None) -> None:
    class Named(Dataset[Any]):
        def __getitem__(self, key: Any) -> Any:
            return key

    for keys in (["ab", "cd", "ef", "gh"], [(0, "x"), (0, "y"), (1, "x"), (1, "y")]):
        made = DataLoader(Named(), sampler=keys, batch_size=batch_size, collate_fn=lambda entry: entry)
        expected = keys if batch_size is None else [keys[:2], keys[2:]]
        assert list(islice(TrainBatches(made, 0).stream(0), len(expected))) == expected
        assert [batch for _, batch, _ in EvalBatches(made)] == expected


def test_options_of_a_loader_are_kept() -> None:
    def collate(items: list[Tensor]) -> Tensor:
        return -torch.stack(items)

    def init(worker_id: int) -> None:
        torch.set_default_dtype(torch.float16)

    class Typed(Keys):
        def __getitem__(self, key: Any) -> Tensor:
            return torch.ones(1)

    made = DataLoader(Typed(), BATCH, num_workers=1, collate_fn=collate, worker_init_fn=init, timeout=20,
                      prefetch_factor=3, multiprocessing_context="fork")  # fmt: skip
    for rebuilt in (TrainBatches(made, 0).loader, EvalBatches(made).loader):
        assert rebuilt.collate_fn is collate and (rebuilt.timeout, rebuilt.prefetch_factor) == (20, 3)
        assert rebuilt.multiprocessing_context.get_start_method() == "fork"
        batch = next(iter(rebuilt))
        assert batch.dtype == torch.float16 and (batch == -1).all()
    assert TrainBatches(DataLoader(Keys(), BATCH, pin_memory=True), 0).loader.pin_memory


def test_options_of_a_streams_loader_are_kept() -> None:
    class Stream(IterableDataset[Tensor]):
        start = 0

        def shard(self, rank: int, num_ranks: int) -> None: ...

        def __iter__(self) -> Iterator[Tensor]:
            return iter([torch.ones(1)])

    made = DataLoader(Stream(), None, num_workers=1, timeout=20, prefetch_factor=3, multiprocessing_context="fork",
                      persistent_workers=True)  # fmt: skip
    rebuilt = TrainBatches(made, 0).loader
    assert (rebuilt.timeout, rebuilt.prefetch_factor, rebuilt.persistent_workers) == (20, 3, True)
    assert rebuilt.multiprocessing_context.get_start_method() == "fork"


# -- validation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_validation_is_the_same_each_time(kind: str) -> None:
    batches = EvalBatches(loader(kind))
    passes = []
    for drawn in range(2):
        seed_all(drawn)
        passes.append([batch for _, batch, _ in batches])
    assert same(passes[0], passes[1]) and same(passes[0], [batch for _, batch, _ in EvalBatches(loader(kind))])


@pytest.mark.parametrize("kind", ["shuffled", "single", "iterable", "list"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_validation_batch_counts_once(kind: str, ranks: int) -> None:
    whole = {number: batch for number, batch, _ in EvalBatches(loader(kind))}
    shares = [list(EvalBatches(loader(kind), rank, ranks)) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1, "ranks would wait for each other"
    counted = {number: batch for share in shares for number, batch, counts in share if counts}
    assert sum(counts for share in shares for _, _, counts in share) == len(whole)
    assert counted.keys() == whole.keys() and all(torch.equal(counted[number], whole[number]) for number in whole)


# -- what is refused --------------------------------------------------------------------------------------------------


class Endless:
    """Longer than it says."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            yield [0, 1]


class Unmeasured:
    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0, 1]])


class Varying:
    """Shorter each time it is asked."""

    length = 5

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[list[int]]:
        self.length -= 1
        return iter([[0, 1]] * self.length)


@pytest.mark.parametrize(
    ("sampler", "said"), [(Endless(), "length"), (Unmeasured(), "Unmeasured"), (Varying(), "3 batches")]
)
def test_a_sampler_that_cannot_be_resumed_is_refused(sampler: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        taken(DataLoader(Keys(), batch_sampler=sampler), 9)


def test_loaders_without_a_batch_are_refused() -> None:
    with pytest.raises(UserError, match="drop_last"):
        TrainBatches(DataLoader(Keys(), 11, drop_last=True), 0)
    for empty in ([], DataLoader(Keys(), 11, drop_last=True), DataLoader([], 2)):
        with pytest.raises(UserError, match="no batch"):
            list(EvalBatches(empty))
    with pytest.raises(UserError, match="no batch"):
        taken([], 1)
    with pytest.raises(UserError, match="once"):
        taken((torch.zeros(1) for _ in range(2)), 3)


def test_a_training_loader_for_validation_is_refused(toy_corpus: Path) -> None:
    datasets = ConcatDataset([toy_dataset(toy_corpus, TASKS[0])])
    with pytest.raises(UserError, match="eval_dataloader"):
        EvalBatches(train_dataloader(datasets, 2, toy_collator()))


# -- items that cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", ["train", "val"])
def test_an_item_that_raises_is_named(workers: int, where: str, tmp_path: Path) -> None:
    class Broken(Keys):
        def __getitem__(self, key: Any) -> Any:
            if key == 6:
                raise KeyError("pitch")
            return torch.zeros(6), torch.tensor(1)

    made = {f"{where}_dataloader": DataLoader(Broken(), BATCH, shuffle=where == "train", num_workers=workers)}
    with pytest.raises(RuntimeError, match=r"item 6 of Broken could not be read: KeyError: 'pitch'"):
        plain_trainer(tmp_path, **made).fit()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", ["train", "val"])
def test_a_users_error_is_said_without_a_traceback(workers: int, where: str, tmp_path: Path) -> None:
    class Broken(Keys):
        def __getitem__(self, key: Any) -> Any:
            raise UserError("list.txt, line 3: no pitch\n  give one")

    made = {f"{where}_dataloader": DataLoader(Broken(), BATCH, num_workers=workers)}
    with pytest.raises(UserError) as caught:
        plain_trainer(tmp_path, **made).fit()
    assert str(caught.value) == "list.txt, line 3: no pitch\n  give one"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_of_a_manifest_is_named(workers: int, toy_corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_corpus / "text_to_audio", tmp_path / "text_to_audio")
    dataset = toy_dataset(tmp_path, "text_to_audio")
    absent = tmp_path / "text_to_audio" / "audio" / "text_to_audio_2.flac"
    absent.unlink()
    datasets = ConcatDataset([dataset])
    for made in (train_dataloader(datasets, 8, toy_collator(), num_workers=workers),
                 eval_dataloader(datasets, 8, toy_collator(), num_workers=workers)):  # fmt: skip
        batches = TrainBatches(made, 0).stream(0)
        with pytest.raises(UserError) as caught:
            next(batches)
        said = str(caught.value)
        assert "audio.jsonl" in said and str(absent) in said and "Traceback" not in said
