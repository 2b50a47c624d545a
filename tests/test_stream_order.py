"""The order of streamed batches: within a bound of bytes, nothing waiting for ever, and begun anywhere."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from streams import RATE, flac, ids, make_shards, source
from toy import make_tar
from unisono.data import streaming
from unisono.data.datasets import DATASETS
from unisono.data.stream_order import LONGEST_WAIT_BATCHES, Limits, Stream, StreamedFields
from unisono.data.streaming import StreamedBatches, TarShards
from unisono.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is noted of shards, in a folder of the test's own."""
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache of mine"))
    return tmp_path / "cache of mine"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards with space"))


# -- memory and waiting ---------------------------------------------------------------------------------------------


class Described:
    """Shards that are descriptions only: seconds and bytes of each item."""

    weight, crop_s, max_duration_s, name = 1.0, None, None, "described"

    def __init__(self, items: list[tuple[float, int]], urls: int = 4) -> None:
        self.urls, self.described = [f"pipe:{number}" for number in range(urls)], items

    def items(self, url: str) -> Iterator[tuple[StreamedFields, float]]:
        for place, (seconds, num_bytes) in enumerate(self.described):
            yield StreamedFields(url, str(place), {}, {}, num_bytes), seconds

    def refuse_long(self, fields: StreamedFields, whole_s: float) -> None: ...


def stream_of(items: list[tuple[float, int]], mb: float, batch_size: int = 8, shuffle_items: int = 256) -> Stream:
    limits = Limits(batch_size, None, RATE, 480, shuffle_items, round(mb * 1e6))
    return Stream([Described(items)], 0, 1, 0, limits)


@pytest.mark.parametrize("mb", [0.01, 1, 3, 20])
def test_items_held_back_keep_to_the_bytes_allowed(mb: float) -> None:
    rng = np.random.default_rng(1)
    described = [(float(rng.uniform(0.5, 20)), int(rng.integers(1e3, 1e6))) for _ in range(500)]
    stream, sizes = stream_of(described, mb), []
    for position in range(300):
        sizes.append(len(stream.take(position)))
        held = [*stream._buffer, *(item for items in stream._waiting.by_length.values() for item in items)]
        assert sum(item.held_bytes for item in held) <= mb * 1e6 + 2e6
        assert stream._waiting.num_bytes == sum(i.held_bytes for w in stream._waiting.by_length.values() for i in w)
    assert np.mean(sizes) > (5 if mb == 20 else 0.9)


def test_memory_stays_within_the_bound_with_large_members(tmp_path: Path) -> None:
    """Twenty shards of ten items of a megabyte: what is held is what was allowed, not 256 items of each stream."""
    noise = np.random.default_rng(0).bytes(1_000_000)
    for shard in range(4):
        members = {}
        for item in range(10):
            key, seconds = f"{shard}_{item}", 0.2 + 0.1 * (item % 5)
            members[f"{key}.json"] = json.dumps({"caption": "x", "duration_s": seconds}).encode()
            members |= {f"{key}.flac": flac(seconds), f"{key}.extra.bin": noise}
        make_tar(tmp_path / f"{shard}.tar", members)
    batches = iter(StreamedBatches([source(tmp_path, pattern="*.tar")], 2, num_streams=2, shuffle_mb=4))
    next(batches)
    tracemalloc.start()
    for _ in range(60):
        next(batches)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 4e6 + 2 * 3e6 + 3e6  # two streams, three items in hand of each, the batch


def test_a_rare_length_waits_for_a_bounded_number_of_items() -> None:
    described = [(30.0 if number == 7 else 1.0 + number % 3, 1000) for number in range(900)]
    stream = stream_of(described, 1000, batch_size=4, shuffle_items=1)
    position = taken = 0
    arrivals = Counter[float]()
    while position < 3000:
        batch = stream.take(position)
        position, taken = position + 1, taken + len(batch)
        newest = max(item.arrived for item in batch)
        for item in batch:
            arrivals[item.whole_s] += 1
        waiting = [item for items in stream._waiting.by_length.values() for item in items]
        assert all(newest - item.arrived <= (LONGEST_WAIT_BATCHES + 1) * 4 for item in waiting)
    assert arrivals[30.0] >= taken // 900 - 1


