"""Building the feature cache: faults are named, nothing done is lost, several processes work at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from cached import attached, autoencoder, corpus, encoded, filled, target
from conftest import SAMPLE_RATE
from toy import toy_dataset
from unisono.data.datasets import TextToAudioDataset
from unisono.data.feature_cache import FeatureStore
from unisono.data.feature_cache.attach import attach
from unisono.data.feature_cache.build import fill, fill_demands
from unisono.data.feature_cache.command import fill_cache
from unisono.data.feature_cache.demands import demands_of
from unisono.data.feature_cache.digests import FileDigests, content_digest
from unisono.data.feature_cache.encoders import (
    LatentEncoder,
    latent_spec,
)
from unisono.data.feature_cache.scan import scan
from unisono.data.feature_cache.shards import DamagedShard
from unisono.errors import UserError
from unisono.media.audio import read_audio, write_audio
from unisono.media.locations import Location


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "feature cache"  # a path with a space, on purpose


# -- faults -----------------------------------------------------------------------------------------------------------


def test_recordings_that_cannot_be_read_are_named_and_all_others_cached(tmp_path: Path, cache: Path) -> None:
    corpus(tmp_path)
    dataset = TextToAudioDataset(tmp_path / "content.jsonl", tmp_path / "audio.jsonl", check_files=False)
    (tmp_path / "audio/1.wav").write_bytes(b"no audio")
    (tmp_path / "audio/2.wav").unlink()
    result = filled(cache, dataset)
    assert len(result.store) == 1 and len(result.faults) == 2
    assert any("audio.jsonl:2" in fault and "not readable as audio" in fault for fault in result.faults)
    assert any("audio.jsonl:3" in fault and "No such file" in fault for fault in result.faults)


def test_a_file_that_changes_between_look_and_encoding_is_no_feature(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = corpus(tmp_path)
    (demand,) = demands_of({"autoencoder": autoencoder()}, [[dataset]])
    files, store = FileDigests(cache / "files"), FeatureStore(cache, demand.encoder.spec)
    found = scan(demand, store, files, 1)
    location = target(dataset)
    write_audio(location.path, read_audio(location, SAMPLE_RATE)[::-1].copy(), SAMPLE_RATE)
    load = LatentEncoder.load

    def load_and_change(self: LatentEncoder, source: Location) -> torch.Tensor:
        waveform = load(self, source)
        if source == target(dataset, 1):
            write_audio(source.path, waveform.numpy()[::-1].copy(), SAMPLE_RATE)
        return waveform

    monkeypatch.setattr(LatentEncoder, "load", load_and_change)
    faults = fill(found, store, files, 1)
    assert len(faults) == 2 and "changed since it was looked at" in faults[0] + faults[1]
    assert "changed while it was encoded" in faults[0] + faults[1]
    assert len(store) == 1 and store.find(content_digest(target(dataset, 2))) is not None
    monkeypatch.undo()
    assert filled(cache, dataset).num_missing == 0


def test_of_many_recordings_some_are_looked_up(tmp_path: Path, cache: Path) -> None:
    dataset = corpus(tmp_path, [0.3] * 10)
    with pytest.raises(UserError, match=r"4 of 4 inputs looked at have no latents"):
        attach([dataset], {"autoencoder": autoencoder()}, cache, max_checked=4)


@pytest.mark.parametrize("cut", [5, 400, -1])
def test_a_truncated_shard_is_named_and_made_again(tmp_path: Path, cache: Path, cut: int) -> None:
    dataset = corpus(tmp_path)
    (shard,) = filled(cache, dataset).store.folder.glob("shard-*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:cut])
    with pytest.raises(DamagedShard, match=f"{shard.name}: damaged.*unisono cache"):
        attached(dataset, cache)
    assert filled(cache, dataset).num_missing == 0
    assert shard.read_bytes() == whole
    attached(dataset, cache)


@pytest.mark.parametrize("what", [b"{}", b'{"__metadata__": {}}', b"[]", b"\xff"])
def test_a_file_that_is_no_shard_is_named(tmp_path: Path, cache: Path, what: bytes) -> None:
    dataset = corpus(tmp_path)
    folder = filled(cache, dataset).store.folder
    (folder / "shard-0.safetensors").write_bytes(len(what).to_bytes(8, "little") + what)
    with pytest.raises(DamagedShard, match=r"shard-0.safetensors: damaged \(its header cannot be read"):
        attached(dataset, cache)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, cache: Path) -> None:
    dataset = corpus(tmp_path)
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot be written to.*feature_cache="):
        filled(cache, dataset)


def test_a_cache_is_read_where_it_cannot_be_written_to(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = corpus(tmp_path)
    filled(cache, dataset)
    shutil.rmtree(cache / "files")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert torch.equal(
        attached(dataset, cache).read(target(dataset))[0],
        encoded(target(dataset)),
    )
    assert not (cache / "files").exists()


def test_a_full_disk_is_told_and_what_was_written_stays(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = corpus(tmp_path)
    monkeypatch.setattr("unisono.files.sync_path", _full)
    with pytest.raises(UserError, match="No space left"):
        filled(cache, dataset)
    monkeypatch.undo()
    assert not list(cache.glob("latents/*/*.safetensors")) and not list(cache.glob("latents/*/.shard*"))
    assert filled(cache, dataset).num_missing == 0


def _full(path: Path) -> None:
    raise OSError(28, "No space left on device")


def test_nothing_to_cache(tmp_path: Path, cache: Path) -> None:
    corpus(tmp_path)
    without_targets = TextToAudioDataset(tmp_path / "content.jsonl")
    assert fill_demands(demands_of({"autoencoder": autoencoder()}, [[without_targets], []]), cache, 1) == []
    store = FeatureStore(cache, latent_spec(autoencoder()))
    assert len(store) == 0 and store.size_bytes == 0 and not cache.exists()
    assert attach([without_targets], {"autoencoder": autoencoder()}, cache) == {}
    assert without_targets[0].latent is None


# -- many shards, processes, kills ------------------------------------------------------------------------------------


def test_many_shards_are_opened_through_their_index(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = corpus(tmp_path, [0.3] * 12)
    monkeypatch.setattr(FeatureStore, "writer", lambda self: _writer(self, max_features=1))
    store = filled(cache, dataset).store
    assert len(list(store.folder.glob("shard-*"))) == 12 and (store.folder / "index.json").is_file()
    expected = [encoded(target(dataset, item)) for item in range(12)]

    def read_all() -> bool:
        latents = attached(dataset, cache)
        return all(torch.equal(latents.read(target(dataset, item))[0], expected[item]) for item in range(12))

    with monkeypatch.context() as patched:
        patched.setattr("unisono.data.feature_cache.store.read_entries", _full)
        assert read_all(), "no header is read where the index is there"
    table = store.folder / json.loads((store.folder / "index.json").read_text())["table"]
    table.write_bytes(table.read_bytes()[:200])
    assert read_all(), "a damaged index is not needed"
    next(store.folder.glob("shard-*")).unlink()
    with pytest.raises(UserError, match="1 of 12 inputs"):
        attached(dataset, cache)
    assert filled(cache, dataset).num_missing == 0 and read_all()


def _writer(store: FeatureStore, max_features: int):
    from unisono.data.feature_cache.store import ShardWriter

    return ShardWriter(store.folder, store.spec.dtype, 1 << 30, max_features, 60.0)


_SCRIPT = """
import sys, time
from pathlib import Path
import torch
import unisono.data.feature_cache.build as build
from unisono.data.datasets import TextToAudioDataset
from unisono.data.feature_cache.demands import demands_of
from unisono.data.feature_cache.store import FeatureStore, ShardWriter
from unisono.models.autoencoder import LogMelAutoencoder

