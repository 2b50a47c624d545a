"""Adversarial training: each side is blind to the other's weights, and a run goes on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from test_autoencoder import speech_like
from toy import toy_dataset
from unisono.config import compose
from unisono.data.datasets import TextToSpeechDataset
from unisono.data.datasets.recordings import RecordingCollator, TargetRecordings
from unisono.errors import UserError
from unisono.models.autoencoder import LogMelAutoencoder, OobleckAutoencoder
from unisono.models.autoencoder.vocoder import FourierVocoder
from unisono.models.autoencoder.vocoder_autoencoder import VocoderAutoencoder
from unisono.models.discriminators import MultiPeriodDiscriminator, MultiResolutionDiscriminator
from unisono.models.discriminators.period import folded
from unisono.models.reconstruction import ReconstructionModel
from unisono.threads import one_torch_thread
from unisono.training.checkpoint import read_state, read_weights
from unisono.training.reconstruction_losses import (
    MelDistance,
    MultiResolutionSTFTDistance,
    ReconstructionLoss,
    discriminator_hinge,
    feature_distance,
    generator_hinge,
)
from unisono.training.reconstruction_trainer import ReconstructionTrainer
from unisono.training.run import run_training
from unisono.types import Batch

RESOLUTIONS = ((512, 128, 512), (256, 64, 256))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower with two."""
    with one_torch_thread():
        yield


def vocoder(dim: int = 24) -> VocoderAutoencoder:
    return VocoderAutoencoder(FourierVocoder(n_mels=40, dim=dim, num_layers=2), trainable=True, n_mels=40)


def vae() -> OobleckAutoencoder:
    return OobleckAutoencoder(
        latent_dim=4, strides=(8, 60), encoder_channels=4, decoder_channels=4, channel_multiples=(1, 2), trainable=True
    )  # fmt: skip


def model(autoencoder: Any = None, seed: int = 0) -> ReconstructionModel:
    torch.manual_seed(seed)
    return ReconstructionModel(
        autoencoder or vocoder(),
        {
            "period": MultiPeriodDiscriminator((2, 3), width=4, max_width=8),
            "spectral": MultiResolutionDiscriminator((256, 128), width=4),
        },
    )


def loss_fn(**weights: float) -> ReconstructionLoss:
    return ReconstructionLoss(MultiResolutionSTFTDistance(RESOLUTIONS), MelDistance(n_mels=40), **weights)


def batch_of(waveforms: list[Tensor]) -> Batch:
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    ids = tuple(f"clip_{k}" for k in range(len(waveforms)))
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    zeros = torch.zeros(len(ids), dtype=torch.long)
    return Batch(ids, ("text_to_audio",) * len(ids), zeros, {}, waveform=padded, waveform_lengths=lengths)


def trainer(
    toy_corpus: Path, exp_dir: Path, steps: int, autoencoder: Any = None, **options: Any
) -> ReconstructionTrainer:
    recordings = TargetRecordings([toy_dataset(toy_corpus, "text_to_speech")], crop_s=0.3)
    settings: dict[str, Any] = {
        "model": model(autoencoder),
        "optimizer": partial(torch.optim.AdamW, lr=1e-3, betas=(0.8, 0.99)),
        "loss_fn": loss_fn(),
        "train_dataloader": DataLoader(recordings, batch_size=2, shuffle=True, collate_fn=RecordingCollator()),
        "val_dataloader": DataLoader(recordings, batch_size=4, collate_fn=RecordingCollator()),
        "exp_dir": exp_dir, "epochs": steps, "epoch_length": 1, "adversarial_start_step": 2, "mixed_precision": "no",
        "log_every_n_steps": 1, "save_every_n_steps": 1, "val_every_n_steps": None, "ema_decay": 0.9, "progress": False,
    }  # fmt: skip
    return ReconstructionTrainer(**{**settings, **options})


def logged(exp_dir: Path) -> list[dict[str, float]]:
    """What a run logged, without how fast it was."""
    records = [json.loads(line) for line in (exp_dir / "metrics.jsonl").open()]
    return [{name: value for name, value in record.items() if name != "items_per_s"} for record in records]


