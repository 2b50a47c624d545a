"""Tar shards read in order: the same batches whoever reads them, nothing lost, damage named."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import TOY_PHONEMES, TOY_SPEAKERS
from streams import RATE, flac, ids, make_shards, source
from toy import make_tar, toy_collator, toy_dataset
from unisono.data.collate import Collator
from unisono.data.datasets import DATASETS
from unisono.data.manifest import write_jsonl
from unisono.data.order import TrainBatches
from unisono.data.streaming import StreamedBatches, TarShards, streamed_dataloader
from unisono.data.tar_shards import write_shards
from unisono.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is noted of shards, in a folder of the test's own."""
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache of mine"))
    return tmp_path / "cache of mine"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards with space"))


@pytest.mark.parametrize("options", [{}, {"max_batch_frames": 120}])
def test_every_clip_comes_equally_often_in_batches_within_the_budget(shards: Path, options: dict) -> None:
    batches = StreamedBatches([source(shards)], 6, num_streams=1, shuffle_items=10, **options)
    seen: Counter[str] = Counter()
    padding = []
    for batch in itertools.islice(iter(batches), 300):
        frames = [-(-sample.waveform.shape[0] // 480) for sample in batch]
        assert len(batch) <= 6 and len(batch) * max(frames) <= options.get("max_batch_frames", 10**9)
        padding.append(1 - np.mean(frames) / max(frames))
        seen.update(sample.audio_id for sample in batch)
    assert len(seen) == 84 and min(seen.values()) >= 0.7 * max(seen.values())
    assert np.mean(padding) < 0.08


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2), (4, 1)])
def test_any_number_of_processes_and_workers_reads_the_same_batches(shards: Path, ranks: int, workers: int) -> None:
    alone = ids(StreamedBatches([source(shards)], 5, seed=3, num_streams=4), 16)
    for start in (0, 8):
        streams = []
        for rank in range(ranks):
            loader = streamed_dataloader(
                [source(shards)], 5, collate_fn=list, seed=3, num_streams=4, num_workers=workers
            )
            found = TrainBatches(loader, 0, rank, ranks).stream(start)
            streams.append([[s.audio_id for s in batch] for batch in itertools.islice(found, 8 // ranks)])
        together = [batch for of_one_step in zip(*streams, strict=True) for batch in of_one_step]
        assert together == alone[start : start + 8]


def test_another_seed_is_another_order(shards: Path) -> None:
    orders = [ids(StreamedBatches([source(shards)], 5, seed=seed, num_streams=4), 5) for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_processes_that_do_not_divide_the_streams_are_told_what_to_set(shards: Path) -> None:
    loader = streamed_dataloader([source(shards)], 5, collate_fn=list, num_streams=4)
    with pytest.raises(UserError, match=r"3 processes x 1 workers do not divide num_streams \(4\); set it to a mul"):
        next(TrainBatches(loader, 0, 0, 3).stream(0))
    with pytest.raises(UserError, match=r"12 shards cannot feed 13 streams; .* null \(here 8\) or make"):
        StreamedBatches([source(shards)], 5, num_streams=13)
    few = streamed_dataloader([source(shards, pattern="train-00[01].tar")], 5, collate_fn=list)
    with pytest.raises(UserError, match=r"of 3, for which 2 shards are too few: .*--max-mb 0\.\d+"):
        next(TrainBatches(few, 0, 0, 3).stream(0))


@pytest.mark.parametrize("option", [{"shuffle_mb": 0}, {"shuffle_mb": float("inf")}, {"num_streams": 0},
                                    {"batch_size": 0}, {"shuffle_items": -1}])  # fmt: skip
def test_settings_that_are_none_are_named(shards: Path, option: dict) -> None:
    (name,) = option
    with pytest.raises(UserError, match=rf"{name} is .*; it must be"):
        StreamedBatches([source(shards)], **{"batch_size": 4, **option})


@pytest.mark.parametrize(("numbers", "streams"), [([12], 8), ([40], 16), ([1, 12], 1), ([5, 40], 4)])
def test_streams_are_as_many_as_every_set_can_feed(numbers: list[int], streams: int) -> None:
    sets = [TarShards([f"pipe:{i}" for i in range(number)], DATASETS["text_to_audio"](None)) for number in numbers]
    assert StreamedBatches(sets, 5).num_streams == streams


def test_sets_are_mixed_by_their_weights(shards: Path) -> None:
    heavy, light = source(shards), source(shards)
    heavy.weight, heavy.dataset.task = 3.0, "text_to_music"
    tasks: Counter[str] = Counter()
    for batch in itertools.islice(iter(StreamedBatches([heavy, light], 6, num_streams=4)), 150):
        tasks.update(sample.task for sample in batch)
    assert tasks["text_to_music"] / sum(tasks.values()) == pytest.approx(0.75, abs=0.06)


# -- what is written is read ----------------------------------------------------------------------------------------


def test_shards_of_manifests_give_the_items_of_the_manifests(toy_corpus: Path, tmp_path: Path) -> None:
    for task in ("text_to_audio", "text_to_speech", "speech_enhancement"):
        dataset = toy_dataset(toy_corpus, task)
        paths = write_shards(dataset, tmp_path / task, max_bytes=60_000, progress=False)
        assert len(paths) > 1 and not list((tmp_path / task).glob(".*"))
        batches = StreamedBatches([source(tmp_path / task, task, "*.tar")], 4, num_streams=1)
        found = {sample.audio_id: sample for batch in itertools.islice(iter(batches), 40) for sample in batch}
        for index in range(8):
            wanted, sample = dataset[index], found[dataset.audio_id(index)]
            assert torch.equal(sample.waveform, wanted.waveform)
            for own, other in zip(sample.content, wanted.content, strict=True):
                for field in dataclasses.fields(own):
                    a, b = getattr(own, field.name), getattr(other, field.name)
                    assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        with pytest.raises(UserError, match=r"shard-000000\.tar is there already; remove it"):
            write_shards(dataset, tmp_path / task)


def test_members_stand_for_the_fields_they_are_named_after(tmp_path: Path) -> None:
    voice, f0 = io.BytesIO(), io.BytesIO()
    np.save(voice, np.ones(3, dtype=np.float32))
    np.save(f0, np.full(50, 200.0))
    line = {"phonemes": ["a", "b"], "durations_s": [0.2, 0.3], "f0_rate_hz": 100}
    make_tar(
        tmp_path / "a.tar",
        {
            "songs/one.json": json.dumps(line).encode(),
            "songs/one.flac": flac(0.5),
            "songs/one.f0_hz.npy": f0.getvalue(),
            "songs/one.speaker_embedding.npy": voice.getvalue(),
        },
    )
    (sample,) = next(iter(StreamedBatches([source(tmp_path, "singing_acoustic_modeling", "a.tar")], 1, num_streams=1)))
    assert sample.audio_id == "songs_one" and sample.content[0].speaker.tolist() == [1, 1, 1]
    assert sample.content[0].f0_hz.tolist() == pytest.approx([200.0] * 25)
    assert Collator(TOY_PHONEMES, TOY_SPEAKERS)([sample]).contents["pitch"].inputs["speaker_embedding"].shape == (1, 3)
    make_tar(
        tmp_path / "b.tar", {"x.wav.txt": b"no item", "x.txt": "ein Gewitter, fern é".encode(), "x.flac": flac(0.3)}
    )


def test_a_caption_may_lie_beside_its_sound(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", {"x.txt": "\ufeffein Gewitter é\n".encode(), "x.flac": flac(0.3)})
    (sample,) = next(iter(StreamedBatches([source(tmp_path, pattern="a.tar")], 1, num_streams=1)))
    assert sample.content[0].text == "ein Gewitter é" and sample.audio_id == "x"


def test_a_command_can_be_the_source(shards: Path) -> None:
    script = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"
    cat = f'pipe:{sys.executable} -c "{script}" '
    urls = [f"{cat} '{shards}/train-{number:03d}.tar'" for number in range(12)]
    piped = TarShards(urls, DATASETS["text_to_audio"](None))
    assert ids(StreamedBatches([piped], 5, num_streams=2), 3) == ids(
        StreamedBatches([source(shards)], 5, num_streams=2), 3
    )
    failing = TarShards(["pipe:exit 3"], DATASETS["text_to_audio"](None))
    with pytest.raises(UserError, match="pipe:exit 3: damaged or cut off at its beginning"):
        ids(StreamedBatches([failing], 5, num_streams=1), 1)


# -- damage ---------------------------------------------------------------------------------------------------------


def whole(tmp_path: Path) -> bytes:
    members = {}
    for name in "abc":
        members[f"{name}.json"] = json.dumps({"caption": name, "duration_s": 0.3}).encode()
        members[f"{name}.flac"] = flac(0.3)
    return make_tar(tmp_path / "x.tar", members).read_bytes()


def header_of(data: bytes, name: str) -> int:
    return data.index(name.encode() + b"\0")


DAMAGES = [
    (lambda d: d[: header_of(d, "b.flac") + 700], "x.tar: damaged or cut off at member 'b.flac'"),
    (lambda d: d[: header_of(d, "b.flac")], "x.tar: damaged or cut off at member 'b.json' (no end mark)"),
    (lambda d: d[: header_of(d, "b.flac")] + b"\xff" * 512 + d[header_of(d, "b.flac") + 512 :], "(no header follows)"),
    (lambda d: b"", "x.tar: damaged or cut off at its beginning"),
    (lambda d: b"no archive" * 500, "x.tar: damaged or cut off at its beginning"),
    (lambda d: d.replace(b'{"caption": "b"', b'{"caption": "b,'), "x.tar::b.json: not JSON"),
    (lambda d: d.replace(b'"caption": "b"', b'"captiom": "b"'), "x.tar::b: field 'caption' is missing"),
    (lambda d: d.replace(b"b.json", b"a.json"), "(no header follows)"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[words for _, words in DAMAGES])
def test_a_damaged_shard_is_named_with_the_member(damage, words: str, tmp_path: Path) -> None:
    data = damage(whole(tmp_path))
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(UserError) as caught:
        ids(StreamedBatches([source(tmp_path, pattern="x.tar")], 1, num_streams=1, shuffle_items=1), 6)
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_damaged_recording_is_named_from_a_worker_too(tmp_path: Path) -> None:
    data = bytearray(whole(tmp_path))
    begin = header_of(bytes(data), "b.flac") + 512
    data[begin : begin + 100] = b"\0" * 100
    (tmp_path / "x.tar").write_bytes(data)
    for workers in (0, 1):
        loader = streamed_dataloader(
            [source(tmp_path, pattern="x.tar")], 1, toy_collator(), num_streams=1, shuffle_items=1, num_workers=workers
        )
        with pytest.raises(UserError, match=r"x\.tar::b: field 'audio': .*x\.tar::b\.flac: not readable as audio"):
            list(itertools.islice(TrainBatches(loader, 0).stream(0), 6))


def test_shards_that_do_not_exist_are_named(tmp_path: Path) -> None:
    for pattern in ("none-*.tar", "none-{000..002}.tar"):
        with pytest.raises(UserError, match=r"none-.*: no such shard"):
            source(tmp_path, pattern=pattern)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for level in (0.1, 0.2):
            data = flac(0.3, level)
            info = tarfile.TarInfo("a.flac")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(UserError, match=r"x\.tar: a\.flac: duplicate file name in tar file.*names must be unique"):
        ids(StreamedBatches([source(tmp_path, pattern="x.tar")], 1, num_streams=1), 1)


def test_numbers_in_archives_become_files_of_their_own(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["f0"] = np.full(60, 220.0)
        file["encoded"] = np.frombuffer(flac(0.6), dtype=np.uint8)
        samples = file.create_dataset("samples", data=np.full((14_400, 2), 0.25, dtype=np.float32))
        samples.attrs["sample_rate"] = RATE
    line = {"phonemes": ["a"], "durations_s": [0.6], "f0_hz": "a.h5::f0", "f0_rate_hz": 100}
    for number, member in enumerate(("samples", "encoded")):
        write_jsonl(tmp_path / "content.jsonl", [{"audio_id": "x", **line}])
        write_jsonl(tmp_path / "audio.jsonl", [{"audio_id": "x", "audio": f"a.h5::{member}"}])
        dataset = DATASETS["singing_acoustic_modeling"](tmp_path / "content.jsonl", tmp_path / "audio.jsonl")
        write_shards(dataset, tmp_path / str(number), progress=False)
        streamed = source(tmp_path / str(number), "singing_acoustic_modeling", "*.tar")
        (sample,) = next(iter(StreamedBatches([streamed], 1, num_streams=1)))
        assert torch.equal(sample.waveform, dataset[0].waveform)
        assert torch.equal(sample.content[0].f0_hz, dataset[0].content[0].f0_hz)


def test_items_beyond_the_limit_are_left_out_of_a_stream(shards: Path) -> None:
    batches = StreamedBatches([source(shards, max_duration_s=0.6)], 4, num_streams=2)
    seen = [sample for batch in itertools.islice(iter(batches), 40) for sample in batch]
    assert 10 < len({sample.audio_id for sample in seen}) < 80
    assert max(sample.waveform.shape[0] for sample in seen) <= 0.6 * RATE
    with pytest.raises(UserError, match="hold no items"):
        ids(StreamedBatches([source(shards, max_duration_s=0.1)], 4, num_streams=2), 1)


def test_inputs_are_degraded_on_the_fly_in_a_stream_too(shards: Path) -> None:
    from timed_items import Halved

    batches = StreamedBatches([source(shards, "speech_enhancement", degradation=Halved())], 4, num_streams=2)
    for sample in next(iter(batches)):
        ratio = sample.content[0].waveform / sample.waveform
        assert 0.3 <= float(ratio.mean()) <= 0.6 and float(ratio.std()) < 1e-5


def members_of(folder: Path) -> list[str]:
    names = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            names += archive.getnames()
    return names


def test_targets_to_be_degraded_where_they_are_read_can_be_sharded(toy_corpus: Path, tmp_path: Path) -> None:
    from unisono.data.commands import shard

    lines = [{"audio_id": f"speech_enhancement_{i}"} for i in range(8)]
    content = write_jsonl(tmp_path / "speech_enhancement" / "train" / "content.jsonl", lines)
    shard(content, tmp_path / "shards", audio=toy_corpus / "speech_enhancement" / "audio.jsonl", task=None)
    endings = Counter(Path(name).suffix for name in members_of(tmp_path / "shards"))
    assert endings == {".json": 8, ".flac": 8}
