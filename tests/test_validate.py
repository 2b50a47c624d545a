"""The doctor on a small corpus: a good one has no findings, each fault has its own."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from unisono.data.manifest import write_jsonl
from unisono.data.validate import KINDS, Finding, Limits, Validated, fix, table, validate, write_report
from unisono.data.validate.facts import AudioFacts, measure_job
from unisono.data.validate.text_checks import read_vocabulary
from unisono.errors import UserError
from unisono.media.locations import Location

RATE = 24_000


def sound(seed: int, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    """Noise whose loudness goes up and down, of its own for each seed."""
    rng = np.random.default_rng(seed)
    steps = np.repeat(rng.uniform(0.1, 1.0, 20), round(seconds * rate / 20))
    return (0.15 * steps * rng.uniform(-1, 1, len(steps))).astype(np.float32)


def corpus(
    root: Path, task: str = "text_to_audio", splits: tuple[str, ...] = ("train", "test"), items: int = 3
) -> Path:
    """A good corpus with its own sounds; returns the data set's folder."""
    folder = root / "a corpus" / task
    for split in splits:
        content, audio = [], []
        for i in range(items):
            audio_id = f"{split} ü{i}"
            (folder / "audio").mkdir(parents=True, exist_ok=True)
            sf.write(folder / "audio" / f"{audio_id}.wav", sound(len(split) * 1000 + i), RATE, "FLOAT")
            line: dict[str, Any] = {"audio_id": audio_id}
            if task == "text_to_audio":
                line["caption"] = f"sound {i} of {split}"
            elif task == "text_to_speech":
                phonemes = ["_", *"hɛs", "_", *"mɛn", "_"]
                line |= {
                    "phonemes": phonemes,
                    "durations_s": [0.1] * 8 + [0.2],
                    "speaker": "ann",
                    "text": f"{split} {i}",
                }
            elif task == "speech_enhancement":
                sf.write(folder / "audio" / f"{audio_id} noisy.wav", sound(7000 + i), RATE, "FLOAT")
                line["noisy_audio"] = f"../audio/{audio_id} noisy.wav"
            content.append(line)
            audio.append({"audio_id": audio_id, "audio": f"../audio/{audio_id}.wav", "duration_s": 1.0})
        write_jsonl(folder / split / "content.jsonl", content)
        write_jsonl(folder / split / "audio.jsonl", audio)
    return folder


def edit(manifest: Path, number: int, **changes: Any) -> None:
    """Change a line, counted from 1; None removes the field."""
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    lines[number - 1] = {k: v for k, v in {**lines[number - 1], **changes}.items() if v is not None}
    write_jsonl(manifest, lines)


def examine(*paths: Path, **options: Any) -> Validated:
    return validate(paths, **{"workers": 1, "store": None, "progress": False, **options})


def errors_of(validated: Validated) -> list[Finding]:
    return list(validated.findings.of_level("error"))


def ids_of(validated: Validated, place: int = 0) -> list[str]:
    corpus = validated.corpora[place]
    return [corpus.line(item).record["audio_id"] for item in range(len(corpus))]


def only(validated: Validated, kind: str) -> Finding:
    """The one finding; any other would be a false alarm."""
    assert [finding.kind for finding in validated.findings] == [kind], table(validated)
    return validated.findings[0]


def measured(path: Path) -> AudioFacts:
    return AudioFacts(**measure_job(Location(path))["facts"])


# -- a good corpus ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["text_to_audio", "text_to_speech", "speech_enhancement"])
def test_a_good_corpus_has_no_findings(task: str, tmp_path: Path) -> None:
    folder = corpus(tmp_path, task)
    for argument in (folder, folder.parent, folder / "train" / "content.jsonl", folder / "train"):
        validated = examine(argument)
        assert not validated.findings, table(validated)
    assert "0 errors, 0 warnings" in table(validated)


