"""The model against slow references in float64: one item, head, frame or unit at a time, from docs/model.md.

Where the model keeps float32 (angles of positions and noise levels, durations, losses), a tolerance says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from test_backbone import OPTIONS, build, inputs, predict
from test_guided_model import VARIANTS, with_null_instruction
from toy import toy_collator, toy_model
from unisono.models.backbone import InputFusionDiT, LayerFusionDiT
from unisono.models.content_adapter import AdaptedContent, CrossAttentionAdapter, PrefixAdapter
from unisono.models.content_adapter.base import DurationPredictor
from unisono.models.layers import Attention, GegluMlp, TransformerEncoder, rotary_angles
from unisono.models.length_regulator import expand
from unisono.models.outputs import EncodedContent, TrainingOutput
from unisono.models.unified import GenerationSettings, UnifiedAudioModel
from unisono.objectives.noise import item_noise
from unisono.tasks import TASKS
from unisono.timing import unit_boundaries
from unisono.training.losses import AudioGenerationLoss
from unisono.types import Alignment, AudioContent, Condition, PhonemeContent, Sample, TextContent

Vectors = Sequence[np.ndarray]
ANGLE = 3e-6  # float32 angles of a dozen positions leave this much


def array(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaken(module: Any) -> Any:
    """In float64, and no weight at its initial value: ones and zeros hide what they stand for."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter += 0.1 * normal(*parameter.shape, seed=number)
    return module.double().eval()


def linear(layer: nn.Linear, *x: np.ndarray) -> np.ndarray:
    return array(layer.weight) @ np.concatenate(x) + (0 if layer.bias is None else array(layer.bias))


def norm(layer: nn.Module, *parts: np.ndarray) -> np.ndarray:
    x = np.concatenate(parts)
    if isinstance(layer, nn.Identity):
        return x
    if isinstance(layer, nn.RMSNorm):
        return x / math.sqrt((x**2).mean() + 1e-6) * array(layer.weight)
    assert isinstance(layer, nn.LayerNorm)
    x = (x - x.mean()) / math.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
    return x * array(layer.weight) + array(layer.bias) if layer.elementwise_affine else x


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x])


def plus(x: Vectors, y: Vectors, gate: Any = 1.0) -> Vectors:
    return [a + gate * b for a, b in zip(x, y, strict=True)]


def read(query: np.ndarray, keys: Vectors, values: Vectors) -> np.ndarray:
    """What one head makes of one query: the mean of ``values`` by the softmax of the products."""
    scores = [float(query @ key) / math.sqrt(len(query)) for key in keys]
    weights = [math.exp(score - max(scores)) for score in scores]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def turned(x: np.ndarray, place: int) -> np.ndarray:
    """Each pair of a value of the first half and one of the second is a complex number, turned by the place."""
    half = len(x) // 2
    pairs = (x[:half] + 1j * x[half:]) * np.exp(1j * place * 10_000.0 ** (-2 * np.arange(half) / len(x)))
    return np.concatenate([pairs.real, pairs.imag])


def attend(layer: Attention, x: Vectors, sources: Vectors, valid: Sequence[bool], rotary: bool) -> Vectors:
    results = []
    for t, vector in enumerate(x):
        heads = []
        for part in np.split(np.arange(len(vector)), layer.num_heads):
            query = norm(layer.query_norm, linear(layer.to_query, vector)[part])
            keys, values = [], []
            for place, source in enumerate(sources):
                if valid[place]:
                    whole_key, whole_value = np.split(linear(layer.to_key_value, source), 2)
                    key = norm(layer.key_norm, whole_key[part])
                    keys.append(turned(key, place) if rotary else key)
                    values.append(whole_value[part])
            heads.append(read(turned(query, t) if rotary else query, keys, values))
        results.append(linear(layer.out, *heads))
    return results


def geglu(layer: GegluMlp, x: np.ndarray) -> np.ndarray:
    value, gate = np.split(linear(layer.up, x), 2)
    return linear(layer.down, value * gelu(gate))


