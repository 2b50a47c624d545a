"""Clips that are longer than what was trained: windows of one state."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from conftest import TOY_PHONEMES, TOY_SPEAKERS
from toy import randomised, toy_collator, toy_model
from unisono.errors import UserError
from unisono.models import windows as cutting
from unisono.models.content_encoder import VideoEncoder
from unisono.models.generation import GenerationOptions, GenerationSettings
from unisono.models.unified import UnifiedAudioModel
from unisono.models.windows import WindowSize, blended, chunks_of, plan_windows, window_starts
from unisono.objectives import Branch, FlowMatching, Guidance, guided
from unisono.objectives.noise import item_noise
from unisono.types import Alignment, AudioContent, Content, PhonemeContent, Sample, TextContent, VideoContent

RATE_HZ, HOP = 50, 480
PLAIN = GenerationSettings(num_steps=3, guidance_scale=2.0, max_duration_s=60.0)
WINDOWED = dataclasses.replace(PLAIN, window_s=0.8)


@pytest.fixture(scope="module")
def model() -> UnifiedAudioModel:
    """The toy model, which sees films too, without the sound, which costs most of the time."""
    toy = toy_model(32, 2)
    encoders = dict(toy.content_encoders.items())
    encoders["video"] = VideoEncoder(32, feature_dim=3, channels=4)
    made = UnifiedAudioModel(
        toy.autoencoder,
        toy.instruction_encoder,
        encoders,
        toy.content_adapter,
        toy.backbone,
        toy.objective,
        instruction_drop_ratio=0.1,
    )
    made.autoencoder.decode = lambda latent, lengths: latent.new_zeros(len(latent), 1)  # type: ignore[method-assign]
    return randomised(made).eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def contents(seconds: float, seed: int = 0) -> dict[str, tuple[Content, ...]]:
    """Content of every kind that can be cut, of so many seconds."""
    frames = round(seconds * RATE_HZ)
    pictures = (normal(round(seconds * 25), 16, 16, 3, seed=seed) * 40 + 128).clamp(0, 255).byte()
    recording = AudioContent(0.1 * normal(frames * HOP - 7, seed=seed))
    return {
        "caption": (TextContent("a low horn"),),
        "recording": (recording,),
        "latent": (AudioContent(latent=normal(frames, 40, seed=seed)),),
        "pictures": (VideoContent(25.0, frames=pictures),),
        "features": (VideoContent(10.0, features=normal(round(seconds * 10), 3, seed=seed)), TextContent("bell")),
        "recording and features": (recording, VideoContent(10.0, features=normal(round(seconds * 10), 3))),
    }


def sample(content: tuple[Content, ...], instruction: str = "Clean it.") -> Sample:
    return Sample("item", "text_to_audio", instruction, content)


def latents(model: UnifiedAudioModel, samples: list[Sample], settings: GenerationSettings, **options) -> list[Tensor]:
    """Of each item, as long as it is; the n-th has the noise of seed n unless told."""
    options.setdefault("seeds", range(len(samples)))
    made = model.generate(toy_collator()(samples), settings=settings, **options)
    return [latent[:length] for latent, length in zip(made.latent, made.latent_lengths.tolist(), strict=True)]


# -- windows and weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.25, 1 / 3, 0.5])
@pytest.mark.parametrize("window", [2, 3, 7, 40])
def test_weights_sum_to_one_and_are_nothing_at_inner_edges(window: int, share: float) -> None:
    size = WindowSize.of(window / RATE_HZ, share, RATE_HZ)
    assert size is not None and size.frames == window
    for length in [*range(1, 5 * window), 1009]:
        windows, total = plan_windows([length], size, whole=set()), torch.zeros(length)
        assert [w.start for w in windows] == window_starts(length, size)
        for w in windows:
            assert len(w) == min(length, window) == len(w.weights)
            assert float(w.weights.min()) >= 0
            total[w.start : w.stop] += w.weights
        assert torch.allclose(total, torch.ones(length), atol=1e-6)
        assert windows[0].weights[0] == 1 == windows[-1].weights[-1]
        for before, after in pairwise(windows):
            assert before.stop - after.start >= size.overlap
            edge = torch.sin(torch.tensor(torch.pi / 4 / size.overlap)) ** 2  # half a frame from zero
            assert max(before.weights[-1], after.weights[0]) <= edge + 1e-6


def test_no_more_windows_than_are_needed() -> None:
    size = WindowSize(40, 10)
    assert [len(window_starts(n, size)) for n in (1, 40, 41, 70, 71, 100, 101)] == [1, 1, 2, 2, 3, 3, 4]
    assert WindowSize.of(None, 0.25, RATE_HZ) is None and WindowSize.of(0.0, 0.25, RATE_HZ) is None


@pytest.mark.parametrize("solver", FlowMatching.solvers)
def test_a_network_that_looks_at_no_neighbours_gives_the_whole(solver: str) -> None:
    """Whatever the windows, with guidance and rescaling over the whole, to the end of a generation."""
    factor = {Branch.NOTHING: -0.7, Branch.CONTENT: 0.1, Branch.EVERYTHING: 1.3}
    place = normal(2, 90, 4)  # stands for content

    def predict(branches: tuple[Branch, ...], x: Tensor, sigma: float, told: Tensor = place) -> Tensor:
        return torch.cat([(factor[branch] * x_k + told) * (1 + sigma) for branch, x_k in zip(
            branches, x.chunk(len(branches)), strict=True)])  # fmt: skip

    windows = plan_windows([90, 33], WindowSize(20, 6), whole=set())
    chunks = [windows[:3], windows[3:5], windows[5:]]

    def of_chunk(number: int):  # what it is told of each window, padded as x is
        told = torch.zeros(len(chunks[number]), 20, 4)
        for n, window in enumerate(chunks[number]):
            told[n, : len(window)] = place[window.row, window.start : window.stop]
        return lambda branches, x, sigma: predict(branches, x, sigma, told)

    noise, mask = item_noise([0, 1], [90, 33], 90, 4), torch.arange(90) < torch.tensor([[90], [33]])
    guidance = Guidance(2.0, 3.0, rescale=0.5)
    whole = FlowMatching().generate(guided(predict, guidance, mask), noise, 4, solver)
    made = FlowMatching().generate(guided(blended(chunks, of_chunk), guidance, mask), noise, 4, solver)
    assert torch.allclose(made[mask], whole[mask], rtol=1e-4, atol=1e-4)
    assert not made[1, 33:].any()


# -- the model ---------------------------------------------------------------------------------------------------------


def test_what_fits_into_a_window_is_as_without(model: UnifiedAudioModel) -> None:
    samples = [sample(own) for name, own in contents(0.8).items() if name in ("caption", "recording")]
    for options in ({"duration_s": [0.8, None]}, {"duration_s": [0.3, None]}):
        for plain, made in zip(
            latents(model, samples, PLAIN, **options), latents(model, samples, WINDOWED, **options), strict=True
        ):
            assert torch.equal(plain, made)


@pytest.mark.parametrize("kind", contents(1.0))
def test_each_window_is_predicted_as_the_clip_that_it_would_be(
    kind: str, model: UnifiedAudioModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of Euler's goes from the noise to ``noise - prediction``: blended, it is the blend of crops' results."""
    settings = dataclasses.replace(WINDOWED, num_steps=1, solver="euler")
    whole, frames = contents(2.0)[kind], 100
    [made] = latents(model, [sample(whole)], settings, duration_s=[2.0])
    noise, expected = item_noise([0], [frames], frames, 40), torch.zeros(frames, 40)
    for window in plan_windows([frames], WindowSize(40, 10), whole=set()):
        part = tuple(cropped(own, window.start, window.stop) for own in whole)
        shown = slice(window.start, window.stop)
        monkeypatch.setattr("unisono.models.unified.item_noise", lambda *_, shown=shown: noise[:, shown])
        [alone] = latents(model, [sample(part)], settings, duration_s=[0.8])
        expected[window.start : window.stop] += window.weights[:, None] * alone
    assert torch.allclose(made, expected, atol=1e-4)
    assert (made - noise[0]).abs().max() > 0.1  # the network had something to say


