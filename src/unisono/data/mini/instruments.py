"""Instruments of the mini corpus's music, each a function of pitch, length and force.

Tones are additive: ``partials`` sums a harmonic series by Horner's rule, a few multiplications per sample and partial.
Waveforms are mono float64 ``(S,)`` at ``SAMPLE_RATE`` and ring on after their note's end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unisono.data.mini.events_impacts import cymbal
from unisono.data.mini.synthesis import (
    HIGHEST_PARTIAL_HZ,
    SAMPLE_RATE,
    Take,
    band_noise,
    bump,
    fade,
    modes,
    noise,
    phase_of,
)
from unisono.timing import seconds_to_samples

KICK, SNARE, HAT, CRASH = 36, 38, 42, 49
"""Drums by their General MIDI note."""


@dataclass(frozen=True)
class Stroke:
    """One note to be played: ``f0_hz``, seconds until it is let go, and how hard, 0 to 1."""

    f0_hz: float
    duration_s: float
    force: float

    def time_s(self, release_s: float) -> np.ndarray:
        """Time of every sample up to ``release_s`` after the note's end, ``(S,)`` seconds."""
        return np.arange(seconds_to_samples(self.duration_s + release_s, SAMPLE_RATE)) / SAMPLE_RATE

    def orders(self, most: int) -> np.ndarray:
        """Numbers of the partials, at most ``most``, that fit below the highest."""
        return np.arange(1, max(1, min(most, int(HIGHEST_PARTIAL_HZ / self.f0_hz))) + 1)


Player = Callable[[np.random.Generator, Stroke], np.ndarray]


@dataclass(frozen=True)
class Instrument:
    """How an instrument is called in captions and MIDI files, where it plays, and how it sounds.

    Attributes:
        name: in captions, without an article.
        program: General MIDI number from 0; None for drums.
        lowest: MIDI number from which its tonic is chosen when it leads.
        play: renders one note.
        sustains: holds a note at its level, so it may play pads.
    """

    name: str
    program: int | None
    lowest: int
    play: Player
    sustains: bool = False


def partials(phase: np.ndarray, amplitudes: np.ndarray, damping: np.ndarray | float = 1.0) -> np.ndarray:
    """``sum over k of amplitudes[k - 1] * damping**k * sin(k * phase)``, ``(S,)``."""
    step = damping * np.exp(1j * phase)
    total = np.zeros_like(step)
    for amplitude in amplitudes[::-1]:
        total = (total + amplitude) * step
    return total.imag


def _held(time_s: np.ndarray, duration_s: float, attack_s: float, release_s: float) -> np.ndarray:
    """An envelope that rises, stays at 1 until the note's end and falls."""
    rise = np.minimum(time_s / attack_s, 1.0)
    fall = np.clip(1 - (time_s - duration_s) / release_s, 0.0, 1.0)
    return rise * fall**2


def _damped(time_s: np.ndarray, duration_s: float, release_s: float) -> np.ndarray:
    """1 until the note's end, then an exponential fall that reaches zero at the end of the waveform."""
    after_s = np.maximum(time_s - duration_s, 0)
    return np.exp(-4 * after_s / release_s) * np.clip((duration_s + release_s - time_s) / 0.01, 0, 1)


def guitar(rng: np.random.Generator, stroke: Stroke) -> np.ndarray:
    """A nylon string plucked at about a fifth of its length; partial k dies faster with k."""
    time_s = stroke.time_s(0.15)
    order = stroke.orders(22)
    place = rng.uniform(0.16, 0.22)
    amplitudes = np.abs(np.sin(np.pi * order * place)) / order ** (1.5 - 0.4 * stroke.force)
    string = partials(2 * np.pi * stroke.f0_hz * time_s, amplitudes, np.exp(-time_s * 0.9))
    decay_s = 0.9 * (220 / stroke.f0_hz) ** 0.4
    body = modes(time_s, [102, 204], 0.04, [0.08, 0.05])
    return (
        (string * np.exp(-time_s / decay_s) + body)
        * np.minimum(time_s / 0.002, 1)
        * _damped(time_s, stroke.duration_s, 0.15)
    )


def electric_piano(rng: np.random.Generator, stroke: Stroke) -> np.ndarray:
    """A hammer on a tine: nearly a sine, brighter when struck hard, with a short glassy ping."""
    time_s = stroke.time_s(0.2)
    order = stroke.orders(6)
    amplitudes = np.array([1, 0.35, 0.22, 0.12, 0.06, 0.03])[: len(order)] * stroke.force ** (0.5 * (order - 1))
    tone = partials(2 * np.pi * stroke.f0_hz * time_s, amplitudes, np.exp(-time_s * 1.2)) * np.exp(-time_s / 1.6)
    ping = modes(time_s, 7.1 * stroke.f0_hz, 0.06, 0.12 * stroke.force)
    return (tone + ping) * np.minimum(time_s / 0.003, 1) * _damped(time_s, stroke.duration_s, 0.2)


def flute(rng: np.random.Generator, stroke: Stroke) -> np.ndarray:
    """Few partials, a soft start, a slow vibrato that sets in late, and breath around the tone."""
    time_s = stroke.time_s(0.09)
    depth = 0.004 * np.clip((time_s - 0.25) / 0.3, 0, 1)
    phase = phase_of(stroke.f0_hz * (1 + depth * np.sin(2 * np.pi * rng.uniform(4.8, 5.4) * time_s)))
    tone = partials(phase, np.array([1, 0.32, 0.16, 0.05, 0.02])[: len(stroke.orders(5))])
    breath = noise(rng, len(time_s), lambda f: bump(f, 2.2 * stroke.f0_hz, 0.9))
    level = 1 - 0.12 * np.exp(-((time_s - 0.12) ** 2) / 0.004)
    return (tone * level + 0.035 * breath) * _held(time_s, stroke.duration_s, 0.045, 0.09)


