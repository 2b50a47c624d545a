"""Weather, water, machines and work: textures that go on rather than happen."""

from __future__ import annotations

import numpy as np

from unisono.data.mini.events_impacts import key_press
from unisono.data.mini.synthesis import (
    SAMPLE_RATE,
    Take,
    band_noise,
    bump,
    curve,
    harmonics,
    modes,
    noise,
    phase_of,
    pulses,
    resonate,
    scatter,
    vary,
    wander,
)
from unisono.timing import seconds_to_samples


def rain(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A steady hiss of far drops and the patter of some eighty near ones a second."""
    hiss = noise(rng, take.samples, lambda f: bump(f, 3_500, 1.3))

    def drop() -> np.ndarray:
        time_s = np.arange(seconds_to_samples(0.02, SAMPLE_RATE)) / SAMPLE_RATE
        frequency_hz = rng.uniform(1_500, 6_500)
        return rng.lognormal(0.6, 0.5) * modes(time_s, frequency_hz, 0.0025, 1.0, attack_s=0.0005)

    count = rng.poisson(80 * take.duration_s)
    patter = scatter(rng, take.samples, rng.uniform(0, take.duration_s, count), drop)
    return hiss * (1 + 0.1 * wander(rng, take.time_s(), 3)) + 1.2 * patter


def wind(rng: np.random.Generator, take: Take) -> np.ndarray:
    """Gusts: noise through a whistling resonance whose pitch follows the strength of the wind."""
    time_s = take.time_s()
    strength = 0.5 + 0.5 * wander(rng, time_s, 1.6)
    # Noise that beats slowly, shifted to the moving centre, is a band around it without a time-varying filter.
    beat = noise(rng, take.samples, lambda f: 1 / (1 + (f / 45) ** 4))
    whistle = beat * np.sin(phase_of(330 + 420 * strength))
    body = noise(rng, take.samples, lambda f: bump(f, 250, 0.9))
    return (whistle + 0.5 * body) * (0.3 + 0.7 * strength)


def thunder(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A crack, then a rumble below 200 Hz that rolls in ever weaker waves."""
    time_s = take.time_s()
    crack = noise(rng, take.samples, lambda f: 1 / (1 + (f / 900) ** 1.5)) * np.exp(-time_s / 0.07)
    rumble = noise(rng, take.samples, lambda f: bump(f, 75, 0.8))
    rolling = np.clip(0.55 + 0.45 * wander(rng, time_s, 5), 0, 1)
    swell = curve(time_s, (0, 0.2), (0.15, 1), (take.duration_s, 0.05))
    return 0.9 * crack + rumble * rolling * swell


def steam(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A jet of steam: flat noise above 5 kHz with a sudden start and no grain."""
    time_s = take.time_s()
    jet = noise(rng, take.samples, lambda f: 1 / (1 + (5_500 / np.maximum(f, 1)) ** 6))
    return jet * curve(time_s, (0, 0), (0.04, 1), (0.6 * take.duration_s, 0.85), (take.duration_s, 0.5))


def fire(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A wood fire: a soft low flutter and sharp irregular crackles."""
    time_s = take.time_s()
    flutter = noise(rng, take.samples, lambda f: bump(f, 180, 0.9)) * (0.6 + 0.4 * wander(rng, time_s, 9))

    def crackle() -> np.ndarray:
        samples = seconds_to_samples(0.03, SAMPLE_RATE)
        decay_s = rng.uniform(0.001, 0.005)
        snap = band_noise(rng, samples, rng.uniform(1_200, 5_500), 0.7)
        return rng.lognormal(0, 0.6) * snap * np.exp(-np.arange(samples) / SAMPLE_RATE / decay_s)

    count = rng.poisson(20 * take.duration_s) + 4
    crackles = scatter(rng, take.samples, rng.uniform(0, take.duration_s, count), crackle)
    return 0.3 * flutter + crackles


def bubbles(rng: np.random.Generator, take: Take) -> np.ndarray:
    """Bubbling water: some twenty bubbles a second, each a short tone that rises as the bubble nears the surface."""

    def bubble() -> np.ndarray:
        time_s = np.arange(seconds_to_samples(0.09, SAMPLE_RATE)) / SAMPLE_RATE
        start_hz = np.exp(rng.uniform(np.log(280), np.log(750)))
        phase = phase_of(start_hz * (1 + 6 * time_s))
        return rng.uniform(0.3, 1) * np.sin(phase) * np.exp(-time_s / 0.025) * np.minimum(time_s / 0.004, 1)

    spacing_s = rng.exponential(0.048, int(take.duration_s / 0.02))
    return scatter(rng, take.samples, np.cumsum(spacing_s) - spacing_s[0], bubble)


def engine(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A piston engine: uneven firing pulses that ring the exhaust, with its harmonics and some air."""
    time_s = take.time_s()
    firing_hz = float(vary(rng, 36 * take.pitch, 0.02)) * (1 + 0.02 * wander(rng, time_s, 6))
    exhaust_hz = np.array([95, 190, 310, 520]) * take.pitch
    firing = resonate(pulses(rng, firing_hz, 0.25), exhaust_hz, [0.02, 0.012, 0.008, 0.005], [1, 0.8, 0.7, 0.5])
    hum = harmonics(firing_hz * 2, lambda f: bump(f, 160 * take.pitch, 1.0), 12)
    air = band_noise(rng, take.samples, 1_400 * take.pitch, 0.8) * (1 + np.sin(phase_of(firing_hz)))
    return firing + 0.5 * hum + 0.08 * air


def helicopter(rng: np.random.Generator, take: Take) -> np.ndarray:
    """Rotor blades slapping the air eleven times a second over the whine of a turbine."""
    time_s = take.time_s()
    since_s = np.mod(time_s, 1 / float(vary(rng, 11, 0.06)))
    slap = np.exp(-since_s / 0.018) * np.minimum(since_s / 0.003, 1)
    thump = band_noise(rng, take.samples, 130, 0.7) + 0.5 * band_noise(rng, take.samples, 750, 0.8)
    whine_hz = float(vary(rng, 1_900, 0.05)) * (1 + 0.004 * wander(rng, time_s, 5))
    whine = np.sin(phase_of(whine_hz)) + 0.5 * np.sin(phase_of(2.02 * whine_hz))
    wash = band_noise(rng, take.samples, 500, 1.0)
    return thump * slap + 0.07 * whine + 0.12 * wash


def saw(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A hand saw in wood: the push is loud and bright, the pull softer and darker; teeth make the noise rattle."""
    time_s = take.time_s()
    stroke = time_s * float(vary(rng, 1.35 * take.rate, 0.03))
    push, pull = np.mod(stroke, 1), np.mod(stroke + 0.5, 1)
    # Each half stroke is an arch: the blade stands still where it turns.
    pushing = np.sin(np.pi * np.minimum(push / 0.46, 1)) ** 0.8
    pulling = np.sin(np.pi * np.minimum(pull / 0.46, 1)) ** 0.8 * (stroke > 0.5)
    teeth = 0.45 + 0.55 * np.sin(phase_of(70 + 90 * (pushing + pulling))) ** 2
    bright = band_noise(rng, take.samples, 2_400, 0.6)
    dark = band_noise(rng, take.samples, 1_300, 0.6)
    return (bright * pushing + 0.5 * dark * pulling) * teeth


def typing(rng: np.random.Generator, take: Take) -> np.ndarray:
    """Fingers on a keyboard: key presses about six times a second, never quite even."""
    keys_hz = float(vary(rng, 6 * take.rate, 0.03))
    beats = np.arange(0, take.duration_s * keys_hz - 0.5)
    starts_s = (beats + rng.uniform(0, 0.3, len(beats))) / keys_hz
    return scatter(rng, take.samples, starts_s, lambda: rng.uniform(0.5, 1) * key_press(rng))


def creak(rng: np.random.Generator, take: Take) -> np.ndarray:
    """A door hinge: stick-slip at a rate that climbs and sinks, each slip ringing the panel."""
    time_s = take.time_s()
    duration_s = take.duration_s
    slips_hz = curve(time_s, (0, 55), (0.35 * duration_s, 120), (0.75 * duration_s, 85), (duration_s, 150)) * take.pitch
    slips_hz = slips_hz * (1 + 0.22 * wander(rng, time_s, 14))
    panel_hz = vary(rng, np.array([620, 1_300, 2_100, 3_300]) * take.pitch, 0.03)
    panel = resonate(pulses(rng, slips_hz, 0.5), panel_hz, [0.008, 0.006, 0.004, 0.002], [1, 0.9, 0.6, 0.5])
    swell = curve(time_s, (0, 0), (0.1, 0.8), (0.5 * duration_s, 1), (duration_s, 0))
    return panel * swell * (1 + 0.3 * wander(rng, time_s, 20))
