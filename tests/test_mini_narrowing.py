"""Super-resolution inputs of the mini corpus: aligned with their targets, nothing left above their bandwidth."""

import numpy as np
import pytest

from unisono.data.manifest import load_manifest
from unisono.data.mini.corpus import build_mini_corpus
from unisono.data.mini.narrowing import BANDWIDTHS_HZ, FILTERS, draw_filter, narrow
from unisono.media.audio import read_audio

RATE = 24_000


def response_db(filter_, frequency_hz: float) -> float:
    time_s = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * frequency_hz * time_s)
    heard = filter_(tone)[RATE // 4 : -RATE // 4]
    return 20 * np.log10(np.sqrt(np.mean(heard.astype(float) ** 2)) / np.sqrt(0.5) + 1e-9)


def test_filters_pass_what_is_below_their_bandwidth_and_lose_what_is_far_above():
    rng = np.random.default_rng(0)
    kinds = set()
    for bandwidth_hz in np.linspace(*BANDWIDTHS_HZ, 40):
        filter_ = draw_filter(rng, bandwidth_hz, RATE)
        kinds.add(filter_.kind)
        assert filter_.bandwidth_hz == pytest.approx(bandwidth_hz, rel=0.1)
        assert response_db(filter_, filter_.bandwidth_hz) == pytest.approx(-6, abs=2)
        assert response_db(filter_, 0.3 * filter_.bandwidth_hz) > -3
        assert response_db(filter_, min(2.5 * filter_.bandwidth_hz, 11_900)) < -25
    assert kinds == set(FILTERS)


def test_inputs_stay_in_time_and_in_length():
    rng = np.random.default_rng(1)
    for samples in (1, 2, 50, 5_000, 30_001):
        noise = rng.standard_normal(samples)
        result, filter_ = narrow(rng, noise, RATE)
        assert result.shape == noise.shape and result.dtype == np.float32 and np.isfinite(result).all()
    delays = range(-20, 21)
    agreement = [np.dot(np.roll(result, -delay), noise) for delay in delays]
    assert delays[int(np.argmax(agreement))] == 0
    assert BANDWIDTHS_HZ[0] * 0.9 <= filter_.bandwidth_hz <= BANDWIDTHS_HZ[1] * 1.1


def test_something_is_always_lost_where_there_is_something_to_lose():
    """Sounds whose treble is weak get a lower cutoff, so that input and target always differ."""
    rng = np.random.default_rng(2)
    time_s = np.arange(RATE) / RATE
    dull = np.sin(2 * np.pi * 300 * time_s) + 0.01 * np.sin(2 * np.pi * 3_000 * time_s)
    for _ in range(20):
        result, filter_ = narrow(rng, dull, RATE)
        assert 10 * np.log10(np.mean((dull - result) ** 2) / np.mean(dull**2)) > -50
        assert filter_.bandwidth_hz < 3_000


def test_pairs_of_the_corpus_use_scenes_music_and_speech_of_the_same_split(tmp_path):
    counts = {"text_to_audio": (2, 1, 0), "text_to_music": (1, 0, 0), "text_to_speech": (1, 1, 0)}
    counts |= {"audio_super_resolution": (6, 2, 0)}
    root = build_mini_corpus(tmp_path / "c", counts=counts, workers=1, progress=False)
    used: dict[str, list[str]] = {}
    for split in ("train", "val"):
        folder = root / "audio_super_resolution" / split
        audio = load_manifest(folder / "audio.jsonl")
        for audio_id, fields in load_manifest(folder / "content.jsonl").items():
            target = (folder / audio[audio_id].record["audio"]).resolve()
            wide = read_audio(target, RATE).astype(float)
            narrowed = read_audio(folder / fields.record["narrow_audio"], RATE) / 10 ** (fields.record["gain_db"] / 20)
            assert len(wide) == len(narrowed)
            spectra = [np.abs(np.fft.rfft(signal)) ** 2 for signal in (wide, narrowed)]
            above = np.fft.rfftfreq(len(wide), 1 / RATE) > 1.5 * fields.record["bandwidth_hz"]
            below = np.fft.rfftfreq(len(wide), 1 / RATE) < 0.5 * fields.record["bandwidth_hz"]
            assert spectra[1][above].sum() < max(0.1 * spectra[0][above].sum(), 1e-4 * spectra[0].sum())
            assert spectra[1][below].sum() > 0.8 * spectra[0][below].sum()
            assert fields.record["filter"] in FILTERS
            assert f"_{split}_" in target.name
            used.setdefault(split, []).append(target.name.split("_")[0])
    assert used == {"train": ["t2a", "t2m", "tts"] * 2, "val": ["t2a", "tts"]}
