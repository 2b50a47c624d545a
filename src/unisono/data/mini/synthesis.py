"""Building blocks of the event synthesisers: noise, envelopes, resonators, harmonic stacks, distance.

Signals are mono float64 ``(S,)`` at ``SAMPLE_RATE``; whatever draws numbers takes a numpy Generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, signal

from unisono.timing import seconds_to_samples

SAMPLE_RATE = 24_000
HIGHEST_PARTIAL_HZ = 11_000.0
"""Partials above this are left out: they would alias, or fall in the edge of a resampler's filter."""
_LOWEST_HZ = 10.0


@dataclass(frozen=True)
class Take:
    """How one event is to be played.

    Attributes:
        duration_s: length of the waveform.
        pitch: factor on every frequency that makes up the event's pitch; 1 is the kind's own.
        rate: factor on the repetition rate inside a sustained event; 1 is the kind's own.
    """

    duration_s: float
    pitch: float = 1.0
    rate: float = 1.0

    @property
    def samples(self) -> int:
        return seconds_to_samples(self.duration_s, SAMPLE_RATE)

    def time_s(self) -> np.ndarray:
        """Time of every sample, ``(S,)`` seconds."""
        return np.arange(self.samples) / SAMPLE_RATE


Synthesiser = Callable[[np.random.Generator, Take], np.ndarray]


def vary(rng: np.random.Generator, value: ArrayLike, spread: float = 0.03) -> np.ndarray:
    """``value`` times a factor drawn for each element from ``[1 - spread, 1 + spread]``."""
    array = np.asarray(value, dtype=np.float64)
    return array * rng.uniform(1 - spread, 1 + spread, array.shape)


def curve(time_s: np.ndarray, *points: tuple[float, float]) -> np.ndarray:
    """Straight lines through ``(seconds, value)`` points, constant beyond them."""
    at_s, values = zip(*points, strict=True)
    return np.interp(time_s, at_s, values)


def wander(rng: np.random.Generator, time_s: np.ndarray, rate_hz: float) -> np.ndarray:
    """A smooth random curve within [-1, 1] with about ``rate_hz`` independent values per second."""
    knots = int(time_s[-1] * rate_hz) + 3
    values = rng.uniform(-1, 1, knots)
    position = time_s * rate_hz
    left = position.astype(int)
    blend = 0.5 - 0.5 * np.cos(np.pi * (position - left))
    return values[left] * (1 - blend) + values[left + 1] * blend


def phase_of(frequency_hz: np.ndarray) -> np.ndarray:
    """Phase in radians of an oscillator with the instantaneous frequency ``frequency_hz`` ``(S,)``."""
    return 2 * np.pi * np.cumsum(frequency_hz) / SAMPLE_RATE