def touched(module: torch.nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


# -- who learns from what ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [vocoder, vae])
def test_each_side_is_blind_to_the_others_weights(make: Any) -> None:
    made = model(make())
    batch = batch_of([speech_like(0.3), speech_like(0.25, 1)])
    said = made(batch).judgements
    generator_hinge(said.reconstruction).backward(retain_graph=True)
    assert touched(made.autoencoder) and not touched(made.discriminators)
    made.zero_grad()
    feature_distance(said.recording, said.reconstruction).backward(retain_graph=True)
    assert touched(made.autoencoder) and not touched(made.discriminators)
    made.zero_grad()
    discriminator_hinge(said.recording, said.copy).backward()
    assert touched(made.discriminators) and not touched(made.autoencoder)
    # A bias may move the scores of both alike, and within the margin that changes nothing.
    rest = {name for name, p in made.discriminators.named_parameters() if p.grad is None or not p.grad.any()}
    assert all(name.endswith(".bias") for name in rest)


def test_bfloat16_copies_of_weights_leak_no_gradient() -> None:
    """Autocast keeps the copy that the discriminators' own pass made."""
    made = model()
    with torch.autocast("cpu", torch.bfloat16):
        said = made(batch_of([speech_like(0.3)])).judgements
    generator_hinge(said.reconstruction).backward()
    assert touched(made.autoencoder) and not touched(made.discriminators)


def test_one_optimizer_makes_the_updates_of_two(toy_corpus: Path, tmp_path: Path) -> None:
    made = trainer(toy_corpus, tmp_path, steps=1, adversarial_start_step=0, max_grad_norm=0.5, discriminator_lr=3e-4)
    batches: list[Batch] = []
    step = made.training_step
    made.training_step = lambda batch, k: (batches.append(batch), step(batch, k))[1]  # type: ignore[method-assign]
    made.fit()
    own, loss = model(), loss_fn()
    sides = {"autoencoder": (own.autoencoder, 1e-3), "discriminators": (own.discriminators, 3e-4)}
    optimizers = {
        name: torch.optim.AdamW(side.parameters(), lr=lr, betas=(0.8, 0.99)) for name, (side, lr) in sides.items()
    }
    result = loss(own(batches[0]))
    losses = {
        "autoencoder": result.distance.mean() + 0.1 * result.parts["adversarial"] + result.parts["feature"],
        "discriminators": result.parts["discriminator"],
    }
    gradients = {
        name: torch.autograd.grad(losses[name], list(side.parameters()), retain_graph=True)
        for name, (side, _) in sides.items()
    }
    for name, (side, _) in sides.items():
        for parameter, gradient in zip(side.parameters(), gradients[name], strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(side.parameters(), 0.5)
        optimizers[name].step()
    trained = dict(made.raw_model.named_parameters())
    for name, parameter in own.named_parameters():
        assert torch.allclose(parameter, trained[name], atol=2e-6), name


def test_discriminators_rest_until_they_are_needed(toy_corpus: Path, tmp_path: Path) -> None:
    made = trainer(toy_corpus, tmp_path, steps=2)
    before = {name: p.clone() for name, p in made.raw_model.named_parameters()}
    made.fit()
    changed = {name for name, p in made.raw_model.named_parameters() if not torch.equal(p, before[name])}
    assert {name.split(".")[0] for name in changed} == {"autoencoder"}
    assert all(
        name.startswith("autoencoder.") for name in read_state(tmp_path / "checkpoints/last")["optimizer"]["state"]
    )
    assert not any("train/discriminator" in record for record in logged(tmp_path))
    longer = trainer(toy_corpus, tmp_path, steps=3)
    longer.fit()
    assert "train/discriminator" in logged(tmp_path)[-2] or "train/discriminator" in logged(tmp_path)[-1]
    state = read_state(tmp_path / "checkpoints/last")["optimizer"]["state"]
    assert {int(entry["step"]) for name, entry in state.items() if name.startswith("discriminators.")} == {1}


# -- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [vocoder, vae])
def test_a_resumed_run_is_the_unbroken_one_to_the_last_bit(make: Any, toy_corpus: Path, tmp_path: Path) -> None:
    """Before, at and after the step at which the discriminators join."""
    torch.manual_seed(1)
    first_weights = make().state_dict()

    def fresh() -> Any:
        made = make()
        made.load_state_dict(first_weights)
        return made

    trainer(toy_corpus, tmp_path / "whole", 5, fresh()).fit()
    for steps in (1, 3, 4, 5):
        trainer(toy_corpus, tmp_path / "parts", steps, fresh(), val_dataloader=None).fit()
    trained = [record for record in logged(tmp_path / "whole") if "train/loss" in record]
    assert trained == logged(tmp_path / "parts")
    for name in ("model", "ema"):
        whole, parts = (
            read_weights(tmp_path / run / f"checkpoints/last/{name}.safetensors") for run in ("whole", "parts")
        )
        assert whole.keys() == parts.keys() and any(key.startswith("discriminators.") for key in whole)
        assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_nan_in_the_data_changes_no_weight(toy_corpus: Path, tmp_path: Path) -> None:
    made = trainer(toy_corpus, tmp_path, steps=1, adversarial_start_step=0)
    before = {name: p.clone() for name, p in made.raw_model.named_parameters()}
    step = made.training_step
    made.training_step = lambda batch, k: step(batch, k) * float("nan")  # type: ignore[method-assign]
    made.fit()
    assert made.step == 1 and made.nonfinite.total == 1
    assert all(torch.equal(p, before[name]) for name, p in made.raw_model.named_parameters())


# -- learning ---------------------------------------------------------------------------------------------------------


def test_a_vocoder_learns_a_clip_better_than_griffin_lim_guesses_it() -> None:
    torch.manual_seed(0)
    made = model(VocoderAutoencoder(FourierVocoder(dim=64, num_layers=3), trainable=True))
    batch, loss = batch_of([speech_like(0.6)]), loss_fn()
    optimizer = torch.optim.AdamW(made.autoencoder.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        value = loss(made(batch, adversarial=False)).total
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(made.autoencoder.parameters(), 1.0)
        optimizer.step()
        history.append(float(value.detach()))
    guesser = LogMelAutoencoder()
    guess = guesser.decode(*guesser.encode(batch.waveform, batch.waveform_lengths))[:, : batch.waveform.shape[1]]
    distance = loss.stft(guess, batch.waveform, batch.waveform_lengths) + loss.mel(
        guess, batch.waveform, batch.waveform_lengths
    )
    assert history[-1] < 0.5 * history[0] and history[-1] < float(distance), (history[0], history[-1], distance)


def test_discriminators_learn_to_tell_noise_from_speech() -> None:
    made = model()
    optimizer = torch.optim.AdamW(made.discriminators.parameters(), lr=1e-2)
    speech = speech_like(0.15)[None]
    for k in range(30):
        noise = 0.1 * torch.randn(1, 3_600, generator=torch.Generator().manual_seed(k))
        value = discriminator_hinge(made.discriminators(speech), made.discriminators(noise))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 1.0, "2 is what constant scores of zero give"


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [MultiResolutionSTFTDistance(RESOLUTIONS), MelDistance(n_mels=40)])
def test_distances(distance: torch.nn.Module) -> None:
    one, other = speech_like(0.3), speech_like(0.3, 1)
    lengths = torch.tensor([7_200])
    assert float(distance(one[None], one[None], lengths)) < 1e-4
    assert (
        float(distance(other[None], one[None], lengths))
        > 10 * float(distance(1.02 * one[None], one[None], lengths))
        > 0
    )
    # An item weighs what it weighs alone, whatever lies behind its end.
    together = distance(
        torch.stack([other, torch.cat([other[:3_600], torch.zeros(3_600)])]),
        torch.stack([one, torch.cat([one[:3_600], torch.zeros(3_600)])]),
        torch.tensor([7_200, 3_600]),
    )
    alone = distance(other[None, :3_600], one[None, :3_600], torch.tensor([3_600]))
    assert torch.allclose(together[1], alone[0], rtol=1e-4)


@pytest.mark.parametrize("distance", [MultiResolutionSTFTDistance(RESOLUTIONS), MelDistance(n_mels=40)])
def test_silence_has_finite_gradients(distance: torch.nn.Module) -> None:
    silence = torch.zeros(1, 4_800, requires_grad=True)
    for target in (torch.zeros(1, 4_800), 0.1 * torch.randn(1, 4_800)):
        value = distance(silence, target, torch.tensor([4_800])).sum()
        (gradient,) = torch.autograd.grad(value, silence)
        assert value.isfinite() and gradient.isfinite().all()


def test_settings_that_make_no_loss_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mel_weight \(-1.0\)"):
        loss_fn(mel_weight=-1.0)
    with pytest.raises(ValueError, match="misses samples"):
        MultiResolutionSTFTDistance([[512, 300, 256]])


def test_a_period_is_folded_into_columns() -> None:
    columns = folded(torch.arange(1.0, 8.0)[None], 3)
    assert columns.tolist() == [[[[1, 2, 3], [4, 5, 6], [7, 0, 0]]]]


def test_a_frozen_autoencoder_is_not_trained() -> None:
    with pytest.raises(UserError, match="LogMelAutoencoder, which has nothing to train"):
        ReconstructionModel(LogMelAutoencoder())
    with pytest.raises(UserError, match="trainable=true"):
        ReconstructionModel(vocoder().requires_grad_(False))


# -- recordings -------------------------------------------------------------------------------------------------------


def test_crops_follow_from_seed_epoch_and_item(toy_corpus: Path) -> None:
    datasets = [toy_dataset(toy_corpus, task) for task in ("text_to_audio", "speech_enhancement")]
    one, again = TargetRecordings(datasets, crop_s=0.25, seed=5), TargetRecordings(datasets, crop_s=0.25, seed=5)
    assert len(one) == 16 and one.durations_s.max() == np.float32(0.25)
    for index in (3, 12, 3 + 16):
        crop, whole = one[index].waveform, TargetRecordings(datasets)[index].waveform
        assert crop is not None and whole is not None and crop.shape == (6_000,)
        assert torch.equal(crop, again[index].waveform)
        assert any(torch.equal(crop, whole[k : k + 6_000]) for k in range(len(whole) - 5_999))
    assert not torch.equal(one[3].waveform, one[3 + 16].waveform), "another epoch, another crop"
    assert not torch.equal(one[3].waveform, TargetRecordings(datasets, crop_s=0.25, seed=6)[3].waveform)


def test_recordings_are_needed(toy_corpus: Path) -> None:
    without = TextToSpeechDataset(toy_corpus / "text_to_speech" / "content.jsonl")
    with pytest.raises(UserError, match=r"no target recordings"):
        TargetRecordings([without])
    with pytest.raises(UserError, match=r"crop_s is 0"):
        TargetRecordings([toy_dataset(toy_corpus, "text_to_speech")], crop_s=0)


# -- what comes out ---------------------------------------------------------------------------------------------------


def test_an_exported_vocoder_is_the_averaged_one(toy_corpus: Path, tmp_path: Path) -> None:
    made = trainer(toy_corpus, tmp_path, steps=3)
    made.fit()
    made.export(tmp_path / "model", {"model": {"autoencoder": {"trainable": True, "n_mels": 40}}})
    loaded = VocoderAutoencoder(FourierVocoder(n_mels=40, dim=24, num_layers=2), str(tmp_path / "model"), n_mels=40)
    latent, lengths = torch.randn(1, 20, 40), torch.tensor([20])
    raw = made.raw_model.autoencoder.decode(latent, lengths)
    with made.averaged_weights():
        averaged = made.raw_model.autoencoder.decode(latent, lengths)
    assert torch.equal(loaded.decode(latent, lengths), averaged) and not torch.equal(raw, averaged)
    assert "discriminator" not in (tmp_path / "model/config.yaml").read_text()
    assert "trainable: false" in (tmp_path / "model/config.yaml").read_text()


def test_an_exported_autoencoder_is_the_averaged_one(toy_corpus: Path, tmp_path: Path) -> None:
    made = trainer(toy_corpus, tmp_path, steps=3, autoencoder=vae())
    made.fit()
    assert {"train/kl", "train/feature"} <= logged(tmp_path)[-2].keys() | logged(tmp_path)[-1].keys()
    made.export(tmp_path / "model", {})
    loaded = OobleckAutoencoder(
        latent_dim=4, strides=(8, 60), encoder_channels=4, decoder_channels=4, channel_multiples=(1, 2),
        weights=str(tmp_path / "model"),
    )  # fmt: skip
    waveform, lengths = speech_like(0.3)[None], torch.tensor([7_200])
    with made.averaged_weights():
        latent = made.raw_model.autoencoder.posterior(waveform).mean
        sound = made.raw_model.autoencoder.waveform_of(latent)
    assert torch.allclose(loaded.encode(waveform, lengths)[0], latent, atol=1e-5)
    assert torch.allclose(loaded.decode(latent, torch.tensor([15])), sound, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["vocoder", "autoencoder"])
def test_the_experiments_run_and_what_they_export_serves(experiment: str, tmp_path: Path, data_root: Path) -> None:
    lists = ["data@train_dataloader.dataset.datasets=train", "data@val_dataloader.dataset.datasets=val"]
    place = [f"data_root='{data_root}'", f"exp_dir='{tmp_path}'"]
    cfg = compose(
        "default", [f"experiment={experiment}", "debug=two_steps", "trainer.adversarial_start_step=1", *lists, *place]
    )
    folder = run_training(cfg)
    assert [record["step"] for record in logged(tmp_path)] == [1, 2, 2] and "val/loss" in logged(tmp_path)[-1]
    kind, setting = ("log_mel_vocoder", "vocoder_weights") if experiment == "vocoder" else ("oobleck", "weights")
    from hydra.utils import instantiate

    sizes = [
        f"++model.autoencoder.{k}={v}" for k, v in cfg.model.autoencoder.items() if "channels" in k or k == "latent_dim"
    ]
    used = compose("default", [f"model/autoencoder={kind}", f"model.autoencoder.{setting}='{folder}'", *sizes])
    autoencoder = instantiate(used.model.autoencoder)
    latent, lengths = autoencoder.encode(speech_like(1.0)[None], torch.tensor([24_000]))
    assert autoencoder.decode(latent, lengths).shape == (1, 24_000)