def encode(layer: TransformerEncoder, x: Vectors, context: tuple | None = None) -> Vectors:
    for block in layer.blocks:
        heard = [norm(block.attention_norm, u) for u in x]
        x = plus(x, attend(block.attention, heard, heard, [True] * len(x), True))
        if context is not None:
            x = plus(x, attend(block.cross, [norm(block.cross_norm, u) for u in x], *context, False))
        x = plus(x, [geglu(block.mlp, norm(block.mlp_norm, u)) for u in x])
    return [norm(layer.norm, u) for u in x]


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("kind", ["layer", "rms", "none"])
def test_attention(kind: Any, rotary: bool, scale: float) -> None:
    """Of frames to themselves and to a context, invalid places anywhere; also where queries and keys are tiny."""
    x, context = scale * normal(2, 7, 16), scale * normal(2, 5, 6, seed=1)
    mask, context_mask = normal(2, 7, seed=2) > -0.5, normal(2, 5, seed=3) > -0.5
    own, other = shaken(Attention(16, 4, query_key_norm=kind)), shaken(Attention(16, 4, 6, kind))
    made = own(x, mask=mask, rotary=rotary_angles(7, 4, x.device) if rotary else None)
    told = other(x, other.keys_values(context), context_mask)
    for row in range(2):
        frames, units = array(x[row]), array(context[row])
        assert np.allclose(array(made[row]), attend(own, frames, frames, mask[row].tolist(), rotary), atol=ANGLE)
        expected = attend(other, frames, units, context_mask[row].tolist(), False)
        assert np.allclose(array(told[row]), expected, atol=1e-12)


@pytest.mark.parametrize("adapter", [PrefixAdapter, CrossAttentionAdapter])
def test_adapters_and_their_durations(adapter: type[PrefixAdapter]) -> None:
    layer = shaken(adapter(16, 8, num_layers=2, num_heads=2))
    units, words = normal(2, 5, 16), normal(2, 6, 8, seed=1)
    mask, told = torch.arange(5) < torch.tensor([[3], [5]]), torch.arange(6) < torch.tensor([[6], [2]])
    made = layer(Condition(units, mask), Condition(words, told))
    for row, (length, said) in enumerate(((3, 6), (5, 2))):
        x, instruction = list(array(units[row, :length])), list(array(words[row, :said]))
        if adapter is CrossAttentionAdapter:
            x = encode(layer.transformer, x, (instruction, [True] * said))
        else:
            summary = attend(layer.summarise, list(array(layer.queries)), instruction, [True] * said, False)
            x = encode(layer.transformer, [*summary, *x])[-length:]
        assert np.allclose(array(made.content.tensor[row, :length]), x, atol=ANGLE)
        assert not made.content.tensor[row, length:].any()
        whole = (layer.global_predictor, [sum(x) / length], made.global_duration[row : row + 1])
        for predictor, heard, predicted in (whole, (layer.local_predictor, x, made.local_duration[row, :length])):
            first, _, between, last = predictor.network
            expected = [linear(last, norm(between, gelu(linear(first, u))))[0] for u in heard]
            assert np.allclose(array(predicted), expected, atol=1e-5)


def position(layer: Any, place: int, length: int) -> np.ndarray:
    """Sines, then cosines, of the frames since the start and until the end, at periods from 4 frames on."""
    frequency = 2 * math.pi / 4 * 1000 ** (-np.arange(layer.frequencies) / layer.frequencies)
    waves = [wave(distance * frequency) for distance in (place, length - 1 - place) for wave in (np.sin, np.cos)]
    return linear(layer.project, *waves)


def time(layer: Any, sigma: float) -> np.ndarray:
    first, _, last = layer.mlp
    angle = 1000 * sigma * 10_000 ** (-np.arange(layer.frequencies) / layer.frequencies)
    return linear(last, silu(linear(first, np.cos(angle), np.sin(angle))))


def signals(layer: Any, block: int, of_time: np.ndarray) -> list[np.ndarray]:
    """The six vectors of a block."""
    active, made = silu(of_time), array(layer.offset)[block].reshape(-1)
    if layer.own is not None:
        made = made + np.split(array(layer.own.weight) @ active, layer.num_layers)[block]
    if layer.shared is not None:
        made = made + array(layer.shared.weight) @ active
    if layer.down is not None:
        made = made + (active @ array(layer.down)[block]) @ array(layer.up)[block]
    return np.split(made, 6)


def through(block: Any, x: Vectors, steered: Sequence[Any], context: tuple, skip: Vectors | None) -> Vectors:
    if skip is not None:
        x = [linear(block.skip[1], norm(block.skip[0], u, v)) for u, v in zip(x, skip, strict=True)]
    b1, a1, g1, b2, a2, g2 = steered
    heard = [(1 + a1) * norm(block.attention_norm, u) + b1 for u in x]
    x = plus(x, attend(block.attention, heard, heard, [True] * len(x), True), g1)
    x = plus(x, attend(block.cross, [norm(block.cross_norm, u) for u in x], *context, False))
    return plus(x, [geglu(block.mlp, (1 + a2) * norm(block.mlp_norm, u) + b2) for u in x], g2)


