"""Waveform to latent and back."""

from unisono.models.autoencoder.base import Autoencoder
from unisono.models.autoencoder.log_mel import LogMelAutoencoder

__all__ = ["Autoencoder", "LogMelAutoencoder"]
