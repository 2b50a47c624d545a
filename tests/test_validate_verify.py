"""The check of all recordings before training: what is damaged is named, what is known to be good is not read again."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from conftest import TASKS
from test_bad_input import change
from toy import DATASETS, toy_dataset
from unisono.data.datasets import AudioGenerationDataset
from unisono.data.manifest import write_jsonl
from unisono.data.validate import validate, verify
from unisono.data.validate.verify import verify_audio
from unisono.errors import UserError

SPEECH, CAPTION, NOISY = "text_to_speech", "text_to_audio", "speech_enhancement"


@pytest.fixture
def corpus(toy_corpus: Path, tmp_path: Path) -> Path:
    """A copy of the toy corpus that may be broken."""
    return Path(shutil.copytree(toy_corpus, tmp_path / "corpus"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded."""
    names: list[str] = []
    real = verify._fault
    monkeypatch.setattr(verify, "_fault", lambda location: names.append(location.path.name) or real(location))
    return names


def damage(corpus: Path) -> list[str]:
    """Break three files behind intact headers; returns how the faults must be named."""
    sf.write(corpus / CAPTION / "audio" / "nan.wav", np.array([0.0] * 14_000 + [np.nan] * 400), 24_000, "FLOAT")
    change(corpus / CAPTION / "audio.jsonl", 2, lambda r: r.update(audio="audio/nan.wav"))
    for task, folder in ((SPEECH, "audio"), (NOISY, "noisy")):
        path = corpus / task / folder / f"{task}_4.flac"
        path.write_bytes(path.read_bytes()[:-2000])
    return [
        f"{corpus / CAPTION / 'audio.jsonl'}:2: field 'audio': {corpus}/{CAPTION}/audio/nan.wav: sample 14000 is NaN",
        f"{corpus / SPEECH / 'audio.jsonl'}:5: field 'audio': {corpus}/{SPEECH}/audio/{SPEECH}_4.flac: damaged audio",
        f"{corpus / NOISY / 'content.jsonl'}:5: field 'noisy_audio': {corpus}/{NOISY}/noisy/{NOISY}_4.flac: damaged",
    ]


def all_tasks(corpus: Path) -> list[AudioGenerationDataset]:
    return [toy_dataset(corpus, task) for task in TASKS]


def test_all_damaged_files_are_listed_at_once(corpus: Path) -> None:
    verify_audio(all_tasks(corpus), store=None)
    expected = damage(corpus)
    with pytest.raises(UserError) as caught:
        verify_audio(all_tasks(corpus), store=corpus / "verified.sqlite")
    message = str(caught.value)
    assert message.startswith("3 of 32 audio files cannot be used:\n")
    assert all(fault in message for fault in expected), message
    # The same words when a run without the check meets the file.
    with pytest.raises(UserError, match=re.escape(expected[0])):
        toy_dataset(corpus, CAPTION)[1]
    with pytest.raises(UserError, match=re.escape(expected[2])):
        toy_dataset(corpus, NOISY)[4]


def test_a_long_list_of_faults_is_cut(corpus: Path) -> None:
    for task in TASKS:
        for path in (corpus / task / "audio").iterdir():
            path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError) as caught:
        verify_audio(all_tasks(corpus), store=None)
    lines = str(caught.value).splitlines()
    assert len(lines) == 22 and lines[0].startswith("24 of 32") and lines[-1] == "  … and 4 more"


def test_a_second_start_reads_only_what_is_new_or_was_bad(corpus: Path, read: list[str]) -> None:
    store = corpus / "new" / "facts.sqlite"
    damage(corpus)
    with pytest.raises(UserError, match="3 of 32"):
        verify_audio(all_tasks(corpus), store=store)
    assert len(read) == 32
    read.clear()
    with pytest.raises(UserError, match="3 of 32"):  # the bad ones are not forgiven
        verify_audio(all_tasks(corpus), store=store)
    assert sorted(read) == ["nan.wav", f"{NOISY}_4.flac", f"{SPEECH}_4.flac"]
    for task, folder in ((SPEECH, "audio"), (NOISY, "noisy")):
        shutil.copy(corpus / task / folder / f"{task}_3.flac", corpus / task / folder / f"{task}_4.flac")
    change(corpus / CAPTION / "audio.jsonl", 2, lambda r: r.update(audio="audio/text_to_audio_1.flac"))
    verify_audio(all_tasks(corpus), store=store)
    read.clear()
    verify_audio(all_tasks(corpus), store=store)
    assert read == []
    changed = corpus / CAPTION / "audio" / "text_to_audio_0.flac"
    os.utime(changed, ns=(0, 0))
    verify_audio(all_tasks(corpus), store=store)
    assert read == [changed.name]


