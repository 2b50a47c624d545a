"""What is too long, too short, empty or unknown, from manifests through the model: it works, or the error says why."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

from toy import randomised
from unisono.data.datasets import DATASETS, AudioGenerationDataset
from unisono.data.manifest import write_jsonl
from unisono.errors import UserError
from unisono.inference.pipeline import Pipeline
from unisono.models.autoencoder import LogMelAutoencoder
from unisono.models.backbone import LayerFusionDiT
from unisono.models.content_adapter import PrefixAdapter
from unisono.models.content_encoder import (
    AudioEncoder,
    ByteTextEncoder,
    PhonemeEncoder,
    PitchEncoder,
    ScoreEncoder,
    VideoEncoder,
)
from unisono.models.unified import GenerationSettings, UnifiedAudioModel
from unisono.objectives import FlowMatching
from unisono.tasks import TASKS
from unisono.training.losses import AudioGenerationLoss
from unisono.types import (
    AudioContent,
    Content,
    PhonemeContent,
    PitchContent,
    Sample,
    ScoreContent,
    TextContent,
    VideoContent,
)

RATE, HOP, PHONEMES, SPEAKERS = 24_000, 2400, ("a", "b"), ("ann",)
FRAME_S = HOP / RATE
UNIT_TASKS = ("text_to_speech", "singing_voice_synthesis", "singing_acoustic_modeling")
CAPTION_TASKS = ("text_to_audio", "text_to_music")
INPUT_FIELDS = {"speech_enhancement": "noisy_audio", "audio_super_resolution": "narrow_audio"}


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    torch.manual_seed(0)
    voices: dict[str, Any] = {"phonemes": PHONEMES, "speakers": SPEAKERS, "num_heads": 2, "speaker_embedding_dim": 4}
    model = UnifiedAudioModel(
        autoencoder=LogMelAutoencoder(RATE, HOP, 4 * HOP, n_mels=20, mean=-6.0, std=2.5, griffin_lim_steps=2),
        instruction_encoder=ByteTextEncoder(16, num_layers=1, num_heads=2, ngram_buckets=64),
        content_encoders={
            "text": ByteTextEncoder(16, num_layers=1, num_heads=2, ngram_buckets=64),
            "phoneme": PhonemeEncoder(16, num_layers=1, **voices),
            "score": ScoreEncoder(16, num_layers=1, **voices),
            "pitch": PitchEncoder(16, **voices),
            "audio": AudioEncoder(16, latent_dim=20),
            "video": VideoEncoder(16, channels=4, feature_dim=3),
        },
        content_adapter=PrefixAdapter(16, instruction_dim=16, num_heads=2),
        backbone=LayerFusionDiT(latent_dim=20, dim=16, num_layers=2, num_heads=2, frames_dim=16),
        objective=FlowMatching(),
    )
    return Pipeline(randomised(model), {"phonemes": list(PHONEMES), "speakers": list(SPEAKERS)})


# -- items of any length --------------------------------------------------------------------------------------------


def dataset(
    folder: Path, task: str, seconds: float, target_s: float | None = None, targets: bool = True, **changes: Any
) -> AudioGenerationDataset:
    """One item whose content lasts ``seconds`` and its target ``target_s``, the same unless given."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, length_s in (("input", seconds), ("target", seconds if target_s is None else target_s)):
        noise = 0.1 * np.random.default_rng(0).standard_normal(round(length_s * RATE))
        sf.write(folder / f"{name}.wav", noise.astype(np.float32), RATE, "FLOAT")
    np.save(folder / "f0.npy", np.full(round(seconds * 100), 200.0))
    np.save(folder / "features.npy", np.ones((round(seconds * 50), 3)))
    units = {"phonemes": ["a", "b"], "durations_s": [seconds / 4, seconds - seconds / 4], "speaker": "ann"}
    line: dict[str, Any] = {"video_features": "features.npy", "video_features_rate_hz": 50}
    if task in CAPTION_TASKS:
        line = {"caption": "a bell"}
    elif task in INPUT_FIELDS:
        line = {INPUT_FIELDS[task]: "input.wav"}
    elif task == "text_to_speech":
        line = units
    elif task == "singing_voice_synthesis":
        line = {**units, "notes": ["C4", "D4"], "note_durations_s": units["durations_s"], "slurs": [0, 0]}
    elif task == "singing_acoustic_modeling":
        line = {**units, "f0_hz": "f0.npy", "f0_rate_hz": 100}
    line = {name: value for name, value in {**line, **changes}.items() if value is not None}
    write_jsonl(folder / "content.jsonl", [{"audio_id": "item", **line}])
    write_jsonl(folder / "audio.jsonl", [{"audio_id": "item", "audio": "target.wav"}])
    return DATASETS[task](folder / "content.jsonl", folder / "audio.jsonl" if targets else None, hop_samples=HOP)


