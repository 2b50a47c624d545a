"""The log-mel autoencoder: the contract of every autoencoder, and the quality of this one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import SAMPLE_RATE
from unisono.errors import UserError
from unisono.media.audio import write_audio
from unisono.models.autoencoder import Autoencoder, LogMelAutoencoder
from unisono.models.autoencoder.statistics import channel_statistics


def speech_like(duration_s: float, seed: int = 0, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """A gliding harmonic voice with formants, syllables and breath noise, ``(S,)``."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(duration_s * sample_rate)) / sample_rate
    f0_hz = rng.uniform(90, 180) * (1 + 0.2 * np.sin(2 * np.pi * 0.7 * t + seed))
    phase = 2 * np.pi * np.cumsum(f0_hz) / sample_rate
    voice = np.zeros_like(t)
    for k in range(1, 40):
        frequency = k * f0_hz
        formants = sum(np.exp(-(((frequency - f) / 250) ** 2)) for f in (600, 1500, 2600))
        voice += (0.02 + formants) / k * np.sin(k * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3 * t), 0, None) ** 0.5
    sound = voice * syllables + 0.003 * rng.standard_normal(len(t))
    return torch.from_numpy((0.5 * sound / np.abs(sound).max()).astype(np.float32))


@pytest.fixture(scope="module")
def autoencoder() -> LogMelAutoencoder:
    return LogMelAutoencoder(mean=-6.0, std=2.5, griffin_lim_steps=8)