def cropped(content: Content, start: int, stop: int) -> Content:
    """As a data set crops it."""
    if isinstance(content, AudioContent) and content.waveform is not None:
        return AudioContent(content.waveform[start * HOP : stop * HOP])
    if isinstance(content, AudioContent) and content.latent is not None:
        return AudioContent(latent=content.latent[start:stop])
    if isinstance(content, VideoContent) and content.frames is not None:
        return VideoContent(25.0, content.frames[start // 2 : stop // 2])
    if isinstance(content, VideoContent) and content.features is not None:
        # One for each latent frame, so that what begins within one is shown as it is.
        shown = (torch.arange(start, stop) / RATE_HZ * content.rate_hz + 1e-4).long()
        return VideoContent(float(RATE_HZ), features=content.features[shown])
    return content


def test_pictures_of_a_window_know_none_before_it(model: UnifiedAudioModel) -> None:
    """The encoder compares each with the one before; in a window, as in a crop, the first has none."""
    batch = toy_collator()([sample(contents(2.0)["pictures"])])
    windows = plan_windows([100], WindowSize(40, 10), whole=set())
    cut = cutting.cut_content(batch, {"video"}, windows, HOP).contents["video"].inputs
    assert cut["shown"][:, 0].eq(0).all() and cut["lengths"].tolist() == [40, 40, 40]
    pictures = batch.contents["video"].inputs["frames"][0]
    for n, window in enumerate(windows):
        expected = pictures[[int(frame / RATE_HZ * 25 + 1e-4) for frame in range(window.start, window.stop)]]
        assert torch.equal(cut["frames"][n][cut["shown"][n]], expected)


def test_a_long_item_beside_short_ones_is_as_alone(model: UnifiedAudioModel) -> None:
    """All kinds at once, long and short, with every branch of guidance, in few and in many chunks."""
    settings = dataclasses.replace(WINDOWED, instruction_guidance_scale=3.0, guidance_rescale=0.5, solver="ab2")
    spoken = PhonemeContent(TOY_PHONEMES[:3], torch.tensor([0.4, 0.3, 0.6]), TOY_SPEAKERS[0])
    samples = [
        sample(contents(2.1)["recording"], "Remove the noise."),
        sample(contents(0.5, seed=3)["recording"]),
        sample((TextContent("a horn"),), "Make a sound, as the text has it."),
        sample((spoken,)),
        sample(contents(1.9)["features"]),
        sample(contents(0.4)["features"]),
        sample((TextContent("rush"),)),
    ]
    wanted = [None, None, 1.5, None, None, None, 0.3]
    together = latents(model, samples, settings, duration_s=wanted)
    assert [len(latent) for latent in together] == [105, 25, 75, 65, 95, 20, 15]
    for n, (own, wanted_s) in enumerate(zip(samples, wanted, strict=True)):
        [alone] = latents(model, [own], settings, duration_s=[wanted_s], seeds=[n])
        assert torch.allclose(alone, together[n], atol=5e-4), n
        if n in (1, 3, 5, 6):  # short, or spoken: units are never divided
            without = dataclasses.replace(settings, window_s=None)
            assert torch.equal(alone, latents(model, [own], without, duration_s=[wanted_s], seeds=[n])[0])


def test_rows_at_once_are_bounded_and_change_nothing(model: UnifiedAudioModel, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [sample(contents(2.6)["recording"]), sample((TextContent("bell"),))]
    options = {"duration_s": [None, 1.4]}
    at_once = latents(model, samples, WINDOWED, **options)
    rows: list[int] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    monkeypatch.setattr(cutting, "FRAMES_AT_ONCE", 90)  # two windows
    for kept_frames, precomputed in ((10_000, 3), (170, 2 + 3), (1, 1 + 3 * 2)):
        computed: list[int] = []
        original = model.backbone.precompute
        monkeypatch.setattr(cutting, "KEPT_FRAMES", kept_frames)
        with monkeypatch.context() as patch:
            patch.setattr(model.backbone, "precompute", lambda *given: computed.append(1) or original(*given))  # noqa: B023
            for one, other in zip(at_once, latents(model, samples, WINDOWED, **options), strict=True):
                assert torch.allclose(one, other, atol=1e-4)
        assert len(computed) == precomputed
    assert max(rows) == 4  # two windows in two branches
    assert [len(chunk) for chunk in chunks_of(plan_windows([130, 70], WindowSize(40, 10), set()))] == [2, 2, 2]


def test_a_predicted_length_is_divided_too(model: UnifiedAudioModel) -> None:
    bias = model.content_adapter.global_predictor.network[-1].bias
    before = bias.detach().clone()
    asked = [sample((TextContent("a long rush"),))]
    try:
        with torch.no_grad():
            bias += 1.5
        [plain], [made] = (latents(model, asked, settings) for settings in (PLAIN, WINDOWED))
    finally:
        with torch.no_grad():
            bias.copy_(before)
    assert len(plain) == len(made) > 60
    assert (plain - made).abs().max() > 1e-3


def test_recordings_that_do_not_lie_in_time_are_not_cut(
    model: UnifiedAudioModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model may have an encoder of its own, for which a recording describes the whole: its length says nothing."""
    monkeypatch.setattr(model.content_encoders["audio"], "alignment", Alignment.NONE)
    told: list[int] = []
    handle = model.content_encoders["audio"].register_forward_hook(lambda *given: told.append(given[2].mask.shape[1]))
    try:
        [made] = latents(model, [sample(contents(1.9)["recording"])], WINDOWED, duration_s=[1.2])
    finally:
        handle.remove()
    assert len(made) == 60 and told == [95]  # all of it, once


def test_joins_are_as_smooth_as_the_rest(model: UnifiedAudioModel) -> None:
    """Windows of one state do not come apart: the latent changes no more in joins than elsewhere."""
    [made] = latents(model, [sample(contents(6.0)["recording"])], WINDOWED)
    change = made.diff(dim=0).square().mean(dim=1)
    weight = torch.zeros(300)
    for window in plan_windows([300], WindowSize(40, 10), whole=set()):
        weight[window.start : window.stop] = torch.maximum(weight[window.start : window.stop], window.weights)
    in_joins = weight[1:] < 0.999
    assert 60 < int(in_joins.sum()) < 120
    assert float(change[in_joins].mean()) < 1.1 * float(change[~in_joins].mean())
    assert float(change[in_joins].max()) < 1.1 * float(change[~in_joins].max())


# -- limits ------------------------------------------------------------------------------------------------------------


def silent(seconds: int) -> list[Sample]:
    return [sample((AudioContent(latent=torch.zeros(seconds * RATE_HZ, 40)),))]


def test_what_is_too_long_is_refused_before_anything_is_computed(model: UnifiedAudioModel) -> None:
    asked: list[str] = []
    handle = model.instruction_encoder.register_forward_hook(lambda *_: asked.append("encoded"))
    try:
        with pytest.raises(UserError, match=r"item: lasts 601.0 s; at most 600 s are made at once: set window_s"):
            latents(model, silent(601), PLAIN)
        with pytest.raises(UserError, match=r"item: lasts 3601.0 s; at most 3600 s are made: cut it"):
            latents(model, silent(3601), WINDOWED)
    finally:
        handle.remove()
    assert not asked
    with pytest.raises(UserError, match=r"item: lasts 700.0 s.*set window_s"):
        latents(model, [sample((TextContent("a"),))], PLAIN, duration_s=[700.0])
    spoken = [sample((PhonemeContent(TOY_PHONEMES[:1], torch.tensor([1.0])),))]
    with pytest.raises(UserError, match=r"item: lasts 700.0 s; at most 600 s are made at once: cut it into parts"):
        latents(model, spoken, WINDOWED, duration_s=[700.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_s": 0.01}, r"window_s is 0.01; it must lie between 0.1 and 600 s, or be 0"),
        ({"window_s": -1.0}, "window_s is -1.0"),
        ({"window_s": float("nan")}, "window_s is nan"),
        ({"window_s": 601.0}, "window_s is 601.0"),
        ({"window_overlap": 0.6}, r"window_overlap is 0.6; it must lie between 0.01 and 0.5"),
        ({"window_overlap": 0.0}, "window_overlap is 0.0"),
    ],
)
def test_settings_that_no_window_has(settings: dict[str, float], message: str) -> None:
    for kind in (GenerationSettings, GenerationOptions):
        with pytest.raises(UserError, match=message):
            kind(**settings)


def test_windows_of_a_model_can_be_turned_off() -> None:
    of_the_folder = GenerationSettings(window_s=10.0)
    assert GenerationOptions().over(of_the_folder).window_s == 10.0
    assert not GenerationOptions(window_s=0.0).over(of_the_folder).window_s
