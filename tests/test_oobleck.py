"""The waveform autoencoder of the Oobleck family: the same whatever the batch, the length and the precision."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from oobleck import HOP, SMALL, lively, loaded, noise, saved
from unisono.config import compose
from unisono.errors import UserError
from unisono.models.autoencoder import OobleckAutoencoder
from unisono.models.autoencoder.oobleck_layers import Snake, decoder_reach_frames, encoder_reach_samples


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("with a space"))


def test_the_default_is_the_published_24_khz_size() -> None:
    with init_empty_weights():
        autoencoder = OobleckAutoencoder(trainable=True)
    assert autoencoder.latent_rate_hz == 50 and autoencoder.latent_dim == 128
    assert autoencoder.encoder.conv2.weight_v.shape == (256, 1024, 3)  # twice the latent, not the encoder's width
    sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (autoencoder.encoder, autoencoder.decoder)]
    assert [round(size, 1) for size in sizes] == [21.9, 22.0]


# -- lengths, batches, chunks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, HOP + 1, 20 * HOP])
def test_lengths_cover_every_sample(weights: Path, samples: int) -> None:
    autoencoder = loaded(weights)
    latent, lengths = autoencoder.encode(noise(1, samples), torch.tensor([samples]))
    frames = -(-samples // HOP)
    assert lengths.tolist() == [frames] and latent.shape == (1, frames, 6)
    waveform = autoencoder.decode(latent, lengths)
    assert waveform.shape == (1, frames * HOP) and waveform.isfinite().all()


@pytest.mark.parametrize("chunk_frames", [None, 40, 12])
def test_an_item_alone_equals_the_item_in_a_padded_batch(weights: Path, chunk_frames: int | None) -> None:
    chunk_s = None if chunk_frames is None else chunk_frames * HOP / 24_000
    lengths = [30 * HOP, 1, 11 * HOP + 5, 29 * HOP - 1]
    batch = torch.full((4, 33 * HOP + 2), 0.9)  # padding that is not silent must not leak in
    for row, length in enumerate(lengths):
        batch[row, :length] = noise(length, seed=row)
    autoencoder, whole = loaded(weights, chunk_s=chunk_s), loaded(weights, chunk_s=None)
    latent, frames = autoencoder.encode(batch, torch.tensor(lengths))
    generated = noise(4, 34, 6, seed=9)  # what a model leaves after an item must not be heard either
    decoded = autoencoder.decode(generated, frames)
    for row, length in enumerate(lengths):
        alone, count = whole.encode(batch[row : row + 1, :length], torch.tensor([length]))
        assert frames[row] == count[0]
        assert torch.allclose(latent[row, : int(count)], alone[0], atol=1e-4)
        assert not latent[row, int(count) :].any()
        heard = whole.decode(generated[row : row + 1, : int(count)], count)[0]
        assert torch.allclose(decoded[row, : len(heard)], heard, atol=1e-4)
        assert not decoded[row, len(heard) :].any()


@pytest.mark.parametrize(("seconds", "num_frames"), [(0.02, 60), (0.1, 250), (1e-9, 9)])
def test_chunks_make_no_difference(weights: Path, seconds: float, num_frames: int) -> None:
    whole, parts = loaded(weights, chunk_s=None), loaded(weights, chunk_s=seconds)
    waveform, length = noise(1, num_frames * HOP + 3), torch.tensor([num_frames * HOP + 3])
    latent, frames = whole.encode(waveform, length)
    assert torch.allclose(parts.encode(waveform, length)[0], latent, atol=1e-4)
    assert torch.allclose(parts.decode(latent, frames), whole.decode(latent, frames), atol=1e-4)


@pytest.mark.parametrize("strides", [[2, 3, 4], [2, 4, 6], [5, 3]])
def test_a_network_looks_as_far_as_is_claimed_and_no_further(strides: list[int]) -> None:
    """Gradients show what a value depends on. Nearer claims would cut chunks short, farther ones cost time."""
    hop, frames, middle = math.prod(strides), 60, 30
    settings = {"strides": strides, "hop_samples": hop, "channel_multiples": [1] * len(strides)}
    network = OobleckAutoencoder(**{**SMALL, **settings}, trainable=True)
    waveform = noise(1, frames * hop).requires_grad_()
    network.posterior(waveform).mean[0, middle].sum().backward()
    seen = waveform.grad[0].nonzero()
    before, after = encoder_reach_samples(strides)
    assert middle * hop - int(seen[0]) == before
    assert int(seen[-1]) - ((middle + 1) * hop - 1) == after
    latent = noise(1, frames, 6).requires_grad_()
    network.waveform_of(latent)[0, middle * hop : (middle + 1) * hop].sum().backward()
    rows = latent.grad[0].any(dim=1).nonzero()
    reach = decoder_reach_frames(strides)
    assert reach - 1 <= max(middle - int(rows[0]), int(rows[-1]) - middle) <= reach


class _NoSynchronisation(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func._overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), func
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device(weights: Path) -> None:
    autoencoder, waveform, lengths = loaded(weights, chunk_s=0.02), noise(2, 30 * HOP), torch.tensor([30 * HOP, 9])
    expected = autoencoder.decode(*autoencoder.encode(waveform, lengths))
    with _NoSynchronisation():
        found = autoencoder.decode(*autoencoder.encode(waveform, lengths))
    assert torch.equal(found, expected)


# -- parts ------------------------------------------------------------------------------------------------------------


def test_snake_and_its_gradients_are_those_of_the_formula() -> None:
    def formula(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        return x + torch.sin(alpha.exp() * x) ** 2 / (beta.exp() + 1e-9)

    snake = Snake(3).double()
    lively(snake)
    snake.double()
    x = noise(2, 3, 11).double().requires_grad_()
    inputs = (x, snake.alpha, snake.beta)
    weighing = noise(2, 3, 11, seed=5).double()
    assert torch.allclose(snake(x), formula(*inputs), atol=1e-12)
    ours = torch.autograd.grad((snake(x) * weighing).sum(), inputs)
    theirs = torch.autograd.grad((formula(*inputs) * weighing).sum(), inputs)
    for mine, true in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, true, atol=1e-10)


def test_snake_keeps_its_phase_in_bfloat16() -> None:
    snake, loud = Snake(1), torch.linspace(0, 3, 1000).reshape(1, 1, -1).bfloat16()
    snake.alpha.data.fill_(5.0)  # 148 radians per unit
    result = snake(loud)
    assert result.dtype is torch.bfloat16
    assert torch.allclose(result.float(), snake(loud.float()), atol=2e-2)


def test_fusing_changes_neither_sound_nor_fingerprint(weights: Path) -> None:
    plain, fused = loaded(weights, trainable=True), loaded(weights)
    assert not any(name.endswith("_g") for name in fused.state_dict())
    assert not any(p.requires_grad for p in fused.parameters()) and all(p.requires_grad for p in plain.parameters())
    waveform, lengths = noise(1, 9 * HOP), torch.tensor([9 * HOP])
    assert torch.allclose(plain.encode(waveform, lengths)[0], fused.encode(waveform, lengths)[0], atol=1e-5)
    assert plain.fingerprint == fused.fingerprint


def test_fused_weights_are_weights(weights: Path, tmp_path: Path) -> None:
    fused = loaded(weights)
    save_file(fused.state_dict(), tmp_path / "fused.safetensors")
    again = loaded(tmp_path / "fused.safetensors", trainable=True)
    waveform = noise(1, 9 * HOP)
    assert torch.allclose(again.posterior(waveform).mean, fused.posterior(waveform).mean, atol=1e-5)


def test_fingerprints_tell_weights_and_settings_apart(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    state["encoder.snake1.alpha"] = state["encoder.snake1.alpha"] + 0.01
    save_file(state, tmp_path / "other.safetensors")
    others = [
        loaded(tmp_path / "other.safetensors"),
        loaded(weights, mean=0.1),
        loaded(weights, std=[1.0] * 5 + [2.0]),
        loaded(weights, sample_rate=16_000),
        loaded(weights, mixed_precision="bf16"),
    ]
    prints = [loaded(weights).fingerprint, *(other.fingerprint for other in others)]
    assert len(set(prints)) == len(prints)
    assert loaded(weights, chunk_s=1.0).fingerprint == prints[0] == loaded(weights).fingerprint


def test_statistics_normalise_the_latent_and_are_taken_back(weights: Path) -> None:
    raw, waveform, lengths = loaded(weights), noise(1, 90 * HOP), torch.tensor([90 * HOP])
    latent, frames = raw.encode(waveform, lengths)
    mean, std = latent[0].mean(0), latent[0].std(0)
    normal = loaded(weights, mean=mean.tolist(), std=std.tolist())
    normalised, _ = normal.encode(waveform, lengths)
    assert torch.allclose(normalised[0].mean(0), torch.zeros(6), atol=1e-3)
    assert torch.allclose(normalised[0].std(0), torch.ones(6), atol=1e-3)
    assert torch.allclose(normal.decode(normalised, frames), raw.decode(latent, frames), atol=1e-3)


def test_latents_do_not_depend_on_the_autocast_around_them(weights: Path) -> None:
    waveform, lengths = noise(1, 40 * HOP), torch.tensor([40 * HOP])
    plain, frames = loaded(weights).encode(waveform, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loaded(weights).encode(waveform, lengths)[0], plain)
    rough = loaded(weights, mixed_precision="bf16")
    latent = rough.encode(waveform, lengths)[0]
    assert latent.dtype is torch.float32 and not torch.equal(latent, plain)
    assert (latent - plain).square().mean() < 1e-3 * plain.square().mean()
    assert rough.decode(plain, frames).dtype is torch.float32
    pure = loaded(weights).to(torch.bfloat16)
    assert (pure.encode(waveform, lengths)[0] - plain).square().mean() < 1e-3 * plain.square().mean()


# -- training ---------------------------------------------------------------------------------------------------------


def test_gradients_reach_every_parameter_and_random_weights_are_not_used() -> None:
    torch.manual_seed(0)
    network = OobleckAutoencoder(**SMALL, trainable=True)
    waveform = noise(2, 30 * HOP + 7)
    rebuilt, posterior = network(waveform, noise(2, 31, 6, seed=2))
    assert rebuilt.shape == waveform.shape
    ((rebuilt - waveform).square().mean() + 1e-3 * posterior.kl().mean()).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    with pytest.raises(UserError, match="weights are random"):
        network.encode(waveform, torch.tensor([9, 9]))
    with pytest.raises(UserError, match="weights are random"):
        network.decode(noise(1, 3, 6), torch.tensor([3]))
    network.load_state_dict({name: tensor.clone() for name, tensor in network.state_dict().items()})
    assert network.encode(waveform, torch.tensor([9, 9]))[0].isfinite().all()


def test_padding_changes_neither_the_posterior_nor_its_divergence() -> None:
    torch.manual_seed(0)
    network = OobleckAutoencoder(**SMALL, trainable=True)
    lively(network)
    batch = torch.cat([noise(1, 20 * HOP), torch.full((1, 10 * HOP), 0.5)], dim=1)
    padded, alone = network.posterior(batch, torch.tensor([20 * HOP])), network.posterior(batch[:, : 20 * HOP])
    assert torch.allclose(padded.mean[:, :20], alone.mean, atol=1e-5)
    assert torch.allclose(padded.kl(), alone.kl(), rtol=1e-4)
    normal = torch.distributions.Normal(alone.mean, alone.std)
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(-1).mean(1)
    assert torch.allclose(alone.kl(), divergence, rtol=1e-4)


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": None}, "weights is null"),
        ({"strides": [2, 2, 4]}, "make 16 samples of a latent frame, hop_samples is 24"),
        ({"strides": [1, 6, 4]}, "numbers from 2 on"),
        ({"strides": []}, "strides"),
        ({"channel_multiples": [1, 2]}, "channel_multiples has 2 numbers; it needs one for each of 3 strides"),
        ({"channel_multiples": [1, 0, 2]}, "positive"),
        ({"latent_dim": 0}, "positive"),
        ({"mean": [0.0] * 5}, "each of 6 channels"),
        ({"std": 0.0}, "std is 0.0"),
        ({"chunk_s": 0.0}, "chunk_s is 0.0"),
        ({"mixed_precision": "fp8"}, "mixed_precision is 'fp8'"),
    ],
)
def test_impossible_settings_are_refused(weights: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        loaded(weights, **settings)


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "latent_dim"), [("log_mel", 100), ("oobleck", 128), ("codec", 128)])
@pytest.mark.parametrize("backbone", ["layer_fusion_dit", "input_fusion_dit"])
def test_the_model_takes_its_latent_width_from_the_autoencoder(name: str, latent_dim: int, backbone: str) -> None:
    cfg = compose("default", [f"model/autoencoder={name}", f"model/backbone={backbone}"])
    assert cfg.model.backbone.latent_dim == cfg.model.content_encoders.audio.latent_dim == latent_dim
