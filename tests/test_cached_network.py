"""The memory of networks: by content, shared by processes, and never in the way."""

from __future__ import annotations

import errno
import logging
import multiprocessing
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from unisono.evaluation.metric import MetricFailure
from unisono.evaluation.networks import cached as cached_module
from unisono.evaluation.networks.cached import CachedNetwork, default_cache
from unisono.evaluation.networks.mel_statistics import MelStatistics
from unisono.evaluation.networks.network import AudioNetwork


class Ear(AudioNetwork):
    """Mean and spread, and what it was told to say."""

    name = "ear"
    sample_rate = 8_000
    implementation, version = "test", "1"

    def __init__(self, fingerprint: str = "a" * 64, says: str = "") -> None:
        self.fingerprint, self.says, self.parameters, self.calls = fingerprint, says, {}, 0

    def __call__(self, waveform: np.ndarray) -> Mapping[str, np.ndarray]:
        self.calls += 1
        if len(waveform) < 10:
            raise MetricFailure("too short")
        return {
            "embedding": np.array([waveform.mean(), waveform.std()]),
            "text": np.array([self.says]),
            "score": np.asarray(waveform[0]),
        }


def clip(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(100).astype(np.float32)


def stored(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.npz"))


def test_what_an_older_version_heard_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waveform = np.tile(clip(), 100)
    CachedNetwork(MelStatistics(), tmp_path)(waveform)
    for place, value in (
        ("unisono.__version__", "next"),
        ("unisono.evaluation.networks.mel_statistics.MelStatistics.version", "next"),
        ("unisono.evaluation.networks.mel_statistics.MelStatistics.front_end_version", 2),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(place, value)
            later = CachedNetwork(MelStatistics(), tmp_path)
            later(waveform)
            assert (later.heard, later.remembered) == (1, 0), place
    same = CachedNetwork(MelStatistics(), tmp_path)
    same(waveform)
    assert (same.heard, same.remembered) == (0, 1)


def test_nothing_is_heard_twice(tmp_path: Path) -> None:
    ear = Ear(says="glöckchen \U0001f514 läuten")
    first = CachedNetwork(ear, tmp_path)
    before = [first(clip(seed)) for seed in (0, 1, 0)]
    assert (first.heard, first.remembered, ear.calls) == (2, 1, 2) and len(stored(tmp_path)) == 2
    later = CachedNetwork(Ear(says="something else"), tmp_path)
    for seed, expected in zip((0, 1, 0), before, strict=True):
        found = later(clip(seed).astype(np.float64))  # the same samples
        assert found.keys() == expected.keys()
        for key, array in expected.items():
            assert found[key].dtype == array.dtype and found[key].shape == array.shape
            assert np.array_equal(found[key], array)
    assert (later.heard, later.remembered) == (0, 3)


def test_other_sounds_and_other_weights_are_heard_anew(tmp_path: Path) -> None:
    CachedNetwork(Ear(), tmp_path)(clip())
    changed = clip()
    changed[50] = np.nextafter(changed[50], 9, dtype=np.float32)
    for ear, x in ((Ear(), changed), (Ear("b" * 64), clip()), (Ear(), clip()[:-1])):
        cached = CachedNetwork(ear, tmp_path)
        cached(x)
        assert (cached.heard, cached.remembered) == (1, 0)


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cached = CachedNetwork(Ear(), None)
    assert np.array_equal(cached(clip())["embedding"], cached(clip())["embedding"])
    assert cached.heard == 2 and not list(tmp_path.iterdir())
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "chosen"))
    assert default_cache() == tmp_path / "chosen" / "embeddings"


def test_failures_are_not_kept(tmp_path: Path) -> None:
    cached = CachedNetwork(Ear(), tmp_path)
    for _ in range(2):
        with pytest.raises(MetricFailure, match="too short"):
            cached(clip()[:5])
    x = clip()
    x[0] = np.nan
    with pytest.raises(MetricFailure, match="ear gave NaN or infinite values"):
        cached(x)
    assert not stored(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "npy", "no arrays", "folder"])
def test_damaged_files_are_written_anew(damage: str, tmp_path: Path) -> None:
    expected = CachedNetwork(Ear(), tmp_path)(clip())
    (path,) = stored(tmp_path)
    whole = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "npy":
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif damage == "no arrays":
        np.savez(path)
    else:
        at = whole.index(b"\x93NUMPY") + 130
        flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        path.write_bytes({"cut": whole[:-30], "empty": b"", "text": b"text", "flipped": flipped}[damage])
    cached = CachedNetwork(Ear(), tmp_path)
    assert np.array_equal(cached(clip())["embedding"], expected["embedding"])
    assert (cached.heard, cached.remembered) == (1, 0)
    if damage != "folder":
        assert path.read_bytes() == whole


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    CachedNetwork(Ear(), tmp_path)(clip())
    (path,) = stored(tmp_path)
    np.savez(path, embedding=np.array([{"rogue": 1}], dtype=object))
    cached = CachedNetwork(Ear(), tmp_path)
    assert cached(clip())["embedding"].dtype.kind == "f" and cached.heard == 1


@pytest.mark.parametrize("reason", ["full disk", "read-only", "a file in the way"])
def test_a_folder_that_takes_nothing_is_said_once(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if reason == "a file in the way":
        (tmp_path / "cache").touch()
    elif reason == "full disk":

        def full(stream: object, **arrays: np.ndarray) -> None:
            stream.write(b"some")  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(cached_module.np, "savez", full)
    else:

        def refuse(*args: object, **options: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
    cached = CachedNetwork(Ear(), tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        heard = [cached(clip(seed))["embedding"] for seed in (0, 1, 0)]
    assert np.array_equal(heard[0], heard[2]) and cached.heard == 3
    assert len(caplog.records) == 1 and "cannot be written" in caplog.text and "is not kept" in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "cache"]


def test_what_is_there_is_read_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CachedNetwork(Ear(), tmp_path)(clip())

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(cached_module, "replaced_file", refuse)
    cached = CachedNetwork(Ear(), tmp_path)
    cached(clip(1))
    cached(clip(0))
    assert (cached.heard, cached.remembered) == (1, 1)


def hear_all(cache: Path, rounds: int) -> list[float]:
    """In a process of its own; every second round the file is damaged under the others' eyes."""
    sums = []
    for i in range(rounds):
        cached = CachedNetwork(Ear(), cache)
        sums.append(float(sum(cached(clip(seed))["embedding"].sum() for seed in range(4))))
        if i % 2:
            for path in stored(cache)[:2]:
                path.unlink(missing_ok=True)
    return sums


def test_processes_may_share_a_folder(tmp_path: Path) -> None:
    expected = float(sum(CachedNetwork(Ear(), None)(clip(seed))["embedding"].sum() for seed in range(4)))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        results = pool.starmap(hear_all, [(tmp_path, 20)] * 3)
    assert {value for sums in results for value in sums} == {expected}
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    CachedNetwork(Ear(), tmp_path)(clip())
    (path,) = stored(tmp_path)
    left = path.with_name(f".{path.name}.999999999.1.tmp")
    left.write_bytes(b"half")
    CachedNetwork(Ear(), tmp_path)
    assert not left.exists() and path.exists()
