"""Waveform to latent and back."""

from unisono.models.autoencoder.base import Autoencoder
from unisono.models.autoencoder.codec import CodecAutoencoder
from unisono.models.autoencoder.log_mel import LogMelAutoencoder
from unisono.models.autoencoder.oobleck import OobleckAutoencoder
from unisono.models.autoencoder.vocoder_autoencoder import VocoderAutoencoder

__all__ = ["Autoencoder", "CodecAutoencoder", "LogMelAutoencoder", "OobleckAutoencoder", "VocoderAutoencoder"]