def harmonics(f0_hz: np.ndarray, gain: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """A harmonic stack on the contour ``f0_hz`` ``(S,)``.

    The source falls by 6 dB per octave, as a sawtooth does, and is then weighed by ``gain(frequency_hz)``.
    """
    phase = phase_of(f0_hz)
    out = np.zeros_like(f0_hz)
    for order in range(1, count + 1):
        frequency_hz = order * f0_hz
        if frequency_hz.min() > HIGHEST_PARTIAL_HZ:
            break
        amplitude = gain(frequency_hz) / order * (frequency_hz < HIGHEST_PARTIAL_HZ)
        out += amplitude * np.sin(order * phase)
    return out


def bump(frequency_hz: np.ndarray, centre_hz: ArrayLike, width_octaves: float) -> np.ndarray:
    """A bell curve over log frequency: 1 at ``centre_hz``, 0.61 at ``width_octaves`` from it."""
    octaves = np.log2(np.maximum(frequency_hz, 1.0) / centre_hz)
    return np.exp(-0.5 * (octaves / width_octaves) ** 2)


def noise(rng: np.random.Generator, samples: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Gaussian noise ``(S,)`` with the magnitude response ``gain(frequency_hz)``, scaled to an RMS of 1."""
    # A highly composite length keeps the FFT fast whatever the duration.
    length = fft.next_fast_len(samples, real=True)
    spectrum = fft.rfft(rng.standard_normal(length))
    shaped = fft.irfft(spectrum * gain(fft.rfftfreq(length, 1 / SAMPLE_RATE)), length)[:samples]
    return shaped / (np.sqrt(np.mean(shaped**2)) + 1e-12)


def band_noise(rng: np.random.Generator, samples: int, centre_hz: float, width_octaves: float) -> np.ndarray:
    """Noise in a band around ``centre_hz``, with an RMS of 1."""
    return noise(rng, samples, lambda frequency_hz: bump(frequency_hz, centre_hz, width_octaves))


def modes(
    time_s: np.ndarray, frequencies_hz: ArrayLike, decays_s: ArrayLike, amplitudes: ArrayLike, attack_s: float = 0.001
) -> np.ndarray:
    """A struck body: a sum of decaying sines; ``decays_s`` are times to fall by a factor e."""
    out = np.zeros_like(time_s)
    for frequency_hz, decay_s, amplitude in np.broadcast(frequencies_hz, decays_s, amplitudes):
        if frequency_hz < HIGHEST_PARTIAL_HZ:
            out += amplitude * np.exp(-time_s / decay_s) * np.sin(2 * np.pi * frequency_hz * time_s)
    return out * np.minimum(time_s / attack_s, 1.0)


def resonate(source: np.ndarray, frequencies_hz: ArrayLike, decays_s: ArrayLike, gains: ArrayLike) -> np.ndarray:
    """``source`` ``(S,)`` through two-pole resonators in parallel; an impulse makes each ring at its gain.

    Pulses push one way only; what would be left of that as an offset from zero is taken away.
    """
    out = np.zeros_like(source)
    for frequency_hz, decay_s, gain in np.broadcast(frequencies_hz, decays_s, gains):
        radius = np.exp(-1 / (decay_s * SAMPLE_RATE))
        angle = 2 * np.pi * frequency_hz / SAMPLE_RATE
        feedback = [1.0, -2 * radius * np.cos(angle), radius**2]
        out += gain * signal.lfilter([np.sin(angle)], feedback, source)
    return _without_offset(out)


def _without_offset(waveform: np.ndarray) -> np.ndarray:
    """A causal high-pass of 6 dB per octave below ``_LOWEST_HZ``: air does not carry a steady pressure."""
    memory = 1 - 2 * np.pi * _LOWEST_HZ / SAMPLE_RATE
    return signal.lfilter([1, -1], [1, -memory], waveform)


def pulses(rng: np.random.Generator, rate_hz: np.ndarray, jitter: float = 0.0) -> np.ndarray:
    """Unit impulses ``(S,)`` at the instantaneous rate ``rate_hz``, their heights varied by ``jitter``."""
    cycle = np.floor(phase_of(rate_hz) / (2 * np.pi))
    onsets = np.flatnonzero(np.diff(cycle, prepend=-1.0) > 0)
    out = np.zeros(len(rate_hz))
    out[onsets] = vary(rng, np.ones(len(onsets)), jitter)
    return out


def scatter(
    rng: np.random.Generator, samples: int, starts_s: Sequence[float] | np.ndarray, grain: Callable[[], np.ndarray]
) -> np.ndarray:
    """A new ``grain()`` added at each start, cut at the end of the ``samples``."""
    out = np.zeros(samples)
    for start_s in starts_s:
        start = seconds_to_samples(float(start_s), SAMPLE_RATE)
        piece = grain()[: max(samples - start, 0)]
        out[start : start + len(piece)] += piece
    return out


def fade(waveform: np.ndarray, in_s: float = 0.002, out_s: float = 0.01) -> np.ndarray:
    """Raised-cosine ramps at both ends, so that nothing clicks."""
    time_s = np.arange(len(waveform)) / SAMPLE_RATE
    rise = np.minimum(time_s / in_s, 1.0)
    fall = np.minimum(time_s[::-1] / out_s, 1.0)
    return waveform * (0.5 - 0.5 * np.cos(np.pi * rise)) * (0.5 - 0.5 * np.cos(np.pi * fall))


def peak_normalised(waveform: np.ndarray, peak: float = 1.0) -> np.ndarray:
    """``waveform`` scaled to ``peak``."""
    largest = float(np.abs(waveform).max())
    assert largest > 0, "a synthesiser returned silence"
    return waveform * (peak / largest)


def from_afar(rng: np.random.Generator, waveform: np.ndarray, tail_s: float) -> np.ndarray:
    """``waveform`` ``(S,)`` as heard from a distance: treble lost in the air, direct sound weak against a diffuse tail.

    Returns ``tail_s`` seconds more than it was given, so that the tail can die away.
    """
    tail = seconds_to_samples(tail_s, SAMPLE_RATE)
    response = rng.standard_normal(tail) * np.exp(-np.arange(tail) / SAMPLE_RATE / (tail_s / 5))
    # Walls swallow treble once more at each reflection.
    response = _one_pole(response, 3_000)
    response *= 0.6 / np.sqrt(np.sum(response**2))
    response[0] += 1.0
    echoing = signal.fftconvolve(np.pad(waveform, (0, 1)), response)
    # Gentle slopes: plain to hear, yet a bird or a cricket is still there.
    return fade(_one_pole(_one_pole(echoing, 1_000), 1_000), out_s=tail_s / 2)


def _one_pole(waveform: np.ndarray, cutoff_hz: float) -> np.ndarray:
    """A causal low-pass of 6 dB per octave."""
    memory = np.exp(-2 * np.pi * cutoff_hz / SAMPLE_RATE)
    return signal.lfilter([1 - memory], [1, -memory], waveform)
