"""A vocoder with a Fourier head: log-mel frames to the magnitudes and phases of an STFT, and its inverse.

After Vocos (Siuzdak 2024, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders"): all layers
work at the frame rate, and the inverse STFT alone brings samples back, so there is no upsampling network and no
aliasing from one.

Shape letters: B items, T frames, S = T * hop_samples samples, C mel channels, D width, F = n_fft // 2 + 1 frequencies.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unisono.models.autoencoder.log_mel import mel_filterbank
from unisono.types import length_mask

_KERNEL = 7  # frames that a convolution sees
_LOUDEST = 2.0  # no bin of audio in [-1, 1] is louder, where a full-scale sine has magnitude 1


def overlap_add(frames: Tensor, hop_samples: int) -> Tensor:
    """Sum of overlapping frames: ``(B, T, N)``, frame ``t`` centred on sample ``t * hop``, to ``(B, T * hop)``.

    What lies before sample 0 and from ``T * hop`` on is cut off. N must be a multiple of ``hop_samples``.
    """
    batch, count, length = frames.shape
    overlap = length // hop_samples
    assert overlap * hop_samples == length, "a frame is a whole number of hops"
    pieces = frames.reshape(batch, count, overlap, hop_samples)
    total = frames.new_zeros(batch, count + overlap, hop_samples)
    for k in range(overlap):
        total[:, k : k + count] += pieces[:, :, k]
    start = length // 2
    return total.reshape(batch, -1)[:, start : start + count * hop_samples]


class InverseSTFT(nn.Module):
    """The least-squares inverse of an STFT (Griffin and Lim 1984, eq. 6) whose frame ``t`` is centred on ``t * hop``.

    Each sample is divided by the sum of the squared windows that reach it, at the edges by those of the frames that are
    there. So an STFT comes back exactly, the first and the last samples included, and nothing at an edge is blown up:
    the divisor is nowhere below a quarter (``n_fft = 4 * hop``, Hann window).

    Args:
        n_fft: window length in samples, a multiple of ``hop_samples`` and at least three times as long: else the last
            samples would lie at the foot of the last window, where dividing by it amplifies errors.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_samples: int) -> None:
        super().__init__()
        if n_fft % hop_samples or n_fft < 3 * hop_samples:
            raise ValueError(
                f"n_fft ({n_fft}) must be a multiple of hop_samples ({hop_samples}), at least three times as long, so "
                "that windows overlap without gaps; 4 * hop_samples is the usual choice"
            )
        self.n_fft, self.hop_samples = n_fft, hop_samples
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, spectrum: Tensor, mask: Tensor) -> Tensor:
        """Complex ``(B, T, F)``, a full-scale sine has magnitude 1, to ``(B, T * hop)``; zero where ``mask (B, T)`` is.

        Frames outside the mask are left out of sum and divisor, so an item ends as it would alone.
        """
        valid = mask[..., None].to(self.window.dtype)
        frames = torch.fft.irfft(spectrum * (self.window.sum() / 2), n=self.n_fft, dim=-1) * self.window * valid
        divisor = overlap_add((self.window**2) * valid, self.hop_samples)
        waveform = overlap_add(frames, self.hop_samples) / divisor.clamp_min(1e-3)
        return waveform * mask.repeat_interleave(self.hop_samples, dim=1)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a pointwise MLP, with a scaled residual (Liu et al. 2022, 1-D).

    Args:
        dim, hidden_dim: widths of the block and of its MLP.
        scale: what the residual branch is multiplied by at first; learned per channel.
    """

    def __init__(self, dim: int, hidden_dim: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, _KERNEL, padding=_KERNEL // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.widen, self.narrow = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """``x (B, T, D)``; frames where ``valid (B, T, 1)`` is 0 count as the zeros beyond an item's end."""
        y = self.depthwise((x * valid).transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.narrow(F.gelu(self.widen(self.norm(y))))


class FourierVocoder(nn.Module):
    """Natural-log mel spectrograms ``(B, T, C)`` to waveforms ``(B, T * hop_samples)``.

    The network says how much louder than the mel spectrogram's own envelope each frequency is, and its phase. Given the
    envelope, what is left to learn is the fine structure, and an untrained network already has the right colour.

    Args:
        sample_rate, hop_samples, n_fft, n_mels, floor: of the log-mel spectrogram, see ``LogMelAutoencoder``.
        dim: width.
        hidden_dim: of the blocks' MLPs; None is three times ``dim``.
        num_layers: ConvNeXt blocks. Vocos has 8 of width 512 (13.5 M parameters).
    """

    envelope: Tensor

    def __init__(
        self,
        sample_rate: int = 24_000,
        hop_samples: int = 480,
        n_fft: int = 1920,
        n_mels: int = 100,
        floor: float = 1e-4,
        dim: int = 512,
        hidden_dim: int | None = None,
        num_layers: int = 8,
    ) -> None:
        super().__init__()
        if min(dim, num_layers, 1 if hidden_dim is None else hidden_dim) < 1 or not 0 < floor < 1:
            raise ValueError(
                f"dim ({dim}), hidden_dim ({hidden_dim}) and num_layers ({num_layers}) must be positive, "
                f"floor ({floor}) between 0 and 1"
            )
        self.sample_rate, self.hop_samples, self.n_fft = sample_rate, hop_samples, n_fft
        self.n_mels, self.floor, self.dim, self.hidden_dim = n_mels, floor, dim, hidden_dim or 3 * dim
        self.inverse_stft = InverseSTFT(n_fft, hop_samples)
        self.embed = nn.Conv1d(n_mels, dim, _KERNEL, padding=_KERNEL // 2)
        self.embed_norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(dim, self.hidden_dim, scale=1 / num_layers) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 2 * (n_fft // 2 + 1))
        self.register_buffer("envelope", _envelope(sample_rate, n_fft, n_mels), persistent=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Otherwise all frames begin in phase, and add up to clicks at the frame rate.
        with torch.no_grad():
            self.head.bias[n_fft // 2 + 1 :].uniform_(-math.pi, math.pi)

    @property
    def reach_frames(self) -> int:
        """How many frames away from a sample the furthest one is that it depends on, at most."""
        return _KERNEL // 2 * (1 + len(self.blocks)) + self.n_fft // (2 * self.hop_samples) + 1

    def settings(self) -> dict[str, Any]:
        """The spectrograms it is made for, and its size; trained weights serve these settings and no others."""
        return {
            "sample_rate": self.sample_rate,
            "hop_samples": self.hop_samples,
            "n_fft": self.n_fft,
            "n_mels": self.n_mels,
            "floor": self.floor,
            "dim": self.dim,
            "hidden_dim": self.hidden_dim,
            "num_layers": len(self.blocks),
        }

    def forward(self, log_mel: Tensor, lengths: Tensor) -> Tensor:
        """``(B, T, C)`` of ``lengths (B,)`` frames to ``(B, T * hop_samples)``, zero at padding."""
        mask = length_mask(lengths, log_mel.shape[1])
        valid = mask[..., None].to(log_mel.dtype)
        # From silence, the floor, to full scale: -1 to 1.
        x = (1.0 - 2.0 * log_mel / math.log(self.floor)) * valid
        x = self.embed_norm(self.embed(x.transpose(1, 2)).transpose(1, 2))
        for block in self.blocks:
            x = block(x, valid)
        with torch.autocast(log_mel.device.type, enabled=False):  # phases need float32
            louder, phase = self.head(self.norm(x.float())).chunk(2, dim=-1)
            magnitude = (log_mel.float() @ self.envelope + louder).clamp_max(math.log(_LOUDEST)).exp()
            return self.inverse_stft(torch.polar(magnitude, phase), mask)


def _envelope(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """``(C, F)``: log magnitude of a frequency as the mean of the channels that contain it, by their share of it."""
    filters = mel_filterbank(sample_rate, n_fft, n_mels)
    # Below the first and above the last filter's reach: the nearest channel.
    centre = filters @ torch.arange(filters.shape[1], dtype=filters.dtype)
    nearest = (centre[:, None] - torch.arange(filters.shape[1])[None, :]).abs().argmin(dim=0)
    uncovered = filters.sum(dim=0) == 0
    filters[nearest[uncovered], uncovered] = 1.0
    return filters / filters.sum(dim=0, keepdim=True)
