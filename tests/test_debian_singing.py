"""The recipe ``debian``: prompts that are made to sing, here one spoken by eSpeak NG."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from unisono.data.datasets import SingingAcousticModelingDataset, SingingVoiceSynthesisDataset
from unisono.data.prepare.debian import singing as debian_singing
from unisono.data.prepare.debian.singing import SAMPLE_RATE, SungJob, draw_tune, pauses_after, prepare_sung, sung_jobs
from unisono.data.prepare.jobs import Record
from unisono.media.audio import read_audio, write_audio
from unisono.scores.syllables import is_nucleus, split_syllables
from unisono.text.espeak import synthesize
from unisono.text.phonemes import SILENCE

pyworld = pytest.importorskip("pyworld")

TEXT = "Please try again, or leave a message."


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> SungJob:
    folder = tmp_path_factory.mktemp("a corpus")
    spoken = synthesize(TEXT, "en-us+f3", rate_wpm=150).resampled(SAMPLE_RATE)
    write_audio(folder / "text_to_speech/audio/hello.flac", 0.5 * spoken.waveform, SAMPLE_RATE)
    return SungJob(
        "hello_sung",
        folder / "text_to_speech/audio/hello.flac",
        tuple(spoken.phonemes),
        tuple(spoken.durations_s),
        folder / "singing_voice_synthesis/audio",
        folder / "singing_acoustic_modeling/f0",
        seed=3,
    )


@pytest.fixture(scope="module")
def record(job: SungJob) -> Record:
    return prepare_sung(job)


def test_the_notes_of_the_line_are_what_is_heard(job: SungJob, record: Record) -> None:
    sung = read_audio(job.audio_folder / "hello_sung.flac", SAMPLE_RATE).astype(np.float64)
    heard_hz, times_s = pyworld.harvest(sung, SAMPLE_RATE, f0_floor=71.0, f0_ceil=700.0)
    ends_s = np.cumsum(record["durations_s"])
    errors = []
    for symbol, midi, duration_s, end_s in zip(
        record["phonemes"], record["notes"], record["durations_s"], ends_s, strict=True
    ):
        if is_nucleus(symbol):
            core = (times_s > end_s - 0.7 * duration_s) & (times_s < end_s - 0.2 * duration_s) & (heard_hz > 0)
            if core.any():
                errors.append(abs(69 + 12 * np.log2(np.median(heard_hz[core]) / 440) - midi))
    assert len(errors) > 8
    # Slides and vibrato are within a note; a wrong note is off by 1 at least.
    assert np.median(errors) < 0.15
    assert np.mean(np.array(errors) < 0.5) > 0.85


def test_the_contour_covers_the_recording_and_agrees_with_it(job: SungJob, record: Record) -> None:
    contour_hz = np.load(job.f0_folder / "hello_sung.npy", allow_pickle=False)
    sung = read_audio(job.audio_folder / "hello_sung.flac", SAMPLE_RATE).astype(np.float64)
    assert contour_hz.dtype == np.float32
    assert len(contour_hz) == round(100 * len(sung) / SAMPLE_RATE)
    heard_hz, _ = pyworld.harvest(sung, SAMPLE_RATE, f0_floor=71.0, f0_ceil=700.0)
    heard_hz = heard_hz[1::2][: len(contour_hz)]
    both = (heard_hz > 0) & (contour_hz[: len(heard_hz)] > 0)
    assert both.sum() > 0.8 * (contour_hz > 0).sum()
    cents = 1200 * np.log2(heard_hz[both] / contour_hz[: len(heard_hz)][both])
    assert np.median(np.abs(cents)) < 10


def test_units_fit_the_recording_and_the_text(job: SungJob, record: Record) -> None:
    units = ("phonemes", "durations_s", "notes", "note_durations_s", "slurs")
    assert len({len(record[name]) for name in units}) == 1
    samples = len(read_audio(job.audio_folder / "hello_sung.flac", SAMPLE_RATE))
    assert sum(record["durations_s"]) == pytest.approx(samples / SAMPLE_RATE, abs=1e-4)
    said = [s for s, slur in zip(record["phonemes"], record["slurs"], strict=True) if s != SILENCE and not slur]
    assert said == [symbol for symbol in job.phonemes if symbol != SILENCE]
    assert all((midi == 0) == (s == SILENCE) for s, midi in zip(record["phonemes"], record["notes"], strict=True))
    assert max(record["notes"]) <= 79  # what a soprano's chest voice may be asked for
    for slurred in np.flatnonzero(record["slurs"]):
        assert record["phonemes"][slurred] == record["phonemes"][slurred - 1]


def test_the_tune_is_a_function_of_the_seed(job: SungJob, record: Record, tmp_path: Path) -> None:
    elsewhere = replace(job, audio_folder=tmp_path / "audio", f0_folder=tmp_path / "f0")
    assert prepare_sung(elsewhere) == record
    for ours, theirs in ((job.audio_folder, "audio/hello_sung.flac"), (job.f0_folder, "f0/hello_sung.npy")):
        assert (ours / Path(theirs).name).read_bytes() == (tmp_path / theirs).read_bytes()
    assert prepare_sung(replace(elsewhere, seed=4))["notes"] != record["notes"]


@pytest.mark.parametrize("count", [1, 2, 3, 14])
def test_tunes_end_on_the_tonic_and_rest_where_the_speaker_pauses(count: int) -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pauses = [bool(rng.random() < 0.3) for _ in range(count - 1)] + [False]
        tune = draw_tune(rng, pauses)
        assert [bool(sung.rest_eighths) for sung in tune] == pauses
        assert tune[-1].degrees == (0,)
        assert all(len(sung.degrees) == len(sung.eighths) and min(sung.eighths) >= 1 for sung in tune)
        degrees = [sung.degrees[0] for sung in tune]
        assert all(-3 <= degree <= 7 for sung in tune for degree in sung.degrees)
        # Within the phrase it goes by steps.
        assert all(abs(right - left) <= 2 for left, right in pairwise(degrees[: max(1, count - 2)]))


def test_short_hesitations_are_no_rests() -> None:
    phonemes = ["_", "h", "ɛ", "_", "l", "oʊ", "_", "w", "ɝ", "_"]
    durations_s = [0.3, 0.1, 0.1, 0.05, 0.1, 0.2, 0.2, 0.1, 0.2, 0.4]
    assert pauses_after(phonemes, durations_s) == [False, True, False]
    assert len(split_syllables(phonemes)) == 3


def test_only_short_utterances_are_sung_and_held_out_ones_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian_singing, "MAX_PHRASES", 5)
    utterances = [
        {"audio_id": f"u{n}", "phonemes": ["l", "oʊ"] * 4, "durations_s": [0.2] * 8, "duration_s": 1.6}
        for n in range(20)
    ]
    utterances += [
        {"audio_id": "one", "phonemes": ["oʊ"], "durations_s": [0.5], "duration_s": 0.5},
        {"audio_id": "many", "phonemes": ["l", "oʊ"] * 15, "durations_s": [0.1] * 30, "duration_s": 3.0},
        {"audio_id": "slow", "phonemes": ["l", "oʊ"] * 4, "durations_s": [0.6] * 8, "duration_s": 4.8},
    ]
    splits = {u["audio_id"]: "train" for u in utterances} | {"u3": "test", "u7": "val", "slow": "test"}
    jobs = [sung_jobs(utterances, splits, tmp_path, tmp_path, tmp_path, seed) for seed in (0, 1)]
    names = [[job.clean.stem for job in made] for made in jobs]
    assert names[0] == names[1] == sorted(names[0])
    assert len(names[0]) == 5
    assert {"u3", "u7"} < set(names[0])
    assert not {"one", "many", "slow"} & set(names[0])


def test_both_tasks_read_what_was_written(job: SungJob, record: Record) -> None:
    out = job.audio_folder.parents[1]
    debian_singing.write_sung(out, [job], [record], [{"audio_id": "hello", "text": TEXT}], {"hello": "val"})
    kinds = {
        "singing_voice_synthesis": SingingVoiceSynthesisDataset,
        "singing_acoustic_modeling": SingingAcousticModelingDataset,
    }
    for task, kind in kinds.items():
        manifests = out / task / "val"
        data = kind(
            manifests / "content.jsonl", manifests / "audio.jsonl", sample_rate=SAMPLE_RATE, hop_samples=480, seed=0
        )
        assert len(data) == 1
        assert data[0].waveform.shape[0] == len(read_audio(job.audio_folder / "hello_sung.flac", SAMPLE_RATE))
        line = json.loads((manifests / "content.jsonl").read_text(encoding="utf-8"))
        assert "nobody sang" in line["made"]
        assert line["text"] == TEXT
        assert not (out / task / "train" / "content.jsonl").read_text()
