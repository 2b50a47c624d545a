"""The recipe ``debian``: sound effects without their treble."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from unisono.data.datasets import AudioSuperResolutionDataset
from unisono.data.degrade import low_pass
from unisono.data.prepare.debian.effects import EffectJob
from unisono.data.prepare.debian.narrow import (
    CUTOFF_HZ,
    SAMPLE_RATE,
    VARIANTS,
    NarrowJob,
    narrow_jobs,
    prepare_narrow,
    write_narrow,
)
from unisono.media.audio import read_audio, write_audio


def narrow_job(folder: Path, name: str, waveform: np.ndarray, native_rate: int = 44_100, credit: str = "") -> NarrowJob:
    write_audio(folder / "text_to_audio/audio" / f"{name}.flac", waveform, SAMPLE_RATE)
    audio = folder / "text_to_audio/audio"
    effect = EffectJob(name, "scratch", name, Path("original"), "a sound", "CC-BY-SA-3.0", credit, audio)
    (job,) = narrow_jobs([(effect, {"native_sample_rate": native_rate})], folder / "audio_super_resolution/narrow", 0)
    return job


def noise(scale: float = 0.2) -> np.ndarray:
    return (scale * np.random.default_rng(0).standard_normal(SAMPLE_RATE)).clip(-0.9, 0.9).astype(np.float32)


def level_db(waveform: np.ndarray, from_hz: float, to_hz: float) -> float:
    power = np.abs(np.fft.rfft(waveform)) ** 2
    frequency_hz = np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE)
    return float(10 * np.log10(power[(frequency_hz >= from_hz) & (frequency_hz < to_hz)].mean()))


def test_variants_lose_their_treble_and_nothing_else(tmp_path: Path) -> None:
    job = narrow_job(tmp_path, "rain", noise())
    record = prepare_narrow(job)
    wide = read_audio(tmp_path / "text_to_audio/audio/rain.flac", SAMPLE_RATE)
    assert len(record["variants"]) == VARIANTS
    for number, variant in enumerate(record["variants"], 1):
        narrow = read_audio(job.narrow_folder / f"rain_narrow{number}.flac", SAMPLE_RATE)
        cutoff_hz = variant["bandwidth_hz"]
        assert narrow.shape == wide.shape
        assert CUTOFF_HZ[0] <= cutoff_hz <= CUTOFF_HZ[1]
        narrow = narrow * 10 ** (-variant["gain_db"] / 20)
        assert level_db(narrow, 1.8 * cutoff_hz, 12_000) < level_db(wide, 1.8 * cutoff_hz, 12_000) - 8
        # Below it nothing moves, in level or in time.
        low_narrow, low_wide = (low_pass(w, SAMPLE_RATE, 0.4 * cutoff_hz, "fir", 16) for w in (narrow, wide))
        within = slice(1_000, -1_000)
        assert np.abs(low_narrow - low_wide)[within].max() < 0.25 * np.abs(low_wide).max()
    first, second = (variant["bandwidth_hz"] for variant in record["variants"])
    assert first != second


def test_filters_are_a_function_of_the_seed(tmp_path: Path) -> None:
    job = narrow_job(tmp_path, "rain", noise())
    record = prepare_narrow(job)
    digest = (job.narrow_folder / "rain_narrow1.flac").read_bytes()
    assert prepare_narrow(replace(job, narrow_folder=tmp_path / "again")) == record
    assert (tmp_path / "again/rain_narrow1.flac").read_bytes() == digest
    assert prepare_narrow(replace(job, narrow_folder=tmp_path / "other", seed=1)) != record


def test_recordings_without_treble_are_no_targets(tmp_path: Path) -> None:
    time_s = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    dull = low_pass(noise(), SAMPLE_RATE, 3_000.0, "resample")
    hum = (
        0.5 * np.sin(2 * np.pi * 120 * time_s) + 1e-4 * np.random.default_rng(1).standard_normal(SAMPLE_RATE)
    ).astype(np.float32)
    reasons = {
        "old": prepare_narrow(narrow_job(tmp_path, "old", noise(), native_rate=11_025))["reason"],
        "dull": prepare_narrow(narrow_job(tmp_path, "dull", dull))["reason"],
        "hum": prepare_narrow(narrow_job(tmp_path, "hum", hum))["reason"],
    }
    assert "recorded at 11025 Hz" in reasons["old"]
    assert "reaches only" in reasons["dull"]
    assert "above 1000 Hz" in reasons["hum"]


def test_a_faint_treble_is_cut_lower(tmp_path: Path) -> None:
    """Its level falls by 24 dB an octave from 1.2 kHz on: a filter at 5 kHz would leave nothing to restore."""
    faint = low_pass(noise(), SAMPLE_RATE, 1_200.0, "butterworth", 4)
    job = narrow_job(tmp_path, "faint", 0.9 * faint / np.abs(faint).max())
    cutoffs_hz = [
        variant["bandwidth_hz"] for seed in range(5) for variant in prepare_narrow(replace(job, seed=seed))["variants"]
    ]
    assert len(set(cutoffs_hz)) > 5
    assert max(cutoffs_hz) < 4_500


def test_the_data_set_keeps_splits_and_credits(tmp_path: Path) -> None:
    jobs = [narrow_job(tmp_path, name, noise(), credit="by Alex") for name in ("a", "b")]
    jobs.append(narrow_job(tmp_path, "old", noise(), native_rate=8_000))
    splits = {"a": "train", "b": "test", "old": "train"}
    out = tmp_path / "audio_super_resolution"
    left_out = write_narrow(out, jobs, [prepare_narrow(job) for job in jobs], splits)
    assert [(entry["file"], entry["task"]) for entry in left_out] == [("old", "audio_super_resolution")]
    for split, name in (("train", "a"), ("test", "b")):
        manifests = out / split
        lines = [json.loads(line) for line in (manifests / "audio.jsonl").read_text().splitlines()]
        assert [line["audio_id"] for line in lines] == [f"{name}_narrow1", f"{name}_narrow2"]
        assert all(line["credit"] == "by Alex" for line in lines)
        data = AudioSuperResolutionDataset(
            manifests / "content.jsonl", manifests / "audio.jsonl", sample_rate=SAMPLE_RATE, hop_samples=480, seed=0
        )
        sample = data[0]
        assert sample.waveform.shape == sample.content[0].waveform.shape
    assert not (out / "val" / "audio.jsonl").read_text()


def test_the_line_says_how_the_input_was_made(tmp_path: Path) -> None:
    square = 0.9 * np.sign(np.sin(2 * np.pi * 97 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)
    job = narrow_job(tmp_path, "square", square)
    gains_db = []
    for seed in range(4):
        record = prepare_narrow(replace(job, seed=seed))
        for number, variant in enumerate(record["variants"], 1):
            narrow = read_audio(job.narrow_folder / f"square_narrow{number}.flac", SAMPLE_RATE)
            assert np.abs(narrow).max() < 0.991
            made = read_audio(tmp_path / "text_to_audio/audio/square.flac", SAMPLE_RATE)
            if variant["filter"] != "resample":
                made = low_pass(made, SAMPLE_RATE, variant["bandwidth_hz"], variant["filter"], variant["filter_order"])
            if variant["resampled"]:
                made = low_pass(made, SAMPLE_RATE, variant["bandwidth_hz"], "resample")
            assert np.abs(narrow - made * 10 ** (variant["gain_db"] / 20)).max() < 1e-3
            gains_db.append(variant["gain_db"])
    assert min(gains_db) < 0.0, "none of the filters overshot"