def test_bom_crlf_and_blank_lines_are_no_faults(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",))
    for name in ("content.jsonl", "audio.jsonl"):
        path = folder / "train" / name
        text = path.read_text(encoding="utf-8").replace("\n", "\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")
    assert not examine(folder).findings


# -- lines ------------------------------------------------------------------------------------------------------------


def test_every_broken_line_is_reported_not_only_the_first(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",), items=6)
    content = folder / "train" / "content.jsonl"
    lines = content.read_bytes().splitlines()
    lines[0] = b"{not json"
    lines[1] = b'{"audio_id": "\xff"}'
    lines[2] = b"[1]"
    lines[3] = b'{"audio_id": "a/b", "caption": "x"}'
    lines[4] = lines[5]
    content.write_bytes(b"\n".join(lines))
    validated = examine(folder)
    found = [(f.kind, f.line) for f in validated.findings if f.path == content]
    assert found == [("unreadable_line", 1), ("unreadable_line", 2), ("unreadable_line", 3), ("bad_audio_id", 4),
                     ("repeated_audio_id", 6)]  # fmt: skip
    by_line = {f.line: f for f in validated.findings if f.path == content}
    assert "not JSON" in by_line[1].message and "not UTF-8" in by_line[2].message and "list" in by_line[3].message
    assert by_line[4].field == "audio_id" and "line 5" in by_line[6].message
    # The partners of lines that cannot be read are left without one.
    assert {f.line for f in validated.findings if f.kind == "missing_content"} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("task", "manifest", "changes", "field"),
    [
        ("text_to_audio", "content", {"caption": "  "}, "caption"),
        ("text_to_audio", "content", {"caption": ["a", 3]}, "caption"),
        ("text_to_audio", "content", {"caption": None}, "caption"),
        ("text_to_audio", "content", {"instruction": 7}, "instruction"),
        ("text_to_audio", "content", {"split": ""}, "split"),
        ("text_to_audio", "audio", {"audio": None}, "audio"),
        ("text_to_audio", "audio", {"audio": "x.tar.gz::a"}, "audio"),
        ("text_to_audio", "audio", {"duration_s": "long"}, "duration_s"),
        ("text_to_audio", "audio", {"duration_s": -1}, "duration_s"),
        ("text_to_audio", "audio", {"license": []}, "license"),
        ("text_to_speech", "content", {"phonemes": "abc"}, "phonemes"),
        ("text_to_speech", "content", {"durations_s": None}, "durations_s"),
        ("text_to_speech", "content", {"durations_s": [1.0]}, "durations_s"),
        ("text_to_speech", "content", {"durations_s": [0.3] * 9}, "durations_s"),
        ("text_to_speech", "content", {"speaker": 3}, "speaker"),
        ("speech_enhancement", "content", {"noisy_audio": None}, "noisy_audio"),
    ],
)
def test_a_wrong_field_is_named(task: str, manifest: str, changes: dict, field: str, tmp_path: Path) -> None:
    folder = corpus(tmp_path, task, splits=("train",))
    edit(folder / "train" / f"{manifest}.jsonl", 2, **changes)
    finding = only(examine(folder), "bad_field")
    assert (finding.path.name, finding.line, finding.field) == (f"{manifest}.jsonl", 2, field)
    assert finding.level == "error" and not finding.message.startswith(str(folder))


def test_manifests_that_are_empty_or_alone(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train", "val"))
    (folder / "val" / "audio.jsonl").unlink()
    assert only(examine(folder), "no_targets").level == "warning"
    (folder / "train" / "content.jsonl").write_text("\n")
    assert [f.kind for f in examine(folder / "train").findings] == ["empty_manifest", *["missing_content"] * 3]
    edit(folder / "val" / "content.jsonl", 1, audio_id="other")
    write_jsonl(folder / "val" / "audio.jsonl", [{"audio_id": "val ü1", "audio": "../audio/val ü1.wav"}])
    kinds = [f.kind for f in examine(folder / "val").findings]
    assert kinds == ["missing_target", "missing_target"]


def test_what_is_asked_for_must_be_there(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",))
    for path, message in ((tmp_path / "none", "no such"), (folder / "train" / "audio.jsonl", "content.jsonl")):
        with pytest.raises(UserError, match=re.escape(message)):
            examine(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no content\.jsonl"):
        examine(tmp_path / "empty")
    moved = folder.rename(tmp_path / "unnamed")
    with pytest.raises(UserError, match="--task"):
        examine(moved)
    assert not examine(moved, task="t2a").findings


# -- recordings -------------------------------------------------------------------------------------------------------


def spoiled(kind: str, whole: np.ndarray) -> tuple[np.ndarray, int]:
    """A recording with one fault."""
    x, rate = whole.copy(), RATE
    if kind == "empty_audio":
        x = x[:0]
    elif kind == "non_finite_audio":
        x[77] = np.inf
    elif kind == "too_short_audio":
        x = x[:1]
    elif kind == "silent_audio":
        x[:] = 0
    elif kind == "mostly_silent":
        x = np.concatenate([x[:1000], np.zeros(2 * RATE, dtype=np.float32)])
    elif kind == "quiet_audio":
        x *= 0.03
    elif kind == "clipping":
        x = np.clip(x * 20, -1, 1)
    elif kind == "dc_offset":
        x = x + np.float32(0.05)
    elif kind == "cancelling_channels":
        x = np.stack([x, -0.9 * x], axis=1)
    elif kind == "narrow_bandwidth":
        from scipy.signal import firwin, oaconvolve

        x = oaconvolve(x, firwin(801, 4000, fs=RATE), mode="same").astype(np.float32)
    return x, rate


@pytest.mark.parametrize(
    "kind",
    ["empty_audio", "non_finite_audio", "too_short_audio", "silent_audio", "mostly_silent", "quiet_audio", "clipping",
     "dc_offset", "cancelling_channels", "narrow_bandwidth"],
)  # fmt: skip
def test_a_spoiled_recording_has_its_finding(kind: str, tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",))
    x, rate = spoiled(kind, sound(5))
    sf.write(folder / "audio" / "train ü1.wav", x, rate, "FLOAT")
    edit(folder / "train" / "audio.jsonl", 2, duration_s=None)
    finding = only(examine(folder), kind)
    assert (finding.path.name, finding.line, finding.field) == ("audio.jsonl", 2, "audio")
    assert "train ü1.wav" in finding.message


def test_narrow_bandwidth_is_an_error_only_where_a_bandwidth_is_asked_for(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",))
    x, rate = spoiled("narrow_bandwidth", sound(5))
    sf.write(folder / "audio" / "train ü1.wav", x, rate, "FLOAT")
    assert only(examine(folder), "narrow_bandwidth").value == pytest.approx(4000, rel=0.06)
    finding = only(examine(folder, limits=Limits(min_bandwidth_hz=10_000)), "insufficient_bandwidth")
    assert finding.level == "error" and finding.line == 2


def test_missing_damaged_and_cut_files(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",), items=5)
    audio = folder / "audio"
    (audio / "train ü0.wav").unlink()
    (audio / "train ü1.wav").write_bytes(b"this is text, not sound")
    whole = sound(8, 3.0)
    sf.write(audio / "long.flac", whole, RATE)
    (audio / "cut.flac").write_bytes((audio / "long.flac").read_bytes()[:50_000])
    edit(folder / "train" / "audio.jsonl", 3, audio="../audio/cut.flac", duration_s=3.0)
    (audio / "folder.wav").mkdir()
    edit(folder / "train" / "audio.jsonl", 4, audio="../audio/folder.wav")
    edit(folder / "train" / "audio.jsonl", 5, audio="../audio/" + "x" * 300)
    found = {f.line: f.kind for f in examine(folder).findings}
    assert found == {1: "missing_file", 2: "unreadable_audio", 3: "unreadable_audio", 4: "missing_file",
                     5: "missing_file"}  # fmt: skip


def test_a_wrong_duration_is_found_and_unequal_lengths_are(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "speech_enhancement", splits=("train",))
    edit(folder / "train" / "audio.jsonl", 1, duration_s=1.2)
    finding = only(examine(folder), "wrong_duration")
    assert finding.line == 1 and finding.value == 1.2 and "1.000" in finding.message
    edit(folder / "train" / "audio.jsonl", 1, duration_s=1.0)
    sf.write(folder / "audio" / "train ü2 noisy.wav", sound(9, 0.9), RATE, "FLOAT")
    assert only(examine(folder), "unequal_lengths").line == 3
    sf.write(folder / "audio" / "train ü2 noisy.wav", np.zeros(RATE), RATE)
    assert only(examine(folder), "silent_input").field == "noisy_audio"


def test_an_enhancement_corpus_without_inputs_is_degraded_on_the_fly(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "speech_enhancement", splits=("train",))
    for number in (1, 2, 3):
        edit(folder / "train" / "content.jsonl", number, noisy_audio=None)
    assert not examine(folder).findings


# -- what is measured -------------------------------------------------------------------------------------------------


def test_measurements_of_a_known_signal(tmp_path: Path) -> None:
    x = np.zeros((4 * 8000, 8), dtype=np.float32)
    t = np.arange(8000) / 8000
    x[8000:16000] = (0.5 * np.sin(2 * np.pi * 500 * t))[:, None]
    x[100:110, 3] = 1.0
    sf.write(tmp_path / "eight.wav", x, 8000, "FLOAT")
    facts = measured(tmp_path / "eight.wav")
    assert (facts.sample_rate, facts.num_channels, facts.num_samples) == (8000, 8, 32000)
    assert facts.duration_s == 4.0 and facts.peak == 1.0
    assert facts.clipped_share == pytest.approx(8 / x.size)  # of ten in a row the last eight
    assert facts.longest_silence_s == pytest.approx(2.0) and facts.silent_share == pytest.approx(0.74, abs=0.02)
    assert facts.active_dbfs == pytest.approx(20 * np.log10(0.5 / 2**0.5), abs=0.1)
    assert abs(facts.offset) < 1e-3 and facts.non_finite == -1


def test_clipping_and_hash_do_not_depend_on_where_blocks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.clip(sound(3, 2.0) * 30, -1, 1)
    sf.write(tmp_path / "a.wav", x, RATE, "FLOAT")
    whole = measured(tmp_path / "a.wav")
    monkeypatch.setattr("unisono.media.audio._BLOCK_FRAMES", 997)
    parts = measured(tmp_path / "a.wav")
    assert whole.clipped_share == parts.clipped_share > 0.1
    assert (whole.samples_hash, whole.fingerprint) == (parts.samples_hash, parts.fingerprint)
    assert whole.silent_share == parts.silent_share


def test_equal_samples_have_one_hash_in_every_lossless_form(tmp_path: Path) -> None:
    x = np.round(sound(4) * 32768) / 32768
    sf.write(tmp_path / "a.wav", x, RATE, "PCM_16")
    sf.write(tmp_path / "b.flac", x, RATE, "PCM_24")
    sf.write(tmp_path / "c.wav", np.stack([x, x], axis=1), RATE, "FLOAT")
    hashes = {measured(tmp_path / name).samples_hash for name in ("a.wav", "b.flac", "c.wav")}
    assert len(hashes) == 1
    sf.write(tmp_path / "d.wav", x, RATE // 2, "PCM_16")
    x[0] += 1 / 32768
    sf.write(tmp_path / "e.wav", x, RATE, "PCM_16")
    assert len(hashes | {measured(tmp_path / name).samples_hash for name in ("d.wav", "e.wav")}) == 3


# -- report, exit status, vocabulary ----------------------------------------------------------------------------------


def test_the_report_holds_everything(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "text_to_speech")
    edit(folder / "train" / "content.jsonl", 2, phonemes=["_", *"hQs", "_", *"mɛn", "_"])
    validated = examine(folder)
    report = json.loads(write_report(validated, tmp_path / "new" / "r.json").read_text(encoding="utf-8"))
    assert (report["errors"], report["warnings"], report["kinds"]) == (1, 0, {"unknown_symbol": 1})
    finding = report["findings"][0]
    assert finding["line"] == 2 and finding["audio_id"] == "train ü1" and finding["value"] == "Q"
    train = report["corpora"][0]
    assert train["items"] == 3 and train["speakers"] == {"ann": 3} and train["sample_rates"] == {"24000": 3}
    assert train["hours"] == pytest.approx(3 / 3600, abs=1e-6) and train["phonemes"]["_"] == 9
    assert not examine(folder, vocabulary=frozenset("_hɛsmnQ")).findings


def test_a_vocabulary_comes_in_three_forms(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("a b\nc\n")
    (tmp_path / "v.json").write_text('["a", "b", "c"]')
    (tmp_path / "v.yaml").write_text("phonemes: [a, b, c]\nother: 1\n")
    assert {read_vocabulary(tmp_path / f"v.{kind}") for kind in ("txt", "json", "yaml")} == {frozenset("abc")}
    (tmp_path / "bad.json").write_text('{"phonemes": 3}')
    for name in ("bad.json", "none.txt"):
        with pytest.raises(UserError, match=name):
            read_vocabulary(tmp_path / name)


def test_fix_writes_good_manifests_and_touches_no_audio(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "speech_enhancement", items=4)
    train = folder / "train"
    edit(train / "content.jsonl", 1, noisy_audio="gone.wav")
    edit(train / "audio.jsonl", 2, duration_s=9.0)
    edit(train / "audio.jsonl", 3, duration_s=None)
    edit(train / "audio.jsonl", 4, audio="../audio/test ü0.wav")  # a recording of the test split
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.*"))}
    validated = examine(folder)
    assert {f.kind for f in errors_of(validated)} == {"missing_file", "wrong_duration", "shared_audio"}
    out = tmp_path / "far away" / "clean"
    fixed = fix(validated, out / "speech_enhancement")
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.*"))} == before
    again = examine(out)
    assert not again.findings, table(again)
    assert ids_of(again) == ["train ü1", "train ü2"] and fixed.complete and "2 of 4 lines kept" in fixed.text
    durations = [json.loads(line)["duration_s"] for line in (out / "speech_enhancement/train/audio.jsonl").open()]
    assert durations == [1.0, 1.0]
    removed = [json.loads(line) for line in (out / "speech_enhancement/removed.jsonl").open()]
    assert [(one["audio_id"], one["kinds"]) for one in removed] == [
        ("train ü0", ["missing_file"]), ("train ü3", ["shared_audio"])]  # fmt: skip
    for place in (train, out / "speech_enhancement"):
        with pytest.raises(UserError, match="new folder"):
            fix(validated, place)


def test_fix_refuses_to_write_nothing(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",), items=1)
    (folder / "audio" / "train ü0.wav").unlink()
    with pytest.raises(UserError, match="every line has an error"):
        fix(examine(folder), tmp_path / "clean")
    assert not (tmp_path / "clean").exists()


def test_every_kind_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "validate.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert set(KINDS) <= set(rows)
    assert all(f"| {row.level} |" in rows[kind] and row.meaning in rows[kind] for kind, row in KINDS.items())
