"""A model trained on eight clips per task must reproduce each of them: a condition that is not wired fails here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from conftest import TASKS
from toy import toy_collator, toy_dataset, toy_model
from unisono.models.unified import GenerationSettings, UnifiedAudioModel
from unisono.training.losses import AudioGenerationLoss
from unisono.training.processes import best_precision
from unisono.types import Batch, Sample

STEPS = 400


@pytest.fixture(scope="module")
def samples(toy_corpus: Path) -> list[Sample]:
    return [toy_dataset(toy_corpus, task)[i] for task in TASKS for i in range(8)]


@pytest.fixture(scope="module")
def trained(samples: list[Sample]) -> UnifiedAudioModel:
    """One small model for all three tasks, bare PyTorch loop."""
    batch, loss_fn = toy_collator()(samples), AudioGenerationLoss()
    model = toy_model(64, 4).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS, pct_start=0.1)
    for step in range(STEPS):
        torch.manual_seed(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=best_precision(torch.device("cpu")) == "bf16"):
            loss = loss_fn(model(batch)).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Root mean square distance between all pairs of latents, ``(len(a), len(b))``."""
    return ((a[:, None] - b[None]) ** 2).mean(dim=(2, 3)).sqrt()


@pytest.mark.parametrize("task", TASKS)
def test_every_item_is_nearest_to_its_own_target(task: str, trained: UnifiedAudioModel, samples: list[Sample]) -> None:
    own = [sample for sample in samples if sample.task == task]
    batch = toy_collator()(own)
    target, lengths = trained.autoencoder.encode(batch.waveform, batch.waveform_lengths)
    made = trained.generate(
        batch, range(8), GenerationSettings(num_steps=24, guidance_scale=1.5, predict_durations=True)
    )
    assert (made.latent_lengths - lengths).abs().max() <= 2, "predicted lengths"
    latent = torch.nn.functional.pad(made.latent, (0, 0, 0, 2))[:, : target.shape[1]]
    between = distances(target, target)
    mean_between = between[~torch.eye(8, dtype=torch.bool)].mean()
    to_targets = distances(latent, target)
    assert to_targets.argmin(dim=1).tolist() == list(range(8))
    assert (to_targets.diag() / mean_between).max() < 1 / 3


def fixed_loss(model: UnifiedAudioModel, batch: Batch) -> float:
    noise = torch.randn(8, 30, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses = [
            AudioGenerationLoss()(model(batch, sigma=torch.full((8,), s), noise=noise)).prediction_error.mean()
            for s in (0.3, 0.6, 0.9)
        ]
    return float(sum(losses))


@pytest.mark.parametrize("task", TASKS)
def test_shuffled_content_raises_the_validation_loss(
    task: str, trained: UnifiedAudioModel, samples: list[Sample]
) -> None:
    own = [sample for sample in samples if sample.task == task]
    shuffled = [dataclasses.replace(s, content=own[(i + 3) % 8].content) for i, s in enumerate(own)]
    right, wrong = fixed_loss(trained, toy_collator()(own)), fixed_loss(trained, toy_collator()(shuffled))
    assert wrong > 1.5 * right
