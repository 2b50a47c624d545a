"""The contract of an autoencoder."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from unisono.timing import latent_rate_hz


class Autoencoder(nn.Module, ABC):
    """Frozen map between waveforms and normalised latents.

    Attributes:
        sample_rate: Hz of the waveforms.
        hop_samples: samples per latent frame.
        latent_dim: channels C.
    """

    sample_rate: int
    hop_samples: int
    latent_dim: int

    @property
    def latent_rate_hz(self) -> float:
        return latent_rate_hz(self.sample_rate, self.hop_samples)

    @property
    def device(self) -> torch.device:
        """Where its tensors are; one without tensors computes on the processor."""
        tensors = (*self.parameters(), *self.buffers())
        return tensors[0].device if tensors else torch.device("cpu")

    @abstractmethod
    def encode(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, S)`` waveforms of ``lengths (B,)`` samples to latents ``(B, T, C)`` and their lengths ``(B,)``.

        Latents have zero mean and unit variance per channel over typical audio; padding frames are zero.
        """

    @abstractmethod
    def decode(self, latent: Tensor, lengths: Tensor) -> Tensor:
        """Latents ``(B, T, C)`` of ``lengths (B,)`` frames to waveforms ``(B, T * hop_samples)``, zero at padding."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything but weights that changes what ``encode`` and ``decode`` compute."""

    @property
    def fingerprint(self) -> str:
        """Hash of settings and weights; equal fingerprints mean interchangeable latents."""
        digest = hashlib.sha256(json.dumps([type(self).__name__, self.settings()], sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            # As bytes: numpy has no bfloat16.
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]