def enter(backbone: Any, place: int | None, x: Vectors, frames: Vectors) -> Vectors:
    """Before block ``place``, or at the input (None)."""
    if isinstance(backbone, InputFusionDiT if place is not None else LayerFusionDiT):
        return x
    project = backbone.frame_projection if place is None else backbone.frame_projections[place]
    projected = [linear(project, norm(backbone.frame_norm, c)) for c in frames]
    if place is not None and backbone.frame_fusion == "add":
        return plus(x, projected)
    join = backbone.join if place is None else backbone.joins[place]
    return [linear(join, u, c) for u, c in zip(x, projected, strict=True)]


def of_one(backbone: Any, x: Vectors, sigma: float, frames: Vectors, context: tuple) -> np.ndarray:
    """The prediction for an item without padding."""
    length, of_time, layers, results = len(x), time(backbone.time, sigma), backbone.num_layers, []
    h: Vectors = [linear(backbone.input, u) + position(backbone.positions, t, length) for t, u in enumerate(x)]
    h, token = enter(backbone, None, h, frames), [of_time] if backbone.modulation is None else []
    for place, block in enumerate(backbone.blocks):
        h = enter(backbone, place, h, frames)
        steered = (0, 0, 1, 0, 0, 1) if token else signals(backbone.modulation, place, of_time)
        skip = results[layers - 1 - place] if place >= layers - backbone.num_skips else None
        results.append(through(block, [*token, *h], steered, context, skip))
        token, h = results[-1][: len(token)], results[-1][len(token) :]
    shift, scale = (0, 0) if token else np.split(linear(backbone.final_modulation, silu(of_time)), 2)
    out = np.array([linear(backbone.output, (1 + scale) * norm(backbone.final_norm, u) + shift) for u in h])
    if backbone.convolution is None:
        return out
    weight, padded = array(backbone.convolution.weight), np.pad(out, [(1, 1), (0, 0)])
    convolved = [sum(weight[:, :, k] @ padded[t + k] for k in range(3)) for t in range(length)]
    return np.array(convolved) + array(backbone.convolution.bias)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_batch_with_padding_is_its_items_without(name: str) -> None:
    """For noise levels that float32 holds exactly, and whose angles it holds to 1e-5."""
    backbone = shaken(build(name))
    x, frames, mask, context = inputs(num_frames=7, valid=4)
    context = Condition(context.tensor.double(), context.mask)
    made = predict(backbone, x.double(), frames.double(), mask, context, sigma=(0.25, 0.75))
    for row, (length, sigma) in enumerate(((4, 0.25), (7, 0.75))):
        told = (array(context.tensor[row]), context.mask[row].tolist())
        one = of_one(backbone, array(x[row, :length]), sigma, array(frames[row, :length]), told)
        assert np.allclose(array(made[row, :length]), one, atol=2e-5 * np.abs(one).max())
        assert not made[row, length:].any() and np.abs(one).max() > 0.1


RATE_HZ, LENGTHS = 50, [6, 9, 7, 9, 9, 5, 9, 9]


def encoded_batch(model: UnifiedAudioModel) -> list[EncodedContent]:
    """Items 0, 3 and 4 have a caption, 1, 2 and 7 units (2 without durations), 3, 4 and 7 frames, 5 and 6 nothing."""

    def content(kind: Alignment, rows: list[int], valid: list[int], seconds: Any = None) -> EncodedContent:
        mask, seed = torch.arange(max(valid)) < torch.tensor(valid)[:, None], len(rows) * max(valid)
        units = Condition(normal(*mask.shape, 16, seed=seed) * mask[..., None], mask)
        adapted = AdaptedContent(units, normal(len(rows)) - 1.5, normal(*mask.shape) + 1)
        return EncodedContent(torch.tensor(rows), units, adapted, kind, seconds)

    seconds = torch.tensor([[0.032, 0.0, 0.033, 0.05], [0.0] * 4, [0.01, 0.21, 0.0, 0.0]])
    units = content(Alignment.UNITS, [1, 2, 7], [4, 3, 2], seconds)
    return [content(Alignment.NONE, [4, 0, 3], [3, 2, 1]), units, content(Alignment.FRAMES, [7, 3, 4], [9, 8, 8])]


def of_item(encoded: Sequence[EncodedContent], item: int) -> list[tuple[EncodedContent, int, int]]:
    """What an item has: content, its row there, its number of units."""
    rows = [(c, c.index.tolist().index(item)) for c in encoded if item in c.index.tolist()]
    return [(c, row, int(c.adapted.content.mask[row].sum())) for c, row in rows]


