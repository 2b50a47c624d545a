"""The Python API: natural arguments, lists, and what a sound depends on."""

from __future__ import annotations

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from small_model import small_model_folder
from unisono import Pipeline
from unisono.errors import UserError
from unisono.inference.generated import GeneratedAudio, joined
from unisono.inference.model_folder import load_model_folder
from unisono.media.audio import read_audio
from unisono.models.generation import GenerationOptions, GenerationSettings
from unisono.types import PitchContent, Sample, TextContent

RATE = 24_000
FAST = {"num_steps": 2, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model_folder(tmp_path_factory.mktemp("a model") / "model")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Pipeline:
    return Pipeline.from_pretrained(folder, device="cpu")


def noise(seconds: float, rate: int = RATE, channels: int | None = None) -> np.ndarray:
    shape = (round(seconds * rate),) if channels is None else (round(seconds * rate), channels)
    return (0.1 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def pictures(count: int) -> tuple[np.ndarray, float]:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), 25.0


def same(a: GeneratedAudio, b: GeneratedAudio) -> bool:
    return np.array_equal(a.waveform, b.waveform)


# -- every task -----------------------------------------------------------------------------------------------------


def test_every_task_has_natural_arguments(pipe: Pipeline, tmp_path: Path) -> None:
    recording = tmp_path / "a recording.flac"
    sf.write(recording, noise(0.5, 96_000, 2), 96_000)
    f0_hz = torch.full((20,), 220.0)
    pitch = PitchContent(("h", "ʌ"), torch.tensor([0.2, 0.2]), f0_hz, f0_hz > 0, speaker="en-us")
    asked = {
        "text_to_audio": {"prompt": "a dog barks", "duration_s": 0.5},
        "text_to_music": {"text": "a slow waltz", "duration_s": 0.5},
        "text_to_speech": {"text": "Hello there.", "speaker": "en-gb"},
        "singing_voice_synthesis": {"score": "C4:0.2:la D4:0.3:la", "speaker": "en-us"},
        "singing_acoustic_modeling": {"content": (pitch,)},
        "speech_enhancement": {"audio": recording},
        "audio_super_resolution": {"audio": (noise(0.5), RATE)},
        "video_to_audio": {"video": pictures(12)},
    }
    for task, arguments in asked.items():
        audio = pipe(task=task, **arguments, **FAST)
        assert isinstance(audio, GeneratedAudio) and audio.task == task and audio.reason == "", task
        assert audio.sample_rate == RATE and audio.waveform.dtype == np.float32 and audio.waveform.ndim == 1
        assert np.isfinite(audio.waveform).all() and audio.duration_s > 0.05
        if task in ("text_to_audio", "text_to_music", "speech_enhancement", "audio_super_resolution"):
            assert audio.duration_s == pytest.approx(0.5)
    assert audio.duration_s == pytest.approx(0.48)  # of the video


def test_the_task_may_be_left_to_the_instruction(pipe: Pipeline) -> None:
    audio = pipe("Please remove the noise from this recording", audio=(noise(0.3), RATE), **FAST)
    assert audio.task == "speech_enhancement" and "audio" in audio.reason
    spoken = pipe('Say "hello there" slowly', **FAST)
    assert spoken.task == "text_to_speech" and same(spoken, pipe("hello there", task="tts", **FAST))
    with pytest.raises(UserError, match=r"(?s)the request: .*text_to_audio"):
        pipe("Do something nice", **FAST)


def test_names_and_abbreviations_are_one(pipe: Pipeline) -> None:
    short = pipe("rain", task="t2a", duration_s=0.3, **FAST)
    assert same(short, pipe("rain", task="text_to_audio", duration_s=0.3, **FAST))
    assert same(short, pipe(task="t2a", content=(TextContent("rain"),), duration_s=0.3, **FAST))


# -- what a sound depends on ----------------------------------------------------------------------------------------


def test_lists_are_batches_and_change_nothing(pipe: Pipeline) -> None:
    captions, lengths_s = ["rain", "a dog barks twice", "wind"], [0.5, 0.2, 0.4]
    alone = [pipe(c, task="t2a", duration_s=s, seed=7, **FAST) for c, s in zip(captions, lengths_s, strict=True)]
    for batch_size in (1, 2, 8):
        together = pipe(captions, task="t2a", duration_s=lengths_s, seed=7, batch_size=batch_size, **FAST)
        for one, other in zip(alone, together, strict=True):
            assert same(one, other)
    assert not same(alone[0], pipe("rain", task="t2a", duration_s=0.5, seed=8, **FAST))
    seeds = pipe("rain", task="t2a", duration_s=0.5, seed=[7, 8], **FAST)
    assert [audio.seed for audio in seeds] == [7, 8] and not same(*seeds)


def test_tasks_mix_in_one_call_in_the_order_asked(pipe: Pipeline) -> None:
    made = pipe(["hello", "rain", "hello"], task=["tts", "t2a", "tts"], duration_s=[0.3, 0.2, 0.3], **FAST)
    assert [audio.task for audio in made] == ["text_to_speech", "text_to_audio", "text_to_speech"]
    assert [round(audio.duration_s, 2) for audio in made] == [0.3, 0.2, 0.3]
    np.testing.assert_array_equal(made[0].waveform, made[2].waveform)


def test_sentences_follow_each_other(pipe: Pipeline) -> None:
    text = "Hello there. How are you?"
    whole = pipe(text, task="tts", **FAST)
    parts = [pipe(part, task="tts", **FAST) for part in ("Hello there.", "How are you?")]
    assert whole.duration_s == pytest.approx(sum(part.duration_s for part in parts))
    fixed = pipe(text, task="tts", duration_s=1.0, **FAST)
    assert fixed.duration_s == pytest.approx(1.0)
    assert pipe("Yes. " * 12, task="tts", duration_s=3.34, **FAST).duration_s == pytest.approx(3.34)
    assert whole.duration_s / pipe(text, task="tts", speed=2.0, **FAST).duration_s == pytest.approx(2.0, rel=0.1)


def test_a_score_keeps_its_tempo(pipe: Pipeline) -> None:
    score = "C4:0.5:twin- C4:0.5:kle rest:0.5 G4:1:star"
    assert pipe(task="svs", score=score, **FAST).duration_s == pytest.approx(2.5)
    assert pipe(task="svs", score=score, speed=2.0, **FAST).duration_s == pytest.approx(1.25, abs=0.021)
    assert pipe(task="svs", score=score, duration_s=1.0, speed=2.0, **FAST).duration_s == pytest.approx(1.0)


def test_options_are_those_of_the_settings() -> None:
    assert [field.name for field in fields(GenerationOptions)] == [field.name for field in fields(GenerationSettings)]


def test_joints_do_not_click() -> None:
    sound = joined([np.ones(1000, np.float32), np.ones(800, np.float32), np.ones(600, np.float32)], RATE)
    assert len(sound) == 2400 and sound[0] == sound[-1] == 1.0
    assert sound[999] == sound[1000] == sound[1799] == sound[1800] == 0.0
    assert np.abs(np.diff(sound)).max() < 0.01


def test_progress_is_told_and_may_be_ended(pipe: Pipeline) -> None:
    told: list[tuple[int, int]] = []
    pipe(
        ["rain", "wind", "sun"],
        task="t2a",
        duration_s=0.2,
        batch_size=2,
        num_steps=3,
        callback=lambda *a: told.append(a),
    )
    assert told == [(done, 9) for done in range(1, 10)]

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe("rain", task="t2a", duration_s=0.2, callback=stop)


def test_settings_are_those_of_the_folder_unless_asked(tmp_path: Path) -> None:
    path = small_model_folder(tmp_path / "model", "+generation.tasks.text_to_speech={num_steps: 3}")
    pipe, told = Pipeline.from_pretrained(path), []
    for task, options in (("tts", {}), ("tts", {"num_steps": 5}), ("t2a", {"num_steps": 4, "solver": "heun"})):
        pipe("hello", task=task, duration_s=0.2, callback=lambda *a: told.append(a), **options)
    assert [of for done, of in told if done == of] == [3, 5, 8]


def test_parts_of_a_recording_are_kept(pipe: Pipeline) -> None:
    original = (noise(1.0), RATE)
    longer = pipe("rain", task="t2a", original=original, duration_s=1.5, **FAST)
    assert longer.duration_s == 1.5 and np.array_equal(longer.waveform[:RATE], original[0])
    for keep in ([(0, 0.3), (0.7, None)], ((0, 0.3), (0.7, 1.0))):
        mended = pipe("rain", task="t2a", original=original, keep_s=keep, **FAST).waveform
        assert np.array_equal(mended[:7200], original[0][:7200]) and np.array_equal(
            mended[16_800:], original[0][16_800:]
        )
        assert not np.allclose(mended[8000:16_000], original[0][8000:16_000], atol=0.01)
    both = pipe(
        ["rain", "sun"], task="t2a", original=original, keep_s=[((0, 0.5),), None], duration_s=[1.0, 1.2], **FAST
    )
    assert [round(audio.duration_s, 3) for audio in both] == [1.0, 1.2]


def test_long_recordings_are_windowed(pipe: Pipeline) -> None:
    long = (noise(2.0), RATE)
    whole, windowed = (pipe(task="se", audio=long, window_s=w, **FAST).waveform for w in (None, 0.8))
    assert len(whole) == len(windowed) and not np.array_equal(whole, windowed)


# -- in and out -----------------------------------------------------------------------------------------------------


def test_numbers_of_numpy_and_torch_are_numbers(pipe: Pipeline) -> None:
    wanted = pipe("rain", task="t2a", duration_s=0.5, seed=3, num_steps=2, guidance_scale=2.0)
    options = {"num_steps": np.int64(2), "guidance_scale": np.float32(2)}
    assert same(pipe("rain", task="t2a", duration_s=torch.tensor(0.5), seed=np.int64(3), **options), wanted)
    sound = torch.from_numpy(noise(0.3)).requires_grad_()
    assert same(pipe(task="se", audio=(sound, 24_000.0), **FAST), pipe(task="se", audio=(noise(0.3), RATE), **FAST))


def test_threads_may_write_one_file(pipe: Pipeline, tmp_path: Path) -> None:
    sound = GeneratedAudio("", noise(0.2), RATE)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: sound.save(tmp_path / "same.wav"), range(40)))
    assert [path.name for path in tmp_path.iterdir()] == ["same.wav"] and len(read_audio(tmp_path / "same.wav", RATE))