corpus, cache, log, workers = sys.argv[1:]
build._REFRESH_EVERY_S = 0.05
build._CHUNK = 4
FeatureStore.writer = lambda self: ShardWriter(self.folder, self.spec.dtype, 1 << 30, 4, 60.0)

class Slow(LogMelAutoencoder):
    def encode(self, waveform, lengths):
        time.sleep(0.03)
        with open(log, "a") as file:
            file.write("x")
        return super().encode(waveform, lengths)

if __name__ == "__main__":
    dataset = TextToAudioDataset(f"{corpus}/content.jsonl", f"{corpus}/audio.jsonl")
    (result,) = build.fill_demands(demands_of({"autoencoder": Slow(n_mels=40)}, [[dataset]]), Path(cache), int(workers))
    print(result.num_inputs, result.num_missing, len(result.faults))
"""


def _start(tmp_path: Path, cache: Path, log: str, workers: int = 1) -> subprocess.Popen:
    script = tmp_path / "fill the cache.py"
    script.write_text(textwrap.dedent(_SCRIPT))
    command = [sys.executable, str(script), str(tmp_path), str(cache), str(tmp_path / log), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _wait_for(cache: Path, shards: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(cache.glob("latents/*/shard-*"))) < shards:
        assert time.monotonic() < deadline, "nothing is written"
        time.sleep(0.01)


def _shards(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.glob("latents/*/shard-*")}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, cache: Path, workers: int) -> None:
    corpus(tmp_path, [0.3 + 0.001 * number for number in range(120)])
    first = _start(tmp_path, cache, "first", workers)
    _wait_for(cache, 5)
    first.send_signal(signal.SIGKILL)
    first.wait()
    shards = _shards(cache)
    while workers > 1:  # they notice, write what they have, and end
        time.sleep(1.5)
        before, shards = shards, _shards(cache)
        if before == shards:
            break
    done = 4 * len(shards)
    again = _start(tmp_path, cache, "again", workers)
    assert (again.communicate(timeout=120)[0].split(), again.returncode) == (["120", "0", "0"], 0)
    assert 20 <= done < 120 and (tmp_path / "again").stat().st_size == 120 - done
    assert all(path.stat().st_mtime_ns == written for path, written in shards.items())


@pytest.mark.slow
def test_two_runs_at_once_share_the_work(tmp_path: Path, cache: Path) -> None:
    corpus(tmp_path, [0.3 + 0.001 * number for number in range(160)])
    runs = [_start(tmp_path, cache, "one"), _start(tmp_path, cache, "two")]
    for run in runs:
        assert (run.communicate(timeout=120)[0].split(), run.returncode) == (["160", "0", "0"], 0)
    done = [(tmp_path / name).stat().st_size for name in ("one", "two")]
    assert min(done) > 0 and 160 <= sum(done) <= 240, f"{done} encoded by the two, 160 there are"
    dataset = TextToAudioDataset(tmp_path / "content.jsonl", tmp_path / "audio.jsonl")
    assert filled(cache, dataset).num_inputs == 160


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_tells_what_is_cached_and_how_large(toy_corpus: Path, cache: Path) -> None:
    def loader(*tasks: str) -> dict:
        nodes = [
            {
                "_target_": "unisono.data.datasets." + type(toy_dataset(toy_corpus, task)).__name__,
                "content": str(toy_corpus / task / "content.jsonl"),
                "audio": str(toy_corpus / task / "audio.jsonl"),
            }
            for task in tasks
        ]
        return {"dataset": {"_target_": "unisono.data.datasets.ConcatDataset", "datasets": nodes}}

    model = {"autoencoder": {"_target_": "unisono.models.autoencoder.LogMelAutoencoder", "n_mels": 40}}
    encoder = {"_target_": "cached.BytesEncoder"}
    cfg = {
        "train_dataloader": loader("text_to_audio", "speech_enhancement"),
        "val_dataloader": loader("text_to_speech"),
        "model": {**model, "instruction_encoder": encoder, "content_encoders": {"text": encoder}},
    }
    before = fill_cache(OmegaConf.create(cfg), cache, 1, "cpu", dry_run=True, progress=False)
    # 8 clips of each task, 8 noisy ones; the clean speech of two tasks differs.
    assert [line.split()[:4] for line in before.splitlines()[1:2]] == [["latents", "0", "32", "0"]]
    assert not cache.exists() or not list(cache.glob("**/shard-*"))
    after = fill_cache(OmegaConf.create(cfg), cache, 1, "cpu", progress=False)
    latents, texts = (line.split() for line in after.splitlines()[1:])
    assert latents[:3] == ["latents", "32", "0"] and latents[4] == "kB" and float(latents[3]) > 32 * 30 * 40 * 4 / 1e3
    assert texts[:3] == ["texts", str(30 + 8), "0"], "30 instructions of three tasks, 8 captions"
    cfg["model"].pop("autoencoder")
    with pytest.raises(UserError, match="no autoencoder"):
        fill_cache(OmegaConf.create(cfg), cache, 1, "cpu", progress=False)


def test_a_device_that_is_not_there_is_named(toy_corpus: Path, cache: Path) -> None:
    from unisono.data.feature_cache.command import _chosen_device

    with pytest.raises(UserError, match=r"--device mars cannot be used.*say auto or cpu"):
        _chosen_device("mars")
    assert _chosen_device("cpu") is None
