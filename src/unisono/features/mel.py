"""The log-mel spectrogram that every spectral metric and every picture uses: one definition, written on the cards.

Shapes: S samples, T frames, M mel bands, F frequency bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from unisono.errors import UserError

if TYPE_CHECKING:
    import scipy.sparse

MIN_SAMPLE_RATE = 8000
# The mel scale of Slaney's Auditory Toolbox (1998): linear up to 1 kHz, logarithmic above. HTK's scale crowds its
# lowest bands closer than the bins of a 43 ms window, which leaves bands without any bin.
_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(frequency_hz: np.ndarray | float) -> np.ndarray:
    frequency = np.asarray(frequency_hz, dtype=np.float64)
    above = _BREAK_HZ / _LINEAR_HZ_PER_MEL + np.log(np.maximum(frequency, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(frequency < _BREAK_HZ, frequency / _LINEAR_HZ_PER_MEL, above)


def mel_to_hz(mel: np.ndarray | float) -> np.ndarray:
    mel = np.asarray(mel, dtype=np.float64)
    break_mel = _BREAK_HZ / _LINEAR_HZ_PER_MEL
    above = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, break_mel) - break_mel))
    return np.where(mel < break_mel, mel * _LINEAR_HZ_PER_MEL, above)


def power_spectrogram(waveform: np.ndarray, n_fft: int, hop_samples: int) -> np.ndarray:
    """Power ``(T, F)``, T = 1 + S // hop, where a full-scale sine on a bin has power 1 (0 dB).

    Frame t is centred on sample ``t * hop_samples``; the signal continues as zeros on both sides. Hann window.
    """
    import scipy.signal  # half a second, which a model's own filters do not need

    window = scipy.signal.get_window("hann", n_fft)
    padded = np.pad(np.asarray(waveform, dtype=np.float64), n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_samples]
    spectrum = np.fft.rfft(frames * (window * (2.0 / window.sum())), axis=1)
    return spectrum.real**2 + spectrum.imag**2


def to_db(power: np.ndarray, floor_db: float) -> np.ndarray:
    """``10 log10(power)``, nothing below ``floor_db``."""
    return 10.0 * np.log10(np.maximum(power, 10.0 ** (floor_db / 10.0)))


def mel_triangles(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """Triangles of height 1, evenly spaced in mel from 0 Hz to half the sample rate, float64 ``(M, F)``."""
    edges_hz = mel_to_hz(np.linspace(0.0, float(hz_to_mel(sample_rate / 2)), n_mels + 2))
    bins_hz = np.fft.rfftfreq(n_fft, 1.0 / sample_rate)
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    return np.minimum((bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)).clip(min=0.0)


@lru_cache(maxsize=8)
def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> scipy.sparse.csr_array:
    """``mel_triangles``, sparse on purpose: the product then runs without BLAS, whose sums depend on the threads."""
    import scipy.sparse

    weights = mel_triangles(sample_rate, n_fft, n_mels)
    assert (weights.sum(axis=1) > 0).all(), "a mel band without any frequency bin"
    return scipy.sparse.csr_array(weights)


@dataclass(frozen=True)
class MelFrontEnd:
    """Log-mel spectrogram in dB relative to a full-scale sine.

    Attributes:
        sample_rate: Hz of the waveforms it is given.
        n_fft: window length in samples.
        hop_samples: samples between frames.
        n_mels: number of mel bands from 0 Hz to half the sample rate.
        floor_db: levels below are raised to it, so that digital silence and inaudible noise are the same.
    """

    sample_rate: int
    n_fft: int
    hop_samples: int
    n_mels: int = 80
    floor_db: float = -80.0

    @classmethod
    def for_rate(cls, sample_rate: int) -> MelFrontEnd:
        """Windows of about 43 ms, a power of two in samples (1024 at 24 kHz), a quarter of that as the hop."""
        if sample_rate < MIN_SAMPLE_RATE:
            raise UserError(
                f"sample_rate {sample_rate} is too low for the spectral metrics; use {MIN_SAMPLE_RATE} Hz or more"
            )
        n_fft = 2 ** round(np.log2(sample_rate * 1024 / 24000))
        return cls(sample_rate=sample_rate, n_fft=n_fft, hop_samples=n_fft // 4)

    @property
    def frame_rate_hz(self) -> float:
        return self.sample_rate / self.hop_samples

    @property
    def parameters(self) -> dict[str, Any]:
        """Every choice, for the metric cards."""
        return {
            "sample_rate": self.sample_rate,
            "n_fft": self.n_fft,
            "hop_samples": self.hop_samples,
            "window": "hann",
            "n_mels": self.n_mels,
            "mel_scale": "Slaney, triangles of height 1, 0 Hz to sample_rate / 2",
            "floor_db": self.floor_db,
            "reference_level": "0 dB = full-scale sine",
            "level_normalisation": "none",
        }

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """``(S,)`` to dB ``(T, M)``."""
        power = power_spectrogram(waveform, self.n_fft, self.hop_samples)
        filters = mel_filters(self.sample_rate, self.n_fft, self.n_mels)
        return to_db((filters @ power.T).T, self.floor_db)
