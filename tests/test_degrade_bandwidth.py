"""Filters, codecs and the bandwidth that is left."""

import json
import sys

import numpy as np
import pytest

from unisono.data.degrade import (
    CODECS,
    LOW_PASS_FILTERS,
    BandwidthDegradation,
    codec_bit_rates,
    effective_bandwidth_hz,
    low_pass,
    make_noise,
    through_codec,
)
from unisono.errors import UserError

RATE = 24_000


def noise(kind: str = "pink", seconds: float = 1.0, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return make_noise(np.random.default_rng(seed), kind, int(seconds * rate), rate)


def harmonics(rate: int, fundamental_hz: float = 150.0, seconds: float = 1.0) -> np.ndarray:
    """A voice-like tone: all harmonics up to half the sample rate, falling by 9 dB per octave, with a slow glide."""
    time_s = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * fundamental_hz * (time_s + 0.02 * np.sin(2 * np.pi * time_s))
    count = int(0.47 * rate / fundamental_hz)
    tone = sum(k**-1.5 * np.sin(k * phase) for k in range(1, count + 1))
    return (0.3 * tone / np.abs(tone).max()).astype(np.float32)


def lag_samples(late: np.ndarray, original: np.ndarray) -> float:
    """By how many samples ``late`` is late, to a fraction of one."""
    length = 2 * len(late)
    spectrum = np.fft.rfft(late.astype(float), length) * np.conj(np.fft.rfft(original.astype(float), length))
    correlation = np.fft.irfft(spectrum)
    peak = int(np.argmax(np.abs(correlation)))
    before, at, after = (correlation[(peak + step) % length] for step in (-1, 0, 1))
    fraction = 0.5 * (before - after) / (before - 2 * at + after)
    return (peak if peak < length // 2 else peak - length) + fraction


def gain_db(kind: str, cutoff_hz: float, order: int, at_hz: float) -> float:
    impulse = np.zeros(RATE, np.float32)
    impulse[RATE // 2] = 1
    return float(20 * np.log10(np.abs(np.fft.rfft(low_pass(impulse, RATE, cutoff_hz, kind, order)))[round(at_hz)]))


# ---------------------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize("kind", LOW_PASS_FILTERS)
@pytest.mark.parametrize("order", [2, 7, 12])
def test_filters_pass_what_is_low_and_keep_the_time(kind, order):
    cutoff_hz = 4000
    assert gain_db(kind, cutoff_hz, order, 400) == pytest.approx(0, abs=1.1)
    if kind not in ("fir", "resample"):
        assert gain_db(kind, cutoff_hz, order, cutoff_hz) == pytest.approx(-3.01, abs=0.05)
    assert gain_db(kind, cutoff_hz, order, 11_000) < -12
    waveform = noise()
    filtered = low_pass(waveform, RATE, cutoff_hz, kind, order)
    assert filtered.shape == waveform.shape and filtered.dtype == np.float32
    assert lag_samples(filtered, waveform) == pytest.approx(0, abs=0.01)


def test_steeper_orders_leave_less():
    for kind in ("butterworth", "chebyshev1", "chebyshev2", "elliptic", "fir"):
        left_db = [gain_db(kind, 3000, order, 4500) for order in (2, 6, 12)]
        assert left_db[0] > left_db[1] and left_db[1] > left_db[2] - 1


@pytest.mark.parametrize("kind", ["butterworth", "elliptic", "fir"])
def test_a_part_is_filtered_almost_as_within_the_whole(kind):
    """A sound that is already going on at the start of a clip makes no step there."""
    time_s = np.arange(RATE) / RATE
    tone = np.cos(2 * np.pi * 200 * time_s + 0.3).astype(np.float32)
    filtered = low_pass(tone, RATE, 3000, kind, 6)
    assert np.abs(filtered - tone)[: RATE // 100].max() < 0.15
    constant = np.full(5000, 0.5, np.float32)
    assert low_pass(constant, RATE, 3000, kind, 5) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("samples", [1, 2, 3, 50])
@pytest.mark.parametrize("kind", LOW_PASS_FILTERS)
def test_short_waveforms_are_filtered(kind, samples):
    filtered = low_pass(noise()[:samples], RATE, 1000, kind, 4)
    assert filtered.shape == (samples,) and np.isfinite(filtered).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "brick"}, "'brick' is unknown; choose one of butterworth"),
        ({"cutoff_hz": 12_000}, "less than half the sample rate"),
        ({"cutoff_hz": 0}, "at least 100"),
        ({"cutoff_hz": float("nan")}, "cutoff_hz is nan"),
        ({"order": 0}, "order is 0"),
        ({"order": 99}, "1 to 16"),
    ],
)
def test_bad_filters_are_explained(settings, message):
    with pytest.raises(UserError, match=message):
        low_pass(noise(), RATE, **({"cutoff_hz": 4000} | settings))


