"""Waveform to latent and back."""

from unisono.models.autoencoder.base import Autoencoder
from unisono.models.autoencoder.codec import CodecAutoencoder
from unisono.models.autoencoder.log_mel import LogMelAutoencoder
from unisono.models.autoencoder.oobleck import OobleckAutoencoder

__all__ = ["Autoencoder", "CodecAutoencoder", "LogMelAutoencoder", "OobleckAutoencoder"]
