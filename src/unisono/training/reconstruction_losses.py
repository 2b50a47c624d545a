"""Losses of autoencoders and vocoders: distances between spectra, and what discriminators say.

Like all losses here, distances are means over the valid frames of an item, then over items.

Shape letters: B items, S samples, T frames, F frequencies, M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unisono.models.autoencoder.log_mel import mel_filterbank
from unisono.models.discriminators import Judgement
from unisono.models.reconstruction import ReconstructionOutput
from unisono.training.losses import masked_item_mean
from unisono.types import length_mask

_QUIET = 1e-3  # spectra with a lower root mean square (-60 dB of a full-scale sine) are not divided by it


class Magnitudes(nn.Module):
    """STFT magnitudes ``(B, T, F)`` of ``(B, S)``; a full-scale sine has magnitude 1.

    Frame ``t`` is centred on sample ``t * hop_samples``.

    Args:
        n_fft, hop_samples, window_samples: of the STFT, Hann window.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_samples: int, window_samples: int) -> None:
        super().__init__()
        if not 0 < hop_samples <= window_samples <= n_fft:
            raise ValueError(
                f"an STFT of n_fft {n_fft}, hop {hop_samples} and window {window_samples} misses samples; "
                "let 0 < hop <= window <= n_fft"
            )
        self.n_fft, self.hop_samples = n_fft, hop_samples
        self.register_buffer("window", torch.hann_window(window_samples), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = torch.stft(
                waveform.float(), self.n_fft, self.hop_samples, len(self.window), self.window,
                center=True, pad_mode="constant", return_complex=True,
            )  # fmt: skip
            return spectrum.abs().transpose(1, 2) * (2.0 / self.window.sum())

    def mask(self, lengths: Tensor, samples: int) -> Tensor:
        """``(B, T)``: frames whose centre lies within the item."""
        return length_mask((lengths + self.hop_samples - 1) // self.hop_samples, 1 + samples // self.hop_samples)


class MultiResolutionSTFTDistance(nn.Module):
    """Spectral convergence plus mean difference of log magnitudes (Yamamoto, Song and Kim 2020, eq. 4 to 6).

    Args:
        resolutions: ``n_fft``, hop and window in samples of each; the paper's by default.
        floor: added to magnitudes before the logarithm, so that what nobody hears weighs little (1e-4 is -80 dB).
    """

    def __init__(
        self,
        resolutions: Sequence[Sequence[int]] = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)),
        floor: float = 1e-4,
    ) -> None:
        super().__init__()
        if not resolutions or not floor > 0:
            raise ValueError(f"at least one resolution is needed, and floor ({floor}) must be positive")
        self.spectra = nn.ModuleList(Magnitudes(*resolution) for resolution in resolutions)
        self.floor = floor

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """``(B, S)`` twice, of ``lengths (B,)`` samples, to ``(B,)``."""
        return torch.stack([self._distance(s, estimate, target, lengths) for s in self.spectra]).mean(dim=0)

    def _distance(self, spectrum: nn.Module, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        assert isinstance(spectrum, Magnitudes)
        mask = spectrum.mask(lengths, target.shape[1])
        judged, true = spectrum(estimate), spectrum(target)
        error = masked_item_mean((judged - true) ** 2, mask)
        power = masked_item_mean(true**2, mask)
        convergence = ((error + 1e-12) / (power + _QUIET**2)).sqrt()
        return convergence + masked_item_mean(((judged + self.floor).log() - (true + self.floor).log()).abs(), mask)


class MelDistance(nn.Module):
    """Mean absolute difference of natural-log mel spectrograms.

    Args:
        sample_rate: Hz.
        n_fft, hop_samples, n_mels: of the spectrogram.
        floor: added to magnitudes before the logarithm.
    """

    filters: Tensor

    def __init__(
        self,
        sample_rate: int = 24_000,
        n_fft: int = 1024,
        hop_samples: int = 256,
        n_mels: int = 80,
        floor: float = 1e-4,
    ) -> None:
        super().__init__()
        self.spectrum, self.floor = Magnitudes(n_fft, hop_samples, n_fft), floor
        self.register_buffer("filters", mel_filterbank(sample_rate, n_fft, n_mels), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        """``(B, S)`` twice, of ``lengths (B,)`` samples, to ``(B,)``."""
        judged, true = (self._log_mel(waveform) for waveform in (estimate, target))
        return masked_item_mean((judged - true).abs(), self.spectrum.mask(lengths, target.shape[1]))

    def _log_mel(self, waveform: Tensor) -> Tensor:
        with torch.autocast(waveform.device.type, enabled=False):
            return (F.linear(self.spectrum(waveform), self.filters) + self.floor).log()


def discriminator_hinge(recording: Sequence[Judgement], copy: Sequence[Judgement]) -> Tensor:
    """What discriminators minimise (Lim and Ye 2017, eq. 3): scores of recordings above 1, of copies below -1."""
    losses = [
        F.relu(1 - real.scores.float()).mean() + F.relu(1 + fake.scores.float()).mean()
        for real, fake in zip(recording, copy, strict=True)
    ]
    return torch.stack(losses).mean()


def generator_hinge(judged: Sequence[Judgement]) -> Tensor:
    """What the autoencoder minimises: its scores above 1 (Défossez et al. 2022, section 3.4)."""
    return torch.stack([F.relu(1 - judgement.scores.float()).mean() for judgement in judged]).mean()


def feature_distance(recording: Sequence[Judgement], judged: Sequence[Judgement]) -> Tensor:
    """Mean absolute difference of hidden features, relative to those of recordings (Défossez et al. 2022, eq. 2)."""
    ratios = []
    for real, fake in zip(recording, judged, strict=True):
        for true, made in zip(real.features, fake.features, strict=True):
            true = true.detach().float()
            ratios.append((made.float() - true).abs().mean() / true.abs().mean().clamp_min(1e-5))
    return torch.stack(ratios).mean()


@dataclass(frozen=True)
class ReconstructionLossResult:
    """``total`` is what is minimised, ``parts`` are what it is made of.

    ``distance (B,)`` is the weighted sum of the parts that need no discriminator.
    """

    total: Tensor
    distance: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class ReconstructionLoss(nn.Module):
    """Weighted sum of all losses; that of the discriminators, which shares no weight with the others, counts once.

    Args:
        stft, mel: the distances.
        stft_weight, mel_weight: of the distances.
        kl_weight: of the KL divergence, where there is one.
        adversarial_weight, feature_weight: of what the discriminators say of the autoencoder.
    """

    def __init__(
        self,
        stft: MultiResolutionSTFTDistance,
        mel: MelDistance,
        stft_weight: float = 1.0,
        mel_weight: float = 1.0,
        kl_weight: float = 1e-4,
        adversarial_weight: float = 0.1,
        feature_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.weights = {
            "stft": stft_weight, "mel": mel_weight, "kl": kl_weight,
            "adversarial": adversarial_weight, "feature": feature_weight, "discriminator": 1.0,
        }  # fmt: skip
        if refused := [f"{name}_weight ({value})" for name, value in self.weights.items() if not value >= 0]:
            raise ValueError(f"{', '.join(refused)} must not be negative")
        self.stft, self.mel = stft, mel

    def forward(self, output: ReconstructionOutput) -> ReconstructionLossResult:
        signals = (output.reconstruction, output.target, output.lengths)
        parts = {"stft": self.stft(*signals), "mel": self.mel(*signals)}
        if output.kl is not None:
            parts["kl"] = output.kl
        distance = sum((self.weights[name] * part for name, part in parts.items()), torch.zeros_like(parts["stft"]))
        if (said := output.judgements) is not None:
            parts["adversarial"] = generator_hinge(said.reconstruction)
            parts["feature"] = feature_distance(said.recording, said.reconstruction)
            parts["discriminator"] = discriminator_hinge(said.recording, said.copy)
        total = sum((self.weights[name] * part.mean() for name, part in parts.items()), distance.new_zeros(()))
        return ReconstructionLossResult(total, distance, parts)
