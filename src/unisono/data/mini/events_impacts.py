"""Struck, plucked and dropped things: short events with a sharp onset."""

from __future__ import annotations

import numpy as np

from unisono.data.mini.synthesis import (
    HIGHEST_PARTIAL_HZ,
    SAMPLE_RATE,
    Take,
    band_noise,
    bump,
    modes,
    noise,
    phase_of,
    vary,
)
from unisono.timing import seconds_to_samples


def knock(rng: np.random.Generator, take: Take) -> np.ndarray:
    """Knuckles on a door: a few strongly damped modes of a wooden plate and the thud of the contact."""
    time_s = take.time_s()
    frequencies_hz = vary(rng, np.array([210, 365, 560, 830, 1_250]) * take.pitch)
    plate = modes(time_s, frequencies_hz, vary(rng, [0.045, 0.035, 0.022, 0.014, 0.009], 0.15), [1, 0.8, 0.6, 0.4, 0.3])
    contact = band_noise(rng, take.samples, 1_100 * take.pitch, 0.7) * np.exp(-time_s / 0.004)
    return plate + 0.35 * contact


def footstep(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A heel on a hard floor, then the sole: two dull bursts 80 ms apart with some grit."""
    time_s = take.time_s()
    sole_s = np.maximum(time_s - float(vary(rng, 0.085, 0.1)), 0)
    heel = band_noise(rng, take.samples, 170, 0.6) * np.exp(-time_s / 0.022)
    scuff = band_noise(rng, take.samples, 2_600, 0.8) * np.exp(-sole_s / 0.035) * np.minimum(sole_s / 0.008, 1)
    click = band_noise(rng, take.samples, 900, 0.7) * np.exp(-time_s / 0.006)
    return heel + 0.4 * click + 0.3 * scuff


def clap(rng: np.random.Generator, take: Take) -> np.ndarray:
    """Two hands: air bursting from a hollow, so broad noise around 1.2 kHz in a few bursts that blur into one."""
    time_s = take.time_s()
    envelope = np.zeros_like(time_s)
    for delay_s, height in ((0.0, 0.6), (0.007, 0.8), (0.015, 1.0)):
        since_s = time_s - float(vary(rng, delay_s, 0.2))
        envelope += height * (since_s >= 0) * np.exp(-np.maximum(since_s, 0) / (0.004 if height < 1 else 0.030))
    body = band_noise(rng, take.samples, float(vary(rng, 1_250, 0.06)), 0.45)
    air = band_noise(rng, take.samples, 3_200, 1.0)
    return (body + 0.5 * air) * envelope


def clink(rng: np.random.Generator, take: Take) -> np.ndarray:
    """Two glasses touching: sparse high modes, each a beating pair, ringing for a third of a second."""
    time_s = take.time_s()
    frequencies_hz = vary(rng, np.array([2_300, 3_950, 5_900, 8_300]) * take.pitch, 0.02)
    decays_s = np.array([0.16, 0.12, 0.08, 0.05])
    ring = modes(time_s, frequencies_hz, decays_s, [1, 0.8, 0.6, 0.4], attack_s=0.0005)
    ring += modes(time_s, frequencies_hz * 1.006, decays_s, [0.6, 0.5, 0.4, 0.2], attack_s=0.0005)
    return ring + 0.2 * noise(rng, take.samples, lambda f: (f > 3_000) * 1.0) * np.exp(-time_s / 0.002)


def bell(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A church bell: hum, prime, minor tierce, quint, nominal and upper partials; the high ones die first."""
    time_s = take.time_s()
    ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.1, 5.4])
    decays_s = 0.42 / (0.6 + 0.35 * ratios)
    amplitudes = np.array([0.5, 0.9, 0.7, 0.35, 1.0, 0.4, 0.5, 0.3, 0.2])
    prime_hz = float(vary(rng, 600 * take.pitch, 0.01))
    ring = modes(time_s, prime_hz * ratios, decays_s, amplitudes)
    ring += 0.5 * modes(time_s, prime_hz * ratios * 1.003, decays_s, amplitudes)
    return ring + 0.3 * band_noise(rng, take.samples, 4_000, 0.7) * np.exp(-time_s / 0.005)


