"""Batch inference: every item once and the same whatever it is generated with; what stops a run costs no more."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from composing import refusal
from conftest import TASKS
from plain import ENVIRONMENT
from test_model_folder import TOY_CONFIG
from toy import randomised, toy_dataset, toy_model
from unisono.config import compose
from unisono.data.datasets import TextToAudioDataset, TextToSpeechDataset
from unisono.data.manifest import write_jsonl
from unisono.errors import UserError
from unisono.files import locked
from unisono.inference.batch.generating import Generator
from unisono.inference.batch.items import ItemSet, all_items, make_batches
from unisono.inference.batch.manifest import Manifest, explained
from unisono.inference.batch.sharing import Tally, from_main, main_first, own_device
from unisono.inference.generated import GeneratedAudio
from unisono.inference.model_folder import save_model_folder
from unisono.inference.pipeline import Pipeline
from unisono.inference.run import run_inference
from unisono.models.generation import GenerationSettings
from unisono.types import Sample

CLASSES = {"text_to_audio": "TextToAudio", "text_to_speech": "TextToSpeech", "speech_enhancement": "SpeechEnhancement"}
TIMES = ("seconds", "real_time_factor")
ALONE: Any = SimpleNamespace(num_processes=1, is_main_process=True, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with steps of its own for one task; its network's output depends on all that it is given."""
    cfg = TOY_CONFIG | {"generation": {"default": {"num_steps": 2}, "tasks": {"text_to_audio": {"num_steps": 3}}}}
    return save_model_folder(tmp_path_factory.mktemp("models") / "toy", randomised(toy_model()), cfg, {})


def nodes(corpus: Path, tasks: Sequence[str] = TASKS, **options: Any) -> list[dict[str, Any]]:
    return [
        {
            "_target_": f"unisono.data.datasets.{CLASSES[task]}Dataset",
            "content": str(corpus / task / "content.jsonl"),
            "audio": str(corpus / task / "audio.jsonl"),
            **options,
        }
        for task in tasks
    ]


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    cfg = compose("inference")
    del cfg["data_dict"]
    return cfg


@pytest.fixture
def configured(composed: DictConfig, folder: Path, toy_corpus: Path, tmp_path: Path) -> Callable[..., DictConfig]:
    """The configuration of a run on the toy corpus, two items of each task."""

    def make(**settings: Any) -> DictConfig:
        default = {"model_dir": str(folder), "output_dir": str(tmp_path / "out put"), "device": "cpu"}
        return OmegaConf.merge(composed, default, {"datasets": nodes(toy_corpus, max_samples=2)}, settings)

    return make


def records(manifest: Path) -> list[dict[str, Any]]:
    """Its lines without times."""
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in manifest.open()]


def sounds(manifest: Path) -> dict[str, bytes]:
    """The bytes of every file that a manifest names."""
    return {record["audio"]: (manifest.parent / record["audio"]).read_bytes() for record in records(manifest)}


def left_behind(out: Path) -> list[str]:
    """Names of what is neither the manifest, the configuration, nor a sound."""
    known = {"manifest.jsonl", "config.yaml"}
    return [p.name for p in out.rglob("*") if p.is_file() and p.name not in known and p.suffix != ".wav"]


# -- what is written --------------------------------------------------------------------------------------------------


def test_lines_say_how_each_item_was_made(configured: Callable[..., DictConfig]) -> None:
    manifest = run_inference(configured(generation={"guidance_scale": 1.5}))
    lines = [json.loads(line) for line in manifest.open()]
    # In the order of the data sets, though the longest are made first.
    assert [(line["task"], line["audio_id"]) for line in lines] == [(t, f"{t}_{i}") for t in TASKS for i in range(2)]
    for line in lines:
        assert line["num_steps"] == (3 if line["task"] == "text_to_audio" else 2)  # the folder's own choice
        assert line["guidance_scale"] == 1.5 and line["solver"] == "euler" and line["seed"] == 0
        assert len(line["weights"]) == 16 and line["checkpoint"] == "toy" and line["device"] == "cpu"
        assert line["real_time_factor"] == pytest.approx(line["seconds"] / line["duration_s"], abs=2e-2)
        assert line["instruction"] and line["content"] and (manifest.parent / line["audio"]).is_file()
    assert left_behind(manifest.parent) == []