def test_what_is_saved_is_read_again(pipe: Pipeline, tmp_path: Path) -> None:
    audio = pipe("rain", task="t2a", duration_s=0.5, **FAST)
    for kind in ("wav", "flac", "ogg", "mp3"):
        path = audio.save(tmp_path / f"a sound.{kind}")
        assert len(read_audio(path, RATE)) / RATE == pytest.approx(0.5, abs=0.1), kind
    again = pipe(task="se", audio=audio, **FAST)
    assert again.duration_s == audio.duration_s
    copy = Pipeline.from_pretrained(pipe.save_pretrained(tmp_path / "copy"))
    assert same(copy("rain", task="t2a", duration_s=0.5, **FAST), audio)


def test_bfloat16_is_near(folder: Path, pipe: Pipeline) -> None:
    rough = Pipeline.from_pretrained(folder, device="cpu", dtype="bfloat16")
    assert all(p.dtype == torch.float32 for p in rough.model.parameters())
    one, other = (p("rain", task="t2a", duration_s=0.3, **FAST).waveform for p in (pipe, rough))
    assert not np.array_equal(one, other) and np.isfinite(other).all()
    batch = pipe.collate([Sample("a", "text_to_audio", "Make it.", (TextContent("rain"),))])
    wanted = pipe.model.generate(batch, [1], GenerationSettings(num_steps=2, guidance_scale=1.0), [0.3]).latent
    with torch.autocast("cpu", torch.bfloat16):
        near = rough.model.generate(batch, [1], GenerationSettings(num_steps=2, guidance_scale=1.0), [0.3]).latent
    assert 0 < (near - wanted).norm() < 0.05 * wanted.norm()