# ----------------------------------------------------------------------------------------------------- codecs


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 48_000])
def test_codecs_keep_time_and_length_and_resemble(codec, rate):
    waveform = harmonics(rate)
    coded = through_codec(waveform, rate, codec)
    assert coded.shape == waveform.shape and coded.dtype == np.float32
    assert abs(lag_samples(coded, waveform)) < rate / 16_000
    error = np.sum((coded - waveform.astype(float)) ** 2) / np.sum(waveform.astype(float) ** 2)
    assert 1e-8 < error < 0.1  # lossy, and still the same sound
    assert np.array_equal(coded, through_codec(waveform, rate, codec))


@pytest.mark.parametrize("codec", [c for c in CODECS if codec_bit_rates(c)])
def test_fewer_bits_lose_more(codec):
    waveform = noise("modulated", 2.0)
    low, high = codec_bit_rates(codec)
    errors = []
    for bit_rate in (low, high):
        coded = through_codec(waveform, RATE, codec, bit_rate)
        assert abs(lag_samples(coded, waveform)) < 1
        errors.append(np.sum((coded - waveform.astype(float)) ** 2))
    assert errors[0] > 1.5 * errors[1]


def test_the_end_of_a_clip_comes_back():
    """Every codec holds samples back; a click at the very end must not be lost."""
    waveform = np.zeros(RATE, np.float32)
    waveform[-400:] = 0.5 * np.sin(2 * np.pi * 500 * np.arange(400) / RATE)
    for codec in CODECS:
        coded = through_codec(waveform, RATE, codec)
        assert np.sum(coded[-400:] * waveform[-400:]) > 0.6 * np.sum(waveform**2), codec


@pytest.mark.parametrize("samples", [1, 2, 100])
def test_codecs_take_short_silent_and_loud_waveforms(samples):
    for codec in CODECS:
        assert through_codec(noise()[:samples], RATE, codec).shape == (samples,)
        assert np.abs(through_codec(np.zeros(samples, np.float32), RATE, codec)).max() < 1e-3
    loud = 5 * harmonics(RATE) / np.abs(harmonics(RATE)).max()
    for codec in CODECS:
        assert np.abs(through_codec(loud, RATE, codec)).max() > 3.5, codec


def test_bad_codecs_are_explained(monkeypatch):
    with pytest.raises(UserError, match="'flac' is unknown; choose one of mp3"):
        through_codec(noise(), RATE, "flac")
    with pytest.raises(UserError, match="bit_rate is 10"):
        through_codec(noise(), RATE, "mp3", 10)
    with pytest.raises(UserError, match="no choice of bit_rate"):
        through_codec(noise(), RATE, "mulaw", 64_000)
    from unisono.data.degrade import codecs

    codecs._pyav.cache_clear()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'unisono\[speech\]'"):
        through_codec(noise(), RATE, "mp3")


# ------------------------------------------------------------------------------------------------ degradation


def test_bandwidth_is_lost_as_told():
    degrade = BandwidthDegradation(cutoff_hz=[1500, 9000], filters=["elliptic", "chebyshev1"], order=[8, 12])
    waveform = noise("white")
    cutoffs = []
    for seed in range(12):
        narrow, description = degrade(np.random.default_rng(seed), waveform, RATE)
        json.dumps(description)
        assert narrow.shape == waveform.shape and narrow.dtype == np.float32
        assert lag_samples(narrow, waveform) == pytest.approx(0, abs=0.05)
        assert effective_bandwidth_hz(narrow, RATE) == pytest.approx(description["cutoff_hz"], rel=0.12)
        cutoffs.append(description["cutoff_hz"])
    assert min(cutoffs) < 3000 and max(cutoffs) > 5000 and all(1500 <= c <= 9000 for c in cutoffs)


def test_narrowing_is_a_function_of_the_generator():
    degrade = BandwidthDegradation(codec_prob=0.5)
    waveform = noise(seconds=0.3)
    results = [degrade(np.random.default_rng(seed), waveform, RATE) for seed in range(24)]
    for seed, result in enumerate(results):
        again = degrade(np.random.default_rng(seed), waveform, RATE)
        assert np.array_equal(result.waveform, again.waveform) and result.description == again.description
    coded = ["codec" in result.description for result in results]
    assert 4 < sum(coded) < 20
    assert len({result.description["filter"] for result in results}) > 3
    # The codec's draws do not change the filter's.
    plain = BandwidthDegradation(codec_prob=0)
    for seed, result in enumerate(results):
        told = plain(np.random.default_rng(seed), waveform, RATE).description
        assert told == {k: v for k, v in result.description.items() if k not in ("codec", "bit_rate")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cutoff_hz": [4000, 1000]}, "cutoff_hz"),
        ({"cutoff_hz": [10, 1000]}, "within 100"),
        ({"filters": ["butter"]}, "'butter'; choose from butterworth"),
        ({"filters": []}, "filters is empty"),
        ({"order": [2.5, 4]}, "whole numbers"),
        ({"order": [0, 4]}, "order"),
        ({"codecs": ["mp4"]}, "'mp4'; choose from mp3"),
        ({"codecs": [], "codec_prob": 0.1}, "codecs is empty"),
        ({"codec_prob": -1}, "codec_prob"),
        ({"bit_rate": [1, 2]}, "bit_rate"),
    ],
)
def test_bad_bandwidth_settings_are_explained(settings, message):
    with pytest.raises(UserError, match=message):
        BandwidthDegradation(**settings)