def train(pipeline: Pipeline, *samples: Sample) -> float:
    """Loss of a step; gradients are finite."""
    torch.manual_seed(0)
    model = pipeline.model.train()
    model.zero_grad()
    result = AudioGenerationLoss()(model(pipeline.collate(samples)))
    result.total.backward()
    model.eval()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters() if p.requires_grad)
    return float(result.total.detach())


def generate(pipeline: Pipeline, *samples: Sample, duration_s: Any = None, **settings: Any) -> list[float]:
    """Seconds of each item, all of whose samples are finite."""
    chosen = GenerationSettings(num_steps=2, **{"max_duration_s": 60.0, **settings})
    made = pipeline.generate(samples, settings=chosen, duration_s=duration_s)
    assert all(np.isfinite(audio.waveform).all() for audio in made)
    return [audio.duration_s for audio in made]


@pytest.mark.parametrize("seconds", [FRAME_S, 60.0])
@pytest.mark.parametrize("task", TASKS)
def test_a_single_frame_and_a_minute_train_and_generate(
    pipeline: Pipeline, task: str, seconds: float, tmp_path: Path
) -> None:
    """A batch of one. Positions have no end, and no layer needs a second frame."""
    assert np.isfinite(train(pipeline, dataset(tmp_path, task, seconds)[0]))
    sample = dataset(tmp_path, task, seconds, targets=False)[0]
    wanted = [seconds] if task in CAPTION_TASKS else None
    assert generate(pipeline, sample, duration_s=wanted) == [pytest.approx(seconds)]


def test_a_single_sample_is_a_frame(pipeline: Pipeline) -> None:
    """Of a target and of a recording, and a video of one picture."""
    click = torch.ones(1)
    for content in (TextContent("a"), AudioContent(click), VideoContent(25.0, torch.zeros(1, 16, 16, 3).byte())):
        assert np.isfinite(train(pipeline, sample_of(content, waveform=click)))
    assert generate(pipeline, sample_of(AudioContent(click))) == [FRAME_S]


def test_a_frame_beside_a_minute_is_the_frame_alone(pipeline: Pipeline, tmp_path: Path) -> None:
    short, long = (dataset(tmp_path / str(s), "speech_enhancement", s, targets=False)[0] for s in (FRAME_S, 60.0))
    short, long = dataclasses.replace(short, audio_id="short"), dataclasses.replace(long, audio_id="long")
    settings = GenerationSettings(num_steps=2)
    alone = pipeline.generate([short], settings=settings)[0].waveform
    beside = pipeline.generate([long, short], settings=settings)[1].waveform
    assert alone.shape == beside.shape == (HOP,)
    assert np.abs(alone - beside).max() < 1e-3 * np.abs(alone).max()


# -- content that does not fit its target ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("text_to_speech", r"field 'durations_s' sums to 3\.000 s, but the recording lasts 1\.000 s"),
        ("singing_voice_synthesis", r"field 'durations_s' sums to 3\.000 s, but the recording lasts 1\.000 s"),
        ("singing_acoustic_modeling", r"field 'durations_s' sums to 3\.000 s, but the recording lasts 1\.000 s"),
        (
            "speech_enhancement",
            r"field 'noisy_audio': .*input\.wav lasts 3\.000 s, its target 1\.000 s; they mu",
        ),
        ("audio_super_resolution", r"field 'narrow_audio': .*input\.wav lasts 3\.000 s, its target 1\.000 s"),
        ("video_to_audio", r"field 'video_features': 150 frames at 50 Hz are 3\.000 s, the sound 1\.000 s; correct"),
    ],
)
def test_content_longer_than_its_audio_is_refused_by_line_and_field(task: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"content\.jsonl:1: {words}"):
        dataset(tmp_path, task, 3.0, target_s=1.0)[0]


def test_an_f0_contour_longer_than_its_phonemes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"content\.jsonl:1: field 'f0_hz': 300 frames at 100 Hz are 3\.000 s, the"):
        dataset(tmp_path, "singing_acoustic_modeling", 3.0, target_s=1.0, durations_s=[0.25, 0.75])[0]


