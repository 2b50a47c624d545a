"""One class per task: what a line says arrives typed, aligned with its target, cropped or whole; faults are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from timed_items import DURATIONS_S, HOP, PHONEMES, RATE, SECONDS, Halved, alike, make, place_s
from unisono.data.collate import Collator
from unisono.data.datasets import DATASETS, ConcatDataset
from unisono.errors import UserError
from unisono.tasks import TASKS
from unisono.types import Sample

# -- every task -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_each_task_is_read_with_and_without_targets(task: str, tmp_path: Path) -> None:
    dataset = make(tmp_path / "a b", task)
    sample = dataset[0]
    assert sample.task == task and sample.waveform.shape == (RATE * SECONDS,)
    assert sample.content[0].modality == TASKS[task].modality
    assert sample.instruction in TASKS[task].instructions and dataset.describe(dataset.line(0))
    alone = make(tmp_path / "a b", task, inference=True)[0]
    assert alone.waveform is None
    if task not in ("text_to_audio", "text_to_music"):  # of several captions the first is taken
        assert alike(alone.content, sample.content)


@pytest.mark.parametrize("task", TASKS)
def test_an_item_is_a_function_of_seed_epoch_and_id(task: str, tmp_path: Path) -> None:
    dataset = make(tmp_path, task, crop_s=1.0, lines=2)
    for index in (0, 1):
        assert all(alike(dataset.sample(index, epoch), dataset.sample(index, epoch)) for epoch in range(3))
    drawn, others = ([place_s(dataset.sample(item, epoch).waveform) for epoch in range(12)] for item in (0, 1))
    assert len(set(drawn)) > 1 and drawn != others
    other = make(tmp_path, task, crop_s=1.0, lines=2, seed=1)
    assert any(not alike(other.sample(0, e), dataset.sample(0, e)) for e in range(4))


def content_place_s(sample: Sample) -> float:
    """Where in the whole the content of a crop begins, by what it holds."""
    content = sample.content[0]
    if content.modality in ("phoneme", "score"):
        return float(np.cumsum([0.0, *DURATIONS_S])["_abcd".index(content.phonemes[0])])
    if content.modality == "pitch":
        voiced = int(torch.argmax(content.voicing.int()))
        # The contour is 100 Hz plus its frame number, at a hundred frames a second, values in the middle of frames.
        return (float(content.f0_hz[voiced + 3]) - 100 + 0.5) / 100 - (voiced + 3.5) * HOP / RATE
    if content.modality == "audio":
        return place_s(content.waveform)
    bars = content.frames[0, 32, 4::8, 0] > 127
    return int((bars * 2 ** torch.arange(8)).sum()) / 25


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("text_to_audio", "text_to_music")])
def test_a_crop_keeps_content_and_audio_together(task: str, tmp_path: Path) -> None:
    dataset = make(tmp_path, task, crop_s=1.0)
    assert dataset.durations_s.tolist() == [1.0]
    begins = set()
    for epoch in range(20):
        sample = dataset.sample(0, epoch)
        begin_s = place_s(sample.waveform)
        tolerance_s = 0.045 if task == "video_to_audio" else 0.011 if task == "singing_acoustic_modeling" else 1e-3
        assert content_place_s(sample) == pytest.approx(begin_s, abs=tolerance_s), epoch
        begins.add(round(begin_s, 2))
        assert sample.waveform.shape[0] <= RATE
        content = sample.content[0]
        if content.modality in ("phoneme", "score", "pitch"):
            assert float(content.durations_s.sum()) * RATE == pytest.approx(sample.waveform.shape[0], abs=1)
        else:
            assert sample.waveform.shape[0] == RATE
        assert begin_s * RATE % HOP == pytest.approx(0, abs=1) or content.modality in ("phoneme", "score", "pitch")
    assert len(begins) >= 3


def test_crops_between_units_show_every_unit_in_time(tmp_path: Path) -> None:
    dataset = make(tmp_path, "text_to_speech", crop_s=1.0)
    shown = {dataset.sample(0, epoch).content[0].phonemes for epoch in range(40)}
    assert shown == {("_", "a", "b"), ("a", "b"), ("b", "c"), ("c", "d")}
    with pytest.raises(UserError, match=r"no unit is as short as crop_s \(0.1 s\)"):
        make(tmp_path, "text_to_speech", crop_s=0.1)[0]


def test_all_tasks_make_one_batch(tmp_path: Path) -> None:
    parts = [make(tmp_path / task, task) for task in TASKS]
    collator = Collator(PHONEMES, ["ann"])
    batch = collator(list(ConcatDataset(parts)))
    assert batch.tasks == tuple(TASKS) and set(batch.contents) == {
        "text",
        "phoneme",
        "score",
        "pitch",
        "audio",
        "video",
    }
    assert batch.contents["text"].index.tolist() == [0, 1, 7]  # the film has a caption as well
    score = batch.contents["score"].inputs
    assert score["notes"].tolist() == [[0, 60, 62, 64, 64.5]] and score["slurs"].tolist() == [[0, 0, 0, 1, 0]]
    pitch = batch.contents["pitch"].inputs
    assert pitch["tokens"].shape == pitch["f0_hz"].shape == (1, 100)
    spans = [round(seconds * RATE / HOP) for seconds in DURATIONS_S]
    assert pitch["tokens"][0].tolist() == [token + 1 for token, span in enumerate(spans) for _ in range(span)]
    assert batch.contents["video"].inputs["frames"].shape == (1, 50, 64, 64, 3)


# -- details --------------------------------------------------------------------------------------------------------


def test_one_of_several_captions_is_drawn_and_the_first_stands_without_targets(tmp_path: Path) -> None:
    dataset = make(tmp_path, "text_to_audio")
    assert {dataset.sample(0, epoch).content[0].text for epoch in range(20)} == {"one", "two", "three"}
    assert make(tmp_path, "text_to_audio", inference=True).sample(0, 5).content[0].text == "one"


def test_a_contour_of_another_rate_and_a_voicing_of_its_own_are_brought_to_the_latent_rate(tmp_path: Path) -> None:
    np.save(tmp_path / "slow.npy", np.full(80, 220.0))
    np.save(tmp_path / "voicing.npy", np.arange(80) >= 40)
    changes = {"f0_hz": "slow.npy", "f0_rate_hz": 40, "voicing": "voicing.npy"}
    content = make(tmp_path, "singing_acoustic_modeling", changes)[0].content[0]
    assert content.f0_hz.shape == (100,)
    assert content.voicing[:49].sum() == 0 and bool(content.voicing[51:].all())
    assert content.f0_hz[51:].tolist() == pytest.approx([220.0] * 49, rel=1e-5)


def test_a_speaker_may_be_an_embedding(tmp_path: Path) -> None:
    np.save(tmp_path / "voice.npy", np.arange(4, dtype=np.float32))
    for task in ("text_to_speech", "singing_voice_synthesis", "singing_acoustic_modeling"):
        sample = make(tmp_path, task, {"speaker": None, "speaker_embedding": "voice.npy"})[0]
        named = make(tmp_path / "named", task)[0]
        inputs = Collator(PHONEMES, ["ann"])([named, sample]).contents[TASKS[task].modality].inputs
        assert inputs["speaker"].tolist() == [1, 0]
        assert inputs["speaker_embedding"].tolist() == [[0, 0, 0, 0], [0, 1, 2, 3]]


def test_a_speaker_may_be_a_reference_recording(tmp_path: Path) -> None:
    make(tmp_path, "text_to_speech")
    t = np.arange(RATE) / RATE
    for name, f0_hz in (("low", 110), ("high", 240)):
        voice = sum(np.sin(2 * np.pi * f0_hz * k * t) / k for k in range(1, 12))
        sf.write(tmp_path / f"{name}.wav", 0.2 * voice * (1 + 0.5 * np.sin(2 * np.pi * 3 * t)), RATE)
    vectors = []
    for name in ("low", "high", "low"):
        changes = {"speaker": None, "speaker_audio": f"{name}.wav"}
        dataset = make(tmp_path, "text_to_speech", changes, speaker_encoder="statistics")
        vectors.append(dataset[0].content[0].speaker)
        assert dict(dataset.other_files(dataset.line(0)))["speaker_audio"].path.name == f"{name}.wav"
    assert vectors[0].shape == (42,) and torch.equal(vectors[0], vectors[2])
    assert not torch.allclose(vectors[0], vectors[1])
    with pytest.raises(UserError, match=r"jsonl:1: field 'speaker_audio' needs the data set's speaker_encoder"):
        make(tmp_path, "text_to_speech", changes)[0]


def test_video_features_take_the_place_of_pictures(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", np.arange(20)[:, None] * np.ones((1, 3)))
    changes = {"video": None, "video_features": "features.npy", "video_features_rate_hz": 10}
    sample = make(tmp_path, "video_to_audio", changes)[0]
    assert sample.content[0].features.shape == (20, 3) and sample.content[0].rate_hz == 10
    cropped = make(tmp_path, "video_to_audio", changes, crop_s=1.0)
    for epoch in range(5):
        sample = cropped.sample(0, epoch)
        assert float(sample.content[0].features[0, 0]) / 10 == pytest.approx(place_s(sample.waveform), abs=0.051)


@pytest.mark.parametrize("task", ["speech_enhancement", "audio_super_resolution"])
def test_inputs_are_made_on_the_fly_from_the_crop(task: str, tmp_path: Path) -> None:
    field = "noisy_audio" if task == "speech_enhancement" else "narrow_audio"
    dataset = make(tmp_path, task, {field: None}, degradation=Halved(), crop_s=1.0)
    gains = set()
    for epoch in range(5):
        sample = dataset.sample(0, epoch)
        ratio = sample.content[0].waveform[sample.waveform > 0.01] / sample.waveform[sample.waveform > 0.01]
        assert float(ratio.std()) < 1e-6
        gains.add(round(float(ratio[0]), 6))
    assert len(gains) == 5
    assert alike(dataset.sample(0, 3), dataset.sample(0, 3))
    with pytest.raises(UserError, match="a degradation needs targets to degrade"):
        make(tmp_path, task, {field: None}, degradation=Halved(), inference=True)


def test_a_target_too_narrow_for_super_resolution_is_named(tmp_path: Path) -> None:
    make(tmp_path, "audio_super_resolution")
    t = np.arange(round(RATE * SECONDS)) / RATE
    sf.write(tmp_path / "target.wav", 0.3 * np.sin(2 * np.pi * 1000 * t), RATE)
    options = {"degradation": Halved(), "min_bandwidth_hz": 6000}
    dataset = DATASETS["audio_super_resolution"](tmp_path / "content.jsonl", tmp_path / "audio.jsonl", **options)
    with pytest.raises(UserError, match=r"content\.jsonl:1: the target reaches only \d+ Hz, min_bandwidth_hz is 6000"):
        dataset[0]
