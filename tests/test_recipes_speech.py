"""LJSpeech, LibriTTS and VCTK in miniature, spoken by eSpeak NG; VoiceBank+DEMAND with tones."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from test_recipes_engine import assert_whole, left_out, lines, report, write_tone
from unisono.data.datasets import DATASETS
from unisono.data.prepare import RECIPES
from unisono.errors import UserError
from unisono.text.espeak import synthesize
from unisono.text.phonemes import PHONEMES

pytest.importorskip("pocketsphinx")

TTS, SE = "text_to_speech", "speech_enhancement"
SENTENCES = (
    "Please try again.",
    "Your message has been saved.",
    "The weather is cold today.",
    "The conference will begin when the leader arrives.",
)


def prepare(name: str, source: Path, out: Path, **options: Any) -> Path:
    return RECIPES[name].run(out, source=source, workers=1, progress=False, **options)


def speak(path: Path, text: str, voice: str = "en-us+f3", sample_rate: int = 22_050) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, synthesize(text, voice, rate_wpm=150).resampled(sample_rate).waveform, sample_rate)
    return path


def assert_readable(out: Path, task: str) -> None:
    """The format's own checks, and one item read whole."""
    for content in (out / task).glob("*/content.jsonl"):
        dataset = DATASETS[task](content, content.with_name("audio.jsonl"))
        assert dataset[0].waveform is not None


def assert_aligned(out: Path, ids: Sequence[str]) -> None:
    content, audio = lines(out, TTS), lines(out, TTS, "audio")
    assert set(content) == set(ids)
    for audio_id, line in content.items():
        assert set(line["phonemes"]) <= set(PHONEMES)
        assert sum(line["durations_s"]) == pytest.approx(audio[audio_id]["duration_s"], abs=1e-4)
        assert line["language"] == "en-us"


