"""Noise, mixing and reverberation."""

import numpy as np
import pytest

from unisono.data.degrade import (
    NOISE_KINDS,
    NOISE_RMS,
    active_power,
    make_noise,
    mix_at_snr,
    reverberate,
)
from unisono.errors import UserError

RATE = 24_000


def talk(seed: int = 0, seconds: float = 1.5) -> np.ndarray:
    """Syllables of a buzz with pauses: something like speech."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(seconds * RATE)) / RATE
    syllables = np.maximum(0, np.sin(2 * np.pi * 3 * time_s)) * (time_s % 1.0 < 0.7)
    return (0.3 * syllables * np.sin(2 * np.pi * 150 * time_s + 3 * rng.standard_normal(len(time_s)))).astype(
        np.float32
    )


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 7.3, 30.0])
def test_mixture_has_the_asked_for_ratio(snr_db):
    speech, noise = talk(), make_noise(np.random.default_rng(1), "pink", len(talk()), RATE)
    added = mix_at_snr(speech, noise, snr_db).astype(float) - speech
    assert 10 * np.log10(active_power(speech) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.01)


def test_pauses_do_not_change_the_ratio():
    speech = talk()
    padded = np.concatenate([np.zeros(5 * RATE, np.float32), speech])
    assert active_power(padded) == pytest.approx(active_power(speech), rel=0.02)
    assert np.mean(padded**2) < 0.3 * np.mean(speech**2)


@pytest.mark.parametrize(
    ("speech", "noise", "snr_db", "message"),
    [
        (np.zeros(100), np.ones(100), 0, "speech is silent"),
        (np.ones(100), np.zeros(100), 0, "noise is silent"),
        (np.ones(100), np.full(100, np.nan), 0, "noise is silent or not finite"),
        (np.ones(100), np.ones(99), 0, "one length"),
        (np.ones(0), np.ones(0), 0, "not empty"),
        (np.ones(100), np.ones(100), float("nan"), "finite number"),
    ],
)
def test_impossible_mixtures_are_refused(speech, noise, snr_db, message):
    with pytest.raises(UserError, match=message):
        mix_at_snr(speech, noise, snr_db)


@pytest.mark.parametrize("kind", NOISE_KINDS)
@pytest.mark.parametrize("samples", [1, 7, 1000, RATE])
def test_noise_is_a_function_of_the_generator(kind, samples):
    noise = [make_noise(np.random.default_rng(s), kind, samples, RATE, speech=[talk(0), talk(1)]) for s in (3, 3, 4)]
    assert noise[0].shape == (samples,)
    assert noise[0].dtype == np.float32
    assert np.isfinite(noise[0]).all()
    assert np.abs(noise[0]).max() <= 1
    assert np.array_equal(noise[0], noise[1])
    if samples > 7:
        assert not np.array_equal(noise[0], noise[2])
        rms, peak = np.sqrt(np.mean(noise[0].astype(float) ** 2)), np.abs(noise[0]).max()
        assert rms == pytest.approx(NOISE_RMS, rel=0.01) or (rms < NOISE_RMS and peak == pytest.approx(1.0))


def slope_db_per_octave(noise: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(noise.astype(float))) ** 2
    frequency_hz = np.fft.rfftfreq(len(noise), 1 / RATE)
    octaves = [100 * 2**n for n in range(7)]
    density = [power[(frequency_hz >= f) & (frequency_hz < 2 * f)].mean() for f in octaves]
    return float(np.polyfit(np.arange(7), 10 * np.log10(density), 1)[0])


@pytest.mark.parametrize(("kind", "slope_db"), [("white", 0), ("pink", -3), ("brown", -6)])
def test_colours_have_their_slope(kind, slope_db):
    noise = make_noise(np.random.default_rng(0), kind, 10 * RATE, RATE)
    assert slope_db_per_octave(noise) == pytest.approx(slope_db, abs=0.3)


def test_hum_sits_on_mains_harmonics():
    noise = make_noise(np.random.default_rng(0), "hum", 2 * RATE, RATE).astype(float)
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequency_hz = np.fft.rfftfreq(len(noise), 1 / RATE)
    on_harmonic = [
        power[(np.abs(frequency_hz / mains_hz - np.round(frequency_hz / mains_hz)) * mains_hz < 1)].sum()
        for mains_hz in (50, 60)
    ]
    assert max(on_harmonic) > 0.95 * power.sum()


def test_modulated_noise_swells():
    def level_spread_db(kind):
        noise = make_noise(np.random.default_rng(0), kind, 5 * RATE, RATE).astype(float)
        return np.std(10 * np.log10(np.mean(noise.reshape(-1, 1200) ** 2, axis=1)))

    assert level_spread_db("modulated") > 3 > level_spread_db("white")


def test_bad_noise_requests_are_explained():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="choose one of white, pink"):
        make_noise(rng, "purple", 100, RATE)
    with pytest.raises(UserError, match="speech="):
        make_noise(rng, "babble", 100, RATE)
    with pytest.raises(UserError, match="at least 1"):
        make_noise(rng, "white", 0, RATE)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rt60_s", [0.15, 0.4])
def test_reverberation_keeps_the_alignment(seed, rt60_s):
    speech = np.random.default_rng(seed).standard_normal(8000).astype(np.float32)
    wet = reverberate(np.random.default_rng(seed), speech, RATE, rt60_s)
    assert wet.shape == speech.shape
    assert wet.dtype == np.float32
    assert np.array_equal(wet, reverberate(np.random.default_rng(seed), speech, RATE, rt60_s))
    correlation = np.correlate(wet.astype(float), speech.astype(float), "full")
    assert np.argmax(np.abs(correlation)) == len(speech) - 1  # lag 0
    # The direct path has gain 1: projecting the wet on the dry signal gives it back.
    assert correlation[len(speech) - 1] / np.sum(speech.astype(float) ** 2) == pytest.approx(1.0, abs=0.15)


def decay_time_s(response: np.ndarray) -> float:
    """RT60 from the slope of Schroeder's backward integral between -5 and -25 dB."""
    level_db = 10 * np.log10(np.cumsum(response[::-1].astype(float) ** 2)[::-1] / np.sum(response.astype(float) ** 2))
    chosen = (level_db < -5) & (level_db > -25)
    time_s = np.arange(len(response)) / RATE
    return -60 / float(np.polyfit(time_s[chosen], level_db[chosen], 1)[0])


@pytest.mark.parametrize("rt60_s", [0.2, 0.4])
def test_reverberation_time_is_about_the_asked_for(rt60_s):
    impulse = np.zeros(RATE, np.float32)
    impulse[100] = 1
    measured_s = np.median(
        [decay_time_s(reverberate(np.random.default_rng(s), impulse, RATE, rt60_s)) for s in range(5)]
    )
    assert measured_s == pytest.approx(rt60_s, rel=0.35)


def test_nothing_sounds_before_the_direct_path():
    impulse = np.zeros(4000, np.float32)
    impulse[2000] = 1
    wet = reverberate(np.random.default_rng(0), impulse, RATE, 0.3).astype(float)
    assert np.sum(wet[:1990] ** 2) < 1e-2 * np.sum(wet**2)
    assert wet[2000] == pytest.approx(1.0, abs=1e-3)


def test_bad_rooms_are_explained():
    rng = np.random.default_rng(0)
    for rt60_s in (0.0, 0.1, 3.0, float("nan")):
        with pytest.raises(UserError, match="rt60_s"):
            reverberate(rng, talk(), RATE, rt60_s)
    with pytest.raises(UserError, match="not empty"):
        reverberate(rng, np.zeros(0, np.float32), RATE, 0.3)
