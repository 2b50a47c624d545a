"""The estimate of a training step: its counts against real steps, its parts against their definitions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from unisono.config import compose
from unisono.errors import UserError
from unisono.training import estimate as estimate_module
from unisono.training.estimate import StepEstimate, estimate_step, format_estimate, parameter_table, process_bytes
from unisono.training.fake_step import (
    StepMeter,
    StepNeeds,
    measure_fake_step,
    model_without_weights,
    stand_in_loss,
    synthetic_batch,
)
from unisono.types import Alignment, Condition

CPU = torch.device("cpu")
ADAMW = OmegaConf.create({"_target_": "torch.optim.AdamW", "_partial_": True, "fused": True})
MODELS = Path(__file__).parents[1] / "configs" / "model"


@pytest.fixture(scope="module")
def toy() -> DictConfig:
    """The model of debug=cpu."""
    model = compose("default", ["debug=cpu"]).model
    # Its convolutions outweigh a toy's blocks, and are not checkpointed.
    del model.content_encoders.video
    return model


def fake_step(model: DictConfig, optimizer: DictConfig = ADAMW, **changes) -> tuple[nn.Module, StepNeeds]:
    options = {
        "batch_size": 3, "duration_s": 0.5, "micro_batches": 1, "bf16": False, "ema": True, "device": CPU,
    } | changes  # fmt: skip
    return measure_fake_step(model, optimizer, **options)


@pytest.fixture(scope="module")
def twelve_clips(toy: DictConfig) -> StepNeeds:
    return fake_step(toy, batch_size=12, duration_s=2.0)[1]


# -- the meter ------------------------------------------------------------------------------------------------------


def test_meter_counts_what_is_alive_once():
    with FakeTensorMode(), StepMeter() as meter:
        x = torch.zeros(1000)
        view = x.view(10, 100)
        assert meter.live_bytes == 4000
        y = view * 2 + 1  # 4000 of x, of the product and of the sum
        assert (meter.live_bytes, meter.peak_bytes) == (8000, 12000)
        del x
        assert meter.live_bytes == 8000  # the view keeps it
        del view, y
        assert (meter.live_bytes, meter.peak_bytes) == (0, 12000)


def test_meter_counts_operations_of_products_and_attention():
    query = torch.zeros(2, 4, 50, 16, requires_grad=True)
    mask = torch.ones(2, 1, 1, 50, dtype=torch.bool)
    with StepMeter() as meter:
        torch.zeros(3, 5) @ torch.zeros(5, 7)
        assert meter.flops == 2 * 3 * 5 * 7
        meter.restart()
        out = nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
        one_product = 2 * (2 * 4 * 50 * 50 * 16)
        assert meter.flops == 2 * one_product
        out.sum().backward()
        # Backward computes the weights again, and the gradients of weights, values, queries and keys.
        assert meter.flops == (2 + 5) * one_product


# -- the fake step against a real one -------------------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_fake_step_takes_what_a_real_one_takes(toy, bf16):
    _, needs = fake_step(toy, bf16=bf16, ema=False)
    with StepMeter() as meter:  # it counts real tensors as well
        model = instantiate(toy).train()
        batch = synthetic_batch(model, 3, 0.5)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for _ in range(2):
            meter.restart()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = stand_in_loss(model(batch))
            loss.backward()
            del loss
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    assert needs.micro_batch_flops == meter.flops
    assert needs.peak_bytes == pytest.approx(meter.peak_bytes, rel=0.01)


def test_activations_are_what_autograd_saves(toy):
    _, needs = fake_step(toy)
    model = instantiate(toy).train()
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = synthetic_batch(model, 3, 0.5)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = stand_in_loss(model(batch))
    assert loss.requires_grad  # and so the graph, with all it saved, is alive
    assert needs.activation_bytes == pytest.approx(sum(saved.values()), rel=0.03)


def test_nothing_of_a_large_model_is_allocated():
    cfg = compose("default", ["model=large"])
    model, needs = fake_step(cfg.model, cfg.optimizer, batch_size=1, duration_s=0.2)
    assert all(isinstance(tensor, FakeTensor) for tensor in (*model.parameters(), *model.buffers()))
    assert needs.peak_bytes > 18e9


# -- its parts ------------------------------------------------------------------------------------------------------


def test_weights_gradients_and_ema(toy):
    real = instantiate(toy)
    trainable = sum(p.numel() for p in real.parameters())
    buffers = sum(b.numel() for b in real.buffers())
    _, needs = fake_step(toy)
    assert needs.weights_bytes == 4 * (trainable + buffers)
    assert needs.gradient_bytes == needs.ema_bytes == 4 * trainable
    _, without = fake_step(toy, ema=False)
    assert without.ema_bytes == 0
    assert needs.resting_bytes - without.resting_bytes == 4 * trainable


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [({"name": "AdamW", "fused": True}, 2), ({"name": "SGD"}, 0), ({"name": "SGD", "momentum": 0.9}, 1),
     ({"name": "AdamW", "amsgrad": True}, 3), ({"name": "NAdam"}, 2)],
)  # fmt: skip
def test_optimizer_state_in_copies_of_the_weights(toy, optimizer, copies):
    settings = {"_target_": f"torch.optim.{optimizer.pop('name')}", "_partial_": True, "lr": 1e-3} | optimizer
    _, needs = fake_step(toy, OmegaConf.create(settings))
    # A few bytes more per parameter for its step count.
    assert needs.optimizer_bytes == pytest.approx(copies * needs.gradient_bytes, rel=1e-2)


def test_factored_optimizer_state_is_small(toy):
    _, needs = fake_step(toy, OmegaConf.create({"_target_": "torch.optim.Adafactor", "_partial_": True}))
    assert 0 < needs.optimizer_bytes < 0.2 * needs.gradient_bytes


def test_activations_grow_with_the_batch_and_shrink_with_bf16(toy, twelve_clips):
    one = twelve_clips
    _, two = fake_step(toy, batch_size=24, duration_s=2.0)
    _, half = fake_step(toy, batch_size=12, duration_s=2.0, bf16=True)
    assert two.activation_bytes == pytest.approx(2 * one.activation_bytes, rel=0.02)
    assert two.micro_batch_flops == pytest.approx(2 * one.micro_batch_flops, rel=0.02)
    assert 0.5 * one.activation_bytes < half.activation_bytes < 0.9 * one.activation_bytes


def test_gradient_checkpointing_trades_memory_for_operations(toy, twelve_clips):
    again = OmegaConf.merge(toy, {"backbone": {"gradient_checkpointing": True}})
    needs = fake_step(again, batch_size=12, duration_s=2.0)[1]
    assert needs.activation_bytes < 0.7 * twelve_clips.activation_bytes
    assert 1.05 < needs.micro_batch_flops / twelve_clips.micro_batch_flops < 1.4


def test_accumulated_gradients_lie_beside_activations(toy, twelve_clips):
    one = twelve_clips
    _, two = fake_step(toy, batch_size=12, duration_s=2.0, micro_batches=2)
    _, four = fake_step(toy, batch_size=12, duration_s=2.0, micro_batches=4)
    assert two.peak_bytes - one.peak_bytes == pytest.approx(one.gradient_bytes, rel=0.02)
    assert four.peak_bytes == two.peak_bytes
    assert two.micro_batch_flops == one.micro_batch_flops


def test_parameter_table_counts_every_parameter_once(toy):
    model = instantiate(toy)
    model.content_encoders["audio"].requires_grad_(False)
    model.instruction_encoder.shared = model.backbone.input.weight
    table = {part.name: part for part in parameter_table(model)}
    assert sum(part.trainable + part.frozen for part in table.values()) == sum(p.numel() for p in model.parameters())
    audio = sum(p.numel() for p in model.content_encoders["audio"].parameters())
    assert (table["content_encoders.audio"].trainable, table["content_encoders.audio"].frozen) == (0, audio)
    assert table["autoencoder"].trainable == table["autoencoder"].frozen == 0
    assert table["other"].trainable == 2 * model.backbone.frames_dim  # the null embeddings


# -- the whole estimate ---------------------------------------------------------------------------------------------


def test_seconds_follow_from_operations_and_parameters(toy, monkeypatch):
    monkeypatch.setattr(estimate_module, "block_flops_per_s", lambda *_: 1e9)
    monkeypatch.setattr(estimate_module, "update_s_per_parameter", lambda *_: 1e-6)
    result = estimate_step(toy, ADAMW, batch_size=3, duration_s=0.5, gradient_accumulation_steps=4)
    parameters = sum(part.trainable for part in result.components)
    computing_s = 4 * result.needs.micro_batch_flops / (1e9 * estimate_module.EFFICIENCY)
    assert result.seconds == pytest.approx(computing_s + 1e-6 * parameters)


def test_estimate_is_of_this_device_and_leaves_the_random_numbers_alone(toy):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    result = estimate_step(toy, ADAMW, batch_size=3, duration_s=0.5, mixed_precision="bf16")
    assert torch.rand(1) == expected
    assert 1e-4 < result.seconds < 100
    assert result.varied_memory_bytes > result.memory_bytes > result.needs.peak_bytes
    assert process_bytes(result.needs, torch.device("cuda"), overhead=2.0) == result.needs.peak_bytes
    coming_and_going = result.needs.peak_bytes - result.needs.resting_bytes
    more = process_bytes(result.needs, CPU, overhead=3.0) - process_bytes(result.needs, CPU, overhead=2.0)
    assert more == coming_and_going


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"duration_s": 0.0}, {"gradient_accumulation_steps": 0}, {"mixed_precision": "fp16"}]
)
def test_nonsense_is_refused(toy, wrong):
    with pytest.raises(ValueError, match=re.escape(str(next(iter(wrong.values()))))):
        estimate_step(toy, ADAMW, **{"batch_size": 2, "duration_s": 1.0} | wrong)


class ChoosyEncoder(nn.Module):
    """An encoder of captions that keeps the letters it likes: how many is known from the values alone."""

    alignment = Alignment.NONE

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(257, dim)

    def forward(self, tokens: Tensor) -> Condition:
        liked = tokens[:, (tokens > 64).all(dim=0).nonzero()[:, 0]]
        return Condition(self.embedding(liked), liked > 0)


def test_shapes_that_depend_on_values_are_a_user_error(toy):
    model = toy.copy()
    model.content_encoders.text = {"_target_": "test_estimate.ChoosyEncoder", "dim": toy.content_adapter.dim}
    with pytest.raises(UserError, match=r"nonzero.*go without the estimate"):
        fake_step(model)


def test_modality_without_typical_content_is_named(toy):
    model = toy.copy()
    model.content_encoders.smell = model.content_encoders.text
    result = estimate_step(model, ADAMW, batch_size=4, duration_s=0.5)
    assert result.left_out == ("smell",)
    assert "Not in the estimate, for lack of typical content: smell." in format_estimate(result)


def test_format_names_every_part_with_its_size():
    needs = StepNeeds(4_000_000, 3_000_000, 2_000_000, 1_500_000, 5_500_000_000, 9_000_000, 6_250_000_000, 7 * 10**12)
    parts = (estimate_module.ComponentSize("backbone", 2_500_000, 0), estimate_module.ComponentSize("vae", 0, 750_000))
    text = format_estimate(
        StepEstimate(parts, 8, 2.5, 3, "bf16", "cuda", needs, 6_250_000_000, 6_250_000_000, seconds=0.5, left_out=())
    )
    lines = [line.split("  ") for line in text.splitlines()]
    shown = {line[0]: [cell.strip() for cell in line[1:] if cell.strip()] for line in lines}
    assert shown["backbone"] == ["2.50 M", "0.00 M"]
    assert shown["total"] == ["2.50 M", "0.75 M"]
    assert shown["weights"] == ["4.0 MB"]
    assert shown["activations kept for backward"] == ["5.50 GB"]
    assert shown["floating-point operations"] == ["21.00 T"]
    assert shown["time on this cuda, within a factor of two"] == ["0.5 s"]
    assert "memory, 8 clips of 2.5 s, bfloat16 autocast" in text


# -- the sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_sizes_are_what_their_files_say(size):
    model = model_without_weights(compose("default", [f"model={size}"]).model)
    millions = sum(part.trainable for part in parameter_table(model)) / 1e6
    said = re.match(r"# ([\d.]+) M parameters", (MODELS / f"{size}.yaml").read_text())
    assert said is not None
    decimals = len(said[1].partition(".")[2])
    assert round(millions, decimals) == float(said[1])


@pytest.mark.parametrize(
    ("size", "width", "blocks", "heads"), [("small", 768, 16, 12), ("base", 1024, 24, 16), ("large", 1280, 32, 16)]
)
def test_reference_sizes(size, width, blocks, heads):
    model = compose("default", [f"model={size}"]).model
    backbone = model.backbone
    assert (backbone.dim, backbone.num_layers, backbone.num_heads, backbone.frames_dim) == (width, blocks, heads, 1024)
    parts = (
        model.instruction_encoder,
        model.content_encoders.text,
        model.content_encoders.phoneme,
        model.content_encoders.score,
        model.content_adapter,
    )
    assert {part.get("inner_dim", part.dim) // part.num_heads for part in parts} == {64}


@pytest.mark.parametrize(("size", "least", "most"), [("small", 150, 250), ("base", 400, 600), ("large", 850, 1000)])
def test_sizes_are_those_of_the_published_family(size, least, most):
    """About 200 M trainable parameters for small, under 1 B for large; most of them in the backbone."""
    model = model_without_weights(compose("default", [f"model={size}"]).model)
    table = {part.name: part.trainable / 1e6 for part in parameter_table(model)}
    assert least < sum(table.values()) < most
    assert table["backbone"] > 0.75 * sum(table.values())


def test_parts_of_every_size_can_be_exchanged():
    chosen = ["model/backbone=input_fusion_dit", "model/content_adapter=cross_attention_adapter"]
    model = compose("default", ["model=small", *chosen]).model
    assert model.backbone._target_.endswith("InputFusionDiT") and model.backbone.dim == 768
    assert model.content_adapter._target_.endswith("CrossAttentionAdapter") and model.content_adapter.dim == 1024
