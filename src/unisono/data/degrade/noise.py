"""Kinds of background noise, synthesised."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from unisono.data.degrade.mixing import active_power
from unisono.errors import UserError

NOISE_RMS = 0.1
_BABBLE_TALKERS = 5


def make_noise(
    rng: np.random.Generator,
    kind: str,
    samples: int,
    sample_rate: int,
    *,
    speech: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """A stretch of background noise, float32 ``(samples,)`` with an RMS of 0.1 (less where its peak would pass 1).

    Args:
        rng: source of the realisation.
        kind: one of :data:`NOISE_KINDS`.
        samples: length, at least 1.
        sample_rate: Hz.
        speech: clean utterances at ``sample_rate`` to build ``babble`` from; other kinds do not look at it.

    Raises:
        UserError: unknown kind, or babble without speech.
    """
    if kind not in _MAKERS and kind != "babble":
        raise UserError(f"noise kind {kind!r} is unknown; choose one of {', '.join(NOISE_KINDS)}")
    if samples < 1:
        raise UserError(f"make_noise: samples is {samples}; give at least 1")
    noise = _babble(rng, samples, speech) if kind == "babble" else _MAKERS[kind](rng, samples, sample_rate)
    scale = min(NOISE_RMS / np.sqrt(np.mean(noise**2)), 1.0 / np.abs(noise).max())
    return (noise * scale).astype(np.float32)


def _shaped(
    rng: np.random.Generator, samples: int, sample_rate: int, gain: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Gaussian noise with the amplitude spectrum ``gain(frequency_hz)``; frequencies below 20 Hz count as 20 Hz."""
    # At least 0.1 s, so that short clips keep their low end.
    length = max(samples, sample_rate // 10)
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequency_hz = np.maximum(np.fft.rfftfreq(length, 1 / sample_rate), 20.0)
    return np.fft.irfft(spectrum * gain(frequency_hz), length)[:samples]


def _white(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    return rng.standard_normal(samples)


def _pink(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    return _shaped(rng, samples, sample_rate, lambda frequency_hz: frequency_hz**-0.5)


def _brown(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    return _shaped(rng, samples, sample_rate, lambda frequency_hz: frequency_hz**-1.0)


def _hum(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """Mains hum: harmonics of 50 or 60 Hz that fall by a random power, over a little hiss."""
    mains_hz = rng.choice([50.0, 60.0])
    fall = rng.uniform(0.6, 1.4)
    time_s = np.arange(samples) / sample_rate
    hum = np.zeros(samples)
    for harmonic in range(1, 21):
        # The even harmonics of a rectified supply are the strong ones.
        level = harmonic**-fall * (1.0 if harmonic % 2 == 0 else 0.5) * rng.uniform(0.5, 1.0)
        hum += level * np.sin(2 * np.pi * (harmonic * mains_hz * time_s + rng.random()))
    return hum + 0.02 * rng.standard_normal(samples)


def _engine(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """An idling engine: harmonics of a wandering firing rate, and low noise that beats with it."""
    firing_hz = rng.uniform(25.0, 90.0) * (1 + 0.06 * _slow_curve(rng, samples, sample_rate, rate_hz=1.0))
    cycles = np.cumsum(firing_hz) / sample_rate + rng.random()
    engine = np.zeros(samples)
    for harmonic in range(1, 25):
        engine += harmonic ** -rng.uniform(0.5, 1.2) * np.sin(2 * np.pi * (harmonic * cycles + rng.random()))
    rumble = _shaped(rng, samples, sample_rate, lambda frequency_hz: 1 / (1 + (frequency_hz / 300.0) ** 2))
    rumble /= np.abs(rumble).max()
    return engine + 3.0 * rumble * (1 + np.sin(2 * np.pi * cycles))


def _rain(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """Rain: a hiss of far drops, and near ones as short decaying rings at random times."""
    hiss = _shaped(rng, samples, sample_rate, lambda frequency_hz: np.sqrt(frequency_hz / (frequency_hz + 2000.0)))
    drops = np.zeros(samples)
    drops_per_s = rng.uniform(50.0, 250.0)
    drop_samples = min(samples, sample_rate // 100)
    time_s = np.arange(drop_samples) / sample_rate
    for start in rng.integers(0, samples - drop_samples + 1, rng.poisson(drops_per_s * samples / sample_rate)):
        ring = np.exp(-time_s * rng.uniform(400, 1500)) * np.sin(2 * np.pi * rng.uniform(1500, 7000) * time_s)
        drops[start : start + drop_samples] += rng.lognormal(0.0, 0.7) * ring
    return hiss / np.sqrt(np.mean(hiss**2)) + 2.0 * drops


def _modulated(rng: np.random.Generator, samples: int, sample_rate: int) -> np.ndarray:
    """Noise with the long-term spectrum of speech (flat to 500 Hz, then falling) that swells and fades irregularly."""
    noise = _shaped(rng, samples, sample_rate, lambda frequency_hz: 1 / (1 + (frequency_hz / 500.0) ** 1.5))
    swing_db = 9.0 * _slow_curve(rng, samples, sample_rate, rate_hz=rng.uniform(1.5, 5.0))
    return noise * 10 ** (swing_db / 20)


def _slow_curve(rng: np.random.Generator, samples: int, sample_rate: int, rate_hz: float) -> np.ndarray:
    """A smooth random curve within [-1, 1] that turns about ``rate_hz`` times a second, ``(samples,)``."""
    points = max(4, int(np.ceil(samples / sample_rate * rate_hz * 2)) + 3)
    values = rng.uniform(-1, 1, points)
    position = np.arange(samples) / sample_rate * rate_hz * 2
    left = np.minimum(position.astype(int), points - 2)
    blend = 0.5 - 0.5 * np.cos(np.pi * (position - left))
    return values[left] * (1 - blend) + values[left + 1] * blend


def _babble(rng: np.random.Generator, samples: int, speech: Sequence[np.ndarray]) -> np.ndarray:
    """Several people talking at once: utterances repeated end to end, started anywhere, at equal loudness."""
    talkers = [voice for voice in speech if voice.size and np.any(voice)]
    if not talkers:
        raise UserError("babble is made of speech, and none was given; pass utterances as speech=[...]")
    babble = np.zeros(samples)
    for index in range(max(_BABBLE_TALKERS, len(talkers))):
        voice = talkers[index % len(talkers)].astype(np.float64)
        looped = np.resize(np.roll(voice, int(rng.integers(len(voice)))), samples)
        babble += looped / np.sqrt(active_power(voice)) * 10 ** (rng.uniform(-3, 3) / 20)
    return babble


_MAKERS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "white": _white,
    "pink": _pink,
    "brown": _brown,
    "hum": _hum,
    "engine": _engine,
    "rain": _rain,
    "modulated": _modulated,
}
NOISE_KINDS: tuple[str, ...] = (*_MAKERS, "babble")