def test_a_caption_has_no_length(pipeline: Pipeline, tmp_path: Path) -> None:
    sample = dataset(tmp_path, "text_to_audio", 0.5, caption="a bell and " * 300)[0]
    assert np.isfinite(train(pipeline, sample))
    assert generate(pipeline, dataclasses.replace(sample, waveform=None), duration_s=[0.5]) == [0.5]


def sample_of(*contents: Content, **fields: Any) -> Sample:
    return Sample("item", "text_to_audio", "Do it.", contents, item_name="content.jsonl:7", **fields)


def aligned(frames: int) -> dict[str, Content]:
    """Content of so many latent frames, made by hand."""
    seconds = torch.tensor([frames * FRAME_S])
    return {
        "pitch": PitchContent(("a",), seconds, torch.full((frames,), 200.0), torch.ones(frames).bool()),
        "audio": AudioContent(torch.ones(frames * HOP)),
        "latent": AudioContent(latent=torch.ones(frames, 20)),
        "video": VideoContent(20.0, torch.zeros(2 * frames, 16, 16, 3, dtype=torch.uint8)),
    }


@pytest.mark.parametrize("kind", aligned(2))
def test_content_on_frames_that_the_target_does_not_have_is_refused_by_the_collator(
    pipeline: Pipeline, kind: str
) -> None:
    """For data sets of one's own, which may not look."""
    assert np.isfinite(train(pipeline, sample_of(aligned(10)[kind], waveform=torch.ones(24_000))))
    for frames in (30, 2):
        with pytest.raises(UserError, match=rf"^content\.jsonl:7: .*{frames / 10:.3f} s.*\b1\.000 s.*cut both alike"):
            train(pipeline, sample_of(aligned(frames)[kind], waveform=torch.ones(24_000)))


# -- nothing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        ("text_to_audio", {"caption": ""}, "field 'caption'"),
        ("text_to_music", {"caption": []}, "field 'caption'"),
        ("text_to_audio", {"instruction": ""}, "field 'instruction'"),
        ("text_to_audio", {"instruction": " \n"}, "field 'instruction'"),
        ("text_to_speech", {"phonemes": [], "durations_s": []}, "field 'phonemes'"),
        ("text_to_speech", {"durations_s": [0, 0]}, "field 'durations_s'"),
        ("singing_voice_synthesis", {"phonemes": [], "notes": []}, "field 'phonemes'"),
        ("singing_acoustic_modeling", {"f0_hz": "empty.npy"}, "field 'f0_hz'"),
        ("speech_enhancement", {"noisy_audio": "empty.wav"}, "field 'noisy_audio'"),
        ("audio_super_resolution", {"narrow_audio": "empty.wav"}, "field 'narrow_audio'"),
        ("video_to_audio", {"video_features": "empty.npy"}, "field 'video_features'"),
    ],
)
@pytest.mark.parametrize("targets", [True, False])
def test_an_empty_field_is_refused_by_line(
    task: str, changes: dict[str, Any], words: str, targets: bool, tmp_path: Path
) -> None:
    np.save(tmp_path / "empty.npy", np.zeros((0, 3) if task == "video_to_audio" else 0))
    sf.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(UserError, match=rf"content\.jsonl:1: {words}"):
        dataset(tmp_path, task, 1.0, targets=targets, **changes)[0]


