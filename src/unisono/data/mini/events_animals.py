"""Animal calls: a source (voice, wing, scraper) and the resonances it drives."""

from __future__ import annotations

import numpy as np

from unisono.data.mini.synthesis import (
    Take,
    band_noise,
    bump,
    curve,
    harmonics,
    noise,
    phase_of,
    pulses,
    resonate,
    vary,
    wander,
)


def bark(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A dog: a hoarse voice that jumps up and falls within a fifth of a second."""
    time_s = take.time_s()
    duration_s = take.duration_s
    contour = curve(time_s, (0, 0.75), (0.25 * duration_s, 1.3), (duration_s, 0.65))
    f0_hz = float(vary(rng, 400 * take.pitch, 0.02)) * contour * (1 + 0.03 * wander(rng, time_s, 80))
    throat_hz = 0.5 + 0.5 * take.pitch

    def gain(frequency_hz: np.ndarray) -> np.ndarray:
        return (
            bump(frequency_hz, 800 * throat_hz, 0.35)
            + 0.9 * bump(frequency_hz, 1_500 * throat_hz, 0.25)
            + 0.5 * bump(frequency_hz, 2_900 * throat_hz, 0.3)
        )

    voice = harmonics(f0_hz, lambda f: gain(f) * np.sqrt(f / f0_hz), 24)
    rasp = noise(rng, take.samples, gain)
    envelope = curve(time_s, (0, 0), (0.012, 1), (0.45 * duration_s, 0.7), (duration_s, 0))
    return (voice + 0.45 * rasp) * envelope


def chirp(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A small bird: one syllable of nearly pure tone that swoops up and down."""
    time_s = take.time_s()
    shape = curve(time_s / take.duration_s, (0, 0.75), (0.35, 1.25), (0.6, 1.0), (0.8, 1.12), (1, 0.8))
    frequency_hz = float(vary(rng, 3_600 * take.pitch, 0.03)) * shape
    phase = phase_of(frequency_hz)
    envelope = np.sin(np.pi * np.minimum(time_s / take.duration_s, 1)) ** 0.7
    return (np.sin(phase) + 0.08 * np.sin(2 * phase) * (frequency_hz < 5_400)) * envelope


def frog(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A frog: a rattle of pulses that quickens, each ringing the throat sac."""
    time_s = take.time_s()
    rattle_hz = curve(time_s, (0, 42), (take.duration_s, 68)) * (0.6 + 0.4 * take.pitch)
    sac_hz = vary(rng, np.array([560, 1_180, 2_050]) * take.pitch, 0.02)
    croak = resonate(pulses(rng, rattle_hz, 0.15), sac_hz, [0.006, 0.005, 0.003], [1, 0.8, 0.3])
    return croak * curve(time_s, (0, 0.25), (0.6 * take.duration_s, 1), (take.duration_s, 0.1))


def owl(rng: np.random.Generator, take: Take) -> np.ndarray:
    """An owl: one soft hollow tone that rises a little and sinks away."""
    time_s = take.time_s()
    duration_s = take.duration_s
    contour = curve(time_s, (0, 0.88), (0.2 * duration_s, 1.03), (0.6 * duration_s, 1.0), (duration_s, 0.9))
    phase = phase_of(float(vary(rng, 400 * take.pitch, 0.02)) * contour)
    tone = np.sin(phase) + 0.13 * np.sin(2 * phase) + 0.05 * np.sin(3 * phase)
    breath = 0.05 * band_noise(rng, take.samples, 600 * take.pitch, 0.4)
    return (tone + breath) * np.sin(np.pi * np.minimum(time_s / duration_s, 1)) ** 1.3


def meow(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A cat: a voice that arches while the mouth opens and closes, so that its formant arches too."""
    time_s = take.time_s()
    duration_s = take.duration_s
    contour = curve(time_s, (0, 0.8), (0.3 * duration_s, 1.15), (0.6 * duration_s, 1.05), (duration_s, 0.72))
    f0_hz = float(vary(rng, 560 * take.pitch, 0.02)) * contour * (1 + 0.015 * wander(rng, time_s, 25))
    mouth_hz = curve(time_s, (0, 700), (0.4 * duration_s, 2_000), (0.65 * duration_s, 1_500), (duration_s, 700))
    # Growing with the voice: a kitten's mouth is small, so low and high meows differ as a whole.
    mouth_hz = mouth_hz * take.pitch**0.5

    def gain(frequency_hz: np.ndarray) -> np.ndarray:
        return 0.15 + bump(frequency_hz, mouth_hz, 0.4) + 0.35 * bump(frequency_hz, 3_600, 0.3)

    envelope = curve(time_s, (0, 0), (0.12, 0.7), (0.45 * duration_s, 1), (duration_s, 0))
    return harmonics(f0_hz, gain, 16) * envelope


def crickets(rng: np.random.Generator, take: Take) -> np.ndarray:
    """Two crickets, each with chirps of three short pulses of a pure 4.5 kHz tone."""
    time_s = take.time_s()
    out = np.zeros_like(time_s)
    chirps_hz = float(vary(rng, 3.4 * take.rate, 0.03))
    for level, offset in ((1.0, 0.0), (0.3, rng.uniform(0.4, 0.6))):
        since_s = np.mod(time_s + offset / chirps_hz, 1 / chirps_hz)
        pulse = np.sin(np.pi * np.minimum(np.mod(since_s, 0.024) / 0.016, 1)) * (since_s < 0.072)
        carrier = np.sin(2 * np.pi * float(vary(rng, 4_500, 0.03)) * time_s)
        out += level * pulse * carrier
    return out


def bee(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A bee: wing beats with a wavering rate, a buzz rich in harmonics that comes and goes."""
    time_s = take.time_s()
    f0_hz = float(vary(rng, 200 * take.pitch, 0.02)) * (1 + 0.06 * wander(rng, time_s, 4))
    f0_hz = f0_hz * (1 + 0.012 * wander(rng, time_s, 60))

    def gain(frequency_hz: np.ndarray) -> np.ndarray:
        return 0.3 + 1.6 * bump(frequency_hz, 900 * take.pitch, 0.9)

    level = 0.7 + 0.3 * wander(rng, time_s, 3)
    return harmonics(f0_hz, gain, 24) * level * curve(time_s, (0, 0.2), (0.15, 1), (take.duration_s, 0.8))
