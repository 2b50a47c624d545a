"""Every option of the backbone: wired, blind to padding, the same with and without checkpointing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unisono.models.backbone import BackboneConditions, DiffusionTransformer, InputFusionDiT, LayerFusionDiT
from unisono.types import Condition

SIZES: dict[str, Any] = {"latent_dim": 6, "dim": 32, "num_layers": 4, "num_heads": 2, "frames_dim": 16}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "low_rank": {"modulation": "low_rank", "modulation_rank": 3},
    "per_block": {"modulation": "per_block"},
    "token": {"time_conditioning": "token"},
    "concatenate": {"frame_fusion": "concatenate"},
    "token and concatenate": {"time_conditioning": "token", "frame_fusion": "concatenate"},
    "rms": {"query_key_norm": "rms"},
    "no norm of queries": {"query_key_norm": "none"},
    "no skips": {"long_skips": False},
    "no convolution": {"final_convolution": False},
    "input fusion": {"kind": InputFusionDiT},
    "input fusion and token": {"kind": InputFusionDiT, "time_conditioning": "token"},
}


def build(name: str = "default", **more: Any) -> DiffusionTransformer:
    options = {**OPTIONS[name], **more}
    kind = options.pop("kind", LayerFusionDiT)
    torch.manual_seed(0)
    backbone = kind(**SIZES, **options)
    with torch.no_grad():  # what starts at zero hides what is before it
        for parameter in backbone.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return backbone


def inputs(num_frames: int = 12, valid: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(1)
    x, frames = (torch.randn(2, num_frames, width, generator=generator) for width in (6, 16))
    mask = torch.arange(num_frames) < torch.tensor([[valid], [num_frames]])
    context = Condition(torch.randn(2, 5, 16, generator=generator), torch.arange(5) < torch.tensor([[5], [3]]))
    return x, frames, mask, context


def predict(backbone: DiffusionTransformer, x, frames, mask, context, sigma=(0.3, 0.8)) -> torch.Tensor:
    return backbone(x, torch.tensor(sigma), backbone.precompute(frames, mask, context))


@pytest.mark.parametrize("name", OPTIONS)
def test_every_parameter_is_wired(name: str) -> None:
    backbone = build(name)
    predict(backbone, *inputs()).square().sum().backward()
    # Keys of equal bias cancel in the softmax: no other parameter may be without a gradient.
    unused = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-9]
    assert [n for n in unused if not n.endswith("key_norm.bias")] == []


@pytest.mark.parametrize("name", OPTIONS)
def test_everything_that_goes_in_counts_and_padding_does_not(name: str) -> None:
    backbone = build(name).eval()
    x, frames, mask, context = inputs()
    base = predict(backbone, x, frames, mask, context)
    assert base.dtype == torch.float32 and not base[0, 9:].any()
    for changed in (
        predict(backbone, x + 0.1, frames, mask, context),
        predict(backbone, x, frames + 0.1 * torch.randn_like(frames), mask, context),
        predict(backbone, x, frames, mask, Condition(context.tensor * 1.5, context.mask)),
        predict(backbone, x, frames, mask, context, sigma=(0.35, 0.7)),
    ):
        assert (changed - base).abs().amax(dim=(1, 2)).min() > 1e-4
    x2, frames2, tensor2 = x.clone(), frames.clone(), context.tensor.clone()
    x2[0, 9:], frames2[0, 9:], tensor2[1, 3:] = 7.0, -7.0, 9.0
    torch.testing.assert_close(predict(backbone, x2, frames2, mask, Condition(tensor2, context.mask)), base)
    # Alone, without padding, and with the batch turned round.
    alone = predict(backbone, x[:1, :9], frames[:1, :9], mask[:1, :9], _row(context, [0]), sigma=(0.3,))
    torch.testing.assert_close(alone[0], base[0, :9], atol=2e-5, rtol=1e-4)
    turned = predict(backbone, x.flip(0), frames.flip(0), mask.flip(0), _row(context, [1, 0]), sigma=(0.8, 0.3))
    torch.testing.assert_close(turned.flip(0), base, atol=2e-5, rtol=1e-4)


def _row(context: Condition, rows: list[int]) -> Condition:
    return Condition(context.tensor[rows], context.mask[rows])


@pytest.mark.parametrize("name", OPTIONS)
def test_checkpointing_and_float64_give_the_same(name: str) -> None:
    results = []
    for checkpointing in (False, True):
        backbone = build(name, gradient_checkpointing=checkpointing)
        out = predict(backbone, *inputs())
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad for p in backbone.parameters() if p.grad is not None)])
    for plain, again in zip(*results, strict=True):
        assert torch.equal(plain, again)
    x, frames, mask, context = inputs()
    exact = build(name).double()
    out = predict(exact, x.double(), frames.double(), mask, Condition(context.tensor.double(), context.mask))
    torch.testing.assert_close(out.float(), results[0][0], atol=2e-5, rtol=1e-4)


def test_a_frame_is_met_where_it_lies() -> None:
    """The first of all changes that a changed frame makes is its own frame's."""
    for name in ("default", "concatenate", "input fusion", "token"):
        backbone = build(name).eval()
        x, frames, mask, context = inputs(valid=12)
        sensitivity = []
        for place in range(12):
            moved = frames.clone()
            moved[:, place] += torch.linspace(-1.0, 1.0, 16)
            difference = predict(backbone, x, moved, mask, context) - predict(backbone, x, frames, mask, context)
            sensitivity.append(difference.abs().mean(dim=(0, 2)))
        table = torch.stack(sensitivity)
        assert (table.argmax(dim=1) == torch.arange(12)).float().mean() > 0.9, name


def test_concatenation_begins_as_addition() -> None:
    torch.manual_seed(0)
    add = LayerFusionDiT(**SIZES)
    join = LayerFusionDiT(**SIZES, frame_fusion="concatenate")
    missing = join.load_state_dict(add.state_dict(), strict=False)
    assert all(name.startswith("joins.") for name in missing.missing_keys) and not missing.unexpected_keys
    with torch.no_grad():
        for backbone in (add, join):
            backbone.output.weight.fill_(0.1)
    torch.testing.assert_close(predict(join, *inputs()), predict(add, *inputs()))


def test_what_is_precomputed_is_all_that_a_step_needs() -> None:
    backbone = build().eval()
    x, frames, mask, context = inputs()
    conditions = backbone.precompute(frames, mask, context)
    assert isinstance(conditions, BackboneConditions)
    frames.fill_(0.0)
    context.tensor.fill_(0.0)
    again = backbone(x, torch.tensor([0.3, 0.8]), conditions)
    torch.testing.assert_close(again, predict(backbone, *inputs()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modulation": "own"}, "shared, low_rank, per_block"),
        ({"time_conditioning": "both"}, "modulation, token"),
        ({"frame_fusion": "multiply"}, "add, concatenate"),
        ({"query_key_norm": "batch"}, "layer, rms, none"),
        ({"modulation": "low_rank", "modulation_rank": 0}, "modulation_rank is 0"),
        ({"num_layers": 0}, "at least 1"),
        ({"num_heads": 5}, "even multiple"),
    ],
)
def test_bad_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerFusionDiT(**{**SIZES, **options})
