"""Compiled blocks: as many programs as there are shapes, and no more, however long the run."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from toy import randomised, toy_collator, toy_model
from unisono.data.loader import train_dataloader
from unisono.errors import UserError
from unisono.models.compilation import compile_modules
from unisono.models.unified import UnifiedAudioModel
from unisono.training.losses import AudioGenerationLoss
from unisono.types import Sample, TextContent

SAMPLE_RATE, HOP = 24_000, 480


class Tones:
    """Clips of 0.2 to 1.4 s with captions of 5 to 59 letters."""

    def __init__(self, count: int = 80) -> None:
        rng = np.random.default_rng(0)
        self.durations_s = rng.integers(10, 70, count) * HOP / SAMPLE_RATE
        self.letters = rng.integers(5, 60, count)

    def __len__(self) -> int:
        return len(self.durations_s)

    def __getitem__(self, index: int) -> Sample:
        index %= len(self)  # which pass it is stands before it
        waveform = torch.sin(torch.arange(round(self.durations_s[index] * SAMPLE_RATE)) * 0.05 * (1 + index % 7))
        return Sample(str(index), "text_to_audio", "Make it.", (TextContent("a" * int(self.letters[index])),), waveform)


class Programs:
    """A backend of ``torch.compile`` that counts what it is asked to compile, and runs it as it is."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.count += 1
        return graph.forward


@pytest.fixture
def programs() -> Any:
    torch._dynamo.reset()
    yield Programs()
    torch._dynamo.reset()


def losses(model: UnifiedAudioModel, steps: int, **options: Any) -> list[float]:
    """Of the first steps over the tones, without an update."""
    loader = train_dataloader(Tones(), 6, toy_collator(), num_buckets=3, **options)
    loss_fn, found = AudioGenerationLoss(), []
    for step, batch in zip(range(steps), loader, strict=False):
        torch.manual_seed(step)
        total = loss_fn(model(batch)).total
        total.backward()
        found.append(float(total.detach()))
    return found


@pytest.mark.slow
def test_static_shapes_make_a_program_per_bucket_and_caption_length(programs: Programs) -> None:
    model = randomised(toy_model(16, 2)).train()
    compile_modules(model.backbone.blocks, {"backend": programs, "dynamic": False, "fullgraph": True})
    seen = set()
    loader = train_dataloader(Tones(), 6, toy_collator(), num_buckets=3, static_shapes=True)
    for step, batch in zip(range(40), loader, strict=False):
        frames, text = batch.waveform.shape[1] // HOP, batch.contents["text"].inputs["tokens"].shape[1]
        seen.add((len(batch), frames, text))
        batch = dataclasses.replace(batch, is_full=False)  # by chance; it has programs of its own
        torch.manual_seed(step)
        model(batch).prediction.sum().backward()
        # Blocks with a skip and blocks without: two programs for each shape, shared by all blocks.
        assert programs.count == 2 * len(seen), f"step {step}"
    assert {frames for _, frames, _ in seen} == {bucket for _, bucket, _ in seen} and 4 <= len(seen) <= 6
    assert len({frames for _, frames, _ in seen}) == 3 and {text for *_, text in seen} == {32, 64}


@pytest.mark.slow
def test_without_static_shapes_programs_are_few_too(programs: Programs) -> None:
    model = randomised(toy_model(16, 2)).train()
    compile_modules(model.backbone.blocks, {"backend": programs})
    losses(model, 20)
    after = programs.count
    losses(model, 40)
    assert after <= 8, "each dimension that varies is made dynamic when it first does"
    assert programs.count == after


def test_padding_to_static_shapes_changes_no_loss() -> None:
    model = randomised(toy_model(32, 2)).eval()
    torch.manual_seed(0)
    noise = torch.randn(6, 80, 40)
    found = []
    for static in (False, True):
        loader = train_dataloader(Tones(), 6, toy_collator(), num_buckets=3, static_shapes=static)
        batch = next(iter(loader))
        frames = -(-batch.waveform.shape[1] // HOP)
        with torch.no_grad():
            output = model(batch, sigma=torch.linspace(0.1, 0.9, 6), noise=noise[:, :frames])
            found.append(AudioGenerationLoss()(output).total)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=0.0)


@pytest.mark.slow
def test_compiled_programs_give_the_same_losses_and_gradients() -> None:
    """By the compiler that users have, inductor, with static and with dynamic shapes."""
    results = []
    for options in (None, {"dynamic": False}, {}):
        torch._dynamo.reset()
        model = randomised(toy_model(16, 2)).train()
        if options is not None:
            compile_modules(model.backbone.blocks, options or True)
        found = losses(model, 4, static_shapes=True)
        results.append((found, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    for found, gradients in results[1:]:
        assert found == pytest.approx(results[0][0], rel=1e-4)
        for mine, plain in zip(gradients, results[0][1], strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-2, atol=1e-4 * float(plain.abs().max() + 1))


def test_a_collate_function_that_cannot_is_refused() -> None:
    with pytest.raises(UserError, match="static_shapes is true, but builtin_function_or_method has no with_static"):
        train_dataloader(Tones(), 6, len, static_shapes=True)
