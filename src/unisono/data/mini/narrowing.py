"""Low-pass filters that turn a recording into the input of audio super-resolution.

Every filter runs forwards and backwards, so the input keeps its time and its length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, signal

BANDWIDTHS_HZ = (2_000.0, 8_000.0)
FILTERS = ("butterworth", "chebyshev1", "chebyshev2", "elliptic", "bessel", "fir")
_ORDERS = (4, 10)
_RIPPLE_DB, _STOP_DB = 0.1, 40.0
_TAPS = (63, 255)
_EDGE_DB = -6.0
_LEAST_LOST_DB = -50.0
_ATTEMPTS = 12


@dataclass(frozen=True)
class Narrowing:
    """A low-pass filter as second-order sections ``(N, 6)`` or, for a FIR filter, as taps ``(N,)``.

    Attributes:
        kind: one of ``FILTERS``.
        bandwidth_hz: where the filter, run both ways, has fallen by 6 dB.
        coefficients: the filter.
    """

    kind: str
    bandwidth_hz: float
    coefficients: np.ndarray

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """``waveform`` ``(S,)`` without its treble, float32, same length."""
        padding = min(len(waveform) - 1, 3_000)
        if self.kind == "fir":
            narrow = signal.filtfilt(self.coefficients, 1.0, waveform, padlen=padding)
        else:
            narrow = signal.sosfiltfilt(self.coefficients, waveform, padlen=padding)
        return narrow.astype(np.float32)


def narrow(rng: np.random.Generator, waveform: np.ndarray, sample_rate: int) -> tuple[np.ndarray, Narrowing]:
    """``waveform`` ``(S,)`` through a random filter that takes something away, and the filter.

    Where all above its bandwidth lies 50 dB below the recording or deeper, another filter is drawn; the lowest
    bandwidth comes last.
    """
    waveform = np.asarray(waveform, dtype=np.float64)
    length = fft.next_fast_len(len(waveform), real=True)
    power = np.abs(fft.rfft(waveform, length)) ** 2
    frequencies_hz = fft.rfftfreq(length, 1 / sample_rate)
    for attempt in range(_ATTEMPTS):
        # Logarithmic, from a range that closes on its lower end.
        top_hz = BANDWIDTHS_HZ[0] * (BANDWIDTHS_HZ[1] / BANDWIDTHS_HZ[0]) ** (1 - attempt / (_ATTEMPTS - 1))
        bandwidth_hz = float(np.exp(rng.uniform(np.log(BANDWIDTHS_HZ[0]), np.log(top_hz))))
        filter_ = draw_filter(rng, bandwidth_hz, sample_rate)
        lost = power[frequencies_hz > filter_.bandwidth_hz].sum()
        if lost > power.sum() * 10 ** (_LEAST_LOST_DB / 10):
            break
    return filter_(waveform), filter_


def draw_filter(rng: np.random.Generator, bandwidth_hz: float, sample_rate: int) -> Narrowing:
    """A filter of random kind and steepness with about the given bandwidth."""
    kind = str(rng.choice(FILTERS))
    order = int(rng.integers(_ORDERS[0], _ORDERS[1] + 1))
    taps = 2 * int(rng.integers(_TAPS[0] // 2, _TAPS[1] // 2 + 1)) + 1
    # Each kind means something else by its frequency: correct it by what comes out.
    design_hz = bandwidth_hz
    for _ in range(3):
        coefficients = _design(kind, order, taps, min(design_hz, 0.49 * sample_rate), sample_rate)
        reached_hz = _bandwidth_hz(coefficients, sample_rate)
        design_hz *= bandwidth_hz / reached_hz
    return Narrowing(kind, reached_hz, coefficients)


def _design(kind: str, order: int, taps: int, design_hz: float, sample_rate: int) -> np.ndarray:
    common = {"fs": sample_rate, "output": "sos"}
    if kind == "butterworth":
        return signal.butter(order, design_hz, **common)
    if kind == "chebyshev1":
        return signal.cheby1(order, _RIPPLE_DB, design_hz, **common)
    if kind == "chebyshev2":
        return signal.cheby2(order, _STOP_DB, design_hz, **common)
    if kind == "elliptic":
        return signal.ellip(order, _RIPPLE_DB, _STOP_DB, design_hz, **common)
    if kind == "bessel":
        return signal.bessel(order, design_hz, norm="mag", **common)
    return signal.firwin(taps, design_hz, fs=sample_rate, window="hann")


def _bandwidth_hz(coefficients: np.ndarray, sample_rate: int) -> float:
    """Where the filter, run both ways, first falls below -6 dB; half the sample rate where it never does."""
    frequencies_hz = np.arange(0, sample_rate / 2, 5.0)
    if coefficients.ndim == 2:
        _, response = signal.sosfreqz(coefficients, frequencies_hz, fs=sample_rate)
    else:
        _, response = signal.freqz(coefficients, 1.0, frequencies_hz, fs=sample_rate)
    below = np.flatnonzero(np.abs(response) ** 2 < 10 ** (_EDGE_DB / 20))
    return float(frequencies_hz[below[0]]) if len(below) else sample_rate / 2
