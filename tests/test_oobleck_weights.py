"""Weights of the Oobleck autoencoder: published layouts compute the same, what does not fit is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from oobleck import HOP, SMALL, lively, loaded, noise, saved
from unisono.errors import UserError
from unisono.models.autoencoder import OobleckAutoencoder
from unisono.models.autoencoder.oobleck_layers import decoder_reach_frames


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("with a space"))


# -- equal to what is published ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", [False, True])
def test_weights_of_diffusers_compute_the_same(tmp_path: Path, trainable: bool) -> None:
    """Stable Audio's shape: two channels, and an encoder twice as wide as the latent."""
    from diffusers import AutoencoderOobleck

    torch.manual_seed(1)
    reference = AutoencoderOobleck(
        encoder_hidden_size=16, downsampling_ratios=[2, 4, 4], channel_multiples=[1, 2, 4], decoder_channels=12,
        decoder_input_channels=8, audio_channels=2, sampling_rate=44_100,
    )  # fmt: skip
    lively(reference)
    reference.save_pretrained(tmp_path)
    ours = OobleckAutoencoder(
        44_100, 32, 8, [2, 4, 4], 16, 12, [1, 2, 4], 2, weights=str(tmp_path), trainable=trainable
    )
    waveform, draw = noise(2, 32 * 40), noise(2, 40, 8, seed=1)
    with torch.no_grad():
        theirs = reference.encode(waveform[:, None].expand(-1, 2, -1)).latent_dist
        posterior = ours.posterior(waveform)
        latent = posterior.sample(draw)
        sound = reference.decode(latent.transpose(1, 2)).sample
    assert torch.allclose(posterior.mean, theirs.mean.transpose(1, 2), rtol=1e-4, atol=1e-4)
    assert torch.allclose(posterior.std, theirs.std.transpose(1, 2), rtol=1e-4, atol=1e-4)
    assert torch.allclose(latent, (theirs.mean + theirs.std * draw.transpose(1, 2)).transpose(1, 2), atol=1e-4)
    assert torch.allclose(2 * posterior.kl().mean(), theirs.kl(), rtol=1e-4)
    assert torch.allclose(ours.waveform_of(latent), sound.mean(dim=1), rtol=1e-4, atol=1e-4)
    assert torch.allclose(
        ours.encode(waveform, torch.tensor([1280, 1280]))[0], theirs.mean.transpose(1, 2), rtol=1e-4, atol=1e-4
    )


