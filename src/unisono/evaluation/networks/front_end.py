"""Spectrograms as the published networks were trained with them.

Each front end differs in window, mel scale, area of the triangles and logarithm; these are the pieces, checked against
librosa and transformers.

Shapes: S samples, T frames, M mel bands, F = n_fft // 2 + 1 frequency bins.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from unisono.features.mel import hz_to_mel, mel_to_hz

if TYPE_CHECKING:
    import scipy.sparse

Scale = Literal["slaney", "htk"]
Area = Literal["none", "slaney", "sum"]


def power_frames(
    waveform: np.ndarray, n_fft: int, hop_samples: int, window: np.ndarray, pad: Literal["reflect", "zeros", "none"]
) -> np.ndarray:
    """Power spectrogram ``(T, F)``, float64.

    Args:
        waveform: ``(S,)``.
        n_fft: length of the transform.
        hop_samples: between frames.
        window: of at most ``n_fft`` samples. With padding it sits in the middle of ``n_fft`` samples, and frame t is
            centred on sample ``t * hop_samples``. Without, frames begin with the waveform and zeros follow them.
        pad: how the signal goes on at both ends.
    """
    signal = np.asarray(waveform, dtype=np.float64)
    length = len(window)
    if pad != "none":
        before = (n_fft - length) // 2
        window = np.pad(window, (before, n_fft - length - before))
        signal = np.pad(signal, n_fft // 2, mode="reflect" if pad == "reflect" else "constant")
        length = n_fft
    frames = np.lib.stride_tricks.sliding_window_view(signal, length)[::hop_samples]
    spectrum = np.fft.rfft(frames * window, n_fft, axis=1)
    return spectrum.real**2 + spectrum.imag**2


def hann(length: int, periodic: bool = True) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length if periodic else length - 1))


def htk_mel(frequency_hz: np.ndarray | float) -> np.ndarray:
    """HTK's scale, ``1127 ln(1 + f / 700)``."""
    return 1127.0 * np.log1p(np.asarray(frequency_hz, dtype=np.float64) / 700.0)


def _htk_hz(mel: np.ndarray) -> np.ndarray:
    return 700.0 * np.expm1(mel / 1127.0)


@lru_cache(maxsize=16)
def mel_weights(
    sample_rate: int, n_fft: int, n_mels: int, low_hz: float, high_hz: float, scale: Scale, area: Area
) -> scipy.sparse.csr_array:
    """Triangles over Hz ``(M, F)``, as ``librosa.filters.mel`` makes them.

    Args:
        scale: of the edges, which are evenly spaced in mel.
        area: `none` leaves height 1, `slaney` makes the area over Hz 1, `sum` makes the weights of a band add up to 1.
    """
    import scipy.sparse

    to_mel, to_hz = (hz_to_mel, mel_to_hz) if scale == "slaney" else (htk_mel, _htk_hz)
    edges_hz = to_hz(np.linspace(float(to_mel(low_hz)), float(to_mel(high_hz)), n_mels + 2))
    weights = _triangles(edges_hz, np.fft.rfftfreq(n_fft, 1.0 / sample_rate))
    if area == "slaney":
        weights *= 2.0 / (edges_hz[2:] - edges_hz[:-2])[:, None]
    elif area == "sum":
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return scipy.sparse.csr_array(weights)


@lru_cache(maxsize=16)
def kaldi_mel_weights(
    sample_rate: int, n_fft: int, n_mels: int, low_hz: float, high_hz: float
) -> scipy.sparse.csr_array:
    """Triangles over mel ``(M, F)`` of height 1 on HTK's scale, as Kaldi and VGGish have them."""
    import scipy.sparse

    edges = np.linspace(float(htk_mel(low_hz)), float(htk_mel(high_hz)), n_mels + 2)
    return scipy.sparse.csr_array(_triangles(edges, htk_mel(np.fft.rfftfreq(n_fft, 1.0 / sample_rate))))


def _triangles(edges: np.ndarray, bins: np.ndarray) -> np.ndarray:
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clip(min=0.0)


def mel_power(power: np.ndarray, weights: scipy.sparse.csr_array) -> np.ndarray:
    """``(T, F)`` to ``(T, M)``; sparse, so that the sums do not depend on the threads of a BLAS."""
    return (weights @ power.T).T
