"""The order of training: pure, even, of little padding, within the budget; and the mixture of tasks."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.data.buckets import bucket_edges
from unisono.data.loader import eval_dataloader, frames_of, train_dataloader
from unisono.data.order import EvalBatches
from unisono.data.sampler import EvalBatchSampler, TrainBatchSampler, mixture_shares
from unisono.errors import UserError

FRAMES = np.ceil(np.random.default_rng(5).lognormal(1.0, 0.7, 203) * 50).astype(np.int32)


def stream(sampler: TrainBatchSampler, number: int, begin: int = 0) -> list[list[int]]:
    return [sampler.batch(k) for k in range(begin, begin + number)]


def mixed(seed: int = 3, **options) -> TrainBatchSampler:
    """Three data sets of 20, 100 and 83 items that give 50, 30 and 20 % of an epoch."""
    return TrainBatchSampler(FRAMES, 8, seed, ends=[20, 120, 203], shares=[0.5, 0.3, 0.2], **options)


# -- a pure function ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"max_batch_frames": 1200}, {"num_buckets": 1}])
def test_a_batch_is_a_function_of_seed_and_position(options) -> None:
    asked_in_order = mixed(**options)
    wanted = stream(asked_in_order, 90)
    for k in (89, 0, 30, 24, 25, 26, 89):  # any order, across the ends of epochs, from a sampler that remembers nothing
        assert mixed(**options).batch(k) == wanted[k]
        assert asked_in_order.batch(k) == wanted[k]
    assert stream(mixed(seed=4, **options), 90) != wanted


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
@pytest.mark.parametrize("start", [0, 7])
def test_ranks_together_see_the_stream_of_one_process(num_ranks: int, start: int) -> None:
    streams = []
    for rank in range(num_ranks):
        sampler = mixed()
        sampler.shard(rank, num_ranks)
        sampler.start = start * num_ranks
        streams.append(list(itertools.islice(iter(sampler), 20)))
    together = [batch for of_one_step in zip(*streams, strict=True) for batch in of_one_step]
    assert together == stream(mixed(), 20 * num_ranks, start * num_ranks)


# -- even -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("items", "batch_size", "num_buckets"), [(203, 8, 8), (203, 1, 3), (7, 7, 8), (5, 9, 2)])
def test_every_item_is_seen_equally_often(items: int, batch_size: int, num_buckets: int) -> None:
    sampler = TrainBatchSampler(FRAMES[:items], batch_size, seed=1, num_buckets=num_buckets)
    assert len(sampler) == round(items / sampler.batch_size)
    seen: Counter[int] = Counter()
    for epoch in range(1, 13):
        batches = stream(sampler, len(sampler), (epoch - 1) * len(sampler))
        assert all(len(batch) == sampler.batch_size for batch in batches)
        seen.update(index % items for batch in batches for index in batch)
        if epoch > 1:
            # Buckets are drawn in whole batches, so one may be ahead of another by one batch.
            assert max(seen.values()) - min(seen[item] for item in range(items)) <= 2
    assert sum(seen.values()) == 12 * len(sampler) * sampler.batch_size


def test_an_index_tells_how_often_its_item_came_before() -> None:
    passes: dict[int, list[int]] = {}
    for batch in stream(mixed(), 200):
        for index in batch:
            passes.setdefault(index % 203, []).append(index // 203)
    assert all(turns == list(range(len(turns))) for turns in passes.values())  # so no two draws of an item are alike


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    weights=st.lists(st.floats(0.05, 1.0), min_size=5, max_size=5),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 5),
)
def test_shares_are_kept_exactly_in_the_long_run(sizes, weights, batch_size, seed) -> None:
    frames = np.random.default_rng(seed).integers(1, 400, sum(sizes))
    shares = np.array(weights[: len(sizes)]) / sum(weights[: len(sizes)])
    ends = np.cumsum(sizes)
    sampler = TrainBatchSampler(frames, batch_size, seed, ends=ends, shares=shares, num_buckets=4)
    number = 40 * len(sampler)
    drawn = np.concatenate([np.asarray(batch) for batch in stream(sampler, number)]) % len(frames)
    counts = np.bincount(np.searchsorted(ends, drawn, side="right"), minlength=len(sizes))
    # Rounding costs each bucket less than a batch over the whole stream, whatever its length.
    assert np.abs(counts - shares * len(drawn)).max() <= 1 + 2 * len(sampler.buckets) * sampler.batch_size


# -- padding and budget ---------------------------------------------------------------------------------------------


def test_bucketing_saves_most_of_the_padding_and_keeps_the_order_random() -> None:
    plain = TrainBatchSampler(FRAMES, 8, num_buckets=1).padding_share()
    sampler = TrainBatchSampler(FRAMES, 8, num_buckets=8)
    assert plain > 0.4 and sampler.padding_share() < plain / 2
    longest = np.array([[FRAMES[np.array(b) % 203].max() for b in stream(sampler, 25, e * 25)] for e in range(8)])
    assert 0.3 < (np.diff(longest) > 0).mean() < 0.7  # batches are shuffled again, not ordered by length
    first, second = ({frozenset(i % 203 for i in b) for b in stream(sampler, 25, e * 25)} for e in (0, 1))
    assert len(first & second) <= 1  # and their members change every epoch


@pytest.mark.parametrize("budget", [700, 1200, 5000])
def test_no_batch_exceeds_the_budget_and_short_items_come_in_larger_batches(budget: int) -> None:
    frames = np.minimum(FRAMES, 700)
    sampler = TrainBatchSampler(frames, 16, max_batch_frames=budget)
    sizes = {}
    for batch in stream(sampler, 3 * len(sampler)):
        lengths = frames[np.array(batch) % 203]
        assert len(batch) * lengths.max() <= budget and len(batch) <= 16
        sizes.setdefault(len(batch), []).append(lengths.mean())
    assert len(sizes) > 1 or budget == 5000
    assert np.mean(sizes[max(sizes)]) <= np.mean(sizes[min(sizes)])
    shapes = {(len(batch), sampler.buckets[0].max_frames) for batch in stream(sampler, len(sampler))}
    assert len(shapes) <= len(sampler.buckets)


def test_an_item_beyond_the_budget_is_named_with_the_remedy() -> None:
    with pytest.raises(
        UserError, match=r"speech/content\.jsonl: an item has \d+ latent frames, and max_batch_frames is 9"
    ):
        TrainBatchSampler(FRAMES, 8, max_batch_frames=9, names=["speech/content.jsonl"])


@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    num_buckets=st.integers(1, 4),
    min_items=st.integers(1, 5),
)
def test_bucket_edges_waste_as_little_as_any_choice_can(frames, num_buckets, min_items) -> None:
    lengths = np.sort(frames)
    min_items = min(min_items, len(lengths))

    def padded(edges) -> float:
        which = np.searchsorted(edges, lengths, side="left")
        counts = np.bincount(which, minlength=len(edges))
        return float(np.sum(counts * edges)) if counts.min() >= min_items else np.inf

    found = bucket_edges(np.array(frames), num_buckets, min_items)
    distinct = np.unique(lengths)
    choices = (
        padded(np.array([*inner, distinct[-1]]))
        for number in range(min(num_buckets, len(distinct)))
        for inner in itertools.combinations(distinct[:-1], number)
    )
    assert len(found) <= num_buckets and found[-1] == lengths[-1]
    assert padded(found) == min(choices)


def test_edges_of_many_lengths_still_hold_every_item() -> None:
    frames = np.random.default_rng(0).integers(1, 100_000, 50_000)
    edges = bucket_edges(frames, 16, 100)
    assert len(edges) == 16 and edges[-1] == frames.max() and (np.diff(edges) > 0).all()
    which = np.searchsorted(edges, frames, side="left")
    assert np.bincount(which).min() >= 100
    assert 1 - frames.sum() / edges[which].sum() < 0.07


def test_what_an_epoch_comes_to_is_told() -> None:
    sampler = mixed(max_batch_frames=1200)
    lines = sampler.summary()
    assert lines[0] == "data set 0: 20 items, 50.0% of an epoch, each seen 5.08 times in it"
    assert lines[-1].startswith(f"{len(sampler)} batches of ") and lines[-1].endswith("% padding")


# -- mixtures -------------------------------------------------------------------------------------------------------

SIZES, TASKS = [100, 300, 600], ["a", "a", "b"]


@pytest.mark.parametrize(
    ("mixture", "wanted"),
    [
        ("proportional", [0.1, 0.3, 0.6]),
        ("balanced", [0.125, 0.375, 0.5]),
        ({"temperature": 1}, [0.1, 0.3, 0.6]),
        ({"temperature": 1e9}, [0.125, 0.375, 0.5]),
        ({"temperature": 2}, np.array([0.25 * 20, 0.75 * 20, 600**0.5]) / (20 + 600**0.5)),
        ({"weights": {"a": 3, "b": 1}}, [0.1875, 0.5625, 0.25]),
    ],
)
def test_mixtures_share_an_epoch_among_tasks(mixture, wanted) -> None:
    assert mixture_shares(SIZES, TASKS, [1.0] * 3, mixture) == pytest.approx(wanted)


def test_a_data_sets_weight_counts_within_its_task() -> None:
    assert mixture_shares(SIZES, TASKS, [3.0, 1.0, 7.0], "balanced") == pytest.approx([0.25, 0.25, 0.5])


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        ("even", "mixture is 'even'; choose proportional, balanced"),
        ({"temperature": 0}, "mixture.temperature is 0; it must be a number above 0"),
        ({"temperature": True}, "mixture.temperature is True"),
        ({"weights": {"a": 1}}, "mixture.weights names a; it must name the tasks of the training sets: a, b"),
        ({"weights": {"a": 1, "b": 1, "c": 1}}, "mixture.weights names a, b, c; it must"),
        ({"weights": {"a": 1, "b": 0}}, "mixture.weights.b is 0; it must be a number above 0"),
        ({"weights": None}, "mixture.weights names None"),
        ({}, "mixture is {}"),
    ],
)
def test_a_mixture_that_is_none_is_refused(mixture, words: str) -> None:
    with pytest.raises(UserError) as caught:
        mixture_shares(SIZES, TASKS, [1.0] * 3, mixture)
    assert words in str(caught.value)


# -- loaders --------------------------------------------------------------------------------------------------------


class RangeDataset:
    """Item ``i`` is ``i``."""

    durations_s = FRAMES / 50

    def __len__(self) -> int:
        return len(FRAMES)

    def __getitem__(self, index: int) -> int:
        return index


def test_frames_are_seconds_times_the_rate_rounded_up() -> None:
    dataset = RangeDataset()
    assert (frames_of(dataset, 24_000, 480) == FRAMES).all()
    assert (frames_of(dataset, 24_000, 960) == -(-FRAMES // 2)).all()


def test_a_plain_data_set_with_durations_can_be_loaded() -> None:
    loader = train_dataloader(RangeDataset(), 8, collate_fn=list, max_batch_frames=1500)
    batches = list(itertools.islice(iter(loader), 30))
    assert batches == stream(loader.batch_sampler, 30)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 40])
def test_evaluation_takes_every_item_once_over_all_ranks(num_ranks: int) -> None:
    seen = []
    for rank in range(num_ranks):
        loader = eval_dataloader(RangeDataset(), 8, collate_fn=list)
        turns = list(EvalBatches(loader, rank, num_ranks))
        assert len(turns) == -(-26 // num_ranks)  # the same in all ranks, or sharded models would wait for each other
        seen += [index for _, batch, counts in turns if counts for index in batch]
    assert sorted(seen) == list(range(len(FRAMES)))


def test_evaluation_keeps_to_the_budget_too() -> None:
    batches = list(EvalBatchSampler(FRAMES, 16, max_batch_frames=1000))
    assert sorted(item for batch in batches for item in batch) == list(range(203))
    assert all(len(b) == 1 or len(b) * FRAMES[np.array(b)].max() <= 1000 for b in batches)
    assert max(map(len, batches)) > 10


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_sizes_below_one_are_refused(batch_size: int) -> None:
    for make in (TrainBatchSampler, EvalBatchSampler):
        with pytest.raises(UserError, match=str(batch_size)):
            make(FRAMES, batch_size)
