"""The vocoder: an exact inverse STFT, items that do not see each other, latents that stay what they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unisono.errors import UserError
from unisono.models.autoencoder import LogMelAutoencoder
from unisono.models.autoencoder.vocoder import FourierVocoder, InverseSTFT
from unisono.models.autoencoder.vocoder_autoencoder import VocoderAutoencoder

SMALL = {"n_mels": 40, "dim": 24, "num_layers": 2}


def vocoder(seed: int = 0, **settings: object) -> FourierVocoder:
    """A very small one whose every layer does something."""
    torch.manual_seed(seed)
    made = FourierVocoder(**{**SMALL, **settings})  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def trained_file(folder: Path, seed: int = 0) -> Path:
    """Weights as training exports them."""
    autoencoder = VocoderAutoencoder(vocoder(seed), trainable=True, n_mels=40)
    kept, metadata = autoencoder.exported(autoencoder.state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    save_file(kept, folder / "model.safetensors", metadata=metadata)
    return folder


def spectrum_of(waveform: Tensor, n_fft: int, hop_samples: int) -> Tensor:
    """``(B, T, F)``: the frames that a latent of ``T * hop`` samples has, a full-scale sine of magnitude 1."""
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(waveform, n_fft, hop_samples, window=window, pad_mode="constant", return_complex=True)
    return spectrum[:, :, : waveform.shape[1] // hop_samples].transpose(1, 2) * (2 / window.sum())


@pytest.mark.parametrize(("n_fft", "hop_samples"), [(1920, 480), (1440, 480), (2400, 480), (64, 16)])
@pytest.mark.parametrize("frames", [1, 2, 3, 50])
def test_an_stft_comes_back_exactly_from_the_first_to_the_last_sample(
    n_fft: int, hop_samples: int, frames: int
) -> None:
    waveform = torch.randn(2, frames * hop_samples, generator=torch.Generator().manual_seed(frames))
    rebuilt = InverseSTFT(n_fft, hop_samples)(
        spectrum_of(waveform, n_fft, hop_samples), torch.ones(2, frames, dtype=torch.bool)
    )
    assert rebuilt.shape == waveform.shape
    assert torch.allclose(rebuilt, waveform, atol=2e-5)


def test_an_error_in_a_frame_is_no_louder_at_the_edges() -> None:
    inverse, mask = InverseSTFT(1920, 480), torch.ones(1, 50, dtype=torch.bool)
    noise = torch.randn(1, 50, 961, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    level = inverse(noise, mask).reshape(50, 480).square().mean(dim=1).sqrt()
    middle = level[10:-10].mean()
    assert level.max() < 2.5 * middle, "overlap-add without its divisor, or with one near zero"


@pytest.mark.parametrize(("n_fft", "hop_samples"), [(1000, 480), (960, 480)])
def test_windows_that_leave_gaps_are_refused(n_fft: int, hop_samples: int) -> None:
    with pytest.raises(ValueError, match=f"n_fft \\({n_fft}\\).*hop_samples \\({hop_samples}\\)"):
        InverseSTFT(n_fft, hop_samples)


def test_an_item_alone_sounds_as_in_a_batch_and_padding_is_silent() -> None:
    made, lengths = vocoder(), torch.tensor([37, 50, 1])
    log_mel = torch.randn(3, 50, 40) * 2 - 5
    together = made(log_mel, lengths)
    assert together.shape == (3, 50 * 480)
    for row, frames in enumerate(lengths.tolist()):
        alone = made(log_mel[row : row + 1, :frames], torch.tensor([frames]))
        assert torch.allclose(together[row, : frames * 480], alone[0], atol=1e-5)
        assert not together[row, frames * 480 :].any()


def test_no_sample_depends_on_frames_beyond_the_reach() -> None:
    made = vocoder()
    log_mel = (torch.randn(1, 60, 40) - 5).requires_grad_()
    made(log_mel, torch.tensor([60]))[0, 30 * 480 : 31 * 480].square().sum().backward()
    assert log_mel.grad is not None
    seen = log_mel.grad[0].abs().sum(dim=1).nonzero().flatten()
    assert seen.min() >= 30 - made.reach_frames and seen.max() <= 30 + made.reach_frames
    assert seen.max() - seen.min() > made.reach_frames, "the network looks further than a frame"


def test_long_audio_in_passes_is_that_of_one_pass(tmp_path: Path) -> None:
    weights = str(trained_file(tmp_path))
    whole = VocoderAutoencoder(vocoder(), weights, n_mels=40, chunk_s=None)
    parts = VocoderAutoencoder(vocoder(), weights, n_mels=40, chunk_s=0.5)
    latent, lengths = torch.randn(2, 130, 40), torch.tensor([130, 77])
    assert torch.allclose(parts.decode(latent, lengths), whole.decode(latent, lengths), atol=1e-5)


def test_every_weight_is_trained_and_none_when_frozen(tmp_path: Path) -> None:
    autoencoder = VocoderAutoencoder(vocoder(), trainable=True, n_mels=40)
    waveform = autoencoder.reconstruct(torch.randn(2, 4_800) * 0.1, torch.tensor([4_800, 4_000]))
    waveform.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in autoencoder.parameters())
    frozen = VocoderAutoencoder(vocoder(), str(trained_file(tmp_path)), n_mels=40)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_the_vocoder_changes_no_latent_and_no_fingerprint(tmp_path: Path) -> None:
    plain = LogMelAutoencoder(n_mels=40, mean=-6.0, std=2.5)
    one, other = (
        VocoderAutoencoder(vocoder(), str(trained_file(tmp_path / str(k), k)), n_mels=40, mean=-6.0, std=2.5)
        for k in (1, 2)
    )
    waveform, lengths = torch.randn(1, 9_600) * 0.1, torch.tensor([9_600])
    latent, frames = plain.encode(waveform, lengths)
    assert torch.equal(one.encode(waveform, lengths)[0], latent)
    assert not torch.equal(one.decode(latent, frames), other.decode(latent, frames))
    assert one.fingerprint == other.fingerprint == plain.fingerprint
    assert VocoderAutoencoder(vocoder(), trainable=True, n_mels=40).fingerprint != plain.fingerprint


def test_statistics_of_latents_do_not_change_what_the_vocoder_hears(tmp_path: Path) -> None:
    """So weights serve whoever computes statistics of their own."""
    weights, waveform, lengths = str(trained_file(tmp_path)), torch.randn(1, 9_600) * 0.1, torch.tensor([9_600])
    one = VocoderAutoencoder(vocoder(), weights, n_mels=40, mean=-6.0, std=2.5)
    other = VocoderAutoencoder(vocoder(), weights, n_mels=40, mean=-7.0, std=1.5)
    assert torch.allclose(
        one.decode(*one.encode(waveform, lengths)), other.decode(*other.encode(waveform, lengths)), atol=1e-4
    )


def test_absurd_latents_give_finite_audio(tmp_path: Path) -> None:
    autoencoder = VocoderAutoencoder(vocoder(), str(trained_file(tmp_path)), n_mels=40)
    assert autoencoder.decode(torch.full((1, 5, 40), 1e4), torch.tensor([5])).isfinite().all()
    assert autoencoder.decode(torch.full((1, 5, 40), -1e4), torch.tensor([5])).isfinite().all()


def test_no_frames_are_no_samples(tmp_path: Path) -> None:
    autoencoder = VocoderAutoencoder(vocoder(), str(trained_file(tmp_path)), n_mels=40)
    assert autoencoder.decode(torch.zeros(2, 0, 40), torch.tensor([0, 0])).shape == (2, 0)
    some = autoencoder.decode(torch.zeros(2, 3, 40), torch.tensor([0, 3]))
    assert not some[0].any() and some[1].any()


# -- weights ----------------------------------------------------------------------------------------------------------


def test_weights_are_loaded_from_a_folder_or_a_file(tmp_path: Path) -> None:
    folder = trained_file(tmp_path / "a folder", seed=3)
    latent, lengths = torch.randn(1, 10, 40), torch.tensor([10])
    heard = [
        VocoderAutoencoder(vocoder(k), str(path), n_mels=40).decode(latent, lengths)
        for k, path in enumerate((folder, folder / "model.safetensors"))
    ]
    assert torch.equal(heard[0], heard[1])


def test_missing_weights_are_an_error() -> None:
    with pytest.raises(UserError, match=r"vocoder_weights is null.*experiment=vocoder"):
        VocoderAutoencoder(vocoder(), n_mels=40)
    with pytest.raises(UserError, match="no such weights file"):
        VocoderAutoencoder(vocoder(), "nowhere", n_mels=40)


def test_weights_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    file = trained_file(tmp_path) / "model.safetensors"
    with pytest.raises(UserError, match=r"another vocoder: dim 32 here, 24 there"):
        VocoderAutoencoder(vocoder(dim=32), str(file), n_mels=40)
    with pytest.raises(UserError, match=r"another vocoder: sample_rate 16000 here, 24000 there"):
        VocoderAutoencoder(vocoder(sample_rate=16_000), str(file), n_mels=40, sample_rate=16_000)
    with pytest.raises(ValueError, match=r"another spectrogram: n_mels 50 here, 40 there"):
        VocoderAutoencoder(vocoder(), str(file), n_mels=50)
    save_file(load_file(file), tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="no weights of a vocoder"):
        VocoderAutoencoder(vocoder(), str(tmp_path / "foreign.safetensors"), n_mels=40)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        VocoderAutoencoder(vocoder(), str(file), n_mels=40)


def test_a_model_without_memory_for_weights_finds_the_same_faults(tmp_path: Path) -> None:
    """As ``unisono check`` builds it."""
    from accelerate import init_empty_weights

    folder = str(trained_file(tmp_path))
    with init_empty_weights(include_buffers=False):
        VocoderAutoencoder(vocoder_on_meta(24), folder, n_mels=40)
        with pytest.raises(UserError, match=r"another vocoder: dim 32 here, 24 there"):
            VocoderAutoencoder(vocoder_on_meta(32), folder, n_mels=40)


def vocoder_on_meta(dim: int) -> FourierVocoder:
    return FourierVocoder(n_mels=40, dim=dim, num_layers=2)