def unit_frames(content: EncodedContent, row: int, count: int, predict: bool) -> list[float]:
    """Frames of each unit, not rounded; given ones unless all are zero."""
    if content.durations_s is not None and content.durations_s[row].any() and not predict:
        return [float(s) * RATE_HZ for s in content.durations_s[row, :count]]
    return [max(math.exp(log) - 1, 0.0) for log in content.adapted.local_duration[row, :count].tolist()]


def shown(durations: Sequence[float], length: int) -> list[int]:
    """Which unit each frame shows: ends are rounded, exactly, of units stretched to the length."""
    ends = np.cumsum([Fraction(d) for d in durations]) / sum(map(Fraction, durations)) * length
    return [next(unit for unit, end in enumerate(ends) if t < math.floor(end + Fraction(1, 2))) for t in range(length)]


@pytest.mark.parametrize("predict", [False, True])
def test_frames_and_context(predict: bool) -> None:
    """Of an item with all conditions dropped (4), too; the last frame of a recording is held for one more (3)."""
    model = toy_model(16, 2).double()
    encoded, drop = encoded_batch(model), torch.arange(8) == 4
    frames, context = model.fuse(encoded, torch.tensor(LENGTHS), 9, drop, predict)
    for item, length in enumerate(LENGTHS):
        told, in_time = [], []
        for content, row, count in of_item(encoded, item) if item != 4 else []:
            units = array(content.adapted.content.tensor[row, :count])
            if content.alignment is Alignment.NONE:
                told += list(units)
            elif content.alignment is Alignment.UNITS:
                in_time.append([units[unit] for unit in shown(unit_frames(content, row, count, predict), length)])
            else:
                in_time.append([units[min(t, count - 1)] for t in range(length)])
        expected = np.sum(in_time, axis=0) if in_time else [array(model.null_frame)] * length
        assert np.allclose(array(frames[item, :length]), expected, atol=1e-12)
        assert np.allclose(array(context.tensor[item][context.mask[item]]), told or [array(model.null_context)])


def test_units_fill_any_length() -> None:
    rng = np.random.default_rng(0)
    for count, length in rng.integers(1, 12, (200, 2)).tolist():
        durations = rng.random(count) * (rng.random(count) > 0.3) + 1e-3
        ends = unit_boundaries(torch.tensor(durations)[None] * (length / durations.sum()), 1.0)
        expected, units = shown(durations.tolist(), length), torch.arange(float(count))[None, :, None]
        assert expand(units, ends, length + 1)[0, :, 0].tolist() == [*expected, expected[-1]]


def test_durations_pull_the_content_by_their_share() -> None:
    predictor, units, gradients = DurationPredictor(16, 1.0).double(), normal(2, 5, 16).requires_grad_(), []
    for predictor.gradient_scale in (1.0, 0.25):
        gradients.append(torch.autograd.grad(predictor(units).sum(), [units, predictor.network[0].weight]))
    assert torch.allclose(gradients[1][0], 0.25 * gradients[0][0]) and gradients[0][0].any()
    assert torch.allclose(gradients[1][1], gradients[0][1])


def test_targets_of_durations_and_lengths() -> None:
    model = toy_model(16, 2).double()
    encoded, seconds = encoded_batch(model), 0.1 + torch.arange(8) / 7
    (local,), (whole,) = model._durations(encoded, seconds)
    for row, valid in enumerate(([0.032, 0.0, 0.033, 0.05], [], [0.01, 0.21])):
        targets = [math.log(s * RATE_HZ + 1) for s in valid]
        assert local.target[row][local.mask[row]].tolist() == pytest.approx(targets, rel=1e-6)
    assert torch.equal(local.prediction, encoded[1].adapted.local_duration)
    assert torch.equal(whole.prediction, encoded[0].adapted.global_duration)
    assert whole.target.tolist() == pytest.approx([math.log(0.1 + item / 7 + 1) for item in (4, 0, 3)], rel=1e-6)
    for predicted in (False, True):
        settings = GenerationSettings(predict_durations=predicted, max_duration_s=0.14)
        for item, made in enumerate(model.generated_lengths(encoded, 8, settings).tolist()):
            of = {content.alignment: (content, row, count) for content, row, count in of_item(encoded, item)}
            if Alignment.FRAMES in of:
                assert made == of[Alignment.FRAMES][2]
            elif of:
                content, row, count = of.get(Alignment.UNITS) or of[Alignment.NONE]
                clip = max(math.exp(float(content.adapted.global_duration[row])) - 1, 0) * RATE_HZ
                frames = sum(unit_frames(content, row, count, predicted)) if Alignment.UNITS in of else clip
                assert made == min(max(math.floor(frames + 0.5), 1), 7)