@pytest.mark.parametrize("samples", [1, 479, 480, 481, 9_600, 24_001])
def test_lengths_cover_every_sample(autoencoder: LogMelAutoencoder, samples: int) -> None:
    latent, lengths = autoencoder.encode(speech_like(2)[None, :samples], torch.tensor([samples]))
    frames = -(-samples // 480)
    assert lengths.tolist() == [frames] and latent.shape == (1, frames, autoencoder.latent_dim)
    waveform = autoencoder.decode(latent, lengths)
    assert waveform.shape == (1, frames * 480) and waveform.isfinite().all()
    assert autoencoder.latent_rate_hz == 50


def test_an_item_alone_equals_the_item_in_a_padded_batch(autoencoder: LogMelAutoencoder) -> None:
    lengths = [1_000, 24_000, 12_345, 480]
    items = [speech_like(1, seed)[:length] for seed, length in enumerate(lengths)]
    batch = torch.full((4, 30_000), 0.9)  # padding that is not silent must not leak in
    for row, item in enumerate(items):
        batch[row, : len(item)] = item
    latent, latent_lengths = autoencoder.encode(batch, torch.tensor(lengths))
    decoded = autoencoder.decode(latent, latent_lengths)
    for row, item in enumerate(items):
        alone, frames = autoencoder.encode(item[None], torch.tensor([len(item)]))
        assert latent_lengths[row] == frames[0]
        assert torch.allclose(latent[row, : int(frames)], alone[0], atol=1e-5)
        assert not latent[row, int(frames) :].any()
        heard = autoencoder.decode(alone, frames)[0]
        assert torch.allclose(decoded[row, : len(heard)], heard, atol=1e-4)
        assert not decoded[row, len(heard) :].any()


def test_a_frame_is_centred_on_its_time(autoencoder: LogMelAutoencoder) -> None:
    click = torch.zeros(1, 9_600)
    click[0, 10 * 480] = 1.0
    latent, _ = autoencoder.encode(click, torch.tensor([9_600]))
    energy = latent[0].sum(-1)
    assert energy.argmax() == 10 and torch.allclose(energy[9], energy[11], rtol=1e-3)


def test_a_full_scale_sine_has_magnitude_one_and_silence_the_floor() -> None:
    autoencoder = LogMelAutoencoder(n_mels=40)
    t = torch.arange(24_000) / 24_000
    latent, _ = autoencoder.encode(torch.sin(2 * torch.pi * 1000 * t)[None], torch.tensor([24_000]))
    channel = latent[0, 25].exp()
    # The filter that holds the sine averages it over its width; it cannot show more than its peak.
    assert 0.1 < channel.max() < 1.0
    half, _ = autoencoder.encode(0.5 * torch.sin(2 * torch.pi * 1000 * t)[None], torch.tensor([24_000]))
    assert torch.allclose(half[0, 25].exp().max() / channel.max(), torch.tensor(0.5), atol=1e-3)
    silent, _ = autoencoder.encode(torch.zeros(1, 960), torch.tensor([960]))
    assert torch.allclose(silent, torch.tensor(autoencoder.floor).log().expand_as(silent))


def test_encoding_the_decoded_sound_gives_the_latent_back() -> None:
    autoencoder = LogMelAutoencoder(mean=-6.0, std=2.5, griffin_lim_steps=48)
    errors_db = []
    for seed in range(2):
        waveform = speech_like(1.0, seed)[None]
        lengths = torch.tensor([waveform.shape[1]])
        latent, frames = autoencoder.encode(waveform, lengths)
        decoded = autoencoder.decode(latent, frames)
        again, _ = autoencoder.encode(decoded, torch.tensor([decoded.shape[1]]))
        to_db = 2.5 * 20 / np.log(10)
        loud = latent > (np.log(1e-3) + 6.0) / 2.5  # above -60 dB: what can be heard
        errors_db.append(float(((again - latent).abs() * to_db)[loud].mean()))
        assert decoded.abs().max() < 1.5
    assert max(errors_db) < 1.5, errors_db


def test_decoding_is_deterministic_and_leaves_the_global_generator_alone(autoencoder: LogMelAutoencoder) -> None:
    latent, lengths = autoencoder.encode(speech_like(0.4)[None], torch.tensor([9_600]))
    state = torch.get_rng_state()
    first = autoencoder.decode(latent, lengths)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(first, autoencoder.decode(latent, lengths))


@pytest.mark.parametrize("value", [-40.0, 0.0, 40.0, 1e4])
def test_absurd_latents_decode_to_finite_sound(autoencoder: LogMelAutoencoder, value: float) -> None:
    waveform = autoencoder.decode(torch.full((1, 20, 100), value), torch.tensor([20]))
    assert waveform.isfinite().all() and waveform.abs().max() < 1000


def test_statistics_normalise_the_latent() -> None:
    waveform = speech_like(3)[None]
    lengths = torch.tensor([waveform.shape[1]])
    raw, _ = LogMelAutoencoder(n_mels=40).encode(waveform, lengths)
    mean, std = raw[0].mean(0), raw[0].std(0)
    normal, _ = LogMelAutoencoder(n_mels=40, mean=mean.tolist(), std=std.tolist()).encode(waveform, lengths)
    assert torch.allclose(normal[0].mean(0), torch.zeros(40), atol=1e-3)
    assert torch.allclose(normal[0].std(0), torch.ones(40), atol=1e-3)


def test_there_is_nothing_to_train_or_to_store(autoencoder: LogMelAutoencoder) -> None:
    assert not list(autoencoder.parameters()) and not autoencoder.state_dict()


SETTINGS = {
    "sample_rate": 16_000,
    "hop_samples": 400,
    "n_fft": 2048,
    "n_mels": 80,
    "floor": 1e-5,
    "mean": -5.0,
    "std": 2.0,
    "griffin_lim_steps": 9,
    "momentum": 0.9,
}


@pytest.fixture(scope="module")
def default_fingerprint() -> str:
    return LogMelAutoencoder().fingerprint


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_changes_the_fingerprint(name: str, default_fingerprint: str) -> None:
    changed, again = (LogMelAutoencoder(**{name: SETTINGS[name]}).fingerprint for _ in range(2))
    assert changed == again != default_fingerprint


class _Weighted(Autoencoder):
    """An autoencoder with weights, for the fingerprint alone."""

    def __init__(self, value: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3,), value, dtype=dtype))
        self.register_buffer("scalar", torch.tensor(1))

    def encode(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def decode(self, latent: Tensor, lengths: Tensor) -> Tensor:
        raise NotImplementedError

    def settings(self) -> dict:
        return {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_any_precision_are_in_the_fingerprint(dtype: torch.dtype) -> None:
    assert _Weighted(1.0, dtype).fingerprint == _Weighted(1.0, dtype).fingerprint
    assert _Weighted(1.0, dtype).fingerprint != _Weighted(1.5, dtype).fingerprint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"std": 0.0}, "std is 0.0"),
        ({"std": -1.0}, "std is -1.0"),
        ({"std": [1.0] * 99 + [0.0]}, "positive in every channel"),
        ({"std": [1.0, 2.0]}, "each of 100 channels"),
        ({"std": float("nan")}, "std is nan"),
        ({"std": float("inf")}, "std is inf"),
        ({"mean": [0.0] * 99}, "each of 100 channels"),
        ({"mean": float("nan")}, "mean is nan"),
        ({"hop_samples": 800}, r"n_fft \(1920\) must be at least 3"),
        ({"hop_samples": 0}, r"hop_samples \(0\)"),
        ({"sample_rate": 0}, r"sample_rate \(0\)"),
        ({"n_mels": 0}, r"n_mels \(0\)"),
        ({"floor": 0.0}, r"floor \(0.0\)"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LogMelAutoencoder(**settings)


def test_channels_that_are_constant_keep_a_usable_deviation(tmp_path) -> None:
    """Telephone speech has nothing in the upper channels; wide-band audio has."""
    narrow = write_audio(tmp_path / "narrow.wav", speech_like(1, sample_rate=8_000).numpy(), 8_000)
    mean, std = channel_statistics(LogMelAutoencoder(), [narrow])
    assert min(std) > 0.05 and std[-1] == pytest.approx(0.1 * np.mean(std), rel=0.2)
    wide, _ = LogMelAutoencoder(mean=mean, std=std).encode(0.3 * torch.randn(1, 9_600), torch.tensor([9_600]))
    assert wide.abs().max() < 60
    with pytest.raises(UserError, match="silent"):
        channel_statistics(LogMelAutoencoder(), [write_audio(tmp_path / "silent.wav", np.zeros(9_600), SAMPLE_RATE)])
    with pytest.raises(UserError, match="no audio files"):
        channel_statistics(LogMelAutoencoder(), [])


def test_long_latents_are_decoded_in_pieces_that_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = LogMelAutoencoder(n_mels=20, griffin_lim_steps=3)
    latent = torch.randn(2, 150, 20, generator=torch.Generator().manual_seed(0)) - 4
    lengths = torch.tensor([150, 67])
    whole = autoencoder.decode(latent, lengths)
    for frames in (40, 50, 149):
        monkeypatch.setattr("unisono.models.autoencoder.log_mel.PIECE_FRAMES", frames)
        torch.testing.assert_close(autoencoder.decode(latent, lengths), whole, rtol=0, atol=1e-6)
    pieces = [piece for _, piece in autoencoder._decoded_pieces(latent[0])]
    assert len(pieces) == 2 and sum(map(len, pieces)) == 150 * autoencoder.hop_samples
    # Alone, without what lies around them, they would be others.
    alone = autoencoder.decode(latent[:1, :75], torch.tensor([75]))
    assert (alone[0] - whole[0, : alone.shape[1]]).abs().max() > 1e-3
