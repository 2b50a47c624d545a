"""Properties of the model: wiring, padding, batches, alignment."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from conftest import TASKS
from toy import randomised, toy_collator, toy_dataset, toy_model
from unisono.models.backbone import InputFusionDiT, LayerFusionDiT
from unisono.models.content_adapter import CrossAttentionAdapter, PrefixAdapter
from unisono.models.length_regulator import expand
from unisono.models.unified import GenerationSettings
from unisono.training.losses import AudioGenerationLoss

SETTINGS = GenerationSettings(num_steps=4, guidance_scale=2.0)


VARIANTS = {"prefix": (PrefixAdapter, LayerFusionDiT), "cross": (CrossAttentionAdapter, InputFusionDiT)}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def model(request: pytest.FixtureRequest):
    adapter, backbone = request.param
    return randomised(toy_model(32, 4, adapter=adapter, backbone=backbone)).eval()


def mixed_samples(root: Path) -> list:
    return [toy_dataset(root, task)[i] for i in (0, 3) for task in TASKS]


def test_expand_equals_an_alignment_matrix() -> None:
    torch.manual_seed(0)
    units = torch.randn(3, 5, 4)
    ends = torch.tensor([[2, 2, 5, 7, 9], [1, 4, 9, 9, 9], [3, 6, 6, 8, 8]])
    frames = expand(units, ends, 9)
    for row in range(3):
        begins = torch.cat([torch.zeros(1).long(), ends[row, :-1]])
        for t in range(int(ends[row, -1])):
            unit = next(u for u in range(5) if begins[u] <= t < ends[row, u])
            assert torch.equal(frames[row, t], units[row, unit])
    assert torch.equal(frames[2, 8], units[2, 3])  # one frame past the end keeps the last unit that has any


def test_every_parameter_gets_a_gradient_from_a_mixed_batch(model, toy_corpus: Path) -> None:
    model.train()
    batch = toy_collator()(mixed_samples(toy_corpus))
    drop = torch.tensor([False, False, False, True, True, True])
    AudioGenerationLoss()(model(batch, drop=drop)).total.backward()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trainable.items() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(not p.requires_grad for p in model.autoencoder.parameters())


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_of_one_task_leaves_no_parameter_without_gradient_tensor(task: str, toy_corpus: Path) -> None:
    """Otherwise distributed training stalls on the rank that lacks a modality."""
    model = randomised(toy_model(32, 2)).train()
    batch = toy_collator()([toy_dataset(toy_corpus, task)[0]])
    AudioGenerationLoss()(model(batch)).total.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_an_item_alone_equals_the_item_in_a_batch(model, toy_corpus: Path) -> None:
    samples = [dataclasses.replace(s, waveform=None) for s in mixed_samples(toy_corpus)]
    # Lengths differ, so that there is padding.
    long = dataclasses.replace(samples[2].content[0], waveform=torch.randn(31_000) * 0.1)
    samples[2] = dataclasses.replace(samples[2], content=(long,))
    together = model.generate(toy_collator()(samples), list(range(len(samples))), SETTINGS)
    for i, sample in enumerate(samples):
        alone = model.generate(toy_collator()([sample]), [i], SETTINGS)
        frames = int(alone.latent_lengths[0])
        assert frames == int(together.latent_lengths[i])
        assert torch.allclose(alone.latent[0], together.latent[i, :frames], atol=2e-4)
        heard = together.waveform[i, : alone.waveform.shape[1]]
        assert (alone.waveform[0] - heard).abs().max() < 1e-3 * heard.abs().max()
        assert not together.latent[i, frames:].any()


def test_permuting_a_batch_permutes_the_result(model, toy_corpus: Path) -> None:
    samples = mixed_samples(toy_corpus)
    order = [4, 2, 0, 5, 1, 3]
    a = model.generate(toy_collator()(samples), list(range(6)), SETTINGS)
    b = model.generate(toy_collator()([samples[i] for i in order]), order, SETTINGS)
    assert torch.allclose(a.latent[order], b.latent, atol=2e-4)


def test_dropping_conditions_equals_the_null_branch(model, toy_corpus: Path) -> None:
    batch = toy_collator()(mixed_samples(toy_corpus))
    everything = torch.ones(6, dtype=torch.bool)
    lengths = torch.full((6,), 30)
    frames, context = model.fuse(model.encode_content(batch), lengths, 30, everything)
    assert torch.allclose(frames, model.null_frame.expand_as(frames))
    assert context.mask[:, 0].all() and not context.mask[:, 1:].any()


@pytest.mark.parametrize(("index", "what"), [(0, "caption"), (1, "phonemes"), (2, "noisy audio")])
def test_content_and_instruction_reach_the_output(model, toy_corpus: Path, index: int, what: str) -> None:
    samples = mixed_samples(toy_corpus)
    sigma, noise = torch.tensor([0.5]), torch.randn(1, 30, 40)
    sample, other = samples[index], samples[index + 3]
    base = model(toy_collator()([sample]), sigma=sigma, noise=noise).prediction
    changed = dataclasses.replace(sample, content=other.content)
    assert (model(toy_collator()([changed]), sigma=sigma, noise=noise).prediction - base).abs().max() > 1e-3, what
    instructed = dataclasses.replace(sample, instruction="Do something else entirely.")
    assert (model(toy_collator()([instructed]), sigma=sigma, noise=noise).prediction - base).abs().max() > 1e-5, what


def test_alignment_moves_with_the_durations(model, toy_corpus: Path) -> None:
    sample = toy_dataset(toy_corpus, "text_to_speech")[0]
    content = sample.content[0]
    moved = dataclasses.replace(content, durations_s=content.durations_s.roll(1))
    lengths = torch.tensor([30])
    ends = []
    for c in (content, moved):
        encoded = model.encode_content(toy_collator()([dataclasses.replace(sample, content=(c,))]))
        frames, _ = model.fuse(encoded, lengths, 30, None)
        ends.append((frames[0].diff(dim=0).abs().sum(-1) > 1e-6).nonzero().flatten() + 1)
    expected = torch.floor(content.durations_s.double().cumsum(0) * 50 + 0.5).long()[:-1]
    assert ends[0].tolist() == expected.tolist()
    assert ends[1].tolist() == torch.floor(moved.durations_s.double().cumsum(0) * 50 + 0.5).long()[:-1].tolist()
    assert ends[0].tolist() != ends[1].tolist()


def test_a_wanted_duration_stretches_the_units(model, toy_corpus: Path) -> None:
    samples = mixed_samples(toy_corpus)[:2]
    made = model.generate(toy_collator()(samples), [0, 1], SETTINGS, duration_s=[1.0, 2.0])
    assert made.latent_lengths.tolist() == [50, 100]
    assert made.lengths.tolist() == [24_000, 48_000]


def test_a_padded_frame_never_reaches_the_output(model) -> None:
    torch.manual_seed(0)
    from unisono.types import Condition

    frames, x = torch.randn(1, 12, 32), torch.randn(1, 12, 40)
    context = Condition(torch.randn(1, 3, 32), torch.ones(1, 3).bool())
    mask = torch.arange(12)[None] < 9
    sigma = torch.tensor([0.4])
    a = model.backbone(x, sigma, model.backbone.precompute(frames, mask, context))
    x2, frames2 = x.clone(), frames.clone()
    x2[:, 9:], frames2[:, 9:] = 7.0, -7.0
    b = model.backbone(x2, sigma, model.backbone.precompute(frames2, mask, context))
    assert torch.allclose(a, b, atol=1e-6)
    assert not a[:, 9:].any()


def test_predicted_alignment_moves_with_predicted_durations(model, toy_corpus: Path) -> None:
    sample = toy_dataset(toy_corpus, "text_to_speech")[0]
    settings = dataclasses.replace(SETTINGS, predict_durations=True)
    lengths, ends = [], []
    for shift in (1.0, 1.5):
        with torch.no_grad():
            model.content_adapter.local_predictor.network[-1].bias.fill_(shift)
        batch = toy_collator()([dataclasses.replace(sample, waveform=None)])
        encoded = model.encode_content(batch)
        length = model.generated_lengths(encoded, 1, settings)
        assert model.generate(batch, [0], settings).latent_lengths.tolist() == length.tolist()
        lengths.append(int(length))
        ends.append(model._unit_ends(encoded[0], length, predict=True)[0].tolist())
    # exp(prediction) - 1 frames per unit: half as much again in the exponent.
    assert lengths[1] > 1.5 * lengths[0]
    assert all(later >= earlier for earlier, later in zip(*ends, strict=True))
    assert ends[0][-1] == lengths[0] and ends[1][-1] == lengths[1]


def test_a_batch_without_padding_needs_no_mask(model, toy_corpus: Path) -> None:
    samples = mixed_samples(toy_corpus)
    batch = toy_collator()(samples)
    assert batch.is_full and {len(s.waveform) for s in samples} == {14_400}
    shorter = dataclasses.replace(samples[0], waveform=samples[0].waveform[:13_900])  # one of 30 frames less
    assert not toy_collator()([shorter, *samples[1:]]).is_full
    noise, sigma = torch.randn(6, 30, 40), torch.linspace(0.1, 0.9, 6)
    masked = model(dataclasses.replace(batch, is_full=False), sigma=sigma, noise=noise).prediction
    assert torch.allclose(model(batch, sigma=sigma, noise=noise).prediction, masked, atol=1e-5)
    with_latents = model.with_latents(batch)
    assert "latent" in with_latents.contents["audio"].inputs
    again = model(with_latents, sigma=sigma, noise=noise)
    assert torch.equal(again.prediction, model(batch, sigma=sigma, noise=noise).prediction)
