"""What the aligner hears: mel cepstra with their first and second differences, normalised per recording.

Shapes: S samples, T frames, D dimensions.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

from unisono.errors import UserError
from unisono.features.mel import mel_filters
from unisono.media.audio import check_waveform

SAMPLE_RATE = 16_000
HOP_SAMPLES = 80
FRAME_S = HOP_SAMPLES / SAMPLE_RATE
DIMENSIONS = 39

_WINDOW_SAMPLES, _N_FFT = 320, 512  # 20 ms: longer windows smear the boundaries that are sought
_N_MELS, _N_CEPSTRA = 32, 13
_DELTA_REACH = 4  # frames to each side, 20 ms
# Relative to the loud frames: what is quieter is silence, of a room or of zeros.
_FLOOR_DB, _LOUD_DB = -70.0, -30.0
_LOUD_QUANTILE = 0.95


def frames_in(num_samples: int) -> int:
    """Frames that cover so many samples: ``ceil(S / HOP_SAMPLES)``."""
    return -(-num_samples // HOP_SAMPLES)


def cepstra(waveform: np.ndarray, sample_rate: int, where: str = "waveform") -> np.ndarray:
    """Features ``(T, 39)`` float32 of mono audio ``(S,)``; frame t covers ``[t, t + 1) * FRAME_S``, its window centred.

    Each dimension has zero mean and unit variance over the loud frames of the recording, which takes out level,
    microphone and room, however much silence there is.

    Raises:
        UserError: no samples, more than one channel, NaN.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim != 1:
        raise UserError(f"{where}: audio of shape {waveform.shape} cannot be aligned; give one channel, shape (S,)")
    check_waveform(waveform, where)
    if sample_rate != SAMPLE_RATE:
        import soxr

        waveform = soxr.resample(waveform.astype(np.float32), sample_rate, SAMPLE_RATE, quality="HQ")
        check_waveform(waveform, where)
    mel = _mel(waveform.astype(np.float64))
    level = mel.sum(axis=1)
    reference = np.quantile(level, _LOUD_QUANTILE) or level.max() or 1.0
    log_mel = np.log(mel + reference / _N_MELS * 10 ** (_FLOOR_DB / 10))
    base = scipy.fft.dct(log_mel, type=2, norm="ortho", axis=1)[:, :_N_CEPSTRA]
    first = _difference(base)
    features = np.concatenate([base, first, _difference(first)], axis=1)
    loud = features[level >= reference * 10 ** (_LOUD_DB / 10)] if level.any() else features
    deviation = loud.std(axis=0)
    # A constant dimension (a single frame) stays zero.
    return ((features - loud.mean(axis=0)) / np.where(deviation > 1e-8, deviation, 1.0)).astype(np.float32)


def _mel(waveform: np.ndarray) -> np.ndarray:
    """Power ``(T, mels)``."""
    frames = frames_in(len(waveform))
    lead = (_WINDOW_SAMPLES - HOP_SAMPLES) // 2
    padded = np.pad(waveform, (lead, frames * HOP_SAMPLES - len(waveform) + _WINDOW_SAMPLES - HOP_SAMPLES - lead))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW_SAMPLES)[::HOP_SAMPLES][:frames]
    spectrum = np.fft.rfft(windows * np.hanning(_WINDOW_SAMPLES + 2)[1:-1], _N_FFT, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    return (mel_filters(SAMPLE_RATE, _N_FFT, _N_MELS) @ power.T).T


def _difference(values: np.ndarray) -> np.ndarray:
    """Slope of a line fitted over ``_DELTA_REACH`` frames to both sides; the ends go on as they are."""
    reach = _DELTA_REACH
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="edge")
    steps = range(1, reach + 1)
    total = sum(
        k * (padded[reach + k : len(padded) - reach + k] - padded[reach - k : len(padded) - reach - k]) for k in steps
    )
    return total / (2 * sum(k * k for k in steps))
