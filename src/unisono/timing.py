"""Every conversion between seconds, samples and frames, with one rounding rule.

Rule: seconds become samples (or frames) by rounding half up, and *cumulative* times are rounded, never single
durations. Rounding each duration on its own lets a sentence of 50 phonemes drift by hundreds of milliseconds.
A waveform of S samples has ``ceil(S / hop_samples)`` frames: no sample is dropped.

| to know | take |
| --- | --- |
| which sample, or value at a steady rate, a time falls on | ``seconds_to_samples``, ``seconds_to_index`` |
| latent frames of a clip of so many samples, or seconds | ``samples_to_frames``, ``clip_frames`` |
| frames at any rate that cover so many seconds, or fit into them | ``frames_covering``, ``frames_within`` |
| frames of predicted durations, and where units end | ``seconds_to_frames``, ``unit_boundaries`` |
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Seconds = float
IntOrTensor = TypeVar("IntOrTensor", int, np.ndarray, "Tensor")
_WRITTEN_S = 1e-6
"""Manifests write seconds to six decimals. No sample rate that is read (up to 768 kHz) has a shorter sample."""


def latent_rate_hz(sample_rate: int, hop_samples: int) -> float:
    """Latent frames per second."""
    if sample_rate <= 0 or hop_samples <= 0:
        raise ValueError(f"sample_rate ({sample_rate}) and hop_samples ({hop_samples}) must be positive")
    return sample_rate / hop_samples


@overload
def seconds_to_index(time_s: Seconds, rate_hz: float) -> int: ...
@overload
def seconds_to_index(time_s: np.ndarray, rate_hz: float) -> np.ndarray: ...
def seconds_to_index(time_s: Seconds | np.ndarray, rate_hz: float) -> int | np.ndarray:
    """Nearest edge between values at a steady rate: what lasts from ``a`` to ``b`` seconds is ``[index(a), index(b))``.

    Args:
        time_s: a time, or an array of them.
        rate_hz: values per second; value ``k`` covers ``[k, k + 1) / rate_hz``.

    Returns:
        int, or int64 in the shape of ``time_s``.
    """
    if isinstance(time_s, np.ndarray):
        return np.floor(time_s.astype(np.float64) * rate_hz + 0.5).astype(np.int64)
    return math.floor(float(time_s) * rate_hz + 0.5)


@overload
def seconds_to_samples(duration_s: Seconds, sample_rate: int) -> int: ...
@overload
def seconds_to_samples(duration_s: np.ndarray, sample_rate: int) -> np.ndarray: ...
def seconds_to_samples(duration_s: Seconds | np.ndarray, sample_rate: int) -> int | np.ndarray:
    """Nearest number of samples: :func:`seconds_to_index` at the sample rate."""
    return seconds_to_index(duration_s, sample_rate)


def samples_to_frames(samples: IntOrTensor, hop_samples: int) -> IntOrTensor:
    """Frames that cover ``samples`` (int, int64 array or tensor): ``ceil(samples / hop_samples)``."""
    return (samples + hop_samples - 1) // hop_samples


@overload
def clip_frames(duration_s: Seconds, sample_rate: int, hop_samples: int) -> int: ...
@overload
def clip_frames(duration_s: np.ndarray, sample_rate: int, hop_samples: int) -> np.ndarray: ...
def clip_frames(duration_s: Seconds | np.ndarray, sample_rate: int, hop_samples: int) -> int | np.ndarray:
    """Latent frames of a recording once it is read: those of its nearest number of samples, at least one."""
    latent_rate_hz(sample_rate, hop_samples)  # refuses what is no rate
    if isinstance(duration_s, np.ndarray):
        return np.maximum(samples_to_frames(seconds_to_samples(duration_s, sample_rate), hop_samples), 1)
    return max(samples_to_frames(seconds_to_samples(duration_s, sample_rate), hop_samples), 1)


def frames_covering(duration_s: Seconds, rate_hz: float) -> int:
    """Frames that cover ``duration_s``, at least one; one needed for less than a microsecond is left out."""
    return max(1, math.ceil((duration_s - _WRITTEN_S) * rate_hz))


def frames_to_samples(frames: IntOrTensor, hop_samples: int) -> IntOrTensor:
    """Samples spanned by ``frames``."""
    return frames * hop_samples


def frames_within(duration_s: Seconds, rate_hz: float) -> int:
    """Whole frames that fit into ``duration_s``; one that lacks less than a microsecond of room fits."""
    return max(0, math.floor((duration_s + _WRITTEN_S) * rate_hz))


def seconds_to_frames(duration_s: Tensor | Seconds, rate_hz: float) -> Tensor:
    """Nearest number of frames, at least one. ``duration_s`` is a float or any float tensor; returns int64."""
    import torch  # here, because whoever only reads files has no need of it

    # float64 as in unit_boundaries, so that both round alike.
    return torch.floor(torch.as_tensor(duration_s, dtype=torch.float64) * rate_hz + 0.5).long().clamp_min(1)


def unit_boundaries(durations_s: Tensor, rate_hz: float) -> Tensor:
    """End frame of every unit from cumulative rounding.

    Args:
        durations_s: ``(B, L)`` seconds per unit, zero at padding.
        rate_hz: latent frames per second.

    Returns:
        int64 ``(B, L)``, non-decreasing; unit ``i`` covers frames ``[end[i-1], end[i])``.
    """
    # float64: 1e5 frames must still round right after a cumulative sum.
    ends = durations_s.double().cumsum(dim=1) * rate_hz
    return (ends + 0.5).floor().long()