def test_an_item_is_the_same_in_any_company(
    configured: Callable[..., DictConfig], toy_corpus: Path, tmp_path: Path
) -> None:
    """Alone, beside others, in another order, in batches of any size, on one thread or several."""
    threads = torch.get_num_threads()
    reference = sounds(run_inference(configured(datasets=nodes(toy_corpus, max_samples=3))))
    assert len(set(reference.values())) == len(reference) == 9
    try:
        for number, (cores, size, tasks) in enumerate([(1, 1, TASKS), (2, 8, TASKS[::-1]), (2, 2, TASKS[2:])]):
            torch.set_num_threads(cores)
            given = nodes(toy_corpus, tasks, max_samples=2)
            cfg = configured(output_dir=str(tmp_path / str(number)), batch_size=size, datasets=given)
            made = sounds(run_inference(cfg))
            assert made == {name: reference[name] for name in made} and len(made) == 2 * len(tasks)
            assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(threads)
    other = sounds(run_inference(configured(seed=1, output_dir=str(tmp_path / "seed"))))
    assert not {reference[name] for name in other} & set(other.values())


# -- going on ---------------------------------------------------------------------------------------------------------


def test_what_is_finished_is_not_redone(
    configured: Callable[..., DictConfig], toy_corpus: Path, tmp_path: Path
) -> None:
    corpus = shutil.copytree(toy_corpus, tmp_path / "corpus")
    cfg = configured(datasets=nodes(corpus, max_samples=2))
    manifest = run_inference(cfg)
    before, lines = sounds(manifest), manifest.read_text()
    stamps = {path: path.stat().st_mtime_ns for path in manifest.parent.rglob("*.wav")}

    def redone() -> set[str]:
        run_inference(cfg)
        changed = {path.stem for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
        stamps.update({path: path.stat().st_mtime_ns for path in stamps})
        return changed

    assert redone() == set() and manifest.read_text() == lines
    next(path for path in stamps if path.stem == "text_to_audio_1").unlink()
    assert redone() == {"text_to_audio_1"} and sounds(manifest) == before
    noisy = corpus / "speech_enhancement/noisy/speech_enhancement_0.flac"
    shutil.copyfile(noisy.with_name("speech_enhancement_1.flac"), noisy)
    assert redone() == {"speech_enhancement_0"} and sounds(manifest) != before
    cfg.datasets[1].crop_s = 0.3  # another part of the same files
    assert redone() == {"text_to_speech_0", "text_to_speech_1"}
    cfg.generation.num_steps = 1
    assert len(redone()) == 6
    cfg.datasets = cfg.datasets[:1]  # lines of items that are not asked for stay
    assert redone() == set() and len(records(manifest)) == 6
    manifest.write_text(manifest.read_text() + '{"audio_id": "text_to_audio_0", "task": "text_to_au')
    assert redone() == set() and len(records(manifest)) == 6


KILLED = """
import os, signal, sys
from omegaconf import OmegaConf
from unisono.inference.run import run_inference
import unisono.files as files
sync, count = files.sync_path, 0
def killing(path):
    global count
    count += path.suffix == ".tmp" and ".wav." in path.name
    if count == 4:  # while the fourth file is written
        os.kill(os.getpid(), signal.SIGKILL)
    sync(path)
files.sync_path = killing
run_inference(OmegaConf.load(sys.argv[1]))
"""


def test_a_run_that_was_killed_goes_on(configured: Callable[..., DictConfig], tmp_path: Path) -> None:
    undisturbed = run_inference(configured(output_dir=str(tmp_path / "undisturbed")))
    cfg = configured()
    OmegaConf.save(cfg, tmp_path / "cfg.yaml")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "cfg.yaml")], env=ENVIRONMENT, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    out = Path(cfg.output_dir)
    assert len(list(out.rglob("*.wav"))) == 3 and any(name.endswith(".tmp") for name in left_behind(out))
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    manifest = run_inference(cfg)
    assert records(manifest) == records(undisturbed) and sounds(manifest) == sounds(undisturbed)
    assert left_behind(out) == []
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_ctrl_c_keeps_what_is_finished(configured: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    generate, calls = Pipeline.generate, []

    def interrupted(self: Pipeline, samples: Sequence[Sample], **settings: Any) -> list[GeneratedAudio]:
        calls.append(samples)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(self, samples, **settings)

    cfg = configured()
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "generate", interrupted)
        with pytest.raises(SystemExit) as left:
            run_inference(cfg)
    out = Path(cfg.output_dir)
    assert left.value.code == 130 and left_behind(out) == []
    assert 1 <= len(records(out / "manifest.jsonl")) < 6
    assert len(records(run_inference(cfg))) == 6