def drum(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A tom: the modes of a round membrane, sharp at first because the blow stretches the skin."""
    time_s = take.time_s()
    base_hz = float(vary(rng, 115 * take.pitch, 0.02))
    phase = phase_of(base_hz * (1 + 0.45 * np.exp(-time_s / 0.035)))
    out = np.zeros_like(time_s)
    for ratio, decay_s, amplitude in ((1, 0.16, 1), (1.59, 0.09, 0.5), (2.14, 0.07, 0.35), (2.65, 0.05, 0.25)):
        out += amplitude * np.exp(-time_s / decay_s) * np.sin(ratio * phase)
    stick = band_noise(rng, take.samples, 1_800, 1.0) * np.exp(-time_s / 0.007)
    return out * np.minimum(time_s / 0.002, 1) + 0.22 * stick


def tick(rng: np.random.Generator, take: Take) -> np.ndarray:
    """The escapement of a clock: a faint touch, then a hard dry click of a few milliseconds."""
    time_s = take.time_s()
    click_s = np.maximum(time_s - 0.011, 0)
    frequencies_hz = vary(rng, [2_700, 4_400, 6_900], 0.02)
    faint = modes(time_s, frequencies_hz, 0.002, [0.5, 1, 0.8], attack_s=0.0003)
    hard = modes(click_s, frequencies_hz, [0.007, 0.005, 0.003], [1, 0.9, 0.7], attack_s=0.0003)
    return hard + 0.4 * faint


def drip(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A drop into water: the bubble it traps rings with a rising pitch (Minnaert resonance nearing the surface)."""
    time_s = take.time_s()
    start_hz = float(vary(rng, 850 * take.pitch, 0.05))
    frequency_hz = start_hz * (1 + 0.9 * np.minimum(time_s / 0.1, 1.2))
    bubble = np.sin(phase_of(frequency_hz)) * np.exp(-time_s / 0.035) * np.minimum(time_s / 0.003, 1)
    splash = band_noise(rng, take.samples, 5_000, 0.6) * np.exp(-time_s / 0.002)
    return bubble + 0.07 * splash


def cymbal(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A crash: noise and dozens of inharmonic partials above 1 kHz; the top fades before the middle."""
    time_s = take.time_s()
    frequencies_hz = np.exp(rng.uniform(np.log(900), np.log(HIGHEST_PARTIAL_HZ), 40))
    ring = modes(time_s, frequencies_hz, 0.5 * (2_000 / (frequencies_hz + 1_000)) ** 0.5, rng.uniform(0.3, 1, 40))
    middle = band_noise(rng, take.samples, 3_200, 0.7) * np.exp(-time_s / 0.32)
    top = band_noise(rng, take.samples, 8_000, 0.5) * np.exp(-time_s / 0.16)
    return 0.12 * ring + 0.7 * middle + top


def pluck(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A steel string plucked at a fifth of its length; partial k decays faster with k."""
    time_s = take.time_s()
    f0_hz = float(vary(rng, 220 * take.pitch, 0.01))
    order = np.arange(1, 30)
    stiffness = np.sqrt(1 + 0.0002 * order**2)
    amplitudes = np.abs(np.sin(np.pi * order / float(vary(rng, 5.0, 0.05)))) / order
    string = modes(time_s, f0_hz * order * stiffness, 0.28 / (0.7 + 0.2 * order), amplitudes)
    body = modes(time_s, [105, 205], 0.05, [0.15, 0.12])
    return string + body


def zap(rng: np.random.Generator, take: Take) -> np.ndarray:
    """The laser of an arcade game: a buzzing tone that falls through four octaves at once."""
    time_s = take.time_s()
    top_hz = float(vary(rng, 3_600 * take.pitch, 0.04))
    frequency_hz = top_hz * 2 ** (-4.0 * np.minimum(time_s / take.duration_s, 1) ** 0.7)
    phase = phase_of(frequency_hz)
    out = np.zeros_like(time_s)
    for order in (1, 2, 3, 5):
        audible = bump(order * frequency_hz, 1_500, 2.5) * (order * frequency_hz < HIGHEST_PARTIAL_HZ)
        out += audible * np.sin(order * phase) / order
    return out * np.exp(-1.5 * time_s / take.duration_s)


def key_press(rng: np.random.Generator) -> np.ndarray:
    """One key of a keyboard, 90 ms: the key bottoms out with a clack and is let go with a lighter click."""
    time_s = np.arange(seconds_to_samples(0.09, SAMPLE_RATE)) / SAMPLE_RATE
    release_s = np.maximum(time_s - float(vary(rng, 0.055, 0.2)), 0)
    clack = band_noise(rng, len(time_s), float(vary(rng, 3_000, 0.15)), 0.5)
    body = modes(time_s, vary(rng, [330, 780], 0.08), 0.008, [0.8, 0.6])
    released = np.exp(-release_s / 0.003) * (release_s > 0)
    return clack * (np.exp(-time_s / 0.005) + 0.35 * released) + body