class _Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def sequential_layout(normed: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """The same networks as sequences of layers, as stable-audio-tools names them, from torch's own parts."""

    class OneDimensionalSnake(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.alpha, self.beta = (nn.Parameter(torch.zeros(channels)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            alpha, beta = (p.exp()[:, None] for p in (self.alpha, self.beta))
            return x + torch.sin(alpha * x) ** 2 / (beta + 1e-9)

    def sequence(*layers: nn.Module, kind: type[nn.Module] = nn.Sequential) -> nn.Module:
        holder = kind()
        holder.add_module("layers", nn.Sequential(*layers))
        return holder

    def units(channels: int) -> list[nn.Module]:
        return [
            sequence(
                OneDimensionalSnake(channels),
                normed(nn.Conv1d(channels, channels, 7, dilation=d, padding=3 * d)),
                OneDimensionalSnake(channels),
                normed(nn.Conv1d(channels, channels, 1)),
                kind=_Residual,
            )
            for d in (1, 3, 9)
        ]

    def down(a: int, b: int, s: int) -> nn.Module:
        convolution = normed(nn.Conv1d(a, b, 2 * s, s, math.ceil(s / 2)))
        return sequence(*units(a), OneDimensionalSnake(a), convolution)

    def up(a: int, b: int, s: int) -> nn.Module:
        convolution = normed(nn.ConvTranspose1d(a, b, 2 * s, s, math.ceil(s / 2)))
        return sequence(OneDimensionalSnake(a), convolution, *units(b))

    model = nn.Module()
    model.encoder = sequence(
        normed(nn.Conv1d(1, 8, 7, padding=3)), down(8, 8, 2), down(8, 16, 3), down(16, 24, 4),
        OneDimensionalSnake(24), normed(nn.Conv1d(24, 12, 3, padding=1)),
    )  # fmt: skip
    model.decoder = sequence(
        normed(nn.Conv1d(6, 15, 7, padding=3)), up(15, 10, 4), up(10, 5, 3), up(5, 5, 2),
        OneDimensionalSnake(5), normed(nn.Conv1d(5, 1, 7, padding=3, bias=False)),
    )  # fmt: skip
    return model


@pytest.mark.parametrize("normed", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_weights_in_the_order_of_stable_audio_tools_compute_the_same(
    tmp_path: Path, normed: Callable[[nn.Module], nn.Module]
) -> None:
    torch.manual_seed(2)
    reference = sequential_layout(normed)
    lively(reference)
    # As in a checkpoint of its training: under a name, beside other networks.
    state = {f"autoencoder.{name}": tensor for name, tensor in reference.state_dict().items()}
    save_file({**state, "discriminator.encoder.weight": torch.ones(1)}, tmp_path / "vae.safetensors")
    ours, waveform, latent = loaded(tmp_path / "vae.safetensors"), noise(2, HOP * 30), noise(2, 30, 6, seed=3)
    with torch.no_grad():
        mean, _ = reference.encoder.layers(waveform[:, None]).transpose(1, 2).chunk(2, dim=2)
        sound = reference.decoder.layers(latent.transpose(1, 2))[:, 0]
    assert torch.allclose(ours.posterior(waveform).mean, mean, rtol=1e-4, atol=1e-4)
    # The published layer for stride 3 loses one sample at each end of the item.
    decoded = ours.waveform_of(latent)
    assert decoded.shape[1] == HOP * 30 == sound.shape[1] + 2
    reach = decoder_reach_frames(SMALL["strides"]) * HOP
    assert torch.allclose(decoded[:, : sound.shape[1] - reach], sound[:, :-reach], rtol=1e-4, atol=1e-4)


# -- what is refused --------------------------------------------------------------------------------------------------


def _spoilt(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path, Path], Path]:
    def spoil(weights: Path, folder: Path) -> Path:
        state = load_file(weights)
        change(state)
        save_file(state, folder / "spoilt.safetensors")
        return folder / "spoilt.safetensors"

    return spoil


def _cut(weights: Path, folder: Path) -> Path:
    (folder / "cut.safetensors").write_bytes(weights.read_bytes()[:-100])
    return folder / "cut.safetensors"


def _pickled(weights: Path, folder: Path) -> Path:
    torch.save(load_file(weights), folder / "vae.ckpt")
    return folder / "vae.ckpt"


def _configured(**config: Any) -> Callable[[Path, Path], Path]:
    def write(weights: Path, folder: Path) -> Path:
        (folder / "model.safetensors").write_bytes(weights.read_bytes())
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return write


def _doubled(weights: Path, folder: Path) -> Path:
    for name in "ab":
        (folder / f"{name}.safetensors").write_bytes(weights.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (_spoilt(lambda s: s.pop("decoder.block.1.conv_t1.weight_g")), "missing: decoder.block.1.conv_t1.weight_g"),
        (_spoilt(lambda s: s.update({"encoder.more": torch.ones(1)})), "unknown: encoder.more"),
        (_spoilt(lambda s: s.update({"encoder.conv1.weight": torch.ones(8, 1, 7)})), "unknown: encoder.conv1.weight"),
        (_spoilt(lambda s: s.update({"encoder.conv2.bias": torch.ones(11)})), r"shape of encoder.conv2.bias: \(11,\)"),
        (_spoilt(lambda s: s["encoder.conv1.weight_v"].fill_(math.nan)), "encoder.conv1 are NaN"),
        (_spoilt(lambda s: s["encoder.conv1.weight_v"].zero_()), "encoder.conv1 are NaN"),
        (_spoilt(lambda s: s.clear()), "nothing of the kind"),
        (_cut, "not a whole safetensors file"),
        (_pickled, "not a whole safetensors file"),
        (lambda weights, folder: folder / "absent.safetensors", "no such weights"),
        (lambda weights, folder: folder, "this one has none"),
        (_doubled, "a.safetensors, b.safetensors"),
        (
            _configured(downsampling_ratios=[3, 2, 4], sampling_rate=24_000),
            r"strides is \[2, 3, 4\], there \[3, 2, 4\]",
        ),
        (_configured(sampling_rate=44_100), "sample_rate is 24000, there 44100"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    weights: Path, tmp_path: Path, source: Callable[[Path, Path], Path], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        loaded(source(weights, tmp_path))


def test_the_check_of_a_configuration_reads_no_weights_but_compares_them(weights: Path) -> None:
    with init_empty_weights():
        assert loaded(weights).encoder.conv1.weight.is_meta
        with pytest.raises(UserError, match=r"shape of encoder\.conv2\.bias"):
            loaded(weights, latent_dim=7)
