"""The branches of guidance in the model: what each is told, what it costs, and what training has seen of it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import TASKS
from toy import randomised, toy_collator, toy_dataset, toy_model
from unisono.errors import UserError
from unisono.models.backbone import InputFusionDiT, LayerFusionDiT
from unisono.models.content_adapter import CrossAttentionAdapter, PrefixAdapter
from unisono.models.unified import GenerationSettings, UnifiedAudioModel
from unisono.training.losses import AudioGenerationLoss
from unisono.types import Alignment, Batch

VARIANTS = {"prefix": (PrefixAdapter, LayerFusionDiT), "cross": (CrossAttentionAdapter, InputFusionDiT)}


def with_null_instruction(variant: str = "prefix", ratio: float = 0.2) -> UnifiedAudioModel:
    """The toy model, trained to do without instructions; weights that a toy model has are the same."""
    adapter, backbone = VARIANTS[variant]
    toy = toy_model(32, 2, adapter=adapter, backbone=backbone)
    model = UnifiedAudioModel(
        toy.autoencoder,
        toy.instruction_encoder,
        dict(toy.content_encoders.items()),
        toy.content_adapter,
        toy.backbone,
        toy.objective,
        instruction_drop_ratio=ratio,
    )
    model.load_state_dict(toy.state_dict(), strict=False)
    return silenced(randomised(model))


def silenced(model: UnifiedAudioModel) -> UnifiedAudioModel:
    """The same without the sound, which costs most of the time and which nothing here listens to."""
    model.autoencoder.decode = lambda latent, lengths: latent.new_zeros(len(latent), 1)  # type: ignore[method-assign]
    return model


def mixed_batch(root: Path, instruction: str | None = None) -> Batch:
    samples = [toy_dataset(root, task)[i] for i in (0, 3) for task in TASKS]
    if instruction is not None:
        samples = [dataclasses.replace(sample, instruction=instruction) for sample in samples]
    return toy_collator()(samples)


def generate(model: UnifiedAudioModel, batch: Batch, **settings: float | None) -> Tensor:
    chosen = GenerationSettings(num_steps=3, predict_durations=False, **settings)  # type: ignore[arg-type]
    return model.eval().generate(batch, list(range(len(batch))), chosen, [0.5] * len(batch)).latent


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_branch_of_content_alone_knows_the_content_and_not_the_instruction(variant: str, toy_corpus: Path) -> None:
    model, batch = with_null_instruction(variant), mixed_batch(toy_corpus)
    other = mixed_batch(toy_corpus, "Something else entirely, please.")
    content = {"guidance_scale": 1.0, "instruction_guidance_scale": 0.0}
    assert (generate(model, batch, guidance_scale=1.0) - generate(model, other, guidance_scale=1.0)).abs().max() > 1e-3
    # It would be equal, were it not for durations, which are those of the whole: given ones here.
    assert torch.allclose(generate(model, batch, **content), generate(model, other, **content), atol=1e-4)
    nothing = generate(model, batch, guidance_scale=0.0)
    assert (generate(model, batch, **content) - nothing).abs().max() > 1e-3


def test_equal_scales_are_one_scale_in_the_model_too(toy_corpus: Path) -> None:
    """Three branches, one of them scaled a hair differently, against the two of one scale."""
    model, batch = with_null_instruction(), mixed_batch(toy_corpus)
    one = generate(model, batch, guidance_scale=2.0)
    assert torch.equal(generate(model, batch, guidance_scale=2.0, instruction_guidance_scale=2.0), one)
    near = generate(model, batch, guidance_scale=2.0, instruction_guidance_scale=2.0 + 1e-6)
    assert torch.allclose(near, one, atol=1e-3)
    assert (generate(model, batch, guidance_scale=2.0, instruction_guidance_scale=5.0) - one).abs().max() > 1e-2


def test_an_item_alone_equals_the_item_in_a_batch_under_all_kinds_of_guidance(toy_corpus: Path) -> None:
    model = with_null_instruction().eval()
    settings = GenerationSettings(3, 3.0, 2.0, 0.7, 0.2, 0.9, solver="ab2", shift=2.0)
    samples = [toy_dataset(toy_corpus, task)[0] for task in TASKS]
    together = model.generate(toy_collator()(samples), range(3), settings, [0.3, 0.7, None])
    for row, (sample, duration_s) in enumerate(zip(samples, (0.3, 0.7, None), strict=True)):
        alone = model.generate(toy_collator()([sample]), [row], settings, [duration_s])
        frames = int(alone.latent_lengths[0])
        assert frames == int(together.latent_lengths[row])
        assert torch.allclose(alone.latent[0], together.latent[row, :frames], atol=5e-4)
        assert not together.latent[row, frames:].any()


def test_conditions_are_computed_once_and_only_the_branches_asked_for_are_run(
    toy_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch, rows = with_null_instruction().eval(), mixed_batch(toy_corpus), []
    size, calls = len(batch), Counter[str]()
    for owner, name in ((model.backbone, "precompute"), (model.content_adapter, "adapt")):
        original = getattr(owner, name)

        def counted(*arguments: object, name: str = name, original: object = original) -> object:
            calls[name] += 1
            return original(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(owner, name, counted)
    for encoder in model.content_encoders.values():
        encoder.register_forward_hook(lambda *_: calls.update(["encoder"]))
    model.backbone.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    with torch.no_grad():
        generate(model, batch, guidance_scale=1.0)
    assert rows == [size] * 3 and calls == {"precompute": 1, "adapt": 3, "encoder": 3}
    rows.clear()
    calls.clear()
    generate(model, batch, guidance_scale=3.0, instruction_guidance_scale=2.0, guidance_max_sigma=0.9)
    assert rows == [size, 3 * size, 3 * size]  # the first step is at sigma 1
    assert calls == {"precompute": 2, "adapt": 6, "encoder": 3}


def test_a_model_that_never_missed_an_instruction_cannot_guide_by_it(toy_corpus: Path) -> None:
    model, settings = silenced(toy_model(32, 2)), GenerationSettings(num_steps=2, instruction_guidance_scale=4.0)
    for refused in (model.settle, lambda chosen: model.generate(mixed_batch(toy_corpus), range(6), chosen)):
        with pytest.raises(UserError, match=r"instruction_guidance_scale is 4.0.*to null.*instruction_drop_ratio=0.05"):
            refused(settings)
    assert model.settle(dataclasses.replace(settings, instruction_guidance_scale=2.0)).sway == -0.5
    assert with_null_instruction().settle(settings).solver == "euler"


def test_settled_settings_generate_the_same_and_stay(toy_corpus: Path) -> None:
    model, batch = silenced(randomised(toy_model(32, 2))).eval(), mixed_batch(toy_corpus)
    for settings in (GenerationSettings(num_steps=2), GenerationSettings(num_steps=2, solver="heun", shift=3.0)):
        settled = model.settle(settings)
        assert model.settle(settled) == settled and None not in (settled.solver, settled.sway, settled.shift)
        made = [model.generate(batch, range(6), chosen).latent for chosen in (settings, settled)]
        assert torch.equal(*made)


# -- in training ----------------------------------------------------------------------------------------------------


def test_training_drops_all_conditions_of_some_items_and_the_instruction_of_others(toy_corpus: Path) -> None:
    """By one uniform number an item: below 0.1 everything, from there to 0.4 the instruction."""
    model, batch, seen = with_null_instruction(ratio=0.3).train(), mixed_batch(toy_corpus), []
    encode, fuse = model.encode_content, model.fuse
    model.encode_content = lambda *given: (seen.append(given[1]), encode(*given))[1]  # type: ignore[method-assign]
    model.fuse = lambda *given: (seen.append(given[3]), fuse(*given))[1]  # type: ignore[method-assign]
    expected = []
    for seed in range(4):
        torch.manual_seed(seed)
        uniform = torch.rand(6)
        expected += [(uniform >= 0.1) & (uniform < 0.4), uniform < 0.1]
        torch.manual_seed(seed)
        with torch.no_grad():
            model(batch)
    assert torch.equal(torch.stack(seen), torch.stack(expected))
    assert torch.stack(expected[::2]).any() and torch.stack(expected[1::2]).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_item_that_lost_its_instruction_is_what_the_branch_of_content_alone_asks(
    variant: str, toy_corpus: Path
) -> None:
    """Otherwise guidance would ask for something that training has never seen."""
    model, batch = with_null_instruction(variant).eval(), mixed_batch(toy_corpus)
    with torch.no_grad():
        trained = model.encode_content(batch, torch.ones(len(batch), dtype=torch.bool))
        asked = model._content_alone(model.encode_content(batch))
        kept = model.encode_content(batch, torch.zeros(len(batch), dtype=torch.bool))
        for a, b, c, whole in zip(trained, asked, kept, model.encode_content(batch), strict=True):
            assert torch.allclose(a.adapted.content.tensor, b.adapted.content.tensor, atol=1e-5)
            assert torch.equal(c.adapted.content.tensor, whole.adapted.content.tensor)
            if b.alignment is Alignment.UNITS:
                assert torch.equal(b.adapted.local_duration, whole.adapted.local_duration)
            elif b.alignment is Alignment.NONE:
                assert torch.equal(b.adapted.global_duration, whole.adapted.global_duration)
            assert (a.adapted.content.tensor - whole.adapted.content.tensor).abs().max() > 1e-3


def test_the_null_instruction_is_learned_and_always_has_a_gradient(toy_corpus: Path) -> None:
    model, batch = with_null_instruction(ratio=0.9 - 1e-6).train(), mixed_batch(toy_corpus)
    torch.manual_seed(0)
    AudioGenerationLoss()(model(batch)).total.backward()
    assert float(model.null_instruction.grad.abs().sum()) > 0  # type: ignore[union-attr]
    rare = with_null_instruction(ratio=1e-9).train()
    AudioGenerationLoss()(rare(batch)).total.backward()
    assert rare.null_instruction.grad is not None  # type: ignore[union-attr]


def test_without_the_setting_nothing_changes(toy_corpus: Path) -> None:
    """No further weight, so that earlier checkpoints fit; and no other draw of the generator."""
    model, batch = toy_model(32, 2).train(), mixed_batch(toy_corpus)
    assert model.null_instruction is None and "null_instruction" not in model.state_dict()
    torch.manual_seed(3)
    expected_drop = torch.rand(6) < 0.1
    sigma = model.objective.sample_sigma(6, torch.device("cpu"))
    torch.manual_seed(3)
    drops: list[Tensor] = []
    fuse = model.fuse
    model.fuse = lambda *arguments: (drops.append(arguments[3]), fuse(*arguments))[1]  # type: ignore[method-assign]
    output = model(batch)
    assert torch.equal(drops[0], expected_drop) and torch.equal(output.sigma, sigma)


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({"instruction_drop_ratio": -0.1}, "instruction_drop_ratio -0.1; neither may be negative"),
        ({"instruction_drop_ratio": math.nan}, "instruction_drop_ratio nan"),
        ({"cfg_drop_ratio": math.nan}, "cfg_drop_ratio is nan"),
        ({"cfg_drop_ratio": 0.5, "instruction_drop_ratio": 0.5}, "0.5.*sum must be below 1"),
    ],
)
def test_impossible_shares_are_refused(ratios: dict[str, float], message: str) -> None:
    toy = toy_model(32, 2)
    parts = (toy.autoencoder, toy.instruction_encoder, dict(toy.content_encoders.items()), toy.content_adapter)
    with pytest.raises(ValueError, match=message):
        UnifiedAudioModel(*parts, toy.backbone, toy.objective, **ratios)


def test_a_model_that_never_went_without_conditions_is_not_guided() -> None:
    toy = toy_model(32, 2)
    parts = (toy.autoencoder, toy.instruction_encoder, dict(toy.content_encoders.items()), toy.content_adapter)
    model = UnifiedAudioModel(*parts, toy.backbone, toy.objective, cfg_drop_ratio=0.0)
    with pytest.raises(UserError, match=r"guidance_scale is 2.0, but .* set guidance_scale to 1, or train with"):
        model.settle(GenerationSettings())
    assert model.settle(GenerationSettings(guidance_scale=1.0)).guidance_scale == 1.0
