"""`unisono generate`: files, names, inputs of every kind, and what it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from typer.testing import CliRunner, Result

from small_model import small_model_folder
from unisono.cli import app
from unisono.data.mini.films import write_video
from unisono.errors import UserError
from unisono.media.audio import read_audio
from unisono.media.video import read_video_frames, video_info

RATE = 24_000
FAST = ("--num-steps", "1", "--guidance-scale", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model_folder(tmp_path_factory.mktemp("a model") / "model")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def recording(path: Path, seconds: float = 0.3, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate)), rate)
    return path


def call(model: Path | None, *arguments: object, stdin: str | bytes | None = None) -> Result:
    with_model = () if model is None else ("--model", str(model))
    return CliRunner().invoke(app, ["generate", *FAST, *map(str, arguments), *with_model], input=stdin)


def done(model: Path | None, *arguments: object, stdin: str | bytes | None = None) -> str:
    result = call(model, *arguments, stdin=stdin)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def refused(model: Path | None, *arguments: object, stdin: str | bytes | None = None) -> str:
    result = call(model, *arguments, stdin=stdin)
    assert isinstance(result.exception, UserError), (result.output, result.exception)
    return str(result.exception)


# -- what it writes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "WAV"])
def test_the_extension_is_the_format(model: Path, here: Path, kind: str) -> None:
    said = done(model, "t2a", "rain", "-o", f"rain.{kind}", "--duration", 0.5, "--seed", 3)
    assert f"rain.{kind}: 0.50 s of text_to_audio, seed 3" in said
    assert len(read_audio(here / f"rain.{kind}", RATE)) / RATE == pytest.approx(0.5, abs=0.1)


def test_speech_and_singing_take_text_and_notes(model: Path, here: Path) -> None:
    assert "text_to_speech" in done(model, "tts", "Hello there.", "-o", "a.wav", "--speaker", "en-gb")
    (here / "long.txt").write_text("Hello there. How are you?\nFine!")
    done(model, "tts", "--text-file", "long.txt", "-o", "b.wav", "--speaker", "en-gb")
    assert sf.info("b.wav").duration > 1.5 * sf.info("a.wav").duration
    done(model, "tts", "Hello there.", "-o", "fast.wav", "--speaker", "en-gb", "--speed", 2)
    assert sf.info("fast.wav").duration == pytest.approx(sf.info("a.wav").duration / 2, abs=0.03)
    done(model, "svs", "C4:0.2:la D4:0.2:la", "-o", "c.wav")
    from unisono.scores import parse_score, write_midi

    write_midi(parse_score("C4:0.2 D4:0.2 E4:0.2"), here / "song.mid")
    done(model, "svs", "--score", "song.mid", "--text", "twin-kle star", "-o", "d.wav")
    assert "3 notes, the lyrics 2 syllables" in refused(model, "svs", "--score", "song.mid", "--text", "la la")


def test_a_video_gets_its_sound(model: Path, here: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    write_video(here / "silent.mp4", frames, 25)
    done(model, "v2a", "--video", "silent.mp4", "-o", "loud.mp4")
    assert video_info("loud.mp4").has_audio and not video_info("silent.mp4").has_audio
    assert len(read_audio("loud.mp4", RATE)) / RATE == pytest.approx(0.8, abs=0.05)
    for name in ("silent", "loud"):
        assert np.array_equal(read_video_frames(f"{name}.mp4", 25, 64), read_video_frames("silent.mp4", 25, 64))
    done(model, "v2a", "a hammer", "--video", "silent.mp4", "-o", "alone.wav")
    assert sf.info("alone.wav").duration == pytest.approx(0.8)
    assert "is an input" in refused(model, "v2a", "--video", "silent.mp4", "-o", "silent.mp4")


def test_a_recording_goes_on_or_is_mended(model: Path, here: Path) -> None:
    sound = read_audio(recording(here / "a.wav", 1.0), RATE)
    done(model, "t2a", "rain", "--original", "a.wav", "--duration", 1.5, "-o", "longer.wav")
    longer = read_audio("longer.wav", RATE)
    assert len(longer) == 1.5 * RATE and np.array_equal(longer[:RATE], sound)
    done(model, "t2a", "rain", "--original", "a.wav", "--keep", ":0.3", "--keep", "0.7:", "-o", "mended.wav")
    mended = read_audio("mended.wav", RATE)
    for part in (slice(7200), slice(16_800, None)):
        assert np.array_equal(mended[part], sound[part])
    for keep in ("1", "a:b", "2:1"):
        said = refused(model, "t2a", "rain", "--original", "a.wav", "--keep", keep, "-o", "x.wav")
        assert "write seconds as START:END" in said or ("2" in said and "1" in said)
    assert "is an input" in refused(model, "t2a", "rain", "--original", "a.wav", "-o", "a.wav")


def test_variations_have_seeds_that_follow(model: Path, here: Path) -> None:
    lines = done(model, "t2a", "rain", "-o", "r.wav", "-n", 3, "--seed", 5, "--duration", 0.2, "--json").splitlines()
    records = [json.loads(line) for line in lines]
    assert [(r["audio"], r["seed"]) for r in records] == [("r_1.wav", 5), ("r_2.wav", 6), ("r_3.wav", 7)]
    assert records[0].keys() >= {"task", "duration_s", "sample_rate", "seconds", "reason"}
    done(model, "t2a", "rain", "-o", "alone.wav", "--seed", 6, "--duration", 0.2)
    a, b = (sf.read(name, dtype="int16")[0].astype(int) for name in ("alone.wav", "r_2.wav"))
    assert np.abs(a - b).max() <= 2


def test_standard_input_folders_and_patterns(model: Path, here: Path) -> None:
    done(model, "t2a", "-", "-o", "out/", "--duration", 0.2, stdin="rain\n\nA dog barks!\nrain\n")
    assert sorted(os.listdir("out")) == ["a_dog_barks.wav", "rain.wav", "rain_2.wav"]
    for name in ("in/a.wav", "in/deep er/b.flac", "c1.wav", "c2.wav"):
        recording(here / name)
    (here / "in/notes.txt").write_text("no recording")
    done(model, "se", "--audio", "in", "--audio", "c*.wav", "--audio", "c1.wav", "-o", "clean")
    assert sorted(os.listdir("clean")) == ["a.wav", "b.wav", "c1.wav", "c2.wav"]
    assert "one file for 2 sounds" in refused(model, "se", "--audio", "c*.wav", "-o", "x.wav")
    assert "no file matches" in refused(model, "se", "--audio", "q*.wav")
    assert "nothing came from standard input" in refused(model, "t2a", "-", stdin="\n")
    assert "standard input is no text" in refused(model, "t2a", "-", stdin=b"\xff\xfe\x00")


def test_names_are_found_and_nothing_is_overwritten_unasked(model: Path, here: Path) -> None:
    for _ in range(3):
        done(model, "t2a", "A dog, barking!", "--duration", 0.2)
    done(model, "se", "--audio", recording(here / "noisy.wav"))
    assert sorted(os.listdir()) == [
        *("a_dog_barking.wav", "a_dog_barking_2.wav", "a_dog_barking_3.wav", "noisy.wav", "noisy_se.wav")
    ]


def test_an_instruction_picks_the_task_and_says_why(model: Path, here: Path) -> None:
    said = done(model, "remove the noise from this recording", "--audio", recording(here / "n.wav"), "-o", "c.wav")
    assert "speech_enhancement" in said and "picked:" in said and "remove the noise" in said
    message = refused(model, "make it nicer", "--audio", "n.wav", "-o", "d.wav")
    assert "speech_enhancement" in message and "audio_super_resolution" in message and not Path("d.wav").exists()


def test_the_demo_is_the_model_where_it_is(model: Path, here: Path) -> None:
    assert "run make demo, or give --model" in refused(None, "t2a", "rain")
    folder = here / "experiments/demo_fast"
    folder.mkdir(parents=True)
    (folder / "model").symlink_to(model)
    done(None, "t2a", "rain", "-o", "r.wav", "--duration", 0.2)
    assert sf.info("r.wav").duration == pytest.approx(0.2)


def test_inputs_are_never_overwritten(model: Path, here: Path) -> None:
    data = recording(here / "in/a.wav").read_bytes()
    (here / "link").symlink_to("in")
    for given, output in (
        ("in", here / "in"),
        ("in/a.wav", here / "in/a.wav"),
        ("link/a.wav", "in/a.wav"),
        ("in", "link"),
    ):
        assert "is an input" in refused(model, "se", "--audio", given, "-o", output)
    assert "is an input" in refused(model, "t2a", "x", "--original", "in/a.wav", "-o", here / "in/a.wav")
    assert (here / "in/a.wav").read_bytes() == data


def test_one_bad_file_of_many_does_not_cost_the_others(model: Path, here: Path) -> None:
    for name in ("in/a.wav", "in/c.wav", "in/.hidden.wav"):
        recording(here / name)
    (here / "in/b.wav").write_text("no sound")
    result = call(model, "se", "--audio", "in", "-o", "out")
    assert isinstance(result.exception, UserError) and sorted(os.listdir("out")) == ["a.wav", "c.wav"]
    assert "1 of 3 sounds were not made" in str(result.exception) and "in/b.wav" in str(result.exception)


def test_a_video_of_a_kind_that_is_not_written_becomes_one_that_is(model: Path, here: Path) -> None:
    import av

    with av.open("film.avi", "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    done(model, "v2a", "--video", "film.avi", "-o", "out")
    assert video_info("out/film.mkv").has_audio
    assert "cannot write '.avi' here" in refused(model, "v2a", "--video", "film.avi", "-o", "x.avi")


def test_ten_minutes_are_a_slip_unless_they_are_allowed(model: Path, here: Path) -> None:
    windows = ("--set", "window_s=5")
    message = refused(model, "t2a", "rain", "--duration", 600, *windows)
    assert "duration_s is 600; it must lie between 0 and 300 s: raise max_duration_s" in message
    done(model, "t2a", "rain", "--duration", 310, *windows, "--set", "max_duration_s=900", "-o", "long.ogg")
    assert sf.info("long.ogg").duration == 310


def test_notes_that_overlap_are_refused(model: Path, here: Path) -> None:
    import mido

    track = mido.MidiTrack()
    for note, kind, ticks in ((60, "note_on", 0), (64, "note_on", 100), (60, "note_off", 300), (64, "note_off", 100)):
        track.append(mido.Message(kind, note=note, velocity=64, time=ticks))
    mido.MidiFile(tracks=[track]).save("chord.mid")
    message = refused(model, "svs", "--score", "chord.mid", "--text", "la la")
    assert "chord.mid" in message and "one note at a time" in message and os.listdir() == ["chord.mid"]


def test_what_is_near_to_a_model_folder_is_named(model: Path, here: Path) -> None:
    (here / "run/checkpoints/step_1").mkdir(parents=True)
    (here / "run/config.yaml").write_text("epochs: 3\n")
    assert "its model is run/model" in refused(Path("run"), "t2a", "rain")
    (here / "run/checkpoints/step_1/contents.json").write_text("{}")
    assert "is a checkpoint, for inference.py" in refused(Path("run/checkpoints/step_1"), "t2a", "rain")


def test_a_language_that_was_not_trained_is_told(model: Path, here: Path, capfd: pytest.CaptureFixture) -> None:
    copy = shutil.copytree(model, here / "model")
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("languages: {}", "languages: {en-us: en-us}"))
    said = call(copy, "tts", "Guten Tag", "--language", "de", "-o", "a.wav").output
    assert "not trained for de (but for en-us)" in said + capfd.readouterr().err
    record = json.loads(done(copy, 'Say "good morning"', "-o", "c.wav", "--json"))
    assert record["text"] == "good morning"


def test_any_setting_can_be_set(model: Path, here: Path) -> None:
    done(model, "t2a", "rain", "-o", "r.wav", "--duration", 40, "--set", "window_s=5", "--set", "max_duration_s=20")
    assert sf.info("r.wav").duration == 40
    assert "'windows' is no setting" in refused(model, "t2a", "rain", "--set", "windows=5")
    assert "write NAME=VALUE" in refused(model, "t2a", "rain", "--set", "window_s")


def test_what_is_kept_is_kept_in_the_file(model: Path, here: Path) -> None:
    sound = read_audio(recording(here / "a.wav", 0.5), RATE)
    done(model, "t2a", "rain", "--original", "a.wav", "--duration", 1, "-o", "longer.wav")  # its model is far too loud
    assert np.array_equal(read_audio("longer.wav", RATE)[: len(sound)], sound)


def test_home_is_expanded_everywhere(model: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    recording(here / "a.wav")
    (here / "t.txt").write_text("Hello.")
    for arguments in (("se", "--audio", "~/a.wav"), ("t2a", "x", "--original", "~/a.wav")):
        assert "is an input" in refused(model, *arguments, "-o", "a.wav")
    done(model, "tts", "--text-file", "~/t.txt", "-o", "b.wav")
    assert "no usable path" in refused(model, "se", "--audio", "~nobody-has-this-name/a.wav")


def test_leftovers_of_a_killed_run_go(model: Path, here: Path) -> None:
    kept = [".r.wav.notes", f".mine.wav.{os.getpid()}.7.tmp"]
    for name in (".r.wav.999999999.7.tmp", ".r.mp4.999999999.7.mp4", *kept):
        (here / name).write_text("half")
    done(model, "t2a", "rain", "-o", "r.wav", "--duration", 0.2)
    assert sorted(os.listdir()) == sorted([*kept, "r.wav"])


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("t3a", "rain"), "unknown task 't3a'"),
        (("make rain", "rain"), "is the instruction"),
        (("se",), "needs a recording"),
        (("tts",), "needs a text"),
        (("tts", "a", "--text", "b"), "give one of them"),
        (("tts", "--text", "b", "--text-file", "absent.txt"), "--text and --text-file"),
        (("tts", "--text-file", "absent.txt"), "absent.txt: not readable as text"),
        (("tts", "b", "--audio", "absent.wav"), "--audio absent.wav: there is no such file"),
        (("se", "--audio", "a.wav", "--video", "a.wav"), "no task takes both"),
        (("se", "--audio", "empty"), "no file in this folder"),
        (("t2a", "x", "--duration", "-1"), "duration_s is -1"),
        (("t2a", "x", "--duration", "600"), "max_duration_s"),
        (("t2a", "x", "--num-steps", "0"), "num_steps is 0; at least 1"),
        (("t2a", "x", "--set", "seed=3"), "'seed' is no setting; choose from num_steps"),
        (("t2a", "x", "--set", "num_steps="), "write NAME=VALUE"),
        (("t2a", "x", "--set", "window_s=[[1"), "window_s is '[[1'; it must be float or null"),
        (("t2a", "x", "--set", "num_steps=3", "--num-steps", "4"), "num_steps is there twice"),
        (("t2a", "x", "--guidance-scale", "nan"), "it must be finite float"),
        (("t2a", "x", "-o", "-"), "sounds are written to files"),
        (("t2a", "caf\udce9"), "no valid text (UTF-8)"),
        (("se", "--audio", "bad\udcff.wav"), "is no usable path"),
        (("t2a", "x", "--num-steps", "10000"), "at most 1000"),
        (("t2a", "x", "--solver", "eulr"), "did you mean euler"),
        (("se", "--audio", "a.wav", "--duration", "5"), "lasts as long as its audio"),
        (("t2a", "x", "--speed", "2"), "speed is for speech and singing"),
        (("t2a", "x", "--language", "de"), "leave language out"),
        (("svs", "C4:0.5:la " * 40 + "H4:1:la"), "H4"),
        (("t2a", "x", "--seed", "-4"), "seed is -4"),
        (("t2a", "x", "--device", "tpu9"), "use auto, cpu"),
        (("t2a", "x", "--dtype", "half"), "float32 or bfloat16"),
        (("t2a", "x", "-o", "x.aiff"), "cannot write '.aiff' here"),
        (("t2a", "x", "-o", "x.mp4"), "cannot write '.mp4' here"),
        (("tts", "Привет"), "П"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    model: Path, here: Path, arguments: tuple[str, ...], words: str
) -> None:
    recording(here / "a.wav")
    (here / "empty").mkdir()
    message = refused(model, *arguments)
    assert words in message, message
    assert sorted(os.listdir()) == ["a.wav", "empty"]


def test_files_that_cannot_be_used(model: Path, here: Path) -> None:
    sf.write("one.wav", np.zeros(1), RATE)
    done(model, "se", "--audio", "one.wav", "-o", "out.wav")
    (here / "text.wav").write_text("no sound")
    assert "text.wav" in refused(model, "se", "--audio", "text.wav")
    (here / "no.mp4").write_bytes(b"\0" * 4000)
    assert "no.mp4" in refused(model, "v2a", "--video", "no.mp4")
    stereo = np.zeros((96_000, 2))
    stereo[::50] = 0.1
    sf.write("stereo.wav", stereo, 96_000)
    done(model, "sr", "--audio", "stereo.wav", "-o", "wide.flac")
    assert sf.info("wide.flac").duration == pytest.approx(1.0) and sf.info("wide.flac").samplerate == RATE
    sf.write("long.flac", np.zeros(3 * 3600 * 1000, dtype=np.int16), 1000)
    assert "lasts 10800 s; at most 3600" in refused(model, "se", "--audio", "long.flac")


def test_where_nothing_can_be_written(model: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "a file").write_text("")
    assert "cannot be made" in refused(model, "t2a", "rain", "--duration", 0.2, "-o", "a file/r.wav")
    made = []
    monkeypatch.setattr("unisono.inference.output_paths.os.access", lambda path, mode: made.append(path))
    assert "cannot be written to" in refused(model, "t2a", "rain", "--duration", 0.2, "-o", "locked/r.wav") and made
    monkeypatch.undo()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(here)
    monkeypatch.setattr("unisono.media.audio.sf.SoundFile.write", full)
    assert "No space left on device" in refused(model, "t2a", "rain", "--duration", 0.2, "-o", "r.wav")
    assert not [name for name in os.listdir() if name.startswith((".r", "r."))]


@pytest.mark.slow
def test_the_command_itself(model: Path, here: Path) -> None:
    command = [sys.executable, "-m", "unisono.cli", "generate", "t2a"]
    good = [*command, "rain", "-o", "r.wav", "--duration", "0.2", "--model", str(model), *FAST]
    run = subprocess.run(good, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("r.wav: 0.20 s") and run.stderr == "", run.stderr
    run = subprocess.run([*good, "--num-steps", "0"], capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.startswith("error: ") and "Traceback" not in run.stderr
    run = subprocess.run(["bash", "-c", '"$@" > /dev/full', "bash", *good], capture_output=True, text=True)
    assert run.returncode == 1 and "r.wav is written, but standard output cannot be" in run.stderr
    run = subprocess.run(
        ["bash", "-c", '"$@" - <&-', "bash", *command, "--model", str(model)], capture_output=True, text=True
    )
    assert run.returncode == 1 and "Traceback" not in run.stderr and "standard input" in run.stderr
    plain = os.environ | {"PYTHONIOENCODING": "ascii"}
    named = [*command, "дождь", "--duration", "0.2", "--model", str(model), *FAST]
    run = subprocess.run(named, capture_output=True, text=True, env=plain)
    assert run.returncode == 0 and Path("дождь.wav").is_file(), run.stderr
    run = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and "Examples:" in run.stdout and "unisono generate v2a --video" in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "completed"), [("unisono gen", ["generate"]), ("unisono generate t", ["t2a", "t2m", "tts"])]
)
def test_the_shell_completes(typed: str, completed: list[str]) -> None:
    asked = {"_UNISONO_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    command = Path(sys.executable).with_name("unisono")
    run = subprocess.run([command], env=os.environ | asked, capture_output=True, text=True)
    assert run.stdout.split() == completed
