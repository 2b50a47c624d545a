"""One class per task: what a line says arrives typed, aligned with its target, cropped or whole; faults are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

from unisono.data.collate import Collator
from unisono.data.datasets import DATASETS, AudioGenerationDataset, ConcatDataset
from unisono.data.datasets.base import LONGEST_WHOLE_S
from unisono.data.manifest import write_jsonl
from unisono.errors import UserError
from unisono.tasks import TASKS
from unisono.types import Sample

av = pytest.importorskip("av")
RATE, HOP, SECONDS = 24_000, 480, 2.0
PHONEMES = ("_", "a", "b", "c", "d")
DURATIONS_S = [0.3, 0.5, 0.2, 0.6, 0.4]


def clicks(seconds: float = SECONDS, every_s: float = 0.1) -> np.ndarray:
    """A click at each tenth of a second, each louder than the one before: every place can be told from its sound."""
    waveform = np.zeros(round(seconds * RATE), dtype=np.float32)
    places = np.arange(0, len(waveform), round(every_s * RATE))
    waveform[places] = 0.05 + 0.9 * np.arange(len(places)) / len(places)
    return waveform


def place_s(waveform: torch.Tensor) -> float:
    """Where in ``clicks()`` a part of it begins."""
    sounding = np.flatnonzero(waveform.numpy() > 0.01)
    first = int(sounding[0])
    number = round((float(waveform[first]) - 0.05) / 0.9 * 20)
    return number * 0.1 - first / RATE


def line_of(task: str, folder: Path) -> dict[str, Any]:
    """A content line, its files written; what is aligned tells its own time."""
    units = {"phonemes": list("_abcd"), "durations_s": DURATIONS_S, "speaker": "ann", "text": "abcd"}
    if task in ("text_to_audio", "text_to_music"):
        return {"caption": ["one", "two", "three"]}
    if task == "text_to_speech":
        return units
    if task == "singing_voice_synthesis":
        notes = {"notes": ["rest", "C4", 62, "E4", 64.5], "note_durations_s": [0.3, 0.7, 0.7, 1.0, 1.0]}
        return {**units, **notes, "slurs": [0, 0, 0, 1, 0]}
    if task == "singing_acoustic_modeling":
        np.save(folder / "f0.npy", np.where(np.arange(200) < 20, 0, 100 + np.arange(200)).astype(np.float32))
        return {**units, "f0_hz": "f0.npy", "f0_rate_hz": 100}
    if task in ("speech_enhancement", "audio_super_resolution"):
        sf.write(folder / "input.wav", clicks(), RATE, "FLOAT")
        return {{"speech_enhancement": "noisy_audio", "audio_super_resolution": "narrow_audio"}[task]: "input.wav"}
    return {"video": write_video(folder / "film.mp4").name, "caption": "a film"}


def write_video(path: Path) -> Path:
    """Fifty pictures at 25 Hz that show their numbers as six bars, white for 1."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        for number in range(50):
            bars = np.repeat(255 * (number >> np.arange(8) & 1), 8)
            picture = np.broadcast_to(bars[None, :, None], (64, 64, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def make(
    folder: Path, task: str, changes: dict[str, Any] | None = None, lines: int = 1, **options
) -> AudioGenerationDataset:
    """A data set of equal items; a change to None removes the field."""
    folder.mkdir(parents=True, exist_ok=True)
    sf.write(folder / "target.wav", clicks(), RATE, "FLOAT")
    line = {**line_of(task, folder), **(changes or {})}
    line = {key: value for key, value in line.items() if value is not None}
    write_jsonl(folder / "content.jsonl", [{"audio_id": f"item {i}", **line} for i in range(lines)])
    write_jsonl(folder / "audio.jsonl", [{"audio_id": f"item {i}", "audio": "target.wav"} for i in range(lines)])
    audio = None if options.pop("inference", False) else folder / "audio.jsonl"
    return DATASETS[task](folder / "content.jsonl", audio, **options)


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "__dataclass_fields__"):
        return all(alike(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    return a == b


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


class Halved:
    """A degradation that can be recognised, with a draw of its own."""

    def __call__(self, rng: np.random.Generator, waveform: np.ndarray, sample_rate: int) -> Any:
        assert sample_rate == RATE

        class Degraded:
            pass

        degraded = Degraded()
        degraded.waveform = (waveform * rng.uniform(0.3, 0.6)).astype(np.float32)
        return degraded


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


def test_weights_and_limits_are_checked(tmp_path: Path) -> None:
    for name in ("crop_s", "max_duration_s", "weight"):
        with pytest.raises(UserError, match=f"{name} is 0; it must be above 0"):
            make(tmp_path, "text_to_audio", **{name: 0})
    with pytest.raises(UserError, match=r"crop_s is 1e-09; it must be at least a latent frame, 0\.02 s"):
        make(tmp_path, "text_to_audio", crop_s=1e-9)
    assert make(tmp_path, "text_to_audio", crop_s=0.02)[0].waveform.shape == (HOP,)
    for number in (0, -1):
        with pytest.raises(UserError, match=f"max_samples is {number}; it must be 1 or more"):
            make(tmp_path, "text_to_audio", max_samples=number)


def test_a_crop_is_never_of_units_without_length(tmp_path: Path) -> None:
    for short_s in (0, 1e-5):
        changes = {"durations_s": [short_s, short_s, 0.3, 1.7 - 3 * short_s, short_s]}
        dataset = make(tmp_path, "text_to_speech", changes, crop_s=0.35)
        for epoch in range(20):
            sample = dataset.sample(0, epoch)
            assert "b" in sample.content[0].phonemes and sample.waveform.shape[0] == pytest.approx(0.3 * RATE, abs=1)
        with pytest.raises(UserError, match=r"content\.jsonl:1: no unit is as short as crop_s \(0\.2 s\)"):
            make(tmp_path, "text_to_speech", changes, crop_s=0.2)
        assert len(make(tmp_path, "text_to_speech", changes, crop_s=5.0)[0].content[0].phonemes) == 5


def test_what_a_crop_has_no_room_for_may_be_left_out_for_its_length(tmp_path: Path) -> None:
    make(tmp_path, "text_to_speech")
    sf.write(tmp_path / "short.wav", clicks(0.5), RATE, "FLOAT")
    line = {"phonemes": ["a"], "durations_s": [2.0]}
    write_jsonl(
        tmp_path / "content.jsonl", [{"audio_id": "0", **line}, {"audio_id": "1", **line, "durations_s": [0.5]}]
    )
    write_jsonl(
        tmp_path / "audio.jsonl", [{"audio_id": "0", "audio": "target.wav"}, {"audio_id": "1", "audio": "short.wav"}]
    )
    paths = (tmp_path / "content.jsonl", tmp_path / "audio.jsonl")
    with pytest.raises(UserError, match=r"content\.jsonl:1: no unit is as short"):
        DATASETS["text_to_speech"](*paths, crop_s=1.0)
    dataset = DATASETS["text_to_speech"](*paths, crop_s=1.0, max_duration_s=1.5)
    assert len(dataset) == 1 and dataset.num_left_out == 1


def test_voices_of_two_sizes_in_a_manifest_or_of_values_too_large_are_found_before_training(tmp_path: Path) -> None:
    make(tmp_path, "text_to_speech", lines=3)
    for name, values in (("a", np.ones(4)), ("b", np.ones(7)), ("c", np.full(4, 1e300))):
        np.save(tmp_path / f"{name}.npy", values)
    paths = (tmp_path / "content.jsonl", tmp_path / "audio.jsonl")
    for last, words in (("b", "b.npy has 7 values, that of .*content.jsonl:1 has 4; make all with one encoder"),
                        ("c", "c.npy holds NaN or infinite values, or such as float32 cannot hold")):  # fmt: skip
        lines = [
            {"audio_id": f"item {i}", "phonemes": ["a"], "durations_s": [2.0], "speaker_embedding": f"{name}.npy"}
            for i, name in enumerate(("a", "a", last))
        ]
        write_jsonl(paths[0], lines)
        with pytest.raises(UserError, match=rf"content\.jsonl:3: field 'speaker_embedding': .*{words}"):
            DATASETS["text_to_speech"](*paths)
        assert len(DATASETS["text_to_speech"](*paths, max_samples=2)) == 2


def test_both_lines_of_an_item_are_of_one_split(tmp_path: Path) -> None:
    make(tmp_path, "text_to_audio")
    paths = (tmp_path / "content.jsonl", tmp_path / "audio.jsonl")
    line, target = {"audio_id": "a", "caption": "one"}, {"audio_id": "a", "audio": "target.wav"}
    write_jsonl(paths[0], [{**line, "split": "train"}])
    for same in ({"split": "train"}, {}, {"split": None}):
        write_jsonl(paths[1], [{**target, **same}])
        assert len(DATASETS["text_to_audio"](*paths, split="train")) == 1
    write_jsonl(paths[1], [{**target, "split": "test"}])
    for split in (None, "train"):
        with pytest.raises(UserError, match=r"content\.jsonl:1: field 'split' is 'train', but 'test' in .*l:1; make"):
            DATASETS["text_to_audio"](*paths, split=split)
    write_jsonl(paths[1], [{**target, "license": 5}])
    with pytest.raises(UserError, match=r"audio\.jsonl:1: field 'license' is 5; it must be a non-empty text"):
        DATASETS["text_to_audio"](*paths)


def test_voices_of_two_sizes_name_their_lines(tmp_path: Path) -> None:
    samples = []
    for size in (4, 7):
        (tmp_path / str(size)).mkdir()
        np.save(tmp_path / str(size) / "voice.npy", np.ones(size, dtype=np.float32))
        samples.append(
            make(tmp_path / str(size), "text_to_speech", {"speaker": None, "speaker_embedding": "voice.npy"})[0]
        )
    with pytest.raises(UserError) as caught:
        Collator(PHONEMES)([samples[0], *samples])
    for size in (4, 7):
        assert f"{tmp_path / str(size) / 'content.jsonl'}:1 has {size} values" in str(caught.value)
    assert "make all with one encoder" in str(caught.value)


def test_hours_at_once_are_refused_and_read_in_crops(tmp_path: Path) -> None:
    with sf.SoundFile(tmp_path / "long.wav", "w", 1000, 1, "PCM_16") as file:
        for _ in range(100):
            file.write(np.zeros(3600 * 30))
    write_jsonl(tmp_path / "content.jsonl", [{"audio_id": "long", "caption": "a day"}])
    write_jsonl(tmp_path / "audio.jsonl", [{"audio_id": "long", "audio": "long.wav"}])
    paths = (tmp_path / "content.jsonl", tmp_path / "audio.jsonl")
    with pytest.raises(UserError, match=rf"lasts 10800 s, and more than {LONGEST_WHOLE_S:.0f} s are not read at once"):
        DATASETS["text_to_audio"](*paths)
    assert DATASETS["text_to_audio"](*paths, crop_s=2.0)[0].waveform.shape == (2 * RATE,)


def test_files_that_are_not_checked_are_missed_when_read(tmp_path: Path) -> None:
    make(tmp_path, "text_to_audio", lines=3)
    write_jsonl(
        tmp_path / "audio.jsonl", [{"audio_id": f"item {i}", "audio": "gone.wav", "duration_s": 1.5} for i in range(3)]
    )
    paths = (tmp_path / "content.jsonl", tmp_path / "audio.jsonl")
    with pytest.raises(UserError, match=r"audio\.jsonl:1: field 'audio' names .*gone\.wav"):
        DATASETS["text_to_audio"](*paths)
    dataset = DATASETS["text_to_audio"](*paths, check_files=False)
    assert dataset.durations_s.tolist() == [1.5] * 3
    with pytest.raises(UserError, match=r"audio\.jsonl:2: field 'audio': .*gone\.wav: no such audio file"):
        dataset[1]


def test_a_manifest_that_changes_under_a_run_is_noticed(tmp_path: Path) -> None:
    dataset = make(tmp_path, "text_to_audio", lines=3)
    lines = (tmp_path / "content.jsonl").read_text().splitlines()
    (tmp_path / "content.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    with pytest.raises(UserError, match="was changed since this run began; start it again"):
        dataset[0]


FAULTS = [
    ("singing_voice_synthesis", {"notes": ["C4"] * 4}, "field 'notes' has 4 values for 5 phonemes"),
    ("singing_voice_synthesis", {"notes": ["H4"] * 5}, "field 'notes'"),
    ("singing_voice_synthesis", {"notes": [128] * 5}, "field 'notes' is [128"),
    ("singing_voice_synthesis", {"notes": None}, "field 'notes' is missing"),
    ("singing_voice_synthesis", {"note_durations_s": [-1] * 5}, "field 'note_durations_s' is [-1"),
    ("singing_voice_synthesis", {"note_durations_s": [1e39] * 5}, "seconds from 0 to 100000"),
    ("singing_voice_synthesis", {"slurs": [2] * 5}, "field 'slurs' is [2"),
    ("text_to_speech", {"durations_s": [1e39, 0, 0, 0, 0]}, "field 'durations_s' is [1e+39"),
    ("text_to_audio", {"split": 3}, "field 'split' is 3; it must be a non-empty text"),
    ("text_to_audio", {"license": 5}, "field 'license' is 5; it must be a non-empty text"),
    (
        "singing_voice_synthesis",
        {"score": "film.mid"},
        "has 'score' and 'phonemes', 'notes', 'note_dura",
    ),
    ("singing_acoustic_modeling", {"f0_hz": "gone.npy"}, "field 'f0_hz' names"),
    ("singing_acoustic_modeling", {"f0_hz": None}, "field 'f0_hz' is missing"),
    ("singing_acoustic_modeling", {"f0_rate_hz": 0}, "field 'f0_rate_hz' is 0; it must be a positive number"),
    ("singing_acoustic_modeling", {"f0_rate_hz": 50}, "200 frames at 50 Hz are 4.000 s, the phonemes 2.000"),
    ("singing_acoustic_modeling", {"durations_s": None}, "field 'durations_s' is missing"),
    ("singing_acoustic_modeling", {"f0_hz": "content.jsonl"}, "arrays are .npy"),
    ("text_to_speech", {"speaker_embedding": "target.wav"}, "has both 'speaker' and 'speaker_embedding'"),
    ("text_to_speech", {"speaker": None, "speaker_embedding": "gone.npy"}, "field 'speaker_embedding' names"),
    ("audio_super_resolution", {"narrow_audio": None}, "field 'narrow_audio' is missing"),
    ("audio_super_resolution", {"bandwidth_hz": -3}, "field 'bandwidth_hz' is -3"),
    ("video_to_audio", {"video": None}, "has neither 'video' nor 'video_features'"),
    ("video_to_audio", {"video_features": "x.npy"}, "has both 'video' and 'video_features'"),
    ("video_to_audio", {"video": "target.wav"}, "field 'video'"),
    ("video_to_audio", {"video": "content.jsonl"}, "field 'video'"),
    ("video_to_audio", {"caption": []}, "field 'caption' is []"),
]


@pytest.mark.parametrize(("task", "changes", "words"), FAULTS, ids=lambda value: str(value)[:50])
def test_a_fault_is_named_with_file_line_and_field(task: str, changes: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        make(tmp_path, task, changes)[0]
    assert str(caught.value).startswith(f"{tmp_path / 'content.jsonl'}:1: ") and words in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([1.0, np.nan] * 100), "NaN or infinite"),
        (np.full(200, 1e300), "float32 cannot hold"),
        (np.zeros((200, 2)), "shape (200, 2)"),
        (np.zeros(0), "shape (0,)"),
        (np.full(200, -5.0), "F0 is 0 to 8000 Hz"),
        (np.array(["a"] * 200), "numbers"),
    ],
)
def test_an_array_that_is_no_contour_is_refused(values: np.ndarray, words: str, tmp_path: Path) -> None:
    dataset = make(tmp_path, "singing_acoustic_modeling")
    np.save(tmp_path / "f0.npy", values)
    with pytest.raises(UserError) as caught:
        dataset[0]
    assert words in str(caught.value) and "field 'f0_hz'" in str(caught.value)


def test_everything_json_can_hold_is_no_surprise(tmp_path: Path) -> None:
    line = json.dumps({"audio_id": "x", "caption": "a", "own": {"deep": [1, {"b": None}]}, "unused": 10**300})
    make(tmp_path, "text_to_audio")
    (tmp_path / "content.jsonl").write_text(line + "\n")
    (tmp_path / "audio.jsonl").write_text('{"audio_id": "x", "audio": "target.wav", "more": []}\n')
    assert DATASETS["text_to_audio"](tmp_path / "content.jsonl", tmp_path / "audio.jsonl")[0].audio_id == "x"


def test_a_score_with_lyrics_says_all_that_is_sung(tmp_path: Path) -> None:
    pytest.importorskip("mido")
    from unisono.scores import parse_score, write_midi

    folder = tmp_path / "scores"
    folder.mkdir()
    write_midi(parse_score("C4:0.5:twin- C4:0.5:kle G4:0.6:star rest:0.4"), folder / "twinkle.mid")
    fields = dict.fromkeys(("phonemes", "durations_s", "notes", "note_durations_s", "slurs", "text"))
    dataset = make(tmp_path, "singing_voice_synthesis", {**fields, "score": "scores/twinkle.mid"}, inference=True)
    content = dataset[0].content[0]
    assert content.phonemes[0] == "t" and content.phonemes[-1] == "_" and "s" in content.phonemes
    assert content.notes[0] == 60 and content.notes[-1] == 0 and 67 in content.notes.tolist()
    assert len(content.notes) == len(content.note_durations_s) == len(content.slurs) == len(content.phonemes)
    assert dict(dataset.other_files(dataset.line(0)))["score"].path.name == "twinkle.mid"
    (folder / "twinkle.mid").write_bytes(b"MThd no score")
    with pytest.raises(UserError, match=r"content\.jsonl:1: field 'score': .*twinkle\.mid"):
        make(tmp_path, "singing_voice_synthesis", {**fields, "score": "scores/twinkle.mid"}, inference=True)


def test_a_last_unit_longer_than_the_crop_leaves_the_others_to_be_seen(tmp_path: Path) -> None:
    changes = {"durations_s": [0.2, 0.1, 0.15, 0.15, 1.4]}
    dataset = make(tmp_path, "text_to_speech", changes, crop_s=0.4)
    shown = {dataset.sample(0, epoch).content[0].phonemes for epoch in range(40)}
    assert shown == {("_", "a"), ("a", "b", "c"), ("b", "c"), ("c",)}


def test_a_silent_part_of_a_recording_does_not_end_the_training(tmp_path: Path) -> None:
    make(tmp_path, "speech_enhancement")
    half = clicks()
    half[RATE:] = 0
    sf.write(tmp_path / "target.wav", half, RATE, "FLOAT")
    paths = (tmp_path / "content.jsonl", tmp_path / "audio.jsonl")
    cropped = DATASETS["speech_enhancement"](*paths, degradation=Halved(), crop_s=0.5)
    assert any(not cropped.sample(0, epoch).waveform.any() for epoch in range(30))
    sf.write(tmp_path / "target.wav", 0 * half, RATE, "FLOAT")
    with pytest.raises(UserError, match="the clean target is silent"):
        DATASETS["speech_enhancement"](*paths, degradation=Halved())[0]


def test_null_stands_for_a_field_that_is_not_there(tmp_path: Path) -> None:
    dataset = make(tmp_path, "video_to_audio")
    line = json.loads((tmp_path / "content.jsonl").read_text())
    (tmp_path / "content.jsonl").write_text(json.dumps({**line, "video_features": None}) + "\n")
    dataset = DATASETS["video_to_audio"](tmp_path / "content.jsonl", tmp_path / "audio.jsonl")
    assert dataset[0].content[0].frames is not None


@pytest.mark.parametrize("option", [{"max_samples": 3}, {"split": "train"}, {"audio": "audio.jsonl"}])
def test_options_that_a_stream_has_no_use_for_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"has no use for {next(iter(option))}"):
        DATASETS["text_to_audio"](None, **option)
