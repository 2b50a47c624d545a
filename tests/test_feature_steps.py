"""The steps that add F0, voices and pictures to a manifest: restartable, whole or not at all, nothing lost unsaid."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from feature_sources import RATE, save_x_vector_model, voice, write_flash
from unisono.data.manifest import write_jsonl
from unisono.data.prepare import commands_features
from unisono.data.prepare.jobs import LeaveOut
from unisono.data.prepare.steps import features
from unisono.data.prepare.steps.engine import ManifestStep, Options, Work, run_step_on, work_of
from unisono.data.prepare.steps.pair import ManifestPair
from unisono.errors import UserError
from unisono.features import f0
from unisono.media.audio import read_audio, write_audio
from unisono.media.locations import read_array


@pytest.fixture(scope="module")
def flash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flash(tmp_path_factory.mktemp("a video") / "flash.mp4")


@pytest.fixture(scope="module")
def x_vector_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_x_vector_model(tmp_path_factory.mktemp("x vectors"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six recordings of two speakers, the third silent, the fourth cut off."""
    folder = tmp_path / "my corpus"
    content, audio = [], []
    for i in range(6):
        tone = voice(120.0 * (1 + i % 2), 0.3 + 0.05 * i) if i != 2 else np.zeros(8_000, np.float32)
        path = write_audio(folder / f"audio/é{i}.wav", tone, RATE)
        if i == 3:
            path.write_bytes(path.read_bytes()[:40])
        content.append({"audio_id": f"é{i}", "speaker": f"s/{i % 2}", "noisy_audio": "noisy.wav"})
        audio.append({"audio_id": f"é{i}", "audio": f"audio/é{i}.wav"})
    write_jsonl(folder / "content.jsonl", content)
    write_jsonl(folder / "audio.jsonl", audio)
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_f0_is_written_beside_the_output_with_paths_that_are_right(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyworld")
    out = tmp_path / "out/content.jsonl"
    result = features.add_f0(
        corpus / "content.jsonl", corpus / "audio.jsonl", Options(out, 1, False), rate_hz=50.0, method="dio"
    )
    lines = read(out)
    assert [line["audio_id"] for line in lines] == ["é0", "é1", "é4", "é5"]
    assert (result.items, dict(result.left_out)) == (4, {"unvoiced": 1, "unreadable": 1})
    for line in lines:
        contour = read_array(out.parent / line["f0_hz"])
        tone = read_audio(corpus / f"audio/{line['audio_id']}.wav", RATE)
        assert line["f0_rate_hz"] == 50.0
        assert len(contour) == f0.num_f0_frames(len(tone), RATE, 50.0)
        true_hz = 120.0 * (1 + int(line["audio_id"][1]) % 2)
        assert np.median(contour[contour > 0]) == pytest.approx(true_hz, rel=0.01)
        assert (out.parent / line["noisy_audio"]).resolve().parent == corpus.resolve()
    reasons = {entry["item"]: entry for entry in read(tmp_path / "out/content.f0.left_out.jsonl")}
    assert "é3.wav" in reasons["é3"]["reason"] and reasons["é3"]["content"]["noisy_audio"] == "noisy.wav"
    targets = read(tmp_path / "out/audio.jsonl")
    assert [line["audio_id"] for line in targets] == [line["audio_id"] for line in lines]
    for line in targets:
        assert (out.parent / line["audio"]).samefile(corpus / f"audio/{line['audio_id']}.wav")
    assert len(read(corpus / "audio.jsonl")) == 6


def test_voices_replace_names_and_may_be_shared(corpus: Path, x_vector_model: Path) -> None:
    content, audio, out = corpus / "content.jsonl", corpus / "audio.jsonl", corpus / "voices.jsonl"
    (corpus / "audio/é0.wav").write_bytes((corpus / "audio/é5.wav").read_bytes())  # half a second or more is needed
    options = Options(out, 1, False, max_left_out=0.9)
    features.add_speaker_embeddings(content, audio, options, encoder=str(x_vector_model))
    alone = {line["audio_id"]: read_array(corpus / line["speaker_embedding"]) for line in read(out)}
    assert {line["speaker_name"] for line in read(out)} == {"s/0", "s/1"}
    assert not any("speaker" in line for line in read(out))
    # Once more, over its own output, now by speaker.
    options = Options(out, 1, False, overwrite=True)
    features.add_speaker_embeddings(out, audio, options, encoder=str(x_vector_model), per_speaker=True)
    lines = read(out)
    assert len({line["speaker_embedding"] for line in lines}) == 2
    for line in lines:
        same = [alone[other["audio_id"]] for other in lines if other["speaker_name"] == line["speaker_name"]]
        assert read_array(corpus / line["speaker_embedding"]) == pytest.approx(np.mean(same, axis=0), abs=1e-6)
        assert len(line["speaker_encoder"]) == 32


def test_the_voice_of_a_reference_is_described_and_its_path_kept(corpus: Path, tmp_path: Path) -> None:
    lines = [{**line, "speaker_audio": "audio/é1.wav"} for line in read(corpus / "content.jsonl")[4:5]]
    content = write_jsonl(corpus / "content.jsonl", lines)
    out = tmp_path / "voices/content.jsonl"
    features.add_speaker_embeddings(content, None, Options(out, 1, False))
    (line,) = read(out)
    assert "speaker_audio" not in line and "speaker" not in line
    assert (out.parent / line["speaker_audio_file"]).samefile(corpus / "audio/é1.wav")
    # Its own output is taken again, and gives the same.
    before = read_array(out.parent / line["speaker_embedding"])
    features.add_speaker_embeddings(out, None, Options(out, 1, False, overwrite=True))
    assert read(out) == [line] and np.array_equal(read_array(out.parent / line["speaker_embedding"]), before)


def test_video_features_take_the_place_of_the_video(flash: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    lines = [{"audio_id": "a", "video": os.path.relpath(flash, tmp_path)}, {"audio_id": "b", "video": "broken.mp4"}]
    content = write_jsonl(tmp_path / "content.jsonl", lines)
    out = tmp_path / "features/content.jsonl"
    result = features.add_video_features(content, Options(out, 1, False), rate_hz=10.0)
    assert dict(result.left_out) == {"unreadable": 1}
    (line,) = read(out)
    assert "video" not in line and (out.parent / line["video_file"]).samefile(flash)
    assert read_array(out.parent / line["video_features"]).shape == (20, 128)
    assert line["video_features_rate_hz"] == 10.0
    with pytest.raises(UserError, match="rate_hz is 0"):
        features.add_video_features(content, Options(out, 1, False, overwrite=True), rate_hz=0)


CALLS: list[str] = []
STOP_AFTER: list[int] = []  # calls; no setting, or the records of the cut run would not serve the next


def counter(settings: Any) -> Any:
    def counted(work: Work) -> dict[str, Any]:
        CALLS.append(work.audio_id)
        if len(CALLS) in STOP_AFTER:
            raise KeyboardInterrupt
        if work.audio_id in settings["bad"]:
            raise LeaveOut("bad", "it is bad")
        return {"size": Path(work.source).stat().st_size}

    return counted


def run_counted(
    corpus: Path, bad: tuple[str, ...] = (), content: str = "content.jsonl", out: Any = "out.jsonl", **options: Any
) -> Any:
    step = ManifestStep("count", 1, "counting", counter, {"bad": list(bad)}, chunk_items=2)
    pair = ManifestPair(corpus / content)
    with run_step_on(step, pair, Options(corpus / out, 1, False, **options), lambda _, t: work_of(t, "audio")) as run:
        return run.write()


def test_a_step_that_was_cut_short_goes_on_and_changed_files_are_done_again(corpus: Path, monkeypatch) -> None:
    CALLS.clear()
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "STOP_AFTER", [5])
        with pytest.raises(KeyboardInterrupt):
            run_counted(corpus)
    assert not (corpus / "out.jsonl").exists()
    path = corpus / "audio/é0.wav"
    path.write_bytes(path.read_bytes() + b"\0\0")
    CALLS.clear()
    assert run_counted(corpus).items == 6
    assert CALLS == ["é0", "é1", "é4", "é5"]  # the chunk of é2 and é3 was done
    assert read(corpus / "out.jsonl")[0]["size"] == path.stat().st_size
    assert not list(corpus.glob(".*"))


def test_too_many_left_out_write_reasons_and_no_output(corpus: Path) -> None:
    bad = ("é0", "é1", "é2", "é3")
    with pytest.raises(UserError, match=r"4 of 6 lines would be left out.*é0: it is bad.*--max-left-out"):
        run_counted(corpus, bad=bad)
    assert not (corpus / "out.jsonl").exists()
    assert len(read(corpus / "out.count.left_out.jsonl")) == 4 and len(read(corpus / "audio.jsonl")) == 6
    assert str(run_counted(corpus, bad=bad, max_left_out=0.7)).startswith(
        f"{corpus / 'out.jsonl'}: 2 items; 4 left out"
    )
    run_counted(corpus, overwrite=True)
    assert not (corpus / "out.count.left_out.jsonl").exists()
    with pytest.raises(UserError, match="lines would be left out"):
        run_counted(corpus, bad=tuple(f"é{i}" for i in range(6)), max_left_out=1.0, overwrite=True)
    assert len(read(corpus / "out.jsonl")) == 6


def ids(path: Path) -> list[str]:
    return [line["audio_id"] for line in read(path)]


def test_targets_follow_content_jsonl_and_come_back_with_their_lines(corpus: Path) -> None:
    (corpus / "content.jsonl").rename(corpus / "texts.jsonl")
    audio = corpus / "audio.jsonl"
    with audio.open("ab") as file:  # a line more, in its own spelling, without a line end
        file.write('{"audio_id":"more",  "audio":"audio/é0.wav"}'.encode())
    before = sorted(audio.read_bytes().splitlines())
    result = run_counted(corpus, ("é1", "é4"), "texts.jsonl", "content.jsonl")
    assert ids(corpus / "content.jsonl") == ids(audio) == ["é0", "é2", "é3", "é5"]
    left = corpus / "audio.left_out.jsonl"
    assert ids(left) == ["é1", "é4", "more"]
    assert result.notes == (f"targets: {audio}; 3 that have no line in the output are kept in {left}",)
    assert sorted(audio.read_bytes().splitlines() + left.read_bytes().splitlines()) == before
    # The texts are mended; another line falls away.
    run_counted(corpus, ("é2",), "texts.jsonl", "content.jsonl", overwrite=True)
    assert ids(corpus / "content.jsonl") == ["é0", "é1", "é3", "é4", "é5"]
    assert sorted(ids(audio)) == ids(corpus / "content.jsonl") and sorted(ids(left)) == ["more", "é2"]
    run_counted(corpus, (), "texts.jsonl", "content.jsonl", overwrite=True)
    assert sorted(ids(audio)) == [f"é{i}" for i in range(6)] and ids(left) == ["more"]
    assert not (corpus / "content.count.left_out.jsonl").exists()


def test_what_is_taken_out_of_a_manifest_in_place_is_kept(corpus: Path) -> None:
    whole = {line["audio_id"]: line for line in read(corpus / "content.jsonl")}
    for bad in (("é1",), ("é4", "é5")):
        run_counted(corpus, bad, out="content.jsonl", overwrite=True)
    assert ids(corpus / "content.jsonl") == ids(corpus / "audio.jsonl") == ["é0", "é2", "é3"]
    reasons = read(corpus / "content.count.left_out.jsonl")
    assert {entry["item"]: entry["content"]["speaker"] for entry in reasons} == {
        name: whole[name]["speaker"] for name in ("é1", "é4", "é5")
    }
    assert ids(corpus / "audio.left_out.jsonl") == ["é4", "é5", "é1"]


@pytest.mark.parametrize("number", range(1, 8))
def test_no_target_is_lost_when_writing_is_cut_short(corpus: Path, monkeypatch, number: int) -> None:
    """Whichever rename is the last one: the same command again gives what it would have given at once."""
    (corpus / "content.jsonl").rename(corpus / "texts.jsonl")
    run_counted(corpus, ("é1", "é4"), "texts.jsonl", "content.jsonl")
    renames: list[Any] = []
    real = os.replace

    def cut(source: Any, target: Any) -> None:
        if Path(target).suffix == ".jsonl":
            renames.append(target)
            if len(renames) == number:
                raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(os, "replace", cut)
        run_counted(corpus, ("é2",), "texts.jsonl", "content.jsonl", overwrite=True)
    everything = [*ids(corpus / "audio.jsonl"), *ids(corpus / "audio.left_out.jsonl")]
    assert set(everything) == {f"é{i}" for i in range(6)}
    run_counted(corpus, ("é2",), "texts.jsonl", "content.jsonl", overwrite=True)
    assert sorted(ids(corpus / "audio.jsonl")) == ids(corpus / "content.jsonl") == ["é0", "é1", "é3", "é4", "é5"]
    assert ids(corpus / "audio.left_out.jsonl") == ["é2"]


def test_targets_of_other_manifests_are_not_replaced_unasked(corpus: Path, tmp_path: Path) -> None:
    whole = (corpus / "audio.jsonl").read_bytes()
    run_counted(corpus, ("é1",))  # out.jsonl: the targets beside it are those of content.jsonl
    assert (corpus / "audio.jsonl").read_bytes() == whole
    assert ids(corpus / "out.audio.jsonl") == ids(corpus / "out.jsonl")
    run_counted(corpus, overwrite=True)
    assert not (corpus / "out.audio.jsonl").exists()
    with pytest.raises(UserError, match="is where targets stand"):
        run_counted(corpus, out="audio.jsonl", overwrite=True)
    assert (corpus / "audio.jsonl").read_bytes() == whole
    elsewhere = tmp_path / "else where"
    write_jsonl(elsewhere / "audio.jsonl", [{"audio_id": "theirs", "audio": "t.wav"}])
    with pytest.raises(UserError, match=r"else where/audio\.jsonl exists and is not"):
        run_counted(corpus, out=elsewhere / "content.jsonl")
    run_counted(corpus, ("é0",), out=elsewhere / "out.jsonl")
    assert ids(elsewhere / "audio.jsonl") == ["theirs"]
    assert ids(elsewhere / "out.audio.jsonl") == ids(elsewhere / "out.jsonl") == [f"é{i}" for i in range(1, 6)]
    run_counted(corpus, ("é0",), out=elsewhere / "content.jsonl", overwrite=True)
    assert ids(elsewhere / "audio.jsonl") == ids(elsewhere / "content.jsonl")
    assert ids(elsewhere / "audio.left_out.jsonl") == ["theirs"]
    assert (corpus / "audio.jsonl").read_bytes() == whole


def test_options_and_manifests_that_cannot_be_used_are_told(corpus: Path) -> None:
    for options, message in (
        ({"workers": 0}, "workers is 0"),
        ({"max_left_out": 1.5}, "max_left_out is 1.5"),
        ({"output": corpus}, "is a folder"),
        ({"output": corpus / "audio.jsonl"}, "--overwrite"),
    ):
        with pytest.raises(UserError, match=message):
            Options(**{"output": corpus / "new.jsonl", **options})  # type: ignore[arg-type]
    write_jsonl(corpus / "audio.jsonl", read(corpus / "audio.jsonl")[:2])
    with pytest.raises(UserError, match=r"content\.jsonl:3: audio_id 'é2' has no line in.*--audio"):
        run_counted(corpus)


@pytest.mark.slow
def test_a_killed_step_goes_on(corpus: Path) -> None:
    pytest.importorskip("pyworld")
    for i in range(6):
        write_audio(corpus / f"audio/é{i}.wav", voice(130.0, 4.0), RATE)
    code = (
        "from pathlib import Path; from unisono.data.prepare.steps import features, engine as m;"
        f"c=Path({str(corpus)!r}); features.ManifestStep=lambda *a,**k: m.ManifestStep(*a,**{{**k,'chunk_items':1}});"
        "features.add_f0(c/'content.jsonl',c/'audio.jsonl',m.Options(c/'o.jsonl',1,False))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    records = corpus / ".o.f0.work/records.log"

    def num_done() -> int:
        return records.read_bytes().count(b"\n") if records.is_file() else 0

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and num_done() < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = num_done()
    assert 2 <= kept < 6 and not (corpus / "o.jsonl").exists()
    arrays = {path: path.stat().st_mtime_ns for path in (corpus / "f0").glob("*.npy")}
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(read(corpus / "o.jsonl")) == 6
    unchanged = [path for path, when in arrays.items() if path.stat().st_mtime_ns == when]
    assert len(unchanged) >= kept
    assert not list(corpus.glob(".*"))


def test_the_commands_take_their_options(corpus: Path) -> None:
    pytest.importorskip("pyworld")
    app = Typer()
    for name in ("align", "f0", "speaker", "video-features"):
        app.command(name)(getattr(commands_features, name.replace("-", "_")))
    run = CliRunner().invoke
    content, out = str(corpus / "content.jsonl"), str(corpus / "new.jsonl")
    result = run(app, ["f0", content, "-o", out, "--method", "dio", "--rate-hz", "50", "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "4 items; 2 left out" in result.output
    again = run(app, ["f0", content, "-o", out])
    assert isinstance(again.exception, UserError)
    result = run(app, ["speaker", out, "-o", out, "--overwrite", "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert all("f0_hz" in line and "speaker_embedding" in line for line in read(Path(out)))
    for arguments, message in ((["--by", "ear"], "choose text or phonemes"), (["--aligner", "x"], "--by phonemes")):
        result = run(app, ["align", content, "-o", str(corpus / "aligned.jsonl"), *arguments])
        assert message in str(result.exception)
    for name in ("align", "f0", "speaker", "video-features"):
        assert run(app, [name, "--help"]).exit_code == 0