def test_what_the_doctor_has_read_training_does_not_read_and_no_experiment_twice(
    corpus: Path, read: list[str], tmp_path: Path
) -> None:
    damage(corpus)
    store = tmp_path / "facts.sqlite"
    for task in TASKS:
        validate([corpus / task], workers=1, store=store, progress=False)
    with pytest.raises(UserError, match="3 of 32"):
        verify_audio(all_tasks(corpus), store=store)
    assert sorted(read) == ["nan.wav", f"{NOISY}_4.flac", f"{SPEECH}_4.flac"]


def test_what_training_has_read_the_doctor_measures(corpus: Path) -> None:
    store = corpus / "facts.sqlite"
    before = validate([corpus / CAPTION], workers=1, store=None, progress=False)
    verify_audio(all_tasks(corpus), store=store)
    after = validate([corpus / CAPTION], workers=1, store=store, progress=False)
    assert np.array_equal(before.recordings.measured, after.recordings.measured)


@pytest.mark.parametrize("damage_it", ["cut", "text", "bits", "empty"])
def test_a_damaged_store_is_made_anew(
    damage_it: str, corpus: Path, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = corpus / "facts.sqlite"
    verify_audio(all_tasks(corpus), store=store)
    raw = store.read_bytes()
    bits = bytearray(raw)
    for place in range(4096, len(raw), 7):
        bits[place] ^= 0x10
    store.write_bytes({"cut": raw[:5000], "text": b"no data base" * 1000, "bits": bytes(bits), "empty": b""}[damage_it])
    damage(corpus)
    for left in (32, 3):
        read.clear()
        with pytest.raises(UserError, match="3 of 32"):
            verify_audio(all_tasks(corpus), store=store)
        assert len(read) == left
    # SQLite itself takes what is missing at the end of so small a file for rows that are not there.
    assert damage_it in ("empty", "cut") or "made anew" in caplog.text


def test_a_store_that_cannot_be_written_costs_time_only(
    corpus: Path, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (corpus / "file").write_text("in the way")
    damage(corpus)
    for _ in range(2):
        read.clear()
        with pytest.raises(UserError, match="3 of 32"):
            verify_audio(all_tasks(corpus), store=corpus / "file" / "facts.sqlite")
        assert len(read) == 32 and "nothing is remembered" in caplog.text


def test_two_processes_share_a_store(corpus: Path, read: list[str]) -> None:
    store = corpus / "facts.sqlite"
    verify_audio(all_tasks(corpus)[:1], store=store)
    other = sqlite3.connect(store)  # one that reads all the while
    other.execute("BEGIN")
    assert other.execute("SELECT count(*) FROM facts").fetchone()[0] > 0
    first = len(read)
    other.rollback()
    verify_audio(all_tasks(corpus), store=store)
    assert len(read) == 32 and first < 32
    other.close()


def test_a_large_set_that_is_known_is_not_walked_through(
    corpus: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "CACHED_FROM_ITEMS", 4)
    monkeypatch.setattr(verify, "_SAMPLED", 2)
    walks: list[str] = []
    real = AudioGenerationDataset.audio_files
    monkeypatch.setattr(AudioGenerationDataset, "audio_files", lambda self: walks.append(self.task) or real(self))
    store = corpus / "facts.sqlite"
    for walked in (len(TASKS), 0):
        walks.clear()
        verify_audio(all_tasks(corpus), store=store)
        assert len(walks) == walked
    read.clear()
    whole = corpus / CAPTION / "audio" / "text_to_audio_2.flac"
    cut = whole.with_suffix(".new")
    cut.write_bytes(whole.read_bytes()[:-2000])
    cut.rename(whole)
    with pytest.raises(UserError, match="text_to_audio_2"):
        verify_audio(all_tasks(corpus), store=store)
    assert walks == [CAPTION] and read == ["text_to_audio_2.flac"]


def test_a_file_that_went_away_is_named(corpus: Path) -> None:
    datasets = all_tasks(corpus)
    (corpus / CAPTION / "audio" / "text_to_audio_3.flac").unlink()
    with pytest.raises(UserError, match=r"audio.jsonl:4: field 'audio': .*text_to_audio_3.flac: no such audio file"):
        verify_audio(datasets, store=corpus / "verified.sqlite")


@pytest.mark.slow
def test_verifying_1500_short_files_takes_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for i in range(1500):
        (tmp_path / "audio").mkdir(exist_ok=True)
        sf.write(tmp_path / "audio" / f"{i}.flac", rng.uniform(-0.3, 0.3, 48_000), 24_000)
        lines.append({"audio_id": str(i), "caption": "noise", "audio": f"audio/{i}.flac"})
    dataset = DATASETS[CAPTION](write_jsonl(tmp_path / "c.jsonl", lines), write_jsonl(tmp_path / "a.jsonl", lines))
    for limit_s in (15.0, 1.0):
        begin = time.perf_counter()
        verify_audio([dataset], store=tmp_path / "facts.sqlite")
        assert time.perf_counter() - begin < limit_s
