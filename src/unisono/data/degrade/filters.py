"""Low-pass filters without delay: classical responses applied to the spectrum, so that nothing moves in time."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from unisono.data.degrade.settings import checked_waveform
from unisono.errors import UserError

_RIPPLE_DB = 1.0  # in the passband of Chebyshev I and elliptic filters
_STOPBAND_DB = 60.0  # of Chebyshev II and elliptic filters
_MAX_FLANK_SAMPLES = 4096
_GRID_POINTS = 4097
MIN_ORDER, MAX_ORDER = 1, 16
MIN_CUTOFF_HZ = 100.0
LOW_PASS_FILTERS: tuple[str, ...] = (
    "butterworth", "chebyshev1", "chebyshev2", "elliptic", "bessel", "fir", "resample",
)  # fmt: skip


def low_pass(
    waveform: np.ndarray, sample_rate: int, cutoff_hz: float, kind: str = "butterworth", order: int = 8
) -> np.ndarray:
    """``waveform`` without what lies above ``cutoff_hz``, float32, same length, no delay.

    The gain at the cutoff is -3 dB for ``butterworth``, ``chebyshev1`` (1 dB of ripple), ``chebyshev2``, ``elliptic``
    (both 60 dB down in the stopband) and ``bessel``, analogue prototypes of which only the magnitude is used. ``fir``
    is a windowed sinc of ``16 * order + 1`` taps, -6 dB at the cutoff. ``resample`` converts to a sample rate of twice
    the cutoff and back (soxr); it has no order.

    Args:
        waveform: ``(S,)``.
        sample_rate: Hz.
        cutoff_hz: at least 100, below half the sample rate.
        kind: one of :data:`LOW_PASS_FILTERS`.
        order: 1 (gentle) to 16 (steep).

    Raises:
        UserError: unknown kind, cutoff or order out of range, bad waveform.
    """
    waveform = checked_waveform("low_pass", waveform)
    if kind not in LOW_PASS_FILTERS:
        raise UserError(f"low_pass: filter {kind!r} is unknown; choose one of {', '.join(LOW_PASS_FILTERS)}")
    if not MIN_CUTOFF_HZ <= cutoff_hz < sample_rate / 2:
        raise UserError(
            f"low_pass: cutoff_hz is {cutoff_hz}; give at least {MIN_CUTOFF_HZ:g} and less than half the sample rate "
            f"({sample_rate / 2:g} Hz)"
        )
    if not MIN_ORDER <= order <= MAX_ORDER:
        raise UserError(f"low_pass: order is {order}; give {MIN_ORDER} to {MAX_ORDER}")
    if kind == "resample":
        return _through_rate(waveform, sample_rate, round(2 * cutoff_hz))
    grid_hz = np.linspace(0, sample_rate / 2, _GRID_POINTS)
    if kind == "fir":
        gain = _fir_gain(16 * order + 1, cutoff_hz, sample_rate)
    else:
        gain = _prototype_gain(kind, order, grid_hz / cutoff_hz)
    return _apply(waveform, sample_rate, grid_hz, gain)


def _apply(waveform: np.ndarray, sample_rate: int, grid_hz: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Multiply the spectrum by ``gain`` over ``grid_hz``.

    Both ends are continued by their own mirror image turned about the end point, as scipy's filtfilt does, so that a
    clip that begins in the middle of a sound is filtered as if the sound went on.
    """
    from scipy import fft

    samples = len(waveform)
    flank = min(samples - 1, _MAX_FLANK_SAMPLES)
    head = 2 * waveform[0] - waveform[flank:0:-1]
    tail = 2 * waveform[-1] - waveform[-2 : -2 - flank : -1] if flank else waveform[:0]
    extended = np.concatenate([head, waveform, tail])
    length = fft.next_fast_len(len(extended) + _MAX_FLANK_SAMPLES, real=True)
    spectrum = fft.rfft(extended, length)
    spectrum *= np.interp(np.linspace(0, sample_rate / 2, len(spectrum)), grid_hz, gain).astype(np.float32)
    return fft.irfft(spectrum, length)[flank : flank + samples].astype(np.float32)


def _through_rate(waveform: np.ndarray, sample_rate: int, narrow_rate: int) -> np.ndarray:
    """To ``narrow_rate`` and back by soxr, whose filters have no delay."""
    import soxr

    # Zeros behind: a resampler gives no sample for an input shorter than one of the narrow rate.
    padded = np.pad(waveform, (0, -(-sample_rate // narrow_rate)))
    narrow = soxr.resample(padded, sample_rate, narrow_rate, quality="HQ")
    wide = soxr.resample(narrow, narrow_rate, sample_rate, quality="HQ")
    return np.pad(wide, (0, max(0, len(waveform) - len(wide))))[: len(waveform)].astype(np.float32)


def _prototype_gain(kind: str, order: int, ratio: np.ndarray) -> np.ndarray:
    """Magnitude at ``ratio`` = frequency / cutoff, -3 dB at 1."""
    zeros, poles, scale, edge = _prototype(kind, order)
    return _magnitude(zeros, poles, scale, ratio * edge)


@lru_cache(maxsize=128)
def _prototype(kind: str, order: int) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Zeros, poles and scale of an analogue low-pass, and where it has fallen to -3 dB."""
    from scipy.optimize import brentq
    from scipy.signal import bessel, butter, cheby1, cheby2, ellip

    if kind == "butterworth":
        zeros, poles, scale = butter(order, 1.0, analog=True, output="zpk")
    elif kind == "chebyshev1":
        zeros, poles, scale = cheby1(order, _RIPPLE_DB, 1.0, analog=True, output="zpk")
    elif kind == "chebyshev2":
        zeros, poles, scale = cheby2(order, _STOPBAND_DB, 1.0, analog=True, output="zpk")
    elif kind == "elliptic":
        zeros, poles, scale = ellip(order, _RIPPLE_DB, _STOPBAND_DB, 1.0, analog=True, output="zpk")
    else:
        zeros, poles, scale = bessel(order, 1.0, analog=True, output="zpk", norm="mag")

    def above_half_power(frequency: float) -> float:
        return float(_magnitude(zeros, poles, scale, np.array([frequency]))[0]) - np.sqrt(0.5)

    # Chebyshev II is designed by the edge of its stopband, the others by that of their passband (with ripple above).
    low, high = (1e-9, 1.0) if kind == "chebyshev2" else (0.999, 4.0)
    return zeros, poles, float(scale), float(brentq(above_half_power, low, high))


def _magnitude(zeros: np.ndarray, poles: np.ndarray, scale: float, frequency: np.ndarray) -> np.ndarray:
    points = 1j * frequency[:, None]
    return np.abs(scale * np.prod(points - zeros, axis=1) / np.prod(points - poles, axis=1))


def _fir_gain(taps: int, cutoff_hz: float, sample_rate: int) -> np.ndarray:
    """Gain of a windowed sinc about its middle tap; its sign changes in the stopband."""
    from scipy.signal import firwin, freqz

    angle, response = freqz(firwin(taps, cutoff_hz, fs=sample_rate), worN=np.linspace(0, np.pi, _GRID_POINTS))
    return np.real(response * np.exp(1j * angle * (taps - 1) / 2))
