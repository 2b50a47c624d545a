"""Parts of a recording are kept, the rest is generated: inpainting and continuation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import TOY_PHONEMES, TOY_SPEAKERS
from toy import randomised, toy_collator, toy_model
from unisono.errors import UserError
from unisono.models.generation import Generated, GenerationSettings, KnownAudio
from unisono.models.known import Kept, Span, known_spans
from unisono.models.unified import UnifiedAudioModel
from unisono.objectives import Diffusion, FlowMatching, Objective, Predict
from unisono.types import AudioContent, Content, PhonemeContent, Sample, TextContent

RATE, HOP = 24_000, 480
FADE = 240
SETTINGS = GenerationSettings(num_steps=2, guidance_scale=2.0)
OBJECTIVES: dict[str, Objective] = {
    "flow": FlowMatching(),
    "v": Diffusion(),
    "sample": Diffusion("sample"),
    "epsilon": Diffusion("epsilon"),  # its first level is not pure noise
    "linear": Diffusion(beta_schedule="linear", rescale_betas_zero_snr=False),  # nor is the noise of its last
}


@pytest.fixture(scope="module")
def model() -> UnifiedAudioModel:
    return randomised(toy_model(32, 2)).eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def recording(seconds: float, seed: int = 0) -> Tensor:
    """A tone with some noise, unlike anything that the toy model makes."""
    time_s = torch.arange(round(seconds * RATE)) / RATE
    return 0.4 * torch.sin(2 * math.pi * 330 * time_s) + 0.01 * normal(len(time_s), seed=seed)


def caption(text: str = "a low horn") -> Sample:
    return Sample("item", "text_to_audio", "Make a sound.", (TextContent(text),))


def generate(model: UnifiedAudioModel, sample: Sample, known: KnownAudio | None, **options: Any) -> Generated:
    chosen = dataclasses.replace(SETTINGS, **options.pop("settings", {}))
    return model.generate(toy_collator()([sample]), [options.pop("seed", 0)], chosen, known=[known], **options)


# -- the solvers -------------------------------------------------------------------------------------------------------


def restless(x: Tensor, sigma: float) -> Tensor:
    """A network that mixes frames, so that what is kept meets what is not."""
    return x.roll(1, dims=1) * (0.3 + sigma) - 0.2 * x


@pytest.mark.parametrize(
    ("name", "solver"), [(name, solver) for name, objective in OBJECTIVES.items() for solver in objective.solvers]
)
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_every_solver_keeps_to_the_known_path(name: str, solver: str, num_steps: int) -> None:
    """What is known arrives exactly where it is known to, untouched, and its neighbours see it on its way there."""
    objective, latent, noise = OBJECTIVES[name], normal(2, 12, 3), normal(2, 12, 3, seed=1)
    mask = torch.zeros(2, 12, 1, dtype=torch.bool)
    mask[0, 2:7] = mask[1, 8:] = True
    kept = Kept(latent * mask, mask, ((), ()), (None, None), (0, 0))
    seen: list[tuple[Tensor, float]] = []

    def network(x: Tensor, sigma: float) -> Tensor:
        seen.append((x, sigma))
        return restless(x, sigma)

    predict: Predict = kept.keeping(network, objective, noise)
    first = objective.noise_levels(num_steps, solver)[0]
    made = objective.generate(predict, kept.start(objective, noise, first), num_steps, solver)
    on_mask = mask.expand_as(made)
    # diffusers' solver takes 2e-4 for the signal that is left in pure noise, where its noising takes none.
    assert torch.allclose(made[on_mask], latent[on_mask], atol=1e-3 if name == "v" else 2e-5)
    free = objective.generate(restless, noise, num_steps, solver)
    assert torch.equal(kept.restored(made)[on_mask], latent[on_mask])
    if num_steps > 1:  # the first evaluation sees but noise
        assert (made - free)[~on_mask].abs().max() > 1e-2
    assert [sigma for _, sigma in seen] == objective.noise_levels(num_steps, solver)
    for x, sigma in seen:
        path = objective.interpolate(latent, noise, torch.full((2,), sigma))
        assert torch.allclose(x[on_mask], path[on_mask], atol=1e-6)


# -- the model ---------------------------------------------------------------------------------------------------------


def expected_fade(border: Tensor, generated: Tensor) -> Tensor:
    """10 ms from the mirror image of what is kept to what is generated; both read away from the border."""
    angle = torch.pi / 2 * (torch.arange(FADE) + 0.5) / FADE
    return angle.cos() * border[:FADE] + angle.sin() * generated[:FADE]


def test_kept_samples_are_those_of_the_recording(model: UnifiedAudioModel) -> None:
    spans_s, original = ((0.1, 0.404), (0.51, 0.8)), recording(1.0)
    made = generate(model, caption(), KnownAudio(original, spans_s))
    plain = model.autoencoder.decode(made.latent, made.latent_lengths)[0]
    plain = plain / plain.abs().max().clamp_min(
        1.0
    )  # a file holds what is within ±1, and what is kept does not give way
    result = made.waveform[0]
    assert result.abs().max() <= 1.0
    assert made.lengths.tolist() == [RATE] and len(result) == RATE
    untouched = torch.ones(RATE, dtype=torch.bool)
    for start, stop in ((2400, 9696), (12_240, 19_200)):
        assert torch.equal(result[start:stop], original[start:stop])
        untouched[start - FADE : stop + FADE] = False
        after = expected_fade(original[start:stop].flip(0), plain[stop:])
        assert torch.allclose(result[stop : stop + FADE], after.clamp(-1, 1), atol=1e-6)
        before = expected_fade(original[start:stop], plain[:start].flip(0)).flip(0)
        assert torch.allclose(result[start - FADE : start], before.clamp(-1, 1), atol=1e-6)
    assert torch.equal(result[untouched], plain[untouched])
    assert (result - original)[untouched].abs().max() > 0.01


def test_kept_latents_are_those_of_the_recording_where_the_encoder_sees_no_border(model: UnifiedAudioModel) -> None:
    original = recording(1.0)
    whole, _ = model.autoencoder.encode(original[None], torch.tensor([RATE]))
    made = generate(model, caption(), KnownAudio(original, ((0.0, 0.41), (0.6, 1.0)))).latent
    assert torch.equal(made[0, :18], whole[0, :18]) and torch.equal(made[0, 33:], whole[0, 33:])
    # Those beside a border know what is kept: a tone, which goes on in its mirror image.
    tone = whole[0, 5]
    for frame in (19, 30):
        assert (made[0, frame] - tone).abs().mean() < 0.5 * (made[0, 25] - tone).abs().mean()


def test_what_is_replaced_leaves_no_trace(model: UnifiedAudioModel) -> None:
    spans_s, original = ((0.0, 0.3), (0.5, 0.77)), recording(0.9)
    other = original.clone()
    other[round(0.3 * RATE) : round(0.5 * RATE)] = 0.9 * normal(round(0.2 * RATE), seed=5).clamp(-1, 1)
    other[round(0.77 * RATE) :] = 0.0
    first, second = (generate(model, caption(), KnownAudio(wave, spans_s)).waveform for wave in (original, other))
    assert torch.equal(first, second)


def test_what_is_kept_matters_to_what_is_made(model: UnifiedAudioModel) -> None:
    """The network sees it."""
    without = generate(model, caption(), None, duration_s=[1.0]).latent[0]
    tone = generate(model, caption(), KnownAudio(recording(0.5)), duration_s=[1.0]).latent[0]
    hiss = generate(model, caption(), KnownAudio(0.3 * normal(RATE // 2)), duration_s=[1.0]).latent[0]
    for one, other in ((tone, without), (hiss, without), (tone, hiss)):
        assert (one - other)[25:].abs().max() > 1e-3


@pytest.mark.parametrize("seconds", [0.5, 0.507, 0.4901])
def test_continuation(seconds: float, model: UnifiedAudioModel) -> None:
    """All of a recording, which need not end with a frame, and as much as is wanted after it."""
    original = recording(seconds)
    made = generate(model, caption(), KnownAudio(original), duration_s=[1.0])
    assert made.lengths.tolist() == [RATE]
    assert torch.equal(made.waveform[0, : len(original)], original)
    assert (made.waveform[0, len(original) + FADE :]).abs().max() > 0.01
    edge = made.waveform[0, len(original) - 1 : len(original) + 1]
    assert float(edge.diff().abs()) < 0.02 * float(made.waveform.abs().max())  # no click


def test_the_end_of_a_recording_within_a_frame(model: UnifiedAudioModel) -> None:
    """A clip that is to be as long as the recording ends with its last frame, which is kept with it."""
    original = recording(0.507)
    known = KnownAudio(original, ((0.2, len(original) / RATE),))
    made = generate(model, caption(), known)
    assert made.latent_lengths.tolist() == [26] and known_spans(known, 26, RATE, HOP)[0].last == 26
    assert torch.equal(made.waveform[0, 4800 : len(original)], original[4800:])
    assert known_spans(known, 27, RATE, HOP)[0].last == 25  # but not where the clip goes on


CONTENTS: dict[str, Content] = {
    "caption": TextContent("a horn"),
    "phonemes": PhonemeContent(TOY_PHONEMES[:3], torch.tensor([0.3, 0.2, 0.5]), TOY_SPEAKERS[0]),
    "recording": AudioContent(0.1 * normal(RATE, seed=3)),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_any_content_can_have_parts_kept(kind: str, model: UnifiedAudioModel) -> None:
    sample = Sample("item", "text_to_audio", "Do it.", (CONTENTS[kind],))
    original = recording(0.6)
    made = generate(model, sample, KnownAudio(original, ((0.2, 0.6),)), duration_s=[1.0])
    assert made.lengths.tolist() == [RATE]
    assert torch.equal(made.waveform[0, 4800:14_400], original[4800:14_400])


def test_with_guidance_windows_and_neighbours(model: UnifiedAudioModel) -> None:
    """A long item of which much is kept, one of which nothing is, a short one: each as alone."""
    settings = dataclasses.replace(SETTINGS, window_s=0.6, guidance_rescale=0.5, solver="heun")
    samples = [caption(), caption("bell"), Sample("noisy", "speech_enhancement", "Clean it.", (CONTENTS["recording"],))]
    known = [KnownAudio(recording(0.9), ((0.05, 0.3), (0.5, 0.9))), None, KnownAudio(recording(0.3, seed=2))]
    wanted = [1.5, 0.4, None]
    together = model.generate(toy_collator()(samples), range(3), settings, wanted, known=known)
    assert together.latent_lengths.tolist() == [75, 20, 50]
    for row, (sample, own) in enumerate(zip(samples, known, strict=True)):
        alone = model.generate(toy_collator()([sample]), [row], settings, [wanted[row]], known=[own])
        frames = int(alone.latent_lengths[0])
        assert torch.allclose(alone.latent[0], together.latent[row, :frames], atol=5e-4)
    assert torch.equal(together.waveform[0, 1200:7200], recording(0.9)[1200:7200])
    assert torch.equal(together.waveform[2, :7200], recording(0.3, seed=2))
    nothing_kept = model.generate(toy_collator()(samples[1:2]), [1], settings, [0.4])
    assert torch.allclose(nothing_kept.latent[0], together.latent[1, :20], atol=5e-4)


def test_content_that_lies_in_time_knows_its_length_best(model: UnifiedAudioModel) -> None:
    """However long the recording is of which parts are kept; in one piece, and in windows."""
    sample = Sample("noisy", "speech_enhancement", "Clean it.", (CONTENTS["recording"],))
    known = KnownAudio(recording(1.3), ((0.2, 0.7),))
    for window_s in (None, 0.6):
        made = generate(model, sample, known, settings={"max_duration_s": 0.5, "window_s": window_s})
        assert made.lengths.tolist() == [RATE]
        assert torch.equal(made.waveform[0, 4800:16_800], recording(1.3)[4800:16_800])


def test_cross_fades_have_no_clicks_and_stay_in_their_gap() -> None:
    """Nor where the gap is shorter than two of them, or a kept span than one; loudness holds in between."""
    original, generated = recording(1.0), recording(1.0, seed=1).roll(31)
    bounds = [(1000, 5000), (5120, 9000), (9000, 9600), (9600 + FADE, 9600 + FADE + 60)]
    spans = tuple(Span(start, stop, 0, 0) for start, stop in bounds)
    kept = Kept(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1).bool(), (spans,), (original,), (RATE - 100,))
    padded = torch.cat([generated[: RATE - 100], torch.zeros(100)])
    made = kept.spliced(padded[None], RATE)[0]
    for start, stop in bounds:
        assert torch.equal(made[start:stop], original[start:stop])
    assert torch.equal(made[: 1000 - FADE], generated[: 1000 - FADE])
    last = bounds[-1][1] + 60
    assert torch.equal(made[last:], padded[last:])
    assert float(made[: RATE - 100].diff().abs().max()) < 2.5 * float(original.diff().abs().max())
    assert torch.equal(padded[: RATE - 100], generated[: RATE - 100])  # and what was given is as it was


# -- what cannot be kept -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spans_s", "message"),
    [
        ((), "item: spans_s is empty"),
        (((0.2, 0.2),), "the span from 0.2 to 0.2 s is empty"),
        (((0.3, 0.2),), "rising seconds"),
        (((-0.1, 0.2),), "lies before the start"),
        (((0.1, float("nan")),), "is empty"),
        (((0.1, float("inf")),), "is empty"),
        (((0.5, 1.2),), "from 0.5 to 1.2 s reaches beyond the known recording, which lasts 1 s; end it there"),
        (((0.4, 0.6), (0.1, 0.5)), "from 0.4 to 0.6 s overlaps the one before it; join them"),
        (((0.505, 0.535),), r"has not one whole latent frame \(0.02 s\)"),
        (((0.0, 1.0),), "item: everything is kept of the clip of 1 s.*longer duration"),
        (None, "everything is kept"),
        (((0.0, 0.2, 0.4),), r"the span \(0.0, 0.2, 0.4\) is not a \(start, end\)"),
        (((0.0, 0.5), (0.5, 1.0)), "everything is kept"),
    ],
)
def test_spans_that_cannot_be_kept(model: UnifiedAudioModel, spans_s: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(model, caption(), KnownAudio(recording(1.0), spans_s))


def test_recordings_that_cannot_be_kept(model: UnifiedAudioModel) -> None:
    for waveform, message in (
        (torch.zeros(0), r"shape \(0,\); it must be float32 \(S,\), mono"),
        (torch.zeros(2, 9600), r"shape \(2, 9600\)"),
        (torch.zeros(9600, dtype=torch.int16), "torch.int16"),
        (torch.full((9600,), float("nan")), "NaN"),
    ):
        with pytest.raises(UserError, match=message):
            generate(model, caption(), KnownAudio(waveform), duration_s=[1.0])
    with pytest.raises(UserError, match="known has 2 values for 1 items; give one for each"):
        model.generate(toy_collator()([caption()]), [0], SETTINGS, known=[None, None])
    with pytest.raises(UserError, match=r"from 0 to 0.8 s reaches beyond the clip of 0.5 s; give a longer"):
        generate(model, caption(), KnownAudio(recording(1.0), ((0.0, 0.8),)), duration_s=[0.5])
    with pytest.raises(UserError, match=r"item: the known recording lasts 1.000 s, and at most 0.5 s are made"):
        generate(model, caption(), KnownAudio(recording(1.0), ((0.0, 0.4),)), settings={"max_duration_s": 0.5})