def test_a_cutoff_beyond_the_sample_rate_is_explained():
    with pytest.raises(UserError, match="reaches 8000 Hz, where a sample rate of 16000 Hz"):
        BandwidthDegradation()(np.random.default_rng(0), noise(), 16_000)
    with pytest.raises(UserError, match="NaN"):
        BandwidthDegradation()(np.random.default_rng(0), np.full(10, np.nan, np.float32), RATE)


# ---------------------------------------------------------------------------------------- effective bandwidth


def dithered(waveform: np.ndarray, seed: int = 0) -> np.ndarray:
    """As a 16-bit file holds it."""
    rng = np.random.default_rng(seed)
    step = 2.0**-15
    return (np.rint(waveform / step + rng.random(len(waveform)) - rng.random(len(waveform))) * step).astype(np.float32)


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("kind", ["white", "pink", "modulated", "voice"])
def test_bandwidth_is_found(rate, kind):
    waveform = harmonics(rate) if kind == "voice" else noise(kind, 1.0, rate)
    assert effective_bandwidth_hz(dithered(waveform), rate) > 0.93 * rate / 2
    for cutoff_hz in (1000, 3400, 5500, 7000, 11_000, 16_000):
        if cutoff_hz < 0.43 * rate:
            for narrowing in (("elliptic", 10), ("resample", 1)):
                narrow = dithered(low_pass(waveform, rate, cutoff_hz, *narrowing))
                # A resampler of this quality passes up to 0.93 of its half sample rate.
                expected_hz = cutoff_hz * (0.93 if narrowing[0] == "resample" else 1.0)
                assert effective_bandwidth_hz(narrow, rate) == pytest.approx(expected_hz, rel=0.05), (
                    cutoff_hz,
                    narrowing,
                )


def test_level_does_not_move_the_edge():
    narrow = low_pass(noise("pink", 2.0), RATE, 4000, "elliptic", 10)
    for level_db in (0, -20, -40):
        quiet = dithered(narrow * 10 ** (level_db / 20))
        assert effective_bandwidth_hz(quiet, RATE) == pytest.approx(4000, rel=0.05)


def test_noise_above_an_edge_does_not_hide_it():
    narrow = low_pass(noise("pink", 2.0), RATE, 4000, "elliptic", 10)
    hiss = 10 ** (-45 / 20) * np.std(narrow) * np.random.default_rng(0).standard_normal(len(narrow))
    assert effective_bandwidth_hz((narrow + hiss).astype(np.float32), RATE) == pytest.approx(4000, rel=0.05)


def test_what_is_silent_or_nearly_has_no_bandwidth():
    assert effective_bandwidth_hz(np.zeros(RATE, np.float32), RATE) == 0
    assert effective_bandwidth_hz(np.zeros(1, np.float32), RATE) == 0
    for seed in range(20):
        assert effective_bandwidth_hz(dithered(np.zeros(RATE // 2), seed), RATE) == 0


def test_a_tone_has_the_bandwidth_of_its_frequency():
    for frequency_hz in (100, 440, 3000, 10_000):
        tone = 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(RATE) / RATE)
        assert effective_bandwidth_hz(dithered(tone), RATE) == pytest.approx(frequency_hz, rel=0.05, abs=150)


def test_short_recordings_have_a_bandwidth():
    for samples in (1, 2, 31, 500, 1200):
        assert 0 <= effective_bandwidth_hz(noise()[:samples], RATE) <= RATE / 2
    with pytest.raises(UserError, match="empty"):
        effective_bandwidth_hz(np.zeros(0, np.float32), RATE)


def test_codecs_leave_edges_that_are_found():
    waveform = noise("pink", 2.0)
    assert effective_bandwidth_hz(through_codec(waveform, RATE, "mulaw"), RATE) == pytest.approx(3800, rel=0.08)
    assert effective_bandwidth_hz(through_codec(waveform, RATE, "g722"), RATE) == pytest.approx(7600, rel=0.08)
    assert effective_bandwidth_hz(through_codec(waveform, RATE, "mp3", 16_000), RATE) < 9000
