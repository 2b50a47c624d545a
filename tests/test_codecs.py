"""EnCodec and DAC of transformers as autoencoders; small random ones, saved and loaded as real ones are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, DacConfig, DacModel, EncodecConfig, EncodecModel

from unisono.errors import UserError
from unisono.models.autoencoder import CodecAutoencoder

KINDS = ["encodec", "dac", "dac_odd"]
SETTINGS: dict[str, dict[str, Any]] = {
    "encodec": {"sample_rate": 24_000, "hop_samples": 24, "latent_dim": 8},
    "dac": {"sample_rate": 16_000, "hop_samples": 32, "latent_dim": 32},
    "dac_odd": {"sample_rate": 24_000, "hop_samples": 40, "latent_dim": 32},  # a stride of 5, as at 24 kHz
}


def _model(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "encodec":
        config = EncodecConfig(
            num_filters=4, hidden_size=8, upsampling_ratios=[4, 3, 2], codebook_size=16, target_bandwidths=[1.0, 16.0]
        )
        model = EncodecModel(config)
        for layer in model.quantizer.layers:
            layer.codebook.embed.normal_(std=0.1)
        return model.eval()
    ratios = [2, 4, 4] if kind == "dac" else [2, 5, 4]
    model = DacModel(
        DacConfig(
            encoder_hidden_size=4,
            downsampling_ratios=ratios,
            decoder_hidden_size=32,
            n_codebooks=3,
            codebook_size=16,
            codebook_dim=4,
            sampling_rate=SETTINGS[kind]["sample_rate"],
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 3 and "alpha" not in name:
                parameter.mul_(4)  # first weights of DAC answer with next to nothing
    return model.eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    saved = {}
    for kind in KINDS:
        folder, model = tmp_path_factory.mktemp(f"a {kind}"), _model(kind)
        model.save_pretrained(folder)
        saved[kind] = (model, folder)
    return saved


@pytest.fixture(scope="module")
def codecs(models: dict[str, tuple[Any, Path]]) -> dict[str, CodecAutoencoder]:
    return {kind: CodecAutoencoder(str(folder), **SETTINGS[kind]) for kind, (_, folder) in models.items()}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_latents_and_sound_are_those_of_the_codec(models: Any, codecs: Any, kind: str) -> None:
    (model, _), ours = models[kind], codecs[kind]
    frames, hop = 60, ours.hop_samples
    waveform, lengths = noise(1, frames * hop), torch.tensor([frames * hop])
    latent, count = ours.encode(waveform, lengths)
    decoded = ours.decode(latent, count)
    with torch.no_grad():
        theirs = model.encoder(waveform[:, None]).transpose(1, 2)
        sound = model.decoder(theirs.transpose(1, 2))[:, 0]
    assert latent.shape == theirs.shape and decoded.shape == waveform.shape
    # DAC looks ahead, and sees silence where its own padding would begin.
    inner = frames if kind == "encodec" else frames - 20
    assert torch.allclose(latent[:, :inner], theirs[:, :inner], atol=1e-5)
    assert torch.allclose(decoded[:, : inner * hop], sound[:, : inner * hop], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_sound_is_that_of_the_codes(models: Any, kind: str) -> None:
    model, folder = models[kind]
    ours = CodecAutoencoder(str(folder), **SETTINGS[kind], quantise=True)
    frames, hop = 60, ours.hop_samples
    waveform = noise(1, frames * hop)
    with torch.no_grad():
        if kind == "encodec":
            sound = model(waveform[:, None], bandwidth=16.0).audio_values[:, 0]
        else:
            sound = model(waveform[:, None]).audio_values
    latent, count = ours.encode(waveform, torch.tensor([frames * hop]))
    inner = (frames if kind == "encodec" else frames - 40) * hop
    assert torch.allclose(ours.decode(latent, count)[:, :inner], sound[:, :inner], atol=1e-4)


@pytest.mark.parametrize("chunk_frames", [None, 70, 25])
@pytest.mark.parametrize("kind", KINDS)
def test_an_item_alone_equals_the_item_in_a_padded_batch(
    models: Any, codecs: Any, kind: str, chunk_frames: int
) -> None:
    whole, hop, rate = codecs[kind], codecs[kind].hop_samples, codecs[kind].sample_rate
    chunk_s = None if chunk_frames is None else chunk_frames * hop / rate
    autoencoder = CodecAutoencoder(str(models[kind][1]), **SETTINGS[kind], chunk_s=chunk_s)
    lengths = [60 * hop, 1, 11 * hop + 5]
    batch = torch.full((3, 61 * hop + 2), 0.9)  # padding that is not silent must not leak in
    for row, length in enumerate(lengths):
        batch[row, :length] = noise(length, seed=row)
    latent, frames = autoencoder.encode(batch, torch.tensor(lengths))
    generated = noise(3, 62, autoencoder.latent_dim, seed=9)
    decoded = autoencoder.decode(generated, frames)
    for row, length in enumerate(lengths):
        alone, count = whole.encode(batch[row : row + 1, :length], torch.tensor([length]))
        assert frames[row] == count[0] == -(-length // hop)
        assert torch.allclose(latent[row, : int(count)], alone[0], atol=1e-5)
        assert not latent[row, int(count) :].any()
        heard = whole.decode(generated[row : row + 1, : int(count)], count)[0]
        assert torch.allclose(decoded[row, : len(heard)], heard, atol=1e-4)
        assert not decoded[row, len(heard) :].any()


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_normalise_and_are_taken_back(models: Any, codecs: Any, kind: str) -> None:
    raw = codecs[kind]
    waveform, lengths = noise(1, 90 * raw.hop_samples), torch.tensor([90 * raw.hop_samples])
    latent, frames = raw.encode(waveform, lengths)
    mean, std = latent[0].mean(0), latent[0].std(0)
    normal = CodecAutoencoder(str(models[kind][1]), **SETTINGS[kind], mean=mean.tolist(), std=std.tolist())
    normalised, _ = normal.encode(waveform, lengths)
    assert torch.allclose(normalised[0].mean(0), torch.zeros(raw.latent_dim), atol=1e-3)
    assert torch.allclose(normalised[0].std(0), torch.ones(raw.latent_dim), atol=1e-3)
    assert torch.allclose(normal.decode(normalised, frames), raw.decode(latent, frames), atol=1e-4)
    assert normal.fingerprint != raw.fingerprint


class _NoSynchronisation(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func._overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_waits_for_the_device_and_training_changes_nothing(codecs: Any, kind: str) -> None:
    codec = codecs[kind]
    waveform, lengths = noise(2, 30 * codec.hop_samples), torch.tensor([30 * codec.hop_samples, 9])
    with _NoSynchronisation():
        latent, frames = codec.encode(waveform, lengths)
        decoded = codec.decode(latent, frames)
    codec.train()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.encode(waveform, lengths)[0], latent)
        assert torch.equal(codec.decode(latent, frames), decoded)
    assert not codec.training and not any(p.requires_grad for p in codec.parameters())


def test_fingerprints_tell_codecs_and_settings_apart(models: Any, codecs: Any) -> None:
    folder = str(models["encodec"][1])
    prints = {codec.fingerprint for codec in codecs.values()}
    prints.add(CodecAutoencoder(folder, **SETTINGS["encodec"], quantise=True).fingerprint)
    assert len(prints) == 4
    again = CodecAutoencoder(folder, **SETTINGS["encodec"], chunk_s=1.0)
    assert again.fingerprint == codecs["encodec"].fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_of_a_configuration_makes_no_weights(models: Any, kind: str) -> None:
    with init_empty_weights(include_buffers=False):
        codec = CodecAutoencoder(str(models[kind][1]), **SETTINGS[kind])
    assert all(parameter.is_meta for parameter in codec.parameters())


def _edited(**config: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))

    return edit


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_edited(audio_channels=2, normalize=True), "audio_channels 2 instead of 1, normalize True instead of False"),
        (_edited(chunk_length_s=1.0), "chunk_length_s 1.0 instead of None"),
        (_edited(use_causal_conv=False), "use_causal_conv False"),
        (_edited(num_filters=8), "cannot be loaded"),
        (lambda folder: BertConfig().save_pretrained(folder), "of the kind 'bert'"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"), "cannot be loaded"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be loaded as a codec"),
    ],
)
def test_other_models_are_refused(models: Any, tmp_path: Path, spoil: Callable[[Path], Any], words: str) -> None:
    folder = tmp_path / "codec"
    shutil.copytree(models["encodec"][1], folder)
    spoil(folder)
    with pytest.raises(UserError, match=words):
        CodecAutoencoder(str(folder), **SETTINGS["encodec"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hop_samples": 480}, "hop_samples is 480, the codec has 24"),
        ({"sample_rate": 16_000, "latent_dim": 9}, "sample_rate is 16000, the codec has 24000; latent_dim is 9"),
        ({"std": -1.0}, "std is -1.0"),
        ({"chunk_s": -1.0}, "chunk_s is -1.0"),
    ],
)
def test_impossible_settings_are_refused(models: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CodecAutoencoder(str(models["encodec"][1]), **{**SETTINGS["encodec"], **settings})
