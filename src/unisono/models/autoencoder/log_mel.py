"""Log-mel spectrogram as latent, Griffin-Lim as decoder: an autoencoder without weights.

Shape letters: B items, S samples, T frames, F linear frequencies, C mel channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unisono.features.mel import mel_triangles
from unisono.models.autoencoder.base import Autoencoder
from unisono.models.autoencoder.channels import per_channel
from unisono.threads import one_torch_thread
from unisono.timing import samples_to_frames
from unisono.types import length_mask

PIECE_FRAMES = 3000
"""Frames that are decoded at once: a minute at 50 Hz, some 0.3 GB."""


def mel_filterbank(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Slaney mel filters ``(C, F)``, each scaled to a peak-independent unit sum."""
    filters = torch.from_numpy(mel_triangles(sample_rate, n_fft, n_mels)).float()
    return filters / filters.sum(dim=1, keepdim=True).clamp_min(1e-8)


def _inverse(filters: Tensor) -> Tensor:
    """The pseudo-inverse, on one thread: it has other bits on two, and Griffin-Lim makes them other sounds."""
    with one_torch_thread():
        return torch.linalg.pinv(filters)


class LogMelAutoencoder(Autoencoder):
    """Encode: STFT magnitude, mel filters, log, normalise. Decode: least squares back to magnitudes, Griffin-Lim.

    The magnitude of a full-scale sine is 1. Frame ``t`` is centred on sample ``t * hop_samples``.

    Args:
        sample_rate: Hz.
        hop_samples: samples per frame; ``n_fft`` must be at least three times as long for Griffin-Lim to work.
        n_fft: window length in samples.
        n_mels: channels.
        floor: magnitude below which everything counts as silence (1e-4 is -80 dB).
        mean, std: normalisation of the natural-log mel, one number or one per channel
            (``unisono latent-statistics`` computes them).
        griffin_lim_steps: iterations of the fast Griffin-Lim algorithm (Perraudin, Balazs, Søndergaard 2013).
        momentum: its alpha.
    """

    filters: Tensor
    inverse_filters: Tensor
    window: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        sample_rate: int = 24_000,
        hop_samples: int = 480,
        n_fft: int = 1920,
        n_mels: int = 100,
        floor: float = 1e-4,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        griffin_lim_steps: int = 48,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        if min(sample_rate, hop_samples, n_mels, griffin_lim_steps) < 1 or floor <= 0:
            raise ValueError(
                f"sample_rate ({sample_rate}), hop_samples ({hop_samples}), n_mels ({n_mels}), "
                f"griffin_lim_steps ({griffin_lim_steps}) and floor ({floor}) must be positive"
            )
        if n_fft < 3 * hop_samples:
            raise ValueError(f"n_fft ({n_fft}) must be at least 3 * hop_samples ({hop_samples}) for Griffin-Lim")
        self.sample_rate, self.hop_samples, self.latent_dim = sample_rate, hop_samples, n_mels
        self.n_fft, self.floor = n_fft, floor
        self.griffin_lim_steps, self.momentum = griffin_lim_steps, momentum
        filters = mel_filterbank(sample_rate, n_fft, n_mels)
        # Not in the state dict: all of it follows from the settings.
        for name, value in {
            "filters": filters,
            "inverse_filters": _inverse(filters),
            "window": torch.hann_window(n_fft),
            "mean": per_channel("mean", mean, n_mels),
            "std": per_channel("std", std, n_mels, positive=True),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def settings(self) -> dict[str, Any]:
        return {
            "version": 2,  # of what encode() computes
            "sample_rate": self.sample_rate,
            "hop_samples": self.hop_samples,
            "n_fft": self.n_fft,
            "n_mels": self.latent_dim,
            "floor": self.floor,
            "mean": [round(v, 6) for v in self.mean.tolist()],
            "std": [round(v, 6) for v in self.std.tolist()],
            "griffin_lim_steps": self.griffin_lim_steps,
            "momentum": self.momentum,
        }

    def _stft(self, waveform: Tensor) -> Tensor:
        """``(B, S)`` -> complex ``(B, F, 1 + S // hop)``; full-scale sine has magnitude 1."""
        spectrum = torch.stft(
            waveform,
            self.n_fft,
            self.hop_samples,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        return spectrum * (2.0 / self.window.sum())

    def _istft(self, spectrum: Tensor, samples: int) -> Tensor:
        spectrum = spectrum / (2.0 / self.window.sum())
        return torch.istft(spectrum, self.n_fft, self.hop_samples, window=self.window, center=True, length=samples)

    def _mel(self, magnitude: Tensor) -> Tensor:
        """``(B, F, T)`` magnitudes to ``(B, T, C)``: the same bits alone or in a batch, on any number of cores.

        A matrix product sums in another order for another shape. Sums of fixed-point numbers are exact in float64, in
        any order, for magnitudes below 8 (audio in [-1, 1] stays below 2); so a cached latent is the one of training.
        """
        magnitude = magnitude.transpose(1, 2)
        if magnitude.device.type == "mps":  # has no float64
            return F.linear(magnitude, self.filters)
        whole = (magnitude * 2**26).round_().double()
        return F.linear(whole, torch.round(self.filters.double() * 2**24) * 2.0**-50).float()

    @torch.no_grad()
    def encode(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        latent_lengths = samples_to_frames(lengths, self.hop_samples)
        frames = samples_to_frames(waveform.shape[1], self.hop_samples)
        # Padding is silence, so an item has the same latent alone and in a batch.
        waveform = waveform.float() * length_mask(lengths, waveform.shape[1])
        waveform = F.pad(waveform, (0, frames * self.hop_samples - waveform.shape[1]))
        with torch.autocast(waveform.device.type, enabled=False):
            magnitude = self._stft(waveform)[:, :, :frames].abs()
            mel = self._mel(magnitude)
        latent = (torch.log(mel.clamp_min(self.floor)) - self.mean) / self.std
        return latent * length_mask(latent_lengths, frames)[..., None], latent_lengths

    @torch.no_grad()
    def decode(self, latent: Tensor, lengths: Tensor) -> Tensor:
        waveform = latent.new_zeros(latent.shape[0], latent.shape[1] * self.hop_samples, dtype=torch.float32)
        with torch.autocast(latent.device.type, enabled=False):
            # One item at a time: a window that reaches over an item's end must see silence, not a neighbour's padding.
            for row, frames in enumerate(lengths.tolist()):
                for start, piece in self._decoded_pieces(latent[row, :frames]):
                    waveform[row, start : start + len(piece)] = piece
        return waveform

    def _decoded_pieces(self, latent: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The waveform of ``latent (T, C)``, some of it at a time, each piece with its first sample.

        An iteration of Griffin-Lim carries a phase no further than a window reaches, so pieces that see as many frames
        more as there are iterations times that, on both sides, are those of the whole.
        """
        frames, hop = len(latent), self.hop_samples
        reach = (math.ceil(self.n_fft / hop) - 1) * (self.griffin_lim_steps + 1) + 1
        generator = torch.Generator().manual_seed(0)
        phase = torch.rand(frames + 1, self.n_fft // 2 + 1, generator=generator)
        own = math.ceil(frames / max(1, math.ceil(frames / PIECE_FRAMES)))
        for start in range(0, frames, max(own, 1)):
            first, stop = max(0, start - reach), min(frames, start + own)
            last = min(frames, stop + reach)
            # Audio in [-1, 1] cannot exceed 0 dB; a badly trained model can.
            mel = torch.exp((latent[first:last].float() * self.std + self.mean).clamp_max(0.0))
            mel = (mel - self.floor).clamp_min(0)
            piece = self._griffin_lim(self._magnitude(mel), phase[first : last + 1])
            yield start * hop, piece[(start - first) * hop : (stop - first) * hop]

    def _magnitude(self, mel: Tensor) -> Tensor:
        """Non-negative magnitudes ``(F, T)`` whose mel is ``mel (T, C)``: least squares, multiplicative updates."""
        magnitude = (self.inverse_filters @ mel.T).clamp_min(1e-8)
        target = self.filters.T @ mel.T
        for _ in range(16):
            magnitude = magnitude * target / (self.filters.T @ (self.filters @ magnitude)).clamp_min(1e-10)
        return magnitude

    def _griffin_lim(self, magnitude: Tensor, phase: Tensor) -> Tensor:
        """Waveform ``(T * hop,)`` whose STFT magnitude is near ``magnitude (F, T)``.

        ``phase (T + 1, F)``: where to begin, in turns.
        """
        samples = magnitude.shape[1] * self.hop_samples
        # The STFT of T * hop samples has one frame more, centred on the end.
        magnitude = F.pad(magnitude, (0, 1))[None]
        angle = phase.T.to(magnitude.device) * 2 * math.pi
        estimate = torch.polar(torch.ones_like(magnitude), angle[None])
        previous = torch.zeros_like(estimate)
        for _ in range(self.griffin_lim_steps):
            rebuilt = self._stft(self._istft(magnitude * estimate, samples))
            accelerated = rebuilt + self.momentum * (rebuilt - previous)
            estimate = accelerated / accelerated.abs().clamp_min(1e-12)
            previous = rebuilt
        return self._istft(magnitude * estimate, samples)[0]
