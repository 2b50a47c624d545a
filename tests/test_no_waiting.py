"""Nothing in a training step or in a solver step asks a device for a value: each question stalls a GPU.

The steps run on fake tensors, which have no values: whoever asks for one fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from unisono.config import compose
from unisono.models.generation import GenerationSettings
from unisono.models.unified import UnifiedAudioModel
from unisono.objectives import guided
from unisono.training.fake_step import _make_fake, model_without_weights, synthetic_batch
from unisono.training.losses import AudioGenerationLoss
from unisono.types import Batch, length_mask

_STALLS = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__")


@pytest.fixture
def no_stalls(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and from then on every way from a tensor to its values fails."""

    def forbid() -> None:
        for name in _STALLS:

            def stall(*args: Any, name: str = name, **kwargs: Any) -> None:
                raise AssertionError(f"Tensor.{name} waits for the device")

            monkeypatch.setattr(torch.Tensor, name, stall)

    return forbid


CHOICES: list[list[str]] = [
    [],
    ["model.instruction_drop_ratio=0.1"],
    ["model/backbone=input_fusion_dit", "model/content_adapter=cross_attention_adapter"],
    ["model/objective=diffusion"],
]


@pytest.fixture(params=CHOICES, ids=["default", "instruction", "input fusion", "diffusion"])
def without_values(request: pytest.FixtureRequest) -> Iterator[tuple[UnifiedAudioModel, Batch]]:
    cfg = compose("default", request.param)
    model = model_without_weights(cfg.model).train()
    assert isinstance(model, UnifiedAudioModel)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _make_fake(model, torch.device("cpu"))
        yield model, synthetic_batch(model, 12, 2.0)


def test_a_training_step(without_values: tuple[UnifiedAudioModel, Batch], no_stalls: Callable[[], None]) -> None:
    model, batch = without_values
    assert set(batch.contents) == set(model.content_encoders)
    loss_fn = AudioGenerationLoss(task_weights={"text_to_audio": 2.0})
    loss_fn(model(batch))  # what is made once
    no_stalls()
    with torch.autocast("cpu", torch.bfloat16):
        loss_fn(model(batch)).total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


# Diffusion's schedulers make their tables of real numbers, before the first step.
@pytest.mark.parametrize("without_values", CHOICES[:3], ids=["default", "instruction", "input fusion"], indirect=True)
def test_the_steps_of_every_solver(
    without_values: tuple[UnifiedAudioModel, Batch], no_stalls: Callable[[], None]
) -> None:
    model, batch = without_values
    asks = {"instruction_guidance_scale": 3.0} if model.instruction_drop_ratio else {}
    settings = GenerationSettings(num_steps=3, guidance_rescale=0.5, guidance_min_sigma=0.2, **asks)
    noise = torch.zeros(12, 100, model.autoencoder.latent_dim)
    no_stalls()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        encoded = model.encode_content(batch)
        lengths = torch.full((12,), 100)
        mask = length_mask(lengths, 100)
        predict = guided(model._branches(encoded, lengths, mask, False, is_full=False), settings.guidance, mask)
        for solver in model.objective.solvers:
            assert model.objective.generate(predict, noise, 3, solver).shape == noise.shape


@pytest.mark.parametrize("stall", [*_STALLS, "masked_select"])
def test_what_stalls_is_noticed(no_stalls: Callable[[], None], stall: str) -> None:
    with FakeTensorMode():
        there = torch.ones(1)
        arguments = (there > 0,) if stall == "masked_select" else ()
        no_stalls()
        with pytest.raises((AssertionError, DynamicOutputShapeException)):
            getattr(there, stall)(*arguments)
