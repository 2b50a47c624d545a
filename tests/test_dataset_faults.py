"""Data sets: limits are kept, and faults are named with file, line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from timed_items import HOP, PHONEMES, RATE, Halved, clicks, make
from unisono.data.collate import Collator
from unisono.data.datasets import DATASETS
from unisono.data.datasets.base import LONGEST_WHOLE_S
from unisono.data.manifest import write_jsonl
from unisono.errors import UserError


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
