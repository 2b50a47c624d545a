"""Discriminators that see complex spectrograms.

Shape letters: B items, S samples, T frames, F frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unisono.models.discriminators.base import ConvolutionStack, Discriminator, Judgement

_SLOPE = 0.2
_DILATIONS = (1, 2, 4)  # in time


class MultiResolutionDiscriminator(Discriminator):
    """One network per STFT resolution, on real and imaginary parts (Défossez et al. 2022, EnCodec, section 3.4).

    Windows overlap by three quarters. Spectra are scaled to unit energy for white noise of variance 1, so that every
    resolution begins alike.

    Args:
        n_ffts: window lengths in samples.
        width: channels of the hidden layers; the paper has 32.
    """

    def __init__(self, n_ffts: Sequence[int] = (2048, 1024, 512, 256, 128), width: int = 32) -> None:
        super().__init__()
        if not n_ffts or min(n_ffts) < 16 or width < 1:
            raise ValueError(f"n_ffts ({list(n_ffts)}) must be at least 16 each, and width ({width}) positive")
        self.n_ffts = tuple(n_ffts)
        self.networks = nn.ModuleList(_network(width) for _ in self.n_ffts)
        for n_fft in self.n_ffts:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        return [network(self._spectrum(waveform, n)) for n, network in zip(self.n_ffts, self.networks, strict=True)]

    def _spectrum(self, waveform: Tensor, n_fft: int) -> Tensor:
        """``(B, S)`` to ``(B, 2, T, F)``."""
        window = self.get_buffer(f"window_{n_fft}")
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = torch.stft(
                waveform.float(),
                n_fft,
                n_fft // 4,
                window=window,
                center=True,
                pad_mode="constant",
                return_complex=True,
            )
            return torch.view_as_real(spectrum / window.square().sum().sqrt()).permute(0, 3, 2, 1)


def _network(width: int) -> ConvolutionStack:
    layers = [nn.Conv2d(2, width, (3, 9), padding=(1, 4))]
    layers += [
        nn.Conv2d(width, width, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4))
        for dilation in _DILATIONS
    ]
    layers.append(nn.Conv2d(width, width, 3, padding=1))
    return ConvolutionStack(layers, nn.Conv2d(width, 1, 3, padding=1), _SLOPE)
