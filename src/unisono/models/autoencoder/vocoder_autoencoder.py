"""The log-mel autoencoder with a learned vocoder as decoder."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unisono.errors import UserError
from unisono.models.autoencoder.log_mel import LogMelAutoencoder
from unisono.models.autoencoder.passes import in_passes
from unisono.models.autoencoder.vocoder import FourierVocoder
from unisono.training.checkpoint import read_weights
from unisono.training.weights import load_strictly

_WEIGHTS_FILE = "model.safetensors"
_METADATA_KEY = "vocoder"  # of the safetensors file: the settings that the weights were trained with, as JSON
_PREFIX = "vocoder."


class VocoderAutoencoder(LogMelAutoencoder):
    """``LogMelAutoencoder`` whose ``decode`` is a trained vocoder instead of Griffin-Lim.

    Its latents are those of a ``LogMelAutoencoder`` of the same settings, and so is its ``fingerprint``: cached latents
    and generative models made with either serve both, and better weights for the vocoder make none of them stale.

    Args:
        vocoder: made for the same spectrogram.
        vocoder_weights: what ``experiment=vocoder`` exported, its folder or safetensors file.
        trainable: to train the vocoder, from ``vocoder_weights`` or, where they are null, from random ones. Otherwise
            it is frozen, and missing weights are an error.
        chunk_s: seconds of audio that ``decode`` makes in one pass, of longer clips and of batches; None for no limit.
            Memory grows with it, the sound does not change but for rounding.
        **log_mel: see ``LogMelAutoencoder``.
    """

    weights_setting = "vocoder_weights"

    def __init__(
        self,
        vocoder: FourierVocoder,
        vocoder_weights: str | None = None,
        trainable: bool = False,
        chunk_s: float | None = 30.0,
        **log_mel: Any,
    ) -> None:
        super().__init__(**log_mel)
        if chunk_s is not None and not chunk_s > 0:
            raise ValueError(f"chunk_s is {chunk_s}; seconds of a pass are positive, or null for no limit")
        self._log_mel = log_mel
        self._max_frames = None if chunk_s is None else max(1, int(chunk_s * self.latent_rate_hz))
        own = {
            "sample_rate": self.sample_rate,
            "hop_samples": self.hop_samples,
            "n_fft": self.n_fft,
            "n_mels": self.latent_dim,
            "floor": self.floor,
        }
        if differing := _differing(own, vocoder.settings()):
            raise ValueError(f"the vocoder is made for another spectrogram: {differing}")
        if vocoder_weights is None and not trainable:
            raise UserError(
                "vocoder_weights is null, so there is no decoder; train one (python train.py experiment=vocoder) and "
                "name its folder, or decode by Griffin-Lim (model/autoencoder=log_mel)"
            )
        if vocoder_weights is not None:
            load_vocoder(vocoder, Path(vocoder_weights))
        self.vocoder = vocoder.requires_grad_(trainable)

    @property
    def fingerprint(self) -> str:
        """Of the latents alone: equal to that of a ``LogMelAutoencoder`` of the same settings."""
        return LogMelAutoencoder(**self._log_mel).fingerprint

    @torch.no_grad()
    def decode(self, latent: Tensor, lengths: Tensor) -> Tensor:
        with torch.autocast(latent.device.type, enabled=False):
            return in_passes(self._vocode, latent, lengths, 1, self.vocoder.reach_frames, self._max_frames)

    def reconstruct(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """``(B, S)`` of ``lengths (B,)`` samples there and back, ``(B, T * hop_samples)``, with gradients."""
        return self._vocode(*self.encode(waveform, lengths))

    def _vocode(self, latent: Tensor, lengths: Tensor) -> Tensor:
        if not latent.shape[1]:  # convolutions refuse what is empty
            return latent.new_zeros(latent.shape[0], 0, dtype=torch.float32)
        # Audio in [-1, 1] cannot exceed 0 dB, and below the floor is silence; a badly trained model may say otherwise.
        log_mel = (latent.float() * self.std + self.mean).clamp(math.log(self.floor), 0.0)
        return self.vocoder(log_mel, lengths)

    def exported(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What of its trained ``weights`` a file holds that ``vocoder_weights`` takes, and the file's metadata."""
        kept = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items() if name.startswith(_PREFIX)}
        return kept, {_METADATA_KEY: json.dumps(self.vocoder.settings())}


def _differing(own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value} here, {other.get(name)} there" for name, value in own.items() if value != other.get(name)
    )


def load_vocoder(vocoder: FourierVocoder, path: Path) -> None:
    """Load trained weights.

    Raises:
        UserError: there are none, they are damaged, or of a vocoder with other settings.
    """
    file = path / _WEIGHTS_FILE if path.is_dir() else path
    weights = read_weights(file)
    try:
        with safe_open(file, framework="pt") as opened:
            settings = json.loads((opened.metadata() or {}).get(_METADATA_KEY, "null"))
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{file}: damaged metadata ({error}); export the vocoder again") from error
    if not isinstance(settings, dict):
        raise UserError(
            f"{file}: no weights of a vocoder (it does not say with which settings); name the folder that "
            "experiment=vocoder exported"
        )
    if differing := _differing(vocoder.settings(), settings):
        raise UserError(f"{file}: the weights are of another vocoder: {differing}; change the settings")
    with warnings.catch_warnings():
        # `unisono check` builds models without memory for weights, into which nothing can be copied.
        warnings.filterwarnings("ignore", message=".*meta parameter.*")
        load_strictly(vocoder, weights, str(file))
