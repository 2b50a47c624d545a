"""The step that finds durations: by an aligner of its own for phonemes, by pocketsphinx for English texts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.data.manifest import write_jsonl
from unisono.data.mini.sentences import draw_sentences
from unisono.data.prepare.steps import align as align_step
from unisono.data.prepare.steps.engine import Options
from unisono.errors import UserError
from unisono.media.audio import write_audio
from unisono.text.aligner import (
    AlignerLimits,
    CorpusAligner,
    Pair,
    UnitAlignment,
    train_aligner,
)
from unisono.text.espeak import Utterance, synthesize
from unisono.text.phonemize import Phonemizer

pytest.importorskip("espeakng_loader")
ROOT = Path(__file__).resolve().parents[1]
RATE = 16_000


@pytest.fixture(scope="module")
def spoken() -> list[Utterance]:
    """64 sentences of two voices; the last 16 are for testing."""
    sentences = draw_sentences(np.random.default_rng(3), "train", 64)
    return [synthesize(text, ("en-us", "en-gb+f1")[i % 2]).resampled(RATE) for i, text in enumerate(sentences)]


def pairs_of(spoken: list[Utterance]) -> list[Pair]:
    return [Pair(f"u{i}", tuple(u.phonemes), u.waveform, u.sample_rate) for i, u in enumerate(spoken)]


@pytest.fixture(scope="module")
def aligner(spoken: list[Utterance], tmp_path_factory: pytest.TempPathFactory) -> CorpusAligner:
    folder = tmp_path_factory.mktemp("an aligner")
    train_aligner(pairs_of(spoken[:48]), folder, progress=False)
    return CorpusAligner.load(folder)


def write_corpus(folder: Path, spoken: list[Utterance], fields: list[dict[str, Any]]) -> tuple[Path, Path]:
    for i, utterance in enumerate(spoken):
        write_audio(folder / f"audio files/u{i}.flac", utterance.waveform, utterance.sample_rate)
    ids = [f"u{i}" for i in range(len(spoken))]
    content = [{"audio_id": name, **line} for name, line in zip(ids, fields, strict=True)]
    audio = [{"audio_id": name, "audio": f"audio files/{name}.flac"} for name in ids]
    return write_jsonl(folder / "content.jsonl", content), write_jsonl(folder / "audio.jsonl", audio)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("silence_s", [0.5, 2.0])
def test_silence_around_speech_changes_nothing_but_itself(
    aligner: CorpusAligner, spoken: list[Utterance], silence_s: float
) -> None:
    utterance = spoken[1]
    samples = round(silence_s * RATE)
    before = aligner.align(utterance.phonemes, utterance.waveform, RATE)
    after = aligner.align(utterance.phonemes, np.pad(utterance.waveform, samples), RATE)
    assert isinstance(before, UnitAlignment) and isinstance(after, UnitAlignment)
    assert after.phonemes == before.phonemes
    moved = np.cumsum(after.durations_s)[:-1] - np.cumsum(before.durations_s)[:-1] - silence_s
    assert np.abs(moved).max() < 0.04


def test_the_step_trains_aligns_and_lists_what_does_not_fit(spoken: list[Utterance], tmp_path: Path) -> None:
    fields: list[dict[str, Any]] = [
        {"phonemes": u.phonemes, "text": u.text, "speaker_embedding": "v.npy"} for u in spoken[:24]
    ]
    fields[5]["phonemes"] = spoken[30].phonemes
    content, audio = write_corpus(tmp_path, spoken[:24], fields)
    (tmp_path / "audio files/u7.flac").unlink()
    out = tmp_path / "a folder/content.jsonl"
    result = align_step.align_phonemes(content, audio, Options(out, 1, False))
    left_out = read(out.with_name("content.align.left_out.jsonl"))
    assert [entry["item"] for entry in left_out] == ["u5", "u7"]
    assert left_out[1]["kind"] == "missing_file"
    assert "u7.flac" in left_out[1]["reason"]
    lines = read(out)
    assert result.items == len(lines) == 22
    assert "22 items; 2 left out" in str(result)
    for line in lines:
        truth = spoken[int(line["audio_id"][1:])]
        assert sum(line["durations_s"]) == pytest.approx(len(truth.waveform) / RATE, abs=1e-4)
        assert line["speaker_embedding"] == "../v.npy"
    assert not list(out.parent.glob(".*"))
    with pytest.raises(UserError, match="--overwrite"):
        Options(out, 1, False)
    # A trained aligner serves again, and a strict one refuses more than is allowed.
    again = tmp_path / "again.jsonl"
    align_step.align_phonemes(content, audio, Options(again, 1, False), aligner=out.parent / "aligner")
    assert [line["durations_s"] for line in read(again)] == [line["durations_s"] for line in lines]
    strict = AlignerLimits(1.001, 1.001)
    with pytest.raises(UserError, match="lines would be left out, reasons in"):
        align_step.align_phonemes(
            content, audio, Options(tmp_path / "none.jsonl", 1, False), aligner=out.parent / "aligner", limits=strict
        )
    assert not (tmp_path / "none.jsonl").exists()


def test_notes_follow_the_silences(aligner: CorpusAligner, spoken: list[Utterance], tmp_path: Path) -> None:
    folder = aligner.save(tmp_path / "aligner")
    utterance = next(u for u in spoken if "_" not in u.phonemes[1:-1])
    inner = utterance.phonemes[1:-1]
    sung = [*inner[:4], "_", *inner[4:]]  # a rest that is not made
    notes = [0 if p == "_" else 60 + i for i, p in enumerate(sung)]
    line = {"phonemes": sung, "notes": notes, "note_durations_s": [0.5] * len(sung), "slurs": [0] * len(sung)}
    twice = {**line, "phonemes": ["_", "_", *sung[2:]]}
    content, audio = write_corpus(tmp_path, [utterance] * 2, [line, twice])
    options = Options(tmp_path / "o.jsonl", 1, False)
    result = align_step.align_phonemes(content, audio, options, aligner=folder)
    assert dict(result.left_out) == {"neighbouring_silences": 1}
    (found,) = read(tmp_path / "o.jsonl")
    assert found["phonemes"] == ["_", *inner, "_"]
    assert found["notes"] == [0, *(note for note in notes if note), 0]
    assert found["slurs"] == [0] * len(found["phonemes"])
    assert found["note_durations_s"][1:-1] == [0.5] * len(inner)
    assert found["note_durations_s"][0] == found["durations_s"][0]


def test_english_texts_are_aligned_by_their_words(tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx")
    texts = ["Please try again.", "Dial 5, Zorbentine!", "Your message has been saved."]
    spoken = [synthesize(text, "en-us+f3", rate_wpm=150).resampled(RATE) for text in texts]
    content, audio = write_corpus(tmp_path, spoken, [{"text": texts[0]}, {"text": texts[1]}, {"text": texts[0]}])
    result = align_step.align_texts(content, audio, Options(tmp_path / "o.jsonl", 1, False))
    lines = {line["audio_id"]: line for line in read(tmp_path / "o.jsonl")}
    assert "u2" not in lines and sum(result.left_out.values()) + len(lines) == 3
    assert [p for p in lines["u0"]["phonemes"] if p != "_"] == ["p", "l", "iː", "z", "t", "ɹ", "aɪ", "ʌ", "ɡ", "ɛ", "n"]
    for line in lines.values():
        duration_s = len(spoken[int(line["audio_id"][1:])].waveform) / RATE
        assert sum(line["durations_s"]) == pytest.approx(duration_s, abs=1e-4)
    for field, value, message in (("language", "de", "only English"), ("notes", [0], "by its phonemes")):
        content, audio = write_corpus(tmp_path, spoken[:1], [{"text": texts[0], field: value}])
        with pytest.raises(UserError, match=message):
            align_step.align_texts(content, audio, Options(tmp_path / "p.jsonl", 1, False))


def test_pronunciations_go_before_the_dictionary(tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx")
    said = synthesize("Please try again.", "en-us+f3", rate_wpm=150).resampled(RATE)
    content, audio = write_corpus(tmp_path, [said], [{"text": "Please try again."}])
    for words, phonemes in (({}, "ʌ ɡ ɛ n"), ({"again": "AH G EH N AH"}, "ʌ ɡ ɛ n ʌ")):
        out = tmp_path / "o.jsonl"
        align_step.align_texts(content, audio, Options(out, 1, False, overwrite=True), pronunciations=words)
        (line,) = read(out)
        assert " ".join(symbol for symbol in line["phonemes"] if symbol != "_").endswith(f"t ɹ aɪ {phonemes}")
        assert "guessed_words" not in line
    assert Phonemizer(pronunciations=words).phonemes("again")[1:-1] == phonemes.split()


def test_texts_that_cannot_be_read_are_left_out_and_guessed_words_named(tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx")
    said = synthesize("Please try Zorbentine.", "en-us+f3", rate_wpm=150).resampled(RATE)
    lines = [{"text": "Please try Zorbentine."}, {"text": "* * *"}, {"text": "Bitte 是"}]
    content, audio = write_corpus(tmp_path, [said] * 3, lines)
    result = align_step.align_texts(content, audio, Options(tmp_path / "o.jsonl", 1, False, max_left_out=0.7))
    assert dict(result.left_out) == {"bad_text": 2}
    assert [line["guessed_words"] for line in read(tmp_path / "o.jsonl")] == [["zorbentine"]]


@pytest.mark.slow
def test_the_documented_way_from_recordings_to_training_holds_to_the_letter(tmp_path: Path) -> None:
    """docs/prepare_data.md, "Your own corpus": script, align, validate, check, train, with a wrong text among them."""
    pytest.importorskip("pocketsphinx")
    page = (ROOT / "docs/prepare_data.md").read_text(encoding="utf-8")
    section = page[page.index("## Your own corpus") : page.index("## Steps")]
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    place = tmp_path / "a check out"
    place.mkdir()
    for name in ("train.py", "configs"):
        (place / name).symlink_to(ROOT / name)
    texts = draw_sentences(np.random.default_rng(5), "train", 24)  # a batch needs 16
    for number, text in enumerate(texts):
        utterance = synthesize(text, "en-us+f3", rate_wpm=150)
        write_audio(place / f"recordings/take {number}.wav", utterance.waveform, utterance.sample_rate)
        (place / f"recordings/take {number}.txt").write_text(texts[0] if number == 1 else text)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["UNISONO_CACHE"] = str(tmp_path / "cache")
    assert [language for language, _ in blocks] == ["python", "sh", "yaml", "sh"]
    for language, text in blocks:
        if language == "yaml":
            path = place / text.splitlines()[0].removeprefix("# ")
            path.parent.mkdir()
            path.write_text(text, encoding="utf-8")
            continue
        command = [sys.executable, "-c", text] if language == "python" else ["bash", "-e", "-c", text]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    folder = place / "data/mine/text_to_speech/train"
    kept, left_out = read(folder / "content.jsonl"), read(folder / "content.align.left_out.jsonl")
    assert "take 1" in [entry["item"] for entry in left_out] and len(kept) + len(left_out) == 24
    assert [line["audio_id"] for line in read(folder / "audio.left_out.jsonl")] == [one["item"] for one in left_out]
    assert (place / "experiments/mine_debug/model/model.safetensors").is_file()