NONE = torch.zeros(0)
EMPTY: dict[str, tuple[Content, str]] = {
    "text": (TextContent(""), "(instruction|caption).* is empty"),
    "blank text": (TextContent(" \t"), "(instruction|caption).* is empty"),
    "phoneme": (PhonemeContent((), NONE), "content.jsonl:7: there are no phonemes; give at least one"),
    "score": (ScoreContent((), NONE, NONE, NONE.bool()), "content.jsonl:7: there are no phonemes; give at least one"),
    "pitch": (PitchContent(("a",), torch.ones(1), NONE, NONE.bool()), "content.jsonl:7: the F0 contour is empty"),
    "audio": (AudioContent(NONE), "content.jsonl:7: the recording is empty"),
    "latent": (AudioContent(latent=torch.zeros(0, 20)), "content.jsonl:7: the latent of the recording is empty"),
    "video": (VideoContent(25.0, torch.zeros(0, 16, 16, 3).byte()), "content.jsonl:7: the video has no picture"),
    "features": (VideoContent(25.0, features=torch.zeros(0, 3)), "content.jsonl:7: the video has no picture"),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_empty_content_made_by_hand_is_refused(pipeline: Pipeline, kind: str) -> None:
    content, words = EMPTY[kind]
    for use in (train, generate):
        with pytest.raises(UserError, match=words):
            use(pipeline, sample_of(content, waveform=torch.ones(HOP) if use is train else None))


@pytest.mark.parametrize("instruction", ["", " ", "\n\t"])
def test_an_empty_instruction_is_refused(pipeline: Pipeline, instruction: str) -> None:
    sample = dataclasses.replace(sample_of(TextContent("a"), waveform=torch.ones(HOP)), instruction=instruction)
    for use in (train, generate):
        with pytest.raises(UserError, match=r"(instruction|caption).* is empty"):
            use(pipeline, sample)


# -- who and what is unknown ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", UNIT_TASKS)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"phonemes": ["a", "X"]},
            r"content\.jsonl:1: phonemes \['X'\] are not among the model's 2; correct them or",
        ),
        (
            {"speaker": "eve"},
            r"content\.jsonl:1: speaker 'eve' is unknown to the model \(it has: ann\); correct it",
        ),
        (
            {"speaker": None, "speaker_embedding": "5.npy"},
            r"has 5 values, the model takes 4; set speaker_embed",
        ),
    ],
)
def test_unknown_phonemes_and_voices_are_refused(
    pipeline: Pipeline, task: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "5.npy", np.ones(5))
    for use, targets in ((train, True), (generate, False)):
        with pytest.raises(UserError, match=words):
            use(pipeline, dataset(tmp_path, task, 0.5, targets=targets, **changes)[0])


@pytest.mark.parametrize("task", UNIT_TASKS)
def test_a_voice_is_a_name_an_embedding_or_nobody(pipeline: Pipeline, task: str, tmp_path: Path) -> None:
    np.save(tmp_path / "4.npy", np.ones(4))
    for changes in ({}, {"speaker": None}, {"speaker": None, "speaker_embedding": "4.npy"}):
        assert np.isfinite(train(pipeline, dataset(tmp_path, task, 0.5, **changes)[0]))
        assert generate(pipeline, dataset(tmp_path, task, 0.5, targets=False, **changes)[0]) == [0.5]


@pytest.mark.parametrize("task", UNIT_TASKS)
@pytest.mark.parametrize("values", [np.ones((1, 4)), np.full(4, np.nan), np.zeros(0), np.array(1.0)])
def test_a_speaker_embedding_that_is_none_is_refused_by_line(task: str, values: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "voice.npy", values)
    with pytest.raises(UserError, match=r"content\.jsonl:1: field 'speaker_embedding': .*voice\.npy"):
        dataset(tmp_path, task, 0.5, speaker=None, speaker_embedding="voice.npy")[0]


# -- lengths that are asked for or predicted ------------------------------------------------------------------------


@pytest.mark.parametrize("wanted_s", [0.0, -1.0, 60.5, float("nan"), float("inf")])
def test_a_length_outside_the_limits_is_refused(pipeline: Pipeline, wanted_s: float) -> None:
    with pytest.raises(UserError, match=rf"duration_s is {wanted_s:g}; it must lie between 0 and 60 s"):
        generate(pipeline, sample_of(TextContent("a")), duration_s=[wanted_s])


@pytest.mark.parametrize("log_duration", [-1e9, -3.0, 3.0, 100.0, float("inf")])
def test_predicted_lengths_are_cut_whatever_the_network_says(pipeline: Pipeline, log_duration: float) -> None:
    """exp(100) is infinite in float32, and an infinite number of frames would have become one."""
    samples = [sample_of(TextContent("a")), sample_of(PhonemeContent(("a", "b")))]
    predictors = [pipeline.model.content_adapter.global_predictor, pipeline.model.content_adapter.local_predictor]
    before = [predictor.network[-1].bias.detach().clone() for predictor in predictors]  # type: ignore[union-attr]
    try:
        for predictor in predictors:
            torch.nn.init.constant_(predictor.network[-1].bias, log_duration)  # type: ignore[arg-type]
        whole_s, units_s = generate(pipeline, *samples, max_duration_s=0.5)
    finally:
        for predictor, bias in zip(predictors, before, strict=True):
            predictor.network[-1].bias.data.copy_(bias)  # type: ignore[operator,union-attr]
    if log_duration < 0:
        assert whole_s == units_s == FRAME_S
    elif log_duration > 50:
        assert whole_s == units_s == 0.5
    else:
        assert FRAME_S < units_s <= 0.5
