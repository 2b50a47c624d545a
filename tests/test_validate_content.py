"""What the doctor says of texts, arrays, scores, videos and archives, and of what two splits share."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import typer
from typer.testing import CliRunner

from test_validate import RATE, corpus, edit, errors_of, examine, only, sound
from timed_items import clicks, line_of
from unisono.data.commands import validate as command
from unisono.data.manifest import write_jsonl
from unisono.data.validate import Validated, table
from unisono.data.validate.facts import measure_job
from unisono.data.validate.parallel import CRASHED, run_jobs
from unisono.tasks import TASKS

IPA = {"a": "æ", "b": "b", "c": "k", "d": "d", "_": "_"}


def one_line(folder: Path, task: str, **changes: object) -> Path:
    """A good line of any task, with files; a change to None removes a field."""
    folder = folder / task
    folder.mkdir(parents=True)
    line = {"audio_id": "one", **line_of(task, folder), **changes}
    if task.startswith("singing") or task == "text_to_speech":
        line["phonemes"] = [IPA.get(symbol, symbol) for symbol in line["phonemes"]]
    sf.write(folder / "target.wav", clicks(), RATE, "FLOAT")
    write_jsonl(folder / "content.jsonl", [{k: v for k, v in line.items() if v is not None}])
    write_jsonl(folder / "audio.jsonl", [{"audio_id": "one", "audio": "target.wav"}])
    return folder


def content_findings(folder: Path, **options: object) -> list:
    """Clicks have an offset of their own: what concerns the content alone."""
    return [finding for finding in examine(folder, **options).findings if finding.path.name == "content.jsonl"]


# -- tasks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_good_line_of_each_task(task: str, tmp_path: Path) -> None:
    folder = one_line(tmp_path, task)
    assert not content_findings(folder)
    assert not errors_of(examine(folder))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"f0_hz": "none.npy"}, "missing_file", "no file"),
        ({"f0_hz": "nan.npy"}, "unreadable_content", "NaN"),
        ({"f0_hz": "objects.npy"}, "unreadable_content", "Python objects"),
        ({"f0_hz": "flat.npy"}, "unreadable_content", "dimensions"),
        ({"f0_hz": "fast.npy"}, "unreadable_content", "f0_rate_hz"),
        ({"f0_hz": "high.npy"}, "unreadable_content", "8000"),
        ({"f0_hz": "still.npy"}, "no_pitch", "unvoiced"),
        ({"f0_hz": "a.tar::none.npy"}, "missing_file", "no such member"),
        ({"f0_hz": "broken.tar::f0.npy"}, "unreadable_content", "tar"),
        ({"voicing": "fast.npy"}, "unreadable_content", "equally long"),
        ({"speaker": None, "speaker_embedding": "nan.npy"}, "unreadable_content", "NaN"),
        ({"f0_rate_hz": 0}, "bad_field", "f0_rate_hz"),
    ],
)
def test_arrays_are_read(changes: dict, kind: str, message: str, tmp_path: Path) -> None:
    folder = one_line(tmp_path, "singing_acoustic_modeling", **changes)
    np.save(folder / "nan.npy", np.full(200, np.nan))
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(folder / "flat.npy", np.ones((2, 200)))
    np.save(folder / "fast.npy", np.full(50, 200.0))
    np.save(folder / "high.npy", np.full(200, 9000.0))
    np.save(folder / "still.npy", np.zeros(200))
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(folder / "f0.npy", "f0.npy")
    (folder / "broken.tar").write_bytes((folder / "a.tar").read_bytes()[:700])
    found = content_findings(folder)
    assert [f.kind for f in found] == [kind] and message in found[0].message and found[0].line == 1


def test_videos_are_read_and_compared_with_the_sound(tmp_path: Path) -> None:
    folder = one_line(tmp_path, "video_to_audio")
    sf.write(folder / "target.wav", clicks(4.0), RATE, "FLOAT")
    found = content_findings(folder)
    assert [f.kind for f in found] == ["unreadable_content"] and "4.000 s" in found[0].message
    sf.write(folder / "target.wav", clicks(), RATE, "FLOAT")
    film = (folder / "film.mp4").read_bytes()
    for damage in (film[: len(film) // 2], b"text", b""):
        (folder / "film.mp4").write_bytes(damage)
        assert [f.kind for f in content_findings(folder)] == ["unreadable_content"]
    (folder / "film.mp4").write_bytes((folder / "target.wav").read_bytes())  # sound without pictures
    assert [f.kind for f in content_findings(folder)] == ["unreadable_content"]


def test_scores_are_read(tmp_path: Path) -> None:
    none = {"phonemes": [], "notes": None, "note_durations_s": None, "slurs": None}
    folder = one_line(tmp_path, "singing_voice_synthesis", **none, score="song.mid")
    edit(folder / "content.jsonl", 1, phonemes=None)
    assert [f.kind for f in content_findings(folder)] == ["missing_file"]
    (folder / "song.mid").write_bytes(b"MThd nothing")
    found = content_findings(folder)
    assert [f.kind for f in found] == ["unreadable_content"] and found[0].field == "score"


def test_notes_that_nobody_sings(tmp_path: Path) -> None:
    folder = one_line(tmp_path, "singing_voice_synthesis", notes=["rest", "C4", 62, 20, 64.5])
    found = content_findings(folder)
    assert [f.kind for f in found] == ["unusual_note"] and found[0].value == 20
    edit(folder / "content.jsonl", 1, notes=["rest", "H4", 62, 20, 64])
    assert [f.kind for f in content_findings(folder)] == ["bad_field"]


# -- texts ------------------------------------------------------------------------------------------------------------


def test_captions_that_stand_for_too_much(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",), items=14)
    content = folder / "train" / "content.jsonl"
    for number in range(1, 13):
        edit(content, number, caption=["A Sound!", "a  sound"][number % 2])
    finding = only(examine(folder), "repeated_caption")
    assert (finding.line, finding.value) == (1, 12)
    for number in range(1, 13):
        edit(content, number, caption=f"number {number}")
    edit(content, 2, caption=["A Sound!", "a  sound", "b"])
    assert only(examine(folder), "repeated_caption_in_line").value == 2


def test_texts_that_cannot_have_been_spoken(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "text_to_speech", splits=("train",))
    content = folder / "train" / "content.jsonl"
    edit(content, 1, text="far too many words for the sixth part of a single second of speech")
    edit(content, 2, text="一二三四五六七八九十一二三四五六七八九十")
    edit(content, 3, text="一二三四五")  # too short to be judged
    found = examine(folder).findings
    assert [(f.kind, f.line) for f in found] == [("unlikely_text_rate", 1), ("unlikely_text_rate", 2)]
    edit(content, 1, text="x", phonemes=["h"] * 40, durations_s=[0.025] * 40)
    edit(content, 2, text="y")
    assert only(examine(folder), "unlikely_phoneme_rate").value == pytest.approx(40)


def test_symbols_outside_the_vocabulary_are_named_with_their_neighbours(tmp_path: Path) -> None:
    folder = corpus(tmp_path, "text_to_speech", splits=("train",))
    edit(folder / "train" / "content.jsonl", 3, phonemes=["_", *"hgsgg", "EH1", "n", "_"])
    finding = only(examine(folder), "unknown_symbol")
    assert finding.line == 3 and "'g' (3 times; perhaps ɡ" in finding.message and "ɛ" in finding.message


def test_a_text_that_is_not_spoken_is_found_by_alignment(tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx")
    folder = corpus(tmp_path, "text_to_speech", splits=("train",))
    content = folder / "train" / "content.jsonl"
    edit(content, 1, text="hello")
    edit(content, 2, text="*")
    edit(content, 3, text="guten Tag", language="de")
    found = [(f.kind, f.line) for f in examine(folder, align=True).findings]
    assert found == [("misaligned_text", 1), ("unaligned_text", 2)]


def test_numbers_and_unknown_names_are_said_as_align_says_them(tmp_path: Path) -> None:
    for package in ("pocketsphinx", "espeakng_loader"):
        pytest.importorskip(package)
    from unisono.text.espeak import synthesize

    folder = corpus(tmp_path, "text_to_speech", splits=("train",), items=1)
    speech = synthesize("Doctor Smith paid five dollars to Zorblat on January third.", "en-us")
    sf.write(folder / "audio" / "train ü0.wav", speech.waveform, speech.sample_rate)
    edit(folder / "train" / "audio.jsonl", 1, duration_s=None)
    said = {"phonemes": ["_"], "durations_s": [len(speech.waveform) / speech.sample_rate]}
    edit(folder / "train" / "content.jsonl", 1, text="Dr. Smith paid $5 to Zorblat on Jan. 3.", **said)
    assert not examine(folder, align=True).findings
    edit(folder / "train" / "content.jsonl", 1, text="Dr. Smith paid $1,999 to Zorblat on Jan. 3.")
    assert [f.kind for f in examine(folder, align=True).findings] == ["misaligned_text"]


# -- shared -----------------------------------------------------------------------------------------------------------


def kinds(validated: Validated) -> Counter:
    return Counter(finding.kind for finding in validated.findings)


def test_recordings_that_train_and_test_share_under_any_name(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train", "val", "test"))
    x, _ = sf.read(folder / "audio" / "test ü1.wav")
    sf.write(folder / "audio" / "train ü0.wav", np.stack([x, x], axis=1), RATE, "FLOAT")
    edit(folder / "val" / "audio.jsonl", 3, audio="../audio/test ü2.wav")
    found = examine(folder).findings
    assert [(f.kind, f.path.parent.name, f.line) for f in found] == [
        ("shared_audio", "train", 1), ("shared_audio", "val", 3)]  # fmt: skip
    assert "'test ü1'" in found[0].message
    # Each split alone shows nothing.
    assert not examine(folder / "train").findings


def test_a_louder_or_resampled_copy_is_nearly_the_same(tmp_path: Path) -> None:
    soxr = pytest.importorskip("soxr")
    folder = corpus(tmp_path, splits=("train", "test"), items=12)
    x, _ = sf.read(folder / "audio" / "test ü1.wav", dtype="float32")
    sf.write(folder / "audio" / "train ü0.wav", 0.3 * x, RATE, "PCM_16")
    assert only(examine(folder), "near_shared_audio").line == 1
    sf.write(folder / "audio" / "train ü0.wav", sound(99), RATE)
    x, _ = sf.read(folder / "audio" / "train ü5.wav", dtype="float32")
    sf.write(folder / "audio" / "train ü7.wav", soxr.resample(x, RATE, 16_000), 16_000)
    assert only(examine(folder), "near_duplicate_audio").line == 8


def test_duplicates_within_a_split(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",))
    edit(folder / "train" / "audio.jsonl", 3, audio="../audio/train ü0.wav")
    finding = only(examine(folder), "duplicate_audio")
    assert finding.line == 3 and "'train ü0'" in finding.message
    # One clean target with two noises is meant.
    folder = corpus(tmp_path / "2", "speech_enhancement", splits=("train",))
    edit(folder / "train" / "audio.jsonl", 3, audio="../audio/train ü0.wav")
    assert not examine(folder).findings


def test_ids_and_texts_that_splits_share(tmp_path: Path) -> None:
    folder = corpus(tmp_path)
    edit(folder / "train" / "content.jsonl", 2, caption="Sound 1, of TEST")
    edit(folder / "train" / "content.jsonl", 3, audio_id="test ü0")
    edit(folder / "train" / "audio.jsonl", 3, audio_id="test ü0")
    found = [(f.kind, f.path.parent.name, f.line, f.level) for f in examine(folder).findings]
    assert found == [("shared_text", "train", 2, "warning"), ("shared_audio_id", "train", 3, "warning")]


def test_a_split_may_be_said_by_the_lines(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",))
    one = folder.rename(tmp_path / "text_to_audio") / "train"
    one = one.rename(one.with_name("all"))
    edit(one / "audio.jsonl", 3, audio="../audio/train ü0.wav", split="test")
    edit(one / "content.jsonl", 1, split="train")
    assert only(examine(one), "shared_audio").line == 1


# -- archives ---------------------------------------------------------------------------------------------------------


def test_members_of_archives(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    folder = corpus(tmp_path, splits=("train",), items=6)
    wav = (folder / "audio" / "train ü0.wav").read_bytes()
    with tarfile.open(folder / "good.tar", "w") as archive:
        for name, data in (("a b.wav", wav), ("bad.wav", b"no sound at all")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    cut = (folder / "good.tar").read_bytes()[:5000]
    (folder / "cut.tar").write_bytes(cut)
    with h5py.File(folder / "c.h5", "w") as file:
        file["one"] = np.full(RATE, np.nan, dtype=np.float32)
        file["one"].attrs["sample_rate"] = RATE
    places = ["good.tar::a b.wav", "good.tar::bad.wav", "good.tar::none.wav", "cut.tar::a b.wav", "c.h5::one",
              "c.h5::two"]  # fmt: skip
    for number, place in enumerate(places, 1):
        edit(folder / "train" / "audio.jsonl", number, audio=f"../{place}")
    found = {f.line: f for f in errors_of(examine(folder))}
    assert {number: f.kind for number, f in found.items()} == {
        2: "unreadable_audio", 3: "missing_file", 4: "unreadable_audio", 5: "non_finite_audio", 6: "missing_file",
    }  # fmt: skip
    for number, f in found.items():
        assert places[number - 1].split("::")[0] in f.message and f.field == "audio"
    assert "cut off within member 'a b.wav'" in found[4].message


# -- processes and what is kept ---------------------------------------------------------------------------------------


def touchy(job: int) -> dict:
    """What a decoder with a bug does."""
    if job % 17 == 5:
        os._exit(9)
    return {"job": job}


def test_a_job_that_kills_its_process_costs_only_itself() -> None:
    results = dict(run_jobs(touchy, range(30), workers=2))
    assert sorted(results) == list(range(30))
    assert [job for job, result in results.items() if result == CRASHED] == [job for job in range(30) if job % 17 == 5]
    assert all(result == {"job": job} for job, result in results.items() if result != CRASHED)


def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train", "test"), items=12)
    (folder / "audio" / "train ü3.wav").write_bytes(b"")
    (folder / "audio" / "test ü4.wav").unlink()
    one, two = examine(folder), examine(folder, workers=2)
    assert list(one.findings) == list(two.findings) and one.num_errors == 2
    assert np.array_equal(one.recordings.measured, two.recordings.measured)


def test_a_second_run_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = corpus(tmp_path, splits=("train",))
    read: list[str] = []

    def noting(location):
        read.append(location.stem)
        return measure_job(location)

    monkeypatch.setattr("unisono.data.validate.runner.measure_job", noting)
    store = tmp_path / "store" / "facts.sqlite"
    first = examine(folder, store=store)
    sf.write(folder / "audio" / "train ü1.wav", sound(66) * 0, RATE)
    (folder / "audio" / "train ü2.wav").write_bytes(b"damaged")
    read.clear()
    second = examine(folder, store=store)
    assert sorted(read) == ["train ü1", "train ü2"] and {f.kind for f in errors_of(second)} == {
        "silent_audio",
        "unreadable_audio",
    }
    read.clear()
    third = examine(folder, store=store)
    assert read == ["train ü2"] and list(third.findings) == list(
        second.findings
    )  # a fault may have been mended by an installation
    assert third.recordings.facts(0) == first.recordings.facts(0) is not None


# -- command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> typer.Typer:
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache"))
    app = typer.Typer()
    app.command()(command)
    return app


def test_the_command_shows_writes_and_fails(app: typer.Typer, tmp_path: Path) -> None:
    folder = corpus(tmp_path)
    good = CliRunner().invoke(app, [str(folder), "--workers", "1"])
    assert good.exit_code == 0 and "0 errors, 0 warnings" in good.output
    assert json.loads((folder / "validation.json").read_text())["errors"] == 0
    edit(folder / "train" / "content.jsonl", 1, caption="sound 0 of test")
    warned = CliRunner().invoke(app, [str(folder), "--workers", "1", "--json", str(tmp_path / "x" / "r.json")])
    assert warned.exit_code == 0 and "shared_text" in warned.output and (tmp_path / "x" / "r.json").is_file()
    (folder / "audio" / "train ü1.wav").unlink()
    clean = tmp_path / "clean"
    bad = CliRunner().invoke(app, [str(folder), "--workers", "1", "--fix", str(clean)])
    assert bad.exit_code == 0 and "1 errors, 1 warnings" in bad.output and "2 of 3 lines kept" in bad.output
    assert not errors_of(examine(clean))


def test_a_folder_that_cannot_be_written_gets_no_report(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = corpus(tmp_path)
    (folder / "validation.json").mkdir()  # a place where no file can be put, for root neither
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = CliRunner().invoke(app, [str(folder), "--workers", "1"])
    assert result.exit_code == 0 and f"report: {tmp_path / 'here' / 'validation.json'}" in result.output
    assert (tmp_path / "here" / "validation.json").is_file()


def test_the_table_shows_few_places_of_many(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",), items=9)
    for path in (folder / "audio").iterdir():
        path.unlink()
    text = table(examine(folder), places=2)
    assert text.count("train/audio.jsonl:") == 2 and "and 7 more" in text and "9  missing_file" in text