# -- LJSpeech ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ljspeech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("down loads") / "LJSpeech-1.1"
    rows = [f"LJ001-{n:04}|{text}|{text}" for n, text in enumerate(SENTENCES, 1)]
    for n, text in enumerate(SENTENCES, 1):
        speak(root / "wavs" / f"LJ001-{n:04}.wav", text)
    speak(root / "wavs" / "LJ002-0001.wav", "Mister Brown has twenty one red apples.")
    rows.append("LJ002-0001|Mr. Brown has 21 red apples.|Mr. Brown has 21 red apples.")
    speak(root / "wavs" / "LJ002-0002.wav", "Please try frobnicate again.")
    rows.append('LJ002-0002|Please try "frobnicate" again.|Please try "frobnicate" again.')
    shutil.copy(root / "wavs" / "LJ001-0004.wav", root / "wavs" / "LJ003-0001.wav")
    rows.append("LJ003-0001|Please try again.|Please try again.")  # not what is said
    (root / "wavs" / "LJ003-0002.wav").write_bytes(b"RIFF, but no more")
    rows.append("LJ003-0002|Please try again.|Please try again.")
    rows += ["LJ003-0003|Gone.|Gone.", "LJ003-0004 no fields at all", ""]
    (root / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    return root


def test_ljspeech_is_aligned_and_what_cannot_be_is_named(ljspeech: Path, tmp_path: Path) -> None:
    out = prepare("ljspeech", ljspeech.parent, tmp_path / "out put")
    assert_whole(out)
    assert_aligned(out, [*(f"LJ001-{n:04}" for n in range(1, 5)), "LJ002-0001", "LJ002-0002"])
    content = lines(out, TTS)
    assert content["LJ001-0002"]["text"] == SENTENCES[1]
    assert content["LJ001-0002"]["speaker"] == "ljspeech"
    assert content["LJ002-0002"]["guessed_words"] == ["frobnicate"]
    assert "guessed_words" not in content["LJ002-0001"]
    kinds = {name: kind for name, (kind, _) in left_out(out).items()}
    assert kinds.pop("LJ003-0001") in ("low_score", "low_word_score", "long_phone", "loud_silence", "no_path")
    assert kinds == {"LJ003-0002": "unreadable", "LJ003-0003": "missing_audio", "metadata.csv:10": "broken_line"}
    assert report(out)["phonemes"] == sorted({p for line in content.values() for p in line["phonemes"]})
    assert report(out)["speakers"] == ["ljspeech"]
    assert_readable(out, TTS)


def test_without_alignment_texts_and_lengths_are_written(ljspeech: Path, tmp_path: Path) -> None:
    out = prepare("ljspeech", ljspeech, tmp_path / "out", align=False)
    content = lines(out, TTS)
    assert set(content["LJ001-0001"]) == {"audio_id", "speaker", "text", "language", "license", "split"}
    assert {"LJ003-0001", "LJ001-0001"} <= set(content)
    with pytest.raises(UserError, match="align false instead of true"):
        prepare("ljspeech", ljspeech, out)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ljspeech", "looked for metadata.csv and wavs"),
        ("libritts", r"looked for train-\* or dev-\* or test-\*"),
        ("vctk", "looked for wav48_silence_trimmed or wav48 and txt"),
        ("voicebank_demand", r"looked for clean_\*set\* or train/clean or test/clean"),
    ],
)
def test_a_wrong_folder_is_named_with_what_was_looked_for(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "holiday pictures").mkdir()
    with pytest.raises(UserError, match=message):
        prepare(name, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- LibriTTS ---------------------------------------------------------------------------------------------------------


def libri_utterance(root: Path, subset: str, audio_id: str, text: str) -> Path:
    speaker, chapter = audio_id.split("_")[:2]
    path = speak(root / subset / speaker / chapter / f"{audio_id}.wav", text, sample_rate=24_000)
    path.with_suffix(".normalized.txt").write_text(text, encoding="utf-8")
    path.with_suffix(".original.txt").write_text(text, encoding="utf-8")
    return path


def test_libritts_keeps_official_splits_and_speakers(tmp_path: Path) -> None:
    root = tmp_path / "LibriTTS"
    libri_utterance(root, "train-clean-100", "103_1241_000000_000001", SENTENCES[0])
    libri_utterance(root, "train-clean-100", "1034_121119_000010_000004", SENTENCES[1])
    libri_utterance(root, "dev-clean", "84_121123_000007_000001", SENTENCES[2])
    libri_utterance(root, "test-other", "1688_142285_000000_000000", SENTENCES[3])
    libri_utterance(root, "test-other", "1688_142285_000001_000000", SENTENCES[0])
    silent = libri_utterance(root, "test-other", "1688_142285_000002_000000", SENTENCES[0])
    silent.with_suffix(".normalized.txt").unlink()
    libri_utterance(root, "dev-clean", "84_121123_000008_000000", SENTENCES[0]).unlink()
    (root / "train-clean-360.tar.gz").touch()
    (root / "SPEAKERS.txt").write_text(";ID  |SEX| SUBSET |MINUTES| NAME\n103  | F | train-clean-100 | 25 | A B\n")
    out = prepare("libritts", tmp_path, tmp_path / "out")
    assert_whole(out)
    content = lines(out, TTS)
    assert {audio_id: line["split"] for audio_id, line in content.items()} == {
        "103_1241_000000_000001": "train",
        "1034_121119_000010_000004": "train",
        "84_121123_000007_000001": "val",
        "1688_142285_000000_000000": "test",
        "1688_142285_000001_000000": "test",
    }
    assert_aligned(out, list(content))
    assert content["103_1241_000000_000001"]["speaker"] == "libritts_103"
    assert content["103_1241_000000_000001"]["gender"] == "F"
    assert "gender" not in content["84_121123_000007_000001"]
    assert {name: kind for name, (kind, _) in left_out(out).items()} == {
        "1688_142285_000002_000000": "missing_text",
        "84_121123_000008_000000": "missing_audio",
    }
    assert set(report(out)["splits"].values()) == {"official"}
    assert_readable(out, TTS)


def test_libritts_without_its_test_subsets_holds_speakers_out(tmp_path: Path) -> None:
    root = tmp_path / "LibriTTS_R"
    for speaker in range(6):
        for sentence in range(2):
            audio_id = f"{speaker}_1_0_{sentence}"
            path = write_tone(root / "train-clean-100" / str(speaker) / "1" / f"{audio_id}.wav")
            path.with_suffix(".normalized.txt").write_text(f"sentence {sentence}")
    out = prepare("libritts", root, tmp_path / "out", align=False)
    by_split: dict[str, set[str]] = {}
    for line in lines(out, TTS).values():
        by_split.setdefault(line["split"], set()).add(line["speaker"])
    assert set(by_split) == {"train", "val", "test"}
    assert sum(map(len, by_split.values())) == 6
    assert report(out)["splits"] == {"train": "official", "val": "hash of the speaker", "test": "hash of the speaker"}


# -- VCTK -------------------------------------------------------------------------------------------------------------


def test_vctk_takes_the_first_microphone_and_does_without_lost_texts(tmp_path: Path) -> None:
    root = tmp_path / "VCTK-Corpus-0.92"
    for speaker, voice in (("p225", "en-gb+f2"), ("s5", "en-us+m3"), ("p315", "en-us")):
        for number, text in enumerate(SENTENCES[:3], 1):
            audio_id = f"{speaker}_{number:03}"
            first = speak(root / "wav48_silence_trimmed" / speaker / f"{audio_id}_mic1.flac", text, voice, 48_000)
            shutil.copy(first, first.with_name(f"{audio_id}_mic2.flac"))
            if speaker != "p315":
                (root / "txt" / speaker).mkdir(parents=True, exist_ok=True)
                (root / "txt" / speaker / f"{audio_id}.txt").write_text(text + "\n", encoding="utf-8")
    (root / "txt" / "p225" / "p225_009.txt").write_text("No recording.")
    (root / "txt" / "s5" / "s5_003.txt").write_bytes(b"\xff\xfe broken")
    (root / "speaker-info.txt").write_text(
        "ID  AGE  GENDER  ACCENTS  REGION COMMENTS\np225  23  F    English    Southern  England\ns5  25  M  British\n"
    )
    out = prepare("vctk", root, tmp_path / "out")
    assert_whole(out)
    content, audio = lines(out, TTS), lines(out, TTS, "audio")
    assert {"p225_001", "p225_002", "p225_003", "s5_001"} <= set(content)
    assert all(line["audio"].endswith("_mic1.flac") for line in audio.values())
    assert content["p225_001"]["speaker"] == "vctk_p225"
    assert (content["p225_001"]["gender"], content["p225_001"]["accent"]) == ("F", "English")
    kinds = {name: kind for name, (kind, _) in left_out(out).items()}
    assert {name for name, kind in kinds.items() if kind == "missing_text"} == {f"p315_00{n}" for n in (1, 2, 3)}
    assert kinds["p225_009"] == "missing_audio"
    assert kinds["s5_003"] == "bad_text"
    # One sentence, read by several, is never both trained and tested on.
    by_text: dict[str, set[str]] = {}
    for line in content.values():
        by_text.setdefault(line["text"], set()).add(line["split"])
    assert all(len(splits) == 1 for splits in by_text.values())
    assert_readable(out, TTS)


def test_vctk_080_has_another_layout(tmp_path: Path) -> None:
    root = tmp_path / "VCTK-Corpus"
    for number in range(1, 4):
        write_tone(root / "wav48" / "p226" / f"p226_{number:03}.wav")
        (root / "txt" / "p226").mkdir(parents=True, exist_ok=True)
        (root / "txt" / "p226" / f"p226_{number:03}.txt").write_text(f"Sentence {number}.")
    (root / "speaker-info.txt").write_text("ID  AGE  GENDER  ACCENTS  REGION \n226  22  M    English    Surrey\n")
    out = prepare("vctk", tmp_path, tmp_path / "out", align=False)
    assert {line["accent"] for line in lines(out, TTS).values()} == {"English"}
    assert len(lines(out, TTS)) == 3


# -- VoiceBank+DEMAND -------------------------------------------------------------------------------------------------


def voicebank(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, speakers in (("trainset_28spk", ("p226", "p228", "p287")), ("testset", ("p232", "p257"))):
        for name in (f"{speaker}_{number:03}" for speaker in speakers for number in (1, 2)):
            clean = write_tone(root / f"clean_{part}_wav" / f"{name}.wav", 0.3, sample_rate=48_000)
            samples, rate = sf.read(clean)
            noisy = root / f"noisy_{part}_wav" / clean.name
            noisy.parent.mkdir(parents=True, exist_ok=True)
            sf.write(noisy, samples + 0.01 * rng.standard_normal(len(samples)), rate)
    (root / "testset_txt").mkdir()
    (root / "testset_txt" / "p232_001.txt").write_text("Please call Stella.\n")
    (root / "logfiles").mkdir()
    (root / "logfiles" / "log_testset.txt").write_text("p232_001 bus 17.5\np257_001 living 2.5\nnonsense\n")
    (root / "logfiles" / "log_readme.txt").write_text("file noise snr\n")
    return root


def test_voicebank_demand_pairs_and_conditions(tmp_path: Path) -> None:
    root = voicebank(tmp_path / "DS 10283")
    (root / "noisy_trainset_28spk_wav" / "p228_002.wav").unlink()
    write_tone(root / "noisy_testset_wav" / "p257_002.wav", 0.5, sample_rate=48_000)
    out = prepare("voicebank_demand", tmp_path, tmp_path / "out")
    assert_whole(out)
    content = lines(out, SE)
    assert {audio_id: line["split"] for audio_id, line in content.items()} == {
        "p226_001": "val",
        "p226_002": "val",
        "p287_001": "val",
        "p287_002": "val",
        "p228_001": "train",
        "p232_001": "test",
        "p232_002": "test",
        "p257_001": "test",
    }
    assert content["p232_001"]["noise"] == "bus"
    assert content["p232_001"]["snr_db"] == 17.5
    assert content["p232_001"]["text"] == "Please call Stella."
    assert "snr_db" not in content["p232_002"]
    assert {name: kind for name, (kind, _) in left_out(out).items()} == {
        "p228_002": "missing_audio",
        "p257_002": "lengths_differ",
    }
    for split in ("train", "val", "test"):
        dataset = DATASETS[SE](out / SE / split / "content.jsonl", out / SE / split / "audio.jsonl")
        sample = dataset[0]
        assert sample.waveform is not None
        assert sample.content[0].waveform.shape == sample.waveform.shape


def test_voicebank_demand_in_folders_of_splits_and_at_other_rates(tmp_path: Path) -> None:
    root = tmp_path / "16k"
    for part, names in (("train", ("p225_001", "p227_001")), ("valid", ("p226_001",)), ("test", ("p232_001",))):
        for name in names:
            for kind in ("clean", "noisy"):
                write_tone(root / part / kind / f"{name}.wav")
    out = prepare("voicebank_demand", root, tmp_path / "out")
    assert sorted(line["split"] for line in lines(out, SE).values()) == ["test", "train", "train", "val"]
    both = voicebank(tmp_path / "both")
    shutil.copytree(both / "clean_testset_wav", both / "clean_testset_wav_16k")
    shutil.copytree(both / "noisy_testset_wav", both / "noisy_testset_wav_16k")
    out = prepare("voicebank_demand", both, tmp_path / "out both")
    assert len(lines(out, SE)) == 10
    assert not any("16k" in line["audio"] for line in lines(out, SE, "audio").values())
    shutil.rmtree(both / "noisy_testset_wav")
    with pytest.raises(UserError, match="noisy_testset_wav: no such folder; unpack the noisy recordings too"):
        prepare("voicebank_demand", both, tmp_path / "out again")
