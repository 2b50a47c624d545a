"""A variational autoencoder of waveforms: the Oobleck family of Stable Audio.

Evans, Carr, Taylor, Hawley and Pons 2024, "Fast timing-conditioned latent audio diffusion", section 3.1.

Shape letters: B items, S samples, T latent frames, C latent channels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unisono.errors import UserError
from unisono.models.autoencoder.base import Autoencoder
from unisono.models.autoencoder.channels import per_channel
from unisono.models.autoencoder.oobleck_layers import (
    OobleckDecoder,
    OobleckEncoder,
    Snake,
    WeightNormConv,
    decoder_reach_frames,
    encoder_reach_samples,
)
from unisono.models.autoencoder.oobleck_weights import in_shape, read_oobleck_weights
from unisono.models.autoencoder.passes import in_passes
from unisono.models.autoencoder.posterior import DiagonalGaussian
from unisono.timing import samples_to_frames, seconds_to_samples
from unisono.types import length_mask


class OobleckAutoencoder(Autoencoder):
    """Strided convolutions with Snake activations and weight normalisation; the latent is the posterior's mean.

    **Edges.** A waveform is followed by silence up to whole frames. Before the first and after the last frame every
    layer sees zeros, as a convolution's padding has it; the zeros after an item are put there in each layer, so that it
    has the same latent and the same sound alone and in a batch, to rounding.

    **Use and training.** ``encode`` and ``decode`` are for a trained autoencoder: without gradients, in float32
    whatever the autocast around them (so that a latent from the feature cache is that of training), and refused as long
    as weights are random. To train, use ``posterior``, ``waveform_of`` or ``forward``: they have gradients, follow
    autocast, and know latents as the network has them, without statistics.

    Args:
        sample_rate: Hz.
        hop_samples: samples of a latent frame, the product of ``strides``.
        latent_dim: channels C; the encoder gives two numbers for each.
        strides: of the encoder's blocks, from the waveform to the latent; the decoder has them in reverse.
        encoder_channels, decoder_channels: channels next to the waveform.
        channel_multiples: of these channels, after each block of the encoder.
        audio_channels: of the network. Audio here is mono: it is given to each of them, and their mean is heard.
        mean, std: of the latent over typical audio, one number or one per channel (``unisono latent-statistics``).
        weights: safetensors file or folder, by the names of diffusers or of stable-audio-tools.
        trainable: True makes a network to be trained: parameters take gradients, weights may be absent, and then are
            random. Otherwise weights are needed, frozen, and their normalisation is computed once.
        chunk_s: seconds of audio in one pass of the network, for longer audio and for batches; None for no limit. The
            memory of a pass grows with it, results do not change but for rounding.
        mixed_precision: "no", or "bf16" for ``encode`` and ``decode`` in bfloat16: faster on a GPU, with noise.
    """

    weights_setting = "weights"

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        sample_rate: int = 24_000,
        hop_samples: int = 480,
        latent_dim: int = 128,
        strides: Sequence[int] = (2, 4, 6, 10),
        encoder_channels: int = 128,
        decoder_channels: int = 128,
        channel_multiples: Sequence[int] = (1, 2, 4, 8),
        audio_channels: int = 1,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        weights: str | None = None,
        trainable: bool = False,
        chunk_s: float | None = 10.0,
        mixed_precision: str = "no",
    ) -> None:
        super().__init__()
        strides, multiples = [int(stride) for stride in strides], [int(multiple) for multiple in channel_multiples]
        sizes = (sample_rate, hop_samples, latent_dim, encoder_channels, decoder_channels, audio_channels)
        _check_sizes(sizes, hop_samples, strides, multiples)
        if chunk_s is not None and not chunk_s > 0:
            raise ValueError(f"chunk_s is {chunk_s}; seconds of a pass are positive, or null for no limit")
        if mixed_precision not in ("no", "bf16"):
            raise ValueError(f"mixed_precision is {mixed_precision!r}; use no or bf16")
        self.sample_rate, self.hop_samples, self.latent_dim = sample_rate, hop_samples, latent_dim
        self.strides, self.channel_multiples, self.audio_channels = strides, multiples, audio_channels
        self.encoder_channels, self.decoder_channels = encoder_channels, decoder_channels
        self.mixed_precision, self.trainable = mixed_precision, trainable
        self._max_frames = None if chunk_s is None else max(1, seconds_to_samples(chunk_s, sample_rate) // hop_samples)
        self.encoder = OobleckEncoder(audio_channels, encoder_channels, 2 * latent_dim, strides, multiples)
        self.decoder = OobleckDecoder(audio_channels, decoder_channels, latent_dim, strides, multiples)
        self.register_buffer("mean", per_channel("mean", mean, latent_dim), persistent=False)
        self.register_buffer("std", per_channel("std", std, latent_dim, positive=True), persistent=False)
        self._trained = weights is not None
        self.register_load_state_dict_post_hook(_now_trained)
        if weights is not None:
            self._load(weights)
        elif trainable:
            self._draw_weights()
        else:
            raise UserError(
                "weights is null, and an autoencoder without weights encodes nothing; name a safetensors file "
                "(`python train.py experiment=autoencoder` makes one), or take model/autoencoder=log_mel"
            )
        if not trainable:
            self.fuse_weight_norm()
            self.requires_grad_(False).eval()

    # -- weights ----------------------------------------------------------------------------------------------------

    def _convolutions(self) -> list[tuple[str, WeightNormConv]]:
        return [(name, module) for name, module in self.named_modules() if isinstance(module, WeightNormConv)]

    def _load(self, weights: str) -> None:
        expected = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        on_meta = any(parameter.is_meta for parameter in self.parameters())  # `unisono check` makes no weights
        found = read_oobleck_weights(weights, expected, self._shape_settings(), load=not on_meta)
        if on_meta:
            return
        self.load_state_dict(in_shape(found, expected))
        if broken := [name for name, layer in self._convolutions() if not layer.normalised().isfinite().all()]:
            raise UserError(f"{weights}: the weights of {broken[0]} are NaN or infinite; export them again")

    def _draw_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, WeightNormConv):
                module.reset_parameters()

    def fuse_weight_norm(self) -> None:
        """Keep normalised weights alone, for good: faster, and half the memory. Frozen autoencoders are fused."""
        for _, layer in self._convolutions():
            layer.fuse()

    def _shape_settings(self) -> dict[str, Any]:
        return {
            "sample_rate": self.sample_rate,
            "latent_dim": self.latent_dim,
            "strides": self.strides,
            "encoder_channels": self.encoder_channels,
            "decoder_channels": self.decoder_channels,
            "channel_multiples": self.channel_multiples,
            "audio_channels": self.audio_channels,
        }

    def settings(self) -> dict[str, Any]:
        return {
            "version": 1,  # of what encode() computes
            **self._shape_settings(),
            "mean": [round(value, 6) for value in self.mean.tolist()],
            "std": [round(value, 6) for value in self.std.tolist()],
            "mixed_precision": self.mixed_precision,
        }

    @property
    def fingerprint(self) -> str:
        """As that of other autoencoders, over normalised weights: the same whether they are fused or not."""
        digest = hashlib.sha256(json.dumps([type(self).__name__, self.settings()], sort_keys=True).encode())
        with torch.no_grad():
            for name, module in sorted(self.named_modules()):
                tensors: list[Tensor] = [*module.parameters(recurse=False)] if isinstance(module, Snake) else []
                if isinstance(module, WeightNormConv):
                    tensors = [module.normalised(), *([] if module.bias is None else [module.bias])]
                for tensor in tensors:
                    digest.update(name.encode())
                    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    # -- the network ------------------------------------------------------------------------------------------------

    def _masks(self, lengths: Tensor | None, frames: int) -> list[Tensor | None]:
        """bool ``(B, 1, samples)`` of every layer, from the waveform to the latent."""
        rates = [self.hop_samples // math.prod(self.strides[:depth]) for depth in range(len(self.strides) + 1)]
        if lengths is None:
            return [None for _ in rates]
        return [length_mask(lengths * rate, frames * rate)[:, None] for rate in rates]

    def _parameters_of(self, waveform: Tensor, lengths: Tensor | None) -> Tensor:
        """Whole frames ``(B, T * hop)``, silent from each item's ``lengths (B,)`` frames on, to ``(B, T, 2 C)``."""
        masks = self._masks(lengths, waveform.shape[1] // self.hop_samples)
        return self.encoder(waveform[:, None].expand(-1, self.audio_channels, -1), masks).transpose(1, 2)

    def _whole_frames(self, waveform: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is not None:
            waveform = waveform.masked_fill(~length_mask(lengths, waveform.shape[1]), 0.0)
        return F.pad(waveform, (0, -waveform.shape[1] % self.hop_samples))

    def posterior(self, waveform: Tensor, lengths: Tensor | None = None) -> DiagonalGaussian:
        """The distribution of the latent of ``(B, S)`` waveforms, with gradients.

        Args:
            waveform: at ``sample_rate``.
            lengths: samples ``(B,)``; None where all fill the tensor, which saves the masks.
        """
        frames = None if lengths is None else samples_to_frames(lengths, self.hop_samples)
        parameters = self._parameters_of(self._whole_frames(waveform, lengths), frames)
        mask = None if frames is None else length_mask(frames, parameters.shape[1])
        return DiagonalGaussian.of_parameters(parameters, mask)

    def waveform_of(self, latent: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``(B, T, C)``, as the network has them, to waveforms ``(B, T * hop_samples)``, with gradients.

        ``lengths`` are frames ``(B,)``; latents and sound after them are without meaning.
        """
        if lengths is not None:
            latent = latent.masked_fill(~length_mask(lengths, latent.shape[1])[..., None], 0.0)
        masks = self._masks(lengths, latent.shape[1])
        return self.decoder(latent.transpose(1, 2), masks).mean(dim=1)

    def forward(self, waveform: Tensor, noise: Tensor | None = None) -> tuple[Tensor, DiagonalGaussian]:
        """Reconstruction ``(B, S)`` of waveforms that fill the tensor, and the posterior; for training.

        Args:
            waveform: ``(B, S)``.
            noise: standard normal ``(B, T, C)``, for a sample of the posterior; None takes its mean.
        """
        posterior = self.posterior(waveform)
        latent = posterior.mean if noise is None else posterior.sample(noise)
        return self.waveform_of(latent)[:, : waveform.shape[1]], posterior

    # -- the contract -----------------------------------------------------------------------------------------------

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.mixed_precision == "bf16")

    def _refuse_random(self) -> None:
        if not self._trained:
            raise UserError(
                "the autoencoder's weights are random: it was made with weights: null and trainable: true, for "
                "training; name trained weights to use it"
            )

    @torch.no_grad()
    def encode(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        self._refuse_random()
        frames = samples_to_frames(lengths, self.hop_samples)
        whole = self._whole_frames(waveform.float(), lengths)
        reach = math.ceil(max(encoder_reach_samples(self.strides)) / self.hop_samples)
        with self._precision(waveform.device):
            parameters = in_passes(self._parameters_of, whole, frames, self.hop_samples, reach, self._max_frames)
        latent = (DiagonalGaussian.of_parameters(parameters).mean - self.mean) / self.std
        return latent * length_mask(frames, latent.shape[1])[..., None], frames

    @torch.no_grad()
    def decode(self, latent: Tensor, lengths: Tensor) -> Tensor:
        self._refuse_random()
        raw = latent.float() * self.std + self.mean
        reach = decoder_reach_frames(self.strides)
        with self._precision(latent.device):
            waveform = in_passes(self.waveform_of, raw, lengths, 1, reach, self._max_frames)
        return waveform * length_mask(lengths * self.hop_samples, waveform.shape[1])


def _now_trained(module: nn.Module, _: Any) -> None:
    """Weights that were loaded are somebody's, not random."""
    assert isinstance(module, OobleckAutoencoder)
    module._trained = True


def _check_sizes(sizes: Sequence[int], hop_samples: int, strides: Sequence[int], multiples: Sequence[int]) -> None:
    names = "sample_rate, hop_samples, latent_dim, encoder_channels, decoder_channels, audio_channels"
    if min(*sizes, *multiples, 1) < 1:
        raise ValueError(f"{names} ({', '.join(map(str, sizes))}) and channel_multiples ({multiples}) must be positive")
    if not strides or min(strides) < 2 or math.prod(strides) != hop_samples:
        raise ValueError(
            f"strides {strides} make {math.prod(strides)} samples of a latent frame, hop_samples is {hop_samples}; "
            "their product, of numbers from 2 on, must be hop_samples"
        )
    if len(multiples) != len(strides):
        raise ValueError(
            f"channel_multiples has {len(multiples)} numbers; it needs one for each of {len(strides)} strides"
        )