# -- what goes wrong --------------------------------------------------------------------------------------------------


@contextmanager
def files_up_to(limit_bytes: int) -> Iterator[None]:
    """The system refuses to write more to a file, as to a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_message_and_costs_nothing(configured: Callable[..., DictConfig], toy_corpus: Path) -> None:
    cfg = configured(datasets=nodes(toy_corpus, ["speech_enhancement"], max_samples=3))
    with files_up_to(20_000), pytest.raises(UserError, match=r"(?is)\.wav.*written.*make room"):
        run_inference(cfg)  # 0.6 s are 28 800 bytes
    out = Path(cfg.output_dir)
    assert left_behind(out) == [] and not list(out.rglob("*.wav")) and records(out / "manifest.jsonl") == []
    assert len(records(run_inference(cfg))) == 3


def test_a_line_is_whole_or_not_there(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    first, long = ({"task": "t", "audio_id": name, "text": "x" * size} for name, size in (("a", 10), ("b", 5000)))
    manifest.append([first])
    with files_up_to(2000), pytest.raises(UserError, match=r"the disk is full .*Make room"):
        manifest.append([long, first])
    manifest.append([first | {"audio_id": "c"}])
    made, _ = manifest.read()
    assert [key[1] for key in made] == ["a", "c"]
    manifest.merge(made, [("t", "c")])
    assert [record["audio_id"] for record in records(manifest.path)] == ["c", "a"]
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]


def test_an_item_that_fails_is_named_and_the_others_are_made(
    configured: Callable[..., DictConfig], toy_corpus: Path, tmp_path: Path
) -> None:
    corpus = shutil.copytree(toy_corpus, tmp_path / "corpus")
    damaged = corpus / "speech_enhancement/noisy/speech_enhancement_1.flac"
    whole = damaged.read_bytes()
    cfg = configured(datasets=nodes(corpus, max_samples=2))
    damaged.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):  # it is tried again each time
        with pytest.raises(UserError, match="1 of 6 items could not be generated") as failed:
            run_inference(cfg)
        assert "speech_enhancement/speech_enhancement_1: " in str(failed.value)
        assert "content.jsonl:2" in str(failed.value) and "damaged" in str(failed.value)
    out = Path(cfg.output_dir)
    assert len(records(out / "manifest.jsonl")) == 5 and left_behind(out) == ["failed.json"]
    damaged.write_bytes(whole)
    assert len(records(run_inference(cfg))) == 6 and left_behind(out) == []


def test_one_bad_item_does_not_cost_its_batch(tmp_path: Path) -> None:
    audio = GeneratedAudio("a", np.zeros(4, np.float32), 24_000)
    samples = [Sample(name, "text_to_audio", "", ()) for name in "abc"]

    def generate(samples: Sequence[Sample], seed: int, settings: Any) -> list[GeneratedAudio]:
        if any(sample.audio_id == "b" for sample in samples):
            raise UserError("b is bad")
        return [audio] * len(samples)

    def full(samples: Sequence[Sample], seed: int, settings: Any) -> list[GeneratedAudio]:
        raise torch.OutOfMemoryError("no more")

    def generator(function: Any) -> Generator:
        pipeline: Any = SimpleNamespace(generate=function, device="cuda")
        return Generator(pipeline, [], 0, {"text_to_audio": GenerationSettings()}, {}, "", Manifest(tmp_path))

    first, second, third = generator(generate)._generate(samples, "text_to_audio")
    assert first is audio and third is audio and isinstance(second, UserError)
    with pytest.raises(UserError, match=r"batch of 3 items .* lower batch_size or max_batch_frames"):
        generator(full)._generate(samples, "text_to_audio")


def test_a_second_run_in_the_folder_is_refused(configured: Callable[..., DictConfig]) -> None:
    cfg = configured()
    lock = Path(cfg.output_dir) / ".inference.lock"
    with locked(lock), pytest.raises(UserError, match=r"another process generates into .*output_dir"):
        run_inference(cfg)
    assert not (lock.parent / "manifest.jsonl").exists()
    assert len(records(run_inference(cfg))) == 6 and not lock.exists()


def test_bad_input_is_told_before_anything_is_touched(
    configured: Callable[..., DictConfig], toy_corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    twice = nodes(toy_corpus, ["text_to_audio"]) * 2
    absent = nodes(tmp_path / "nowhere", if_present=True)
    text = TOY_CONFIG["model"]["content_encoders"]["text"]  # type: ignore[index]
    deaf_config = TOY_CONFIG | {"model": TOY_CONFIG["model"] | {"content_encoders": {"text": text}}}  # type: ignore[operator]
    model = toy_model()
    del model.content_encoders["phoneme"], model.content_encoders["audio"]
    deaf = save_model_folder(tmp_path / "deaf", model, deaf_config, {})
    for settings, words in (
        (
            {"output_dir": str(tmp_path / "file/out")},
            "could not be written: Not a directory .*another output_dir",
        ),
        ({"datasets": twice}, "is also at"),
        ({"datasets": absent}, "names no data set that is there"),
        ({"model_dir": str(deaf)}, "items of text_to_speech bring phoneme content"),
        ({"generation": {"solver": "ddim"}}, "solver"),
        ({"checkpoint": "lasst", "exp_dir": str(tmp_path)}, "there is none by that name"),
    ):
        with pytest.raises(UserError, match=words):
            run_inference(configured(**settings))
    assert left_behind(tmp_path / "out put") == []


def test_settings_that_cannot_work_are_faults_of_the_configuration() -> None:
    faults = {
        "batch_size=0": "batch_size: is 0; a batch holds at least 1 item",
        "max_batch_frames=true": "max_batch_frames: is True; a batch holds at least 1 frame",
        "weights=both": "weights: is 'both'; use ema or raw",
        "checkpoint=1000": "checkpoint: is 1000; use null, best, last",
        "allow=mine.Encoder": "allow: is 'mine.Encoder'; give a list",
        "datasets=[]": "datasets: is [], not a list of data sets",
        "dtype=fp16": "dtype: is 'fp16'",
        "device=cuda:99": "device is 'cuda:99'",
    }
    told = refusal(*faults, config_name="inference")
    assert [words for words in faults.values() if words not in told] == []


# -- batches and processes --------------------------------------------------------------------------------------------


def test_batches_hold_each_item_once_and_keep_their_bounds(toy_corpus: Path, tmp_path: Path) -> None:
    lengths_s = [0.2, 9.0, 1.0, 0.4, 5.0, 5.1, 0.3, 8.0]
    lines = [{"audio_id": str(i), "phonemes": ["a"], "durations_s": [s]} for i, s in enumerate(lengths_s)]
    write_jsonl(tmp_path / "content.jsonl", lines)
    sets = [
        ItemSet.of(dataset, {})
        for dataset in (
            TextToSpeechDataset(tmp_path / "content.jsonl"),
            toy_dataset(toy_corpus, "speech_enhancement"),
            TextToAudioDataset(toy_corpus / "text_to_audio/content.jsonl"),  # nothing tells how long
        )
    ]
    settings = dict.fromkeys(TASKS, GenerationSettings(max_duration_s=20.0))
    places = list(all_items(sets).values())
    batches = make_batches(sets, places, settings, batch_size=4, max_batch_frames=400)
    assert sorted(place for batch in batches for place in batch.places) == sorted(places)
    assert [batch.frames for batch in batches] == sorted((batch.frames for batch in batches), reverse=True)
    for batch in batches:
        frames = [sets[number].expected_frames(index, settings[batch.task]) for number, index in batch.places]
        assert {sets[number].task for number, _ in batch.places} == {batch.task} and len(frames) <= 4
        assert batch.frames == max(frames) * len(frames) and (batch.frames <= 400 or len(frames) == 1)
    assert [sets[0].expected_frames(index, settings["text_to_speech"]) for index in range(8)] == [
        round(50 * seconds) for seconds in lengths_s
    ]
    assert {sets[1].expected_frames(index, settings["speech_enhancement"]) for index in range(8)} == {30}
    assert {sets[2].expected_frames(index, settings["text_to_audio"]) for index in range(8)} == {1000}


def test_processes_share_devices_and_say_errors_once() -> None:
    two: Any = SimpleNamespace(num_processes=2, is_main_process=True, device=torch.device("cuda", 1))
    assert own_device(two, "auto") == torch.device("cuda", 1)
    assert own_device(ALONE, "cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="2 processes share the work on cuda; leave device=auto"):
        own_device(two, "cpu")
    assert from_main(ALONE, lambda: 3) == main_first(ALONE, lambda: 3) == 3
    tally = Tally(ALONE, "run")
    assert [tally.add("batches", 1) for _ in range(3)] == [1, 2, 3] and tally.value("items") == 0


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    for number, words in ((28, "the disk is full"), (13, "Permission denied .*choose another")):
        with pytest.raises(UserError, match=words), explained(tmp_path / "x"):
            raise OSError(number, os.strerror(number))
