"""Every conversion between seconds, samples and latent frames, with one rounding rule.

Rule: seconds become samples (or frames) by rounding half up, and *cumulative* times are rounded, never single
durations. Rounding each duration on its own lets a sentence of 50 phonemes drift by hundreds of milliseconds.
A waveform of S samples has ``ceil(S / hop_samples)`` frames: no sample is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Seconds = float
IntOrTensor = TypeVar("IntOrTensor", int, "Tensor")


def latent_rate_hz(sample_rate: int, hop_samples: int) -> float:
    """Latent frames per second."""
    if sample_rate <= 0 or hop_samples <= 0:
        raise ValueError(f"sample_rate ({sample_rate}) and hop_samples ({hop_samples}) must be positive")
    return sample_rate / hop_samples


def seconds_to_samples(duration_s: Seconds, sample_rate: int) -> int:
    """Nearest number of samples."""
    return int(np.floor(duration_s * sample_rate + 0.5))


def samples_to_frames(samples: IntOrTensor, hop_samples: int) -> IntOrTensor:
    """Frames that cover ``samples`` (int or int64 tensor): ``ceil(samples / hop_samples)``."""
    return (samples + hop_samples - 1) // hop_samples


def frames_to_samples(frames: IntOrTensor, hop_samples: int) -> IntOrTensor:
    """Samples spanned by ``frames``."""
    return frames * hop_samples


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
