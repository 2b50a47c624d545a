"""Neural codecs of ``transformers`` as autoencoders: EnCodec and DAC, with the latent before quantisation.

EnCodec: Défossez, Copet, Synnaeve and Adi 2022, "High fidelity neural audio compression". DAC: Kumar, Seetharaman,
Luebs, Kumar and Kumar 2023, "High-fidelity audio compression with improved RVQGAN".

Shape letters: B items, S samples, T latent frames, C latent channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parametrize

from unisono.errors import UserError
from unisono.features.pretrained import load_pretrained, load_weights
from unisono.models.autoencoder.base import Autoencoder
from unisono.models.autoencoder.channels import per_channel
from unisono.models.autoencoder.oobleck_layers import decoder_reach_frames, encoder_reach_samples
from unisono.models.autoencoder.passes import in_passes
from unisono.timing import samples_to_frames, seconds_to_samples
from unisono.types import length_mask

# What of their configurations, weights apart, changes what they compute.
_ENCODEC_SETTINGS = (
    "upsampling_ratios", "norm_type", "kernel_size", "last_kernel_size", "residual_kernel_size", "num_residual_layers",
    "dilation_growth_rate", "pad_mode", "compress", "num_lstm_layers", "trim_right_ratio", "use_conv_shortcut",
)  # fmt: skip
_DAC_SETTINGS = ("downsampling_ratios",)


class CodecAutoencoder(Autoencoder):
    """A frozen codec; the latent is what its encoder gives, before any quantiser.

    That is the least of a codec's latents that has lost nothing, the same thing for every codec, and close to Gaussian
    within a channel; the projections of DAC's quantisers, the alternative, depend on codes chosen before. The decoder
    was trained on quantised latents and reads others as well; ``quantise`` snaps generated ones to its codebooks.

    **Edges.** Each item is followed by silence (in ``decode`` by zeros) for as long as the network looks ahead, alone
    as in a batch, so that it has the same latent and the same sound in both. EnCodec is causal and does not notice; in
    DAC the last frames are not what ``transformers`` computes for a recording that ends there.

    Args:
        pretrained: folder, or id on the Hugging Face Hub (``id@revision``), of an EnCodec or DAC model of mono audio.
        sample_rate, hop_samples, latent_dim: of the codec; compared, as the rest of the configuration refers to them.
        quantise: decode through the quantisers, all of them.
        mean, std: of the latent over typical audio, one number or one per channel (``unisono latent-statistics``).
        chunk_s: seconds of audio in one pass, for longer audio and for batches; None for no limit. EnCodec has a
            recurrent layer, so that single items are never split.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        pretrained: str,
        sample_rate: int = 24_000,
        hop_samples: int = 320,
        latent_dim: int = 128,
        quantise: bool = False,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        chunk_s: float | None = 10.0,
    ) -> None:
        super().__init__()
        if chunk_s is not None and not chunk_s > 0:
            raise ValueError(f"chunk_s is {chunk_s}; seconds of a pass are positive, or null for no limit")
        config, self.codec = _load_codec(pretrained)
        own = {
            "sample_rate": config.sampling_rate,
            "hop_samples": math.prod(config.upsampling_ratios),
            "latent_dim": config.hidden_size,
        }
        given = {"sample_rate": sample_rate, "hop_samples": hop_samples, "latent_dim": latent_dim}
        if differ := [
            f"{name} is {given[name]}, the codec has {own[name]}" for name in own if own[name] != given[name]
        ]:
            raise ValueError(f"{pretrained}: {'; '.join(differ)}; set them at the top of the configuration")
        self.sample_rate, self.hop_samples, self.latent_dim, self.quantise = *given.values(), quantise
        self._max_frames = None if chunk_s is None else max(1, seconds_to_samples(chunk_s, sample_rate) // hop_samples)
        self.register_buffer("mean", per_channel("mean", mean, latent_dim), persistent=False)
        self.register_buffer("std", per_channel("std", std, latent_dim, positive=True), persistent=False)
        self._encoder_reach, self._decoder_reach = _reach_frames(config, hop_samples)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> CodecAutoencoder:
        """Stays in evaluation mode: DAC's quantisers would drop some at random."""
        return super().train(False)

    def settings(self) -> dict[str, Any]:
        config = self.codec.config
        names = _DAC_SETTINGS if config.model_type == "dac" else _ENCODEC_SETTINGS
        return {
            "version": 1,  # of what encode() computes
            "sample_rate": self.sample_rate,
            "codec": {name: getattr(config, name) for name in names},
            "quantise": self.quantise,
            "mean": [round(value, 6) for value in self.mean.tolist()],
            "std": [round(value, 6) for value in self.std.tolist()],
        }

    @torch.no_grad()
    def encode(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = samples_to_frames(lengths, self.hop_samples)
        whole = waveform.float().masked_fill(~length_mask(lengths, waveform.shape[1]), 0.0)
        whole = F.pad(whole, (0, -whole.shape[1] % self.hop_samples))
        with torch.autocast(waveform.device.type, enabled=False):
            raw = in_passes(self._encoded, whole, frames, self.hop_samples, *self._pass(self._encoder_reach))
        latent = (raw - self.mean) / self.std
        return latent * length_mask(frames, latent.shape[1])[..., None], frames

    @torch.no_grad()
    def decode(self, latent: Tensor, lengths: Tensor) -> Tensor:
        raw = latent.float() * self.std + self.mean
        raw = raw.masked_fill(~length_mask(lengths, latent.shape[1])[..., None], 0.0)
        with torch.autocast(latent.device.type, enabled=False):
            waveform = in_passes(self._decoded, raw, lengths, 1, *self._pass(self._decoder_reach))
        return waveform * length_mask(lengths * self.hop_samples, waveform.shape[1])

    def _pass(self, reach_frames: int) -> tuple[int | None, int | None]:
        """How far a pass looks, and its longest. EnCodec's recurrent layer remembers everything before."""
        return (reach_frames if self.codec.config.model_type == "dac" else None), self._max_frames

    def _encoded(self, waveform: Tensor, _: Tensor) -> Tensor:
        """``(B, T * hop_samples)``, silent after each item, to ``(B, T, C)``."""
        followed = F.pad(waveform, (0, self._encoder_reach * self.hop_samples))
        latent = self.codec.encoder(followed[:, None].to(_dtype(self.codec)))
        return latent.transpose(1, 2)[:, : waveform.shape[1] // self.hop_samples].float()

    def _decoded(self, latent: Tensor, _: Tensor) -> Tensor:
        """``(B, T, C)``, zero after each item, to ``(B, T * hop_samples)``."""
        followed = F.pad(latent, (0, 0, 0, self._decoder_reach)).transpose(1, 2).to(_dtype(self.codec))
        if self.quantise and self.codec.config.model_type == "dac":
            followed = self.codec.quantizer(followed)[0]
        elif self.quantise:
            followed = self.codec.quantizer.decode(self.codec.quantizer.encode(followed))
        return self.codec.decoder(followed)[:, 0, : latent.shape[1] * self.hop_samples].float()


def _dtype(module: torch.nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _load_codec(pretrained: str) -> tuple[Any, Any]:
    """Configuration and model, its weight normalisation computed."""
    from transformers import AutoConfig, DacModel, EncodecModel

    config = load_pretrained(AutoConfig.from_pretrained, pretrained, "a codec")
    classes: dict[str, Any] = {"encodec": EncodecModel, "dac": DacModel}
    if config.model_type not in classes:
        raise UserError(f"{pretrained}: is a model of the kind {config.model_type!r}; a codec is encodec or dac")
    if config.model_type == "encodec":
        unlike = {
            "audio_channels": (config.audio_channels, 1),
            "normalize": (config.normalize, False),
            "chunk_length_s": (config.chunk_length_s, None),
            "use_causal_conv": (config.use_causal_conv, True),
        }
        if differ := [f"{name} {has} instead of {wanted}" for name, (has, wanted) in unlike.items() if has != wanted]:
            raise UserError(
                f"{pretrained}: this EnCodec has {', '.join(differ)}; take one of mono audio that encodes it whole, "
                "such as facebook/encodec_24khz"
            )
    try:
        model = load_weights(classes[config.model_type].from_pretrained, pretrained, f"a codec ({config.model_type})")
    except (SafetensorError, RuntimeError) as error:  # cut off; of other shapes than the configuration says
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{pretrained}: cannot be loaded as a codec ({reason}); download or export it again") from error
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
        if type(module).__name__ == "EncodecConv1d":
            _without_synchronisation(module)
    return config, model.float()


def _without_synchronisation(convolution: Any) -> None:
    """EnCodec's convolutions read their padding from tensors on the device, three times a call; here it is a number.

    Nothing is padded beyond: inputs are whole frames.
    """
    inner = convolution.conv
    for name in ("stride", "kernel_size", "padding_total"):
        convolution._buffers.pop(name, None)
    width = (inner.kernel_size[0] - 1) * inner.dilation[0] + 1
    convolution.padding_total = width - inner.stride[0]
    convolution._get_extra_padding_for_conv1d = lambda hidden_states: 0


def _reach_frames(config: Any, hop_samples: int) -> tuple[int, int]:
    """Frames that encoder and decoder look ahead.

    EnCodec is causal, but for the beginning, which its first layer of a rate continues to the left as a mirror image of
    what comes.
    """
    if config.model_type == "dac":
        reach = max(encoder_reach_samples(config.downsampling_ratios))
        return math.ceil(reach / hop_samples), decoder_reach_frames(config.downsampling_ratios)
    mirrored = max(config.kernel_size, config.last_kernel_size, config.residual_kernel_size)
    return mirrored, mirrored
