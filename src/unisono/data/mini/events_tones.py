"""Whistles, signals and horns: events whose pitch is plain to hear."""

from __future__ import annotations

import numpy as np

from unisono.data.mini.synthesis import Take, bump, curve, harmonics, noise, phase_of, vary, wander


def _whistle(rng: np.random.Generator, take: Take, from_hz: float, to_hz: float) -> np.ndarray:
    """Lips or a slide whistle: one partial that glides, with breath clinging to it."""
    time_s = take.time_s()
    position = np.clip((time_s / take.duration_s - 0.12) / 0.76, 0, 1)
    glide = 0.5 - 0.5 * np.cos(np.pi * position)
    frequency_hz = from_hz * (to_hz / from_hz) ** glide * (1 + 0.006 * wander(rng, time_s, 9))
    phase = phase_of(frequency_hz)
    breath = noise(rng, take.samples, lambda f: 1 / (1 + (f / 120) ** 2))
    tone = np.sin(phase) * (1 + 0.12 * breath) + 0.06 * np.sin(2 * phase)
    air = 0.012 * noise(rng, take.samples, lambda f: bump(f, 4_000, 1.0))
    envelope = curve(time_s, (0, 0), (0.05, 0.9), (0.6 * take.duration_s, 1), (take.duration_s, 0))
    return (tone + air) * envelope


def rising_whistle(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A whistle that climbs more than an octave."""
    return _whistle(rng, take, *vary(rng, np.array([850, 2_000]) * take.pitch, 0.03))


def falling_whistle(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A whistle that sinks more than an octave."""
    return _whistle(rng, take, *vary(rng, np.array([2_000, 850]) * take.pitch, 0.03))


def beep(rng: np.random.Generator, take: Take) -> np.ndarray:
    """An electronic beep: a steady tone with odd harmonics, switched on and off."""
    time_s = take.time_s()
    phase = 2 * np.pi * float(vary(rng, 1_000 * take.pitch, 0.005)) * time_s
    return np.sin(phase) + 0.22 * np.sin(3 * phase) + 0.08 * np.sin(5 * phase)


def horn(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A car's two horns a major third apart, rich in harmonics up to 4 kHz."""
    time_s = take.time_s()
    base_hz = float(vary(rng, 400 * take.pitch, 0.01)) * (1 - 0.04 * np.exp(-time_s / 0.015))

    def gain(frequency_hz: np.ndarray) -> np.ndarray:
        return 0.4 + 2.2 * bump(frequency_hz, 2_300, 0.5)

    pair = harmonics(base_hz, gain, 14) + harmonics(base_hz * 1.26, gain, 12)
    return pair * curve(time_s, (0, 0), (0.012, 1), (take.duration_s - 0.03, 0.95), (take.duration_s, 0))


def phone(rng: np.random.Generator, take: Take) -> np.ndarray:
    """An old telephone: a hammer that strikes two small gongs in turn, about 24 times a second."""
    time_s = take.time_s()
    stroke_s = 1 / float(vary(rng, 24, 0.04))
    gongs_hz = vary(rng, np.array([[1_150, 2_710, 4_600], [1_420, 3_330, 5_500]]) * take.pitch, 0.008)
    since_s = np.mod(time_s, stroke_s)
    # Between its own strokes a gong keeps ringing, so only its level is renewed and the phase runs on.
    first, second = np.exp(-since_s / 0.05), np.exp(-np.mod(time_s + stroke_s / 2, stroke_s) / 0.05)
    ring = np.zeros_like(time_s)
    for level, partials_hz in ((first, gongs_hz[0]), (second, gongs_hz[1])):
        for frequency_hz, amplitude in zip(partials_hz, (1, 0.6, 0.35), strict=True):
            ring += level * amplitude * np.sin(2 * np.pi * frequency_hz * time_s)
    hammer = noise(rng, take.samples, lambda f: bump(f, 6_000, 0.6)) * np.exp(-since_s / 0.003)
    decay_s = take.duration_s - 0.2
    return (ring + 0.25 * hammer) * curve(time_s, (0, 1), (decay_s, 1), (take.duration_s, 0.02))


def siren(rng: np.random.Generator, take: Take) -> np.ndarray:
    """An emergency siren that wails up and down by an octave."""
    time_s = take.time_s()
    wail_hz = float(vary(rng, 1.4 * take.rate, 0.02))
    swing = 0.5 - 0.5 * np.cos(2 * np.pi * wail_hz * time_s + rng.uniform(0, 1.5))
    frequency_hz = float(vary(rng, 560 * take.pitch, 0.02)) * 2**swing
    tone = harmonics(frequency_hz, lambda f: 0.25 + bump(f, 1_400, 0.8), 10)
    return tone * curve(time_s, (0, 0), (0.06, 1), (take.duration_s - 0.1, 1), (take.duration_s, 0))