def organ(rng: np.random.Generator, stroke: Stroke) -> np.ndarray:
    """Drawbars: sub-octave, fundamental, fifth and octaves, all steady while the key is down."""
    time_s = stroke.time_s(0.06)
    drawbars = np.array([0.5, 1.0, 0.35, 0.6, 0, 0.3, 0, 0.2])
    below = np.arange(1, 9) * stroke.f0_hz / 2 < HIGHEST_PARTIAL_HZ
    tone = partials(np.pi * stroke.f0_hz * time_s + rng.uniform(0, 6), drawbars[below])
    return tone * _held(time_s, stroke.duration_s, 0.012, 0.06)


def strings(rng: np.random.Generator, stroke: Stroke) -> np.ndarray:
    """A section: two slightly different bowed tones, each with its own vibrato."""
    time_s = stroke.time_s(0.25)
    order = stroke.orders(14)
    amplitudes = 1 / order * (1 / (1 + (order * stroke.f0_hz / 2_600) ** 2))
    tone = np.zeros_like(time_s)
    for detune in (0.9985, 1.0015):
        vibrato = 0.003 * np.sin(2 * np.pi * rng.uniform(4.6, 5.6) * time_s + rng.uniform(0, 6))
        tone += partials(phase_of(stroke.f0_hz * detune * (1 + vibrato)) + rng.uniform(0, 6), amplitudes)
    return tone * _held(time_s, stroke.duration_s, 0.12, 0.25)


def marimba(rng: np.random.Generator, stroke: Stroke) -> np.ndarray:
    """A wooden bar over its tube: the fundamental, its fourth and tenth partials, and the mallet."""
    time_s = stroke.time_s(0.3)
    decay_s = 0.35 * (260 / stroke.f0_hz) ** 0.6
    ratios = np.array([1, 3.93, 9.6])
    bar = modes(time_s, stroke.f0_hz * ratios, decay_s / np.array([1, 3, 8]), [1, 0.3 * stroke.force, 0.12])
    mallet = band_noise(rng, len(time_s), 900, 0.8) * np.exp(-time_s / 0.004)
    return (bar + 0.08 * mallet) * _damped(time_s, stroke.duration_s, 0.3)


def music_box(rng: np.random.Generator, stroke: Stroke) -> np.ndarray:
    """A steel comb: a bright tone with inharmonic partials that rings on."""
    time_s = stroke.time_s(0.5)
    ratios = np.array([1, 2.0, 3.01, 6.27])
    decays_s = 0.8 * (520 / stroke.f0_hz) ** 0.5 / np.array([1, 1.6, 2.2, 4])
    comb = modes(time_s, stroke.f0_hz * ratios, decays_s, [1, 0.25, 0.15, 0.18])
    pin = band_noise(rng, len(time_s), 6_000, 0.5) * np.exp(-time_s / 0.003)
    return (comb + 0.05 * pin) * _damped(time_s, stroke.duration_s, 0.5)


def bass(rng: np.random.Generator, stroke: Stroke) -> np.ndarray:
    """A bass guitar played with the finger."""
    time_s = stroke.time_s(0.08)
    order = stroke.orders(12)
    amplitudes = np.abs(np.sin(np.pi * order * 0.27)) / order**1.3
    tone = partials(2 * np.pi * stroke.f0_hz * time_s, amplitudes, np.exp(-time_s * 1.5))
    return tone * np.exp(-time_s / 1.1) * np.minimum(time_s / 0.004, 1) * _damped(time_s, stroke.duration_s, 0.08)


def drum_stroke(rng: np.random.Generator, midi: int, force: float) -> np.ndarray:
    """One stroke on the piece of the kit with the General MIDI note ``midi``, with a peak of about ``force``."""
    if midi == CRASH:
        sound = cymbal(rng, Take(1.1))
        return fade(force * 0.5 * sound / np.abs(sound).max(), in_s=0.0005)
    samples = {KICK: 0.26, SNARE: 0.2, HAT: 0.07}[midi]
    time_s = np.arange(seconds_to_samples(samples, SAMPLE_RATE)) / SAMPLE_RATE
    if midi == KICK:
        sound = np.sin(phase_of(48 + 95 * np.exp(-time_s / 0.03))) * np.exp(-time_s / 0.075)
        sound += 0.15 * band_noise(rng, len(time_s), 2_000, 0.8) * np.exp(-time_s / 0.004)
    elif midi == SNARE:
        wires = band_noise(rng, len(time_s), 4_000, 1.0) * np.exp(-time_s / 0.055)
        sound = 0.35 * wires + modes(time_s, [185, 330], [0.05, 0.03], [0.7, 0.4])
    else:
        sound = 0.16 * band_noise(rng, len(time_s), 8_500, 0.35) * np.exp(-time_s / 0.018)
    return fade(force * sound, in_s=0.0005)


_ROWS = (
    Instrument("acoustic guitar", 24, 57, guitar),
    Instrument("electric piano", 4, 60, electric_piano),
    Instrument("flute", 73, 67, flute, sustains=True),
    Instrument("organ", 16, 60, organ, sustains=True),
    Instrument("strings", 48, 60, strings, sustains=True),
    Instrument("marimba", 12, 60, marimba),
    Instrument("music box", 10, 72, music_box),
    Instrument("bass guitar", 33, 31, bass),
)

INSTRUMENTS: dict[str, Instrument] = {instrument.name: instrument for instrument in _ROWS}
DRUMS = "drums"