def test_batches_that_cannot_wait_take_items_of_near_lengths() -> None:
    rng = np.random.default_rng(0)
    described = [(float(seconds), 100_000) for seconds in rng.uniform(1, 20, 2000)]
    free, pressed = (stream_of(described, mb, shuffle_items=16) for mb in (1000, 8))
    for stream, least, most in ((free, 7.9, 0.08), (pressed, 6, 0.3)):
        batches = [stream.take(position) for position in range(400)]
        padding = [1 - sum(i.whole_s for i in b) / len(b) / max(i.whole_s for i in b) for b in batches]
        assert np.mean([len(batch) for batch in batches]) >= least and np.mean(padding) < most


# -- going on -------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are opened, in order."""
    urls: list[str] = []
    original = streaming._open

    def noted(url: str):
        urls.append(url)
        return original(url)

    monkeypatch.setattr(streaming, "_open", noted)
    return urls


def two_sets(shards: Path) -> StreamedBatches:
    sets = [source(shards, max_duration_s=0.8), source(shards, "speech_enhancement", degradation=no_degradation)]
    return StreamedBatches(sets, 3, seed=5, num_streams=2, shuffle_items=6)


def no_degradation(rng: np.random.Generator, waveform: np.ndarray, rate: int):
    return SimpleNamespace(waveform=waveform)


@pytest.mark.parametrize("start", [1, 7, 40, 101])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(shards: Path, start: int) -> None:
    whole = ids(two_sets(shards), 140)
    for _ in range(2):  # and what it notes on the way changes nothing
        resumed = two_sets(shards)
        resumed.start = start
        assert ids(resumed, 140 - start) == whole[start:]


def test_a_resumed_run_reads_only_the_shards_it_goes_on_with(shards: Path, opened: list[str]) -> None:
    whole = ids(two_sets(shards), 142)
    read_at_first = len(opened)
    opened.clear()
    resumed = two_sets(shards)
    resumed.start = 140
    assert ids(resumed, 2) == whole[140:]
    # Of each of two streams and two sets: the shard it is in, and those of the items held back.
    assert len(opened) < read_at_first / 4


@pytest.mark.parametrize("damage", ["none", "cut off", "empty", "another shape", "no folder"])
def test_without_usable_notes_a_resumed_run_reads_again(shards: Path, own_cache: Path, damage: str) -> None:
    if damage == "no folder":
        own_cache.write_text("a file where the folder should be")
    whole = ids(two_sets(shards), 30)
    if damage != "no folder":
        notes = sorted((own_cache / "streams").iterdir())
        assert len(notes) >= 10
        for path in notes:
            if damage == "none":
                path.unlink()
            elif damage == "another shape":
                np.save(path, np.zeros(3))
            else:
                path.write_bytes(path.read_bytes()[:50] if damage == "cut off" else b"")
    resumed = two_sets(shards)
    resumed.start = 20
    assert ids(resumed, 10) == whole[20:]


def test_a_run_does_not_go_on_with_other_shards(tmp_path: Path) -> None:
    def shard(seconds: float) -> None:
        items = {f"{n}.json": json.dumps({"caption": "x", "duration_s": seconds}).encode() for n in range(6)}
        make_tar(tmp_path / "a.tar", dict(sorted((items | {f"{n}.flac": flac(seconds) for n in range(6)}).items())))

    def batches(start: int) -> list[list[str]]:
        piped = TarShards(f"pipe:cat '{tmp_path}/a.tar'", DATASETS["text_to_audio"](None))
        found = StreamedBatches([piped], 2, shuffle_items=3)
        found.start = start
        return ids(found, 8 - start)

    shard(0.3)
    assert batches(0)[5:] == batches(5)
    shard(0.5)
    with pytest.raises(UserError, match=r"a\.tar': item \d is another than this run saw; .* removing .*\.npy"):
        batches(5)
    assert batches(0)  # a new run notes what there is now
    assert batches(5)
