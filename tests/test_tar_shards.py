"""Writing tar shards: side by side, again after a kill, the same bytes; within the size that was asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

import unisono.data.tar_shards as tar_shards
from unisono.data.datasets import TextToAudioDataset
from unisono.data.manifest import write_jsonl
from unisono.data.tar_shards import write_shards
from unisono.errors import UserError
from unisono.files import locked


def corpus(folder: Path, ids: list[str], seed: int = 0) -> TextToAudioDataset:
    """Items of files from 1 to 4000 bytes; writing shards decodes nothing."""
    rng = np.random.default_rng(seed)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    for number in range(len(ids)):
        (folder / "audio" / f"{number}.flac").write_bytes(rng.bytes(int(rng.integers(1, 4000))))
    content = [{"audio_id": i, "caption": "é" * int(rng.integers(1, 3000))} for i in ids]
    audio = [{"audio_id": i, "audio": f"audio/{n}.flac", "duration_s": 1.0} for n, i in enumerate(ids)]
    files = write_jsonl(folder / "content.jsonl", content), write_jsonl(folder / "audio.jsonl", audio)
    return TextToAudioDataset(*files, check_files=False)


@pytest.fixture
def dataset(tmp_path: Path) -> TextToAudioDataset:
    return corpus(tmp_path / "a corpus with space", [f"clip {number}" for number in range(60)])


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def wanted(dataset: TextToAudioDataset, tmp_path: Path) -> dict[str, bytes]:
    """The shards of one go."""
    write_shards(dataset, tmp_path / "in one go", max_bytes=30_000, progress=False)
    return written(tmp_path / "in one go")


def test_shards_written_side_by_side_are_those_of_one_process(dataset, wanted, tmp_path: Path) -> None:
    assert len(wanted) > 8 and set(wanted) == {f"shard-{number:06d}.tar" for number in range(len(wanted))}
    write_shards(dataset, tmp_path / "by two", max_bytes=30_000, workers=2, progress=False)
    assert written(tmp_path / "by two") == wanted


@pytest.mark.parametrize("name", ["{}", "ünïcode clip {}", "l" * 120 + " {}"])
@pytest.mark.parametrize("max_bytes", [1, 15_000, 40_000, 10**9])
def test_a_shard_keeps_to_its_size_unless_one_item_exceeds_it(max_bytes: int, name: str, tmp_path: Path) -> None:
    ids = [name.format(number) for number in range(40)]
    paths = write_shards(corpus(tmp_path, ids), tmp_path / "shards", max_bytes=max_bytes, progress=False)
    found: list[str] = []
    for path in paths:
        with tarfile.open(path) as archive:
            members = archive.getnames()
        assert path.stat().st_size <= max_bytes or len(members) == 2
        found += [member.removesuffix(".json") for member in members if member.endswith(".json")]
    assert found == ids
    assert len(paths) == (40 if max_bytes == 1 else 1 if max_bytes == 10**9 else len(paths))


def test_without_a_size_there_are_shards_for_all_streams(dataset, tmp_path: Path) -> None:
    assert 32 <= len(write_shards(dataset, tmp_path / "shards", progress=False)) <= 60


def test_a_run_that_stopped_goes_on_with_what_is_missing(dataset, wanted, tmp_path: Path, monkeypatch) -> None:
    original, done = tar_shards._write_shard, []

    def stopping(job) -> int:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(job[1])
        return original(job)

    monkeypatch.setattr(tar_shards, "_write_shard", stopping)
    folder = tmp_path / "shards"
    with pytest.raises(KeyboardInterrupt):
        write_shards(dataset, folder, max_bytes=30_000, progress=False)
    (folder / ".shard-000004.tar.1.tmp").write_bytes(b"half")
    first = [path.stat().st_mtime_ns for path in done]
    monkeypatch.setattr(tar_shards, "_write_shard", original)
    write_shards(dataset, folder, max_bytes=30_000, progress=False)
    assert written(folder) == wanted and [path.stat().st_mtime_ns for path in done] == first


def test_a_killed_run_goes_on(dataset, wanted, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    script = (
        "import sys, time; from pathlib import Path; import unisono.data.tar_shards as t\n"
        "from unisono.data.datasets import TextToAudioDataset as D\n"
        "write = t._write_shard\n"
        "def slow(job): time.sleep(0.2); return write(job)\n"
        "t._write_shard = slow; c = Path(sys.argv[1])\n"
        "d = D(c / 'content.jsonl', c / 'audio.jsonl', check_files=False)\n"
        "t.write_shards(d, Path(sys.argv[2]), max_bytes=30_000)"
    )
    arguments = [sys.executable, "-c", script, str(dataset.content_file.path.parent), str(folder)]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.tar"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 2 <= len(list(folder.glob("*.tar"))) < len(wanted)
    write_shards(dataset, folder, max_bytes=30_000, progress=False)
    assert written(folder) == wanted


@pytest.mark.parametrize("change", ["size", "file", "line"])
def test_a_run_does_not_go_on_with_shards_of_other_data(dataset, tmp_path: Path, monkeypatch, change: str) -> None:
    def nothing(job) -> int:
        raise KeyboardInterrupt

    folder, size = tmp_path / "shards", 30_000
    original = tar_shards._write_shard
    monkeypatch.setattr(tar_shards, "_write_shard", nothing)
    with pytest.raises(KeyboardInterrupt):
        write_shards(dataset, folder, max_bytes=size, progress=False)
    monkeypatch.setattr(tar_shards, "_write_shard", original)
    (folder / "shard-000000.tar").write_bytes(b"of that run")
    root = dataset.content_file.path.parent
    if change == "size":
        size = 31_000
    elif change == "file":
        (root / "audio" / "3.flac").write_bytes((root / "audio" / "3.flac").read_bytes())
    else:
        dataset = corpus(root, [f"clip {number}!" for number in range(60)])
    with pytest.raises(UserError, match=r"shard-000000\.tar is there already for other data .*remove it, or choose"):
        write_shards(dataset, folder, max_bytes=size, progress=False)
    (folder / "shard-000000.tar").unlink()
    assert write_shards(dataset, folder, max_bytes=size, progress=False)


def test_ids_that_would_share_a_name_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    dataset = corpus(tmp_path, ["a", "x.b", "c", "x_b"])
    with pytest.raises(UserError, match=r"content\.jsonl:4: audio_id 'x_b' and 'x\.b' would have one name"):
        write_shards(dataset, tmp_path / "shards", progress=False)
    assert not list((tmp_path / "shards").iterdir())


def test_two_runs_for_one_name_do_not_work_at_once(dataset, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    with locked(folder / ".shard.lock"), pytest.raises(UserError, match="another process writes shards shard"):
        write_shards(dataset, folder, progress=False)
    write_shards(dataset, folder, progress=False)


def test_a_file_that_is_missing_is_named(dataset, tmp_path: Path) -> None:
    (dataset.content_file.path.parent / "audio" / "7.flac").unlink()
    with pytest.raises(UserError, match=r"audio\.jsonl:8: field 'audio'.*7\.flac"):
        write_shards(dataset, tmp_path / "shards", workers=1, progress=False)