def test_the_loss() -> None:
    """Means over frames and channels, then items; over the units that have durations, then the items that have some.

    Everything of an item has the weight of its task.
    """
    model, lengths, names = toy_model(16, 2).double(), torch.tensor(LENGTHS), list(TASKS)
    tasks, weight = torch.tensor([2, 2, 0, 0, 0, 2, 0, 5]), {0: 1.0, 2: 2.5, 5: 0.5}
    encoded = encoded_batch(model)
    local, whole = model._durations(encoded, torch.rand(8, generator=torch.Generator().manual_seed(0)))
    prediction, target, mask = normal(8, 9, 4), normal(8, 9, 4, seed=1), torch.arange(9) < lengths[:, None]
    output = TrainingOutput(prediction, target, mask, torch.rand(8), local, whole, tasks)
    result = AudioGenerationLoss(0.3, 0.7, {names[2]: 2.5, names[5]: 0.5})(output)
    errors = [float(np.mean([array(prediction - target)[i, t] ** 2 for t in range(LENGTHS[i])])) for i in range(8)]
    assert result.prediction_error.tolist() == pytest.approx(errors, rel=1e-5)
    squares = [array((part.prediction - part.target) ** 2) for part in (*local, *whole)]
    of_items = {item: squares[0][row, : (4, 3, 2)[row]].mean() for row, item in ((0, 1), (2, 7))}
    of_clips = {item: squares[1][row] for row, item in enumerate((4, 0, 3))}
    weighted = [
        np.mean([weight[int(tasks[i])] * e for i, e in part.items()])
        for part in (dict(enumerate(errors)), of_items, of_clips)
    ]
    assert float(result.total) == pytest.approx(weighted[0] + 0.3 * weighted[1] + 0.7 * weighted[2], rel=1e-5)
    for name, part in (("local", of_items), ("global", of_clips)):
        made = result.durations[name]
        assert made.error[made.known].tolist() == pytest.approx(list(part.values()), rel=1e-5)
        assert made.task_index[made.known].tolist() == [int(tasks[item]) for item in part]


def velocity(model: UnifiedAudioModel, told: list[EncodedContent], drop: bool, x: Tensor, sigma: float) -> Tensor:
    """Of one item, its conditions made for this step alone."""
    frames, context = model.fuse(told, torch.tensor([len(x)]), len(x), torch.tensor([drop]))
    conditions = model.backbone.precompute(frames, torch.ones(1, len(x)).bool(), context)
    return model.backbone(x[None], torch.tensor([sigma]), conditions)[0].detach()


@pytest.mark.parametrize("variant", VARIANTS)
def test_guided_generation(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each branch and item apart, all conditions anew at each of Euler's steps, against all in one, made once."""
    monkeypatch.setattr("unisono.models.unified.item_noise", lambda *given: item_noise(*given).double())
    model, spoken = shaken(with_null_instruction(variant)), torch.tensor([0.05, 0.04, 0.07])
    given = [TextContent("bell"), PhonemeContent(tuple("abc"), spoken, "ann"), AudioContent(latent=normal(9, 40))]
    samples = [Sample(str(n), "text_to_audio", "do " * (n + 1), (content,)) for n, content in enumerate(given)]
    settings = GenerationSettings(3, 3.0, 2.0, 0.6, 0.2, 0.9, solver="euler")
    made = model.generate(toy_collator()(samples), [0, 1, 2], settings, [0.12, None, None]).latent
    levels = [1 - (t - 0.5 * (math.cos(math.pi * t / 2) - 1 + t)) for t in (0, 1 / 3, 2 / 3, 1)]
    for item, length in enumerate((6, 8, 9)):
        batch, x = toy_collator()([samples[item]]), item_noise([item], [length], length, 40)[0].double()
        told, alone = model.encode_content(batch), model.encode_content(batch, torch.tensor([True]))
        for sigma, following in pairwise(levels):
            everything = moved = velocity(model, told, False, x, sigma)
            if 0.2 <= sigma <= 0.9:
                nothing, content = velocity(model, told, True, x, sigma), velocity(model, alone, False, x, sigma)
                moved = nothing + 3 * (content - nothing) + 2 * (everything - content)
                moved = 0.6 * moved * everything.std(correction=0) / moved.std(correction=0) + 0.4 * moved
            x = x + (following - sigma) * moved
        assert torch.allclose(made[item, :length].double(), x, atol=1e-5 * float(x.abs().max()))
        assert not made[item, length:].any()
