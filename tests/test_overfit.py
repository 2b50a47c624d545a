"""One model trained on four clips of each of eight tasks reproduces them: a condition that is not wired fails here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from eight_tasks import (
    CLIPS_PER_TASK,
    eight_task_collator,
    eight_task_corpus,
    eight_task_model,
    eight_task_samples,
    fit,
    generate,
    log_mel_for,
    with_latents,
)
from unisono.data.datasets import DATASETS
from unisono.models.generation import Generated, GenerationSettings
from unisono.models.unified import UnifiedAudioModel
from unisono.training.losses import AudioGenerationLoss
from unisono.types import Batch, Sample

SHORT = (0.7, 0.6, 0.5, 0.4)
"""Seconds of the four clips of a task; units (speech, singing) are never cut, so theirs are somewhat shorter."""
LONG = (1.4, 1.2, 1.0, 0.8)


@dataclass(frozen=True)
class Trained:
    """A trained model, the clips it saw, and what it makes of their content and instructions alone."""

    model: UnifiedAudioModel
    samples: list[Sample]
    batch: Batch
    made: Generated


@pytest.fixture(
    scope="module",
    params=[pytest.param((SHORT, 2, 180), id="short"), pytest.param((LONG, 4, 400), id="long", marks=pytest.mark.slow)],
)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    crops_s, layers, steps = request.param
    corpus = eight_task_corpus(tmp_path_factory.mktemp("eight tasks") / "corpus")
    return overfitted(eight_task_samples(corpus, crops_s), layers, steps)


def overfitted(samples: list[Sample], layers: int, steps: int, seed: int = 0) -> Trained:
    autoencoder = log_mel_for([sample.waveform for sample in samples if sample.waveform is not None])
    model, collate = eight_task_model(autoencoder, layers=layers, seed=seed), eight_task_collator()
    encoded = [with_latents(model, sample) for sample in samples]

    def batch_of(step: int) -> Batch:
        """All clips, each time in another order: a row that gets its neighbour's content cannot be learned."""
        return collate([encoded[i] for i in np.random.default_rng([seed, step]).permutation(len(encoded))])

    fit(model, batch_of, steps, seed=seed)
    contents = [dataclasses.replace(sample, waveform=None) for sample in samples]
    settings = GenerationSettings(num_steps=16, guidance_scale=1.5, predict_durations=True, max_duration_s=3.0)
    return Trained(model, samples, collate(encoded), generate(model, contents, settings))


def distances(a: torch.Tensor, a_lengths: torch.Tensor, b: torch.Tensor, b_lengths: torch.Tensor) -> torch.Tensor:
    """Root mean square distance of all pairs of latents ``(N, T, C)`` over the frames that both have, ``(N, N)``."""
    num_frames = min(a.shape[1], b.shape[1])
    both = torch.minimum(a_lengths[:, None], b_lengths)
    squares = ((a[:, None, :num_frames] - b[:, :num_frames]) ** 2).mean(dim=3)
    return ((squares * (torch.arange(num_frames) < both[..., None])).sum(dim=2) / both).sqrt()


def rows_of(task: str, samples: list[Sample]) -> list[int]:
    return [row for row, sample in enumerate(samples) if sample.task == task]


def targets_of(trained: Trained) -> tuple[torch.Tensor, torch.Tensor]:
    assert trained.batch.latent is not None and trained.batch.latent_lengths is not None
    return trained.batch.latent, trained.batch.latent_lengths


def test_all_clips_differ_and_each_task_has_four(trained: Trained) -> None:
    """Otherwise being nearest to the own clip would say little."""
    assert [len(rows_of(task, trained.samples)) for task in DATASETS] == [CLIPS_PER_TASK] * 8
    between = distances(*targets_of(trained), *targets_of(trained))
    between.fill_diagonal_(torch.inf)
    assert float(between.min()) > 0.4, between.min(dim=1)


@pytest.mark.parametrize("task", DATASETS)
def test_what_is_made_is_nearest_to_its_own_target(task: str, trained: Trained) -> None:
    """Of the clips of all tasks, and by far."""
    own = torch.tensor(rows_of(task, trained.samples))
    to_targets = distances(trained.made.latent, trained.made.latent_lengths, *targets_of(trained))[own]
    to_own = to_targets.gather(1, own[:, None])[:, 0]
    to_others = to_targets.scatter(1, own[:, None], torch.inf).min(dim=1).values
    assert (to_own < 0.8 * to_others).all(), f"to the own clips {to_own}, to the nearest others {to_others}"


@pytest.mark.parametrize("task", DATASETS)
def test_lengths_are_predicted(task: str, trained: Trained) -> None:
    """Of the whole for captions, per unit for phonemes and scores; content in frames has them."""
    own = rows_of(task, trained.samples)
    made, true = trained.made.latent_lengths[own], targets_of(trained)[1][own]
    assert (made - true).abs().max() <= 2, f"predicted {made.tolist()}, true {true.tolist()} frames"


def fixed_loss(trained: Trained, samples: list[Sample], own: list[int]) -> float:
    """Mean error of the prediction at three noise levels, always with the same noise."""
    latent, lengths = targets_of(trained)
    batch = dataclasses.replace(
        eight_task_collator()([dataclasses.replace(sample, waveform=None) for sample in samples]),
        latent=latent[own],
        latent_lengths=lengths[own],
        waveform_lengths=trained.batch.waveform_lengths[own],
    )
    noise = torch.randn(batch.latent.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = [trained.model(batch, sigma=torch.full((len(own),), s), noise=noise) for s in (0.3, 0.6, 0.9)]
    return float(sum(AudioGenerationLoss()(output).prediction_error.mean() for output in outputs))


@pytest.mark.parametrize("task", DATASETS)
def test_another_items_content_raises_the_loss(task: str, trained: Trained) -> None:
    own = rows_of(task, trained.samples)
    samples = [trained.samples[row] for row in own]
    exchanged = [dataclasses.replace(s, content=samples[i - 1].content) for i, s in enumerate(samples)]
    right, wrong = fixed_loss(trained, samples, own), fixed_loss(trained, exchanged, own)
    assert wrong > 1.5 * right, f"loss {right:.3f} with the own content, {wrong:.3f} with another's"