def test_loading_warns_of_nothing_and_a_strange_task_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, cfg = load_model_folder(folder)
    cfg["training"]["data"] = [{"name": "a", "task": "text_to_audio"}]
    with caplog.at_level(logging.WARNING):
        pipe = Pipeline(model, cfg)
        pipe("rain", task="t2a", duration_s=0.2, **FAST)
        assert not caplog.messages
        pipe("rain", task="t2m", duration_s=0.2, **FAST)
    assert "not trained for text_to_music (but for text_to_audio)" in caplog.text


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "neither a task nor an instruction"),
        ({"task": "t3a", "prompt": "x"}, "unknown task 't3a'"),
        ({"task": "t2a"}, "text_to_audio needs a caption; give it as text"),
        ({"task": "t2a", "prompt": "  "}, "text is '  '; write some words"),
        ({"task": "t2a", "prompt": "a", "text": "b"}, "which are one; give one of them"),
        ({"task": "t2a", "prompt": "a", "audio": "x.wav"}, "text_to_audio cannot use audio; it takes text"),
        ({"task": "se"}, "speech_enhancement needs a recording; give it as audio"),
        ({"task": "se", "audio": "absent.wav"}, "audio 'absent.wav' does not exist"),
        ({"task": "se", "audio": noise(0.1)}, "audio is ndarray; give a path, or (waveform, sample_rate)"),
        ({"task": "se", "audio": (np.zeros(0, np.float32), RATE)}, "empty"),
        ({"task": "se", "audio": (np.full(9, np.nan, np.float32), RATE)}, "NaN"),
        ({"task": "se", "audio": (np.zeros(9, np.int16), RATE)}, "must be floats"),
        ({"task": "se", "audio": (noise(0.1), 24_000.5)}, "sample rate 24000.5"),
        ({"task": "t2a", "text": "rain\nwind"}, "the caption has 2 lines"),
        ({"task": "tts", "text": "..."}, "has no word to speak"),
        ({"task": "tts", "text": "hi", "speaker": "en-uk"}, "did you mean en-us"),
        ({"task": "tts", "text": "hi", "speaker": Path("pyproject.toml").resolve()}, "is the recording"),
        ({"task": "tts", "text": "你好"}, "你"),
        ({"task": "tts", "text": "hi", "language": "xx"}, "xx"),
        ({"task": "svs", "score": "H4:1:la"}, "H4"),
        ({"task": "svs", "score": "C4:1:la D4:1:la", "text": "la"}, "2 notes, the lyrics 1 syllables"),
        ({"task": "svs", "score": "absent.mid"}, "score 'absent.mid' does not exist"),
        ({"task": "v2a", "video": "absent.mp4"}, "video 'absent.mp4' does not exist"),
        ({"task": "v2a", "video": (np.zeros((0, 8, 8, 3), np.uint8), 25.0)}, "no picture"),
        ({"task": "t2a", "prompt": "x", "duration_s": -1}, "duration_s is -1; it must be a positive"),
        (
            {"task": "t2a", "prompt": "x", "duration_s": 600},
            "30 s: raise max_duration_s, or set window_s",
        ),
        ({"task": "t2a", "prompt": "x", "seed": -1}, "seed is -1"),
        ({"task": "t2a", "prompt": "x", "seed": 0.5}, "seed is 0.5"),
        ({"task": "t2a", "prompt": "x", "num_steps": 0}, "num_steps is 0"),
        ({"task": "t2a", "prompt": "x", "num_steps": 10_000}, "at most 1000"),
        ({"task": "t2a", "prompt": "x", "num_steps": "4"}, "num_steps is '4'; it must be int"),
        ({"task": "t2a", "prompt": "x", "solver": "eulr"}, "did you mean euler"),
        ({"task": "t2a", "prompt": "x", "guidance": 3}, "'guidance', which is no setting"),
        ({"task": "t2a", "prompt": "x", "speed": 0}, "speed is 0"),
        ({"task": "t2a", "prompt": "x", "batch_size": 0}, "batch_size is 0"),
        ({"task": "t2a", "prompt": "x", "batch_size": "8"}, "batch_size is '8'"),
        ({"task": "t2a", "prompt": "x", "callback": 3}, "callback is int"),
        ({"prompt": 5}, "prompt is int; it must be a text"),
        ({"task": "t2a", "prompt": "caf\udce9"}, "no valid text"),
        ({"task": "v2a", "video": (np.zeros((25, 32, 32, 3), np.uint8), 1e-6)}, "at most 3600 s"),
        ({"task": "v2a", "video": (np.zeros((25, 32, 32, 3), np.uint8), 0)}, "0.0 pictures a second"),
        ({"task": "v2a", "video": (np.zeros((25, 32, 32, 3), np.uint8), "a")}, "no path and no pair"),
        ({"task": "se", "audio": (noise(0.1) * 1e9, RATE)}, "full scale is 1"),
        ({"task": "se", "audio": (np.zeros((9, 0), np.float32), RATE)}, "(samples, channels)"),
        ({"task": "t2a", "prompt": ["x", "y"], "seed": [1, 2, 3]}, "prompt has 2, seed has 3"),
        ({"task": "t2a", "prompt": []}, "not empty"),
        ({"task": "se", "content": (TextContent("rain"),)}, "needs content of audio"),
        ({"task": "se", "content": "x"}, "content is str; give typed contents"),
        ({"task": "se", "audio": (noise(0.1), RATE), "duration_s": 5}, "lasts as long as its audio"),
        ({"task": "t2a", "prompt": "x", "speed": 3.0}, "speed is for speech and singing, not for text_to_audio"),
        ({"task": "svs", "score": "C4:0.5:la " * 90}, "duration_s is 45"),
        ({"task": "tts", "text": ["Hi.", "Ho."], "speaker": ["en-us", "zoe"]}, "request 2 of 2: speaker 'zoe'"),
        ({"task": "t2a", "prompt": "x", "keep_s": ((0, 1),)}, "give the recording as original"),
        ({"task": "t2a", "prompt": "x", "original": (noise(0.5), RATE), "keep_s": (0, 1)}, "give pairs of seconds"),
        ({"task": "t2a", "prompt": "x", "original": (noise(0.5), RATE), "keep_s": ((0.3, 0.9),)}, "0.9"),
        ({"task": "tts", "prompt": "Hi. Ho.", "original": (noise(0.5), RATE)}, "2 sentences"),
        ({"task": "t2a", "prompt": ["x", "y"], "duration_s": [1, -1]}, "request 2 of 2: duration_s is -1"),
    ],
)
def test_bad_requests_are_refused_in_words(pipe: Pipeline, arguments: dict, words: str) -> None:
    with pytest.raises(UserError) as caught:
        pipe(**arguments)
    assert words in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("device", "dtype", "words"),
    [("cuda:7", "float32", "GPUs"), ("gpu", "float32", "use auto, cpu"), ("cpu", "float16", "float32 or bfloat16")],
)
def test_devices_and_types_that_are_not_there(folder: Path, device: str, dtype: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Pipeline.from_pretrained(folder, device, dtype)


def test_a_single_sample_of_sound_is_enough(pipe: Pipeline) -> None:
    assert pipe(task="se", audio=(noise(1.5 / RATE), RATE), **FAST).waveform.size >= 1


@pytest.mark.slow
def test_compiled_is_the_same_but_for_rounding(folder: Path, pipe: Pipeline) -> None:
    from torch._dynamo.utils import counters

    compiled = Pipeline.from_pretrained(folder, device="cpu", compile=True)
    counters.clear()
    for seconds in (0.5, 0.8, 1.1, 0.3):
        made, wanted = (p("rain", task="t2a", duration_s=seconds, num_steps=2) for p in (compiled, pipe))
        assert made.duration_s == wanted.duration_s
        a, b = made.waveform, wanted.waveform
        assert np.corrcoef(a, b)[0, 1] > 0.99, seconds
    assert 0 < counters["stats"]["unique_graphs"] <= 4, "one program, not one for each length"


def test_what_takes_seconds_to_import_is_not_imported(folder: Path) -> None:
    """A model is ready in less than two seconds (benchmarks/generation.py), most of which is torch's own import."""
    heavy = ("transformers", "diffusers", "torch.distributed.tensor", "scipy.signal", "scipy.stats", "sympy", "music21")
    code = f"""
import sys
from unisono import Pipeline
pipe = Pipeline.from_pretrained({str(folder)!r}, device="cpu")
pipe("rain", task="t2a", duration_s=0.2, num_steps=1).save({str(folder.parent / "rain.wav")!r})
print([name for name in {heavy!r} if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stdout + run.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_what_a_cpu_makes(folder: Path, pipe: Pipeline) -> None:
    gpu = Pipeline.from_pretrained(folder, device="cuda")
    for arguments in (
        {"prompt": "rain", "task": "t2a", "duration_s": 2.0, "window_s": 0.8},
        {"prompt": "rain", "task": "t2a", "original": (noise(0.5), RATE), "duration_s": 1.0},
        {"task": "se", "audio": (noise(1.5), RATE), "window_s": 0.8},
        {"task": "v2a", "video": pictures(20)},
        {"prompt": ["Hello there.", "Yes."], "task": "tts"},
    ):
        wanted, made = pipe(**arguments, **FAST), gpu(**arguments, **FAST)
        for one, other in zip(*([x] if isinstance(x, GeneratedAudio) else x for x in (wanted, made)), strict=True):
            assert one.duration_s == other.duration_s and np.isfinite(other.waveform).all()
            assert np.corrcoef(one.waveform, other.waveform)[0, 1] > 0.9
