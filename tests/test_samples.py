"""Samples while training: what is heard is what inference would give, in files and in TensorBoard, at no other cost."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import AUDIO, IMAGES, EventAccumulator

from conftest import SAMPLE_RATE, TASKS, TOY_PHONEMES, TOY_SPEAKERS
from test_trackers import tensorboard
from test_trainer import logged, make_trainer
from toy import randomised, toy_collator, toy_dataset, toy_model
from unisono.data.datasets import ConcatDataset
from unisono.data.loader import eval_dataloader
from unisono.data.manifest import read_jsonl, write_jsonl
from unisono.errors import UserError
from unisono.evaluation.report.pictures import HEIGHT_PX, WIDTH_PX
from unisono.inference.pipeline import Pipeline
from unisono.models.unified import GenerationSettings, UnifiedAudioModel
from unisono.training import samples as samples_module
from unisono.training.checkpoint import read_weights
from unisono.training.processes import make_accelerator
from unisono.training.samples import SampleLogger, choose_items
from unisono.training.tracking import Trackers

FIRST = {task: f"{task}_0" for task in TASKS}  # all clips of a task last equally long
FAST = GenerationSettings(num_steps=2)


@pytest.fixture
def model() -> UnifiedAudioModel:
    return randomised(toy_model(16, 2))


def toy_datasets(corpus: Path) -> ConcatDataset:
    return ConcatDataset([toy_dataset(corpus, task) for task in TASKS])


def chosen(corpus: Path, exp_dir: Path, model: UnifiedAudioModel, **options: Any) -> SampleLogger:
    samples = SampleLogger(exp_dir, **{"seed": 5, "num_items": 1, "generation": FAST, **options})
    samples.choose(eval_dataloader(toy_datasets(corpus), 8, toy_collator()), model)
    return samples


def no_trackers() -> Trackers:
    return Trackers(make_accelerator("no"))


def files(exp_dir: Path) -> set[str]:
    return {str(path.relative_to(exp_dir / "samples")) for path in exp_dir.glob("samples/**/*") if path.is_file()}


def expected_files(*folders: str) -> set[str]:
    return {f"{folder}/{task}/{FIRST[task]}.{kind}" for folder in folders for task in TASKS for kind in ("wav", "png")}


def events(exp_dir: Path) -> EventAccumulator:
    found = EventAccumulator(str(exp_dir / "tensorboard"), size_guidance={AUDIO: 0, IMAGES: 0})
    found.Reload()
    return found


def test_files_and_tensorboard_hold_the_same(toy_corpus: Path, tmp_path: Path, model: UnifiedAudioModel) -> None:
    trackers = Trackers(make_accelerator("no", list(tensorboard(tmp_path).values())))
    trackers.start(0, {})
    samples = chosen(toy_corpus, tmp_path, model)
    for step in (20, 40):
        samples.log(model, step, trackers)
    trackers.finish(0)
    assert files(tmp_path) == expected_files("step_00000020", "step_00000040", "reference")
    shown = events(tmp_path)
    tags = {f"samples/{task}/{audio_id}": [20, 40] for task, audio_id in FIRST.items()}
    tags |= {f"{tag}/reference": [20] for tag in tags}
    assert {tag: [e.step for e in shown.Audio(tag)] for tag in shown.Tags()["audio"]} == tags
    assert {tag: [e.step for e in shown.Images(tag)] for tag in shown.Tags()["images"]} == {
        f"{tag}/mel": steps for tag, steps in tags.items()
    }
    for task, audio_id in FIRST.items():
        name = f"samples/{task}/{audio_id}"
        for tag, folder in ((name, "step_00000020"), (f"{name}/reference", "reference")):
            path = tmp_path / "samples" / folder / task / f"{audio_id}.wav"
            written, rate = sf.read(path)
            heard, heard_rate = sf.read(io.BytesIO(shown.Audio(tag)[0].encoded_audio_string))
            assert rate == heard_rate == SAMPLE_RATE
            assert heard == pytest.approx(written, abs=1e-4) and np.abs(written).max() > 0.01
            picture = np.asarray(Image.open(path.with_suffix(".png")).convert("RGB"))
            seen = np.asarray(Image.open(io.BytesIO(shown.Images(f"{tag}/mel")[0].encoded_image_string)))
            assert picture.shape == (HEIGHT_PX, WIDTH_PX, 3) and np.array_equal(picture, seen)


def test_a_sample_sounds_as_in_inference(toy_corpus: Path, tmp_path: Path, model: UnifiedAudioModel) -> None:
    settings = replace(FAST, predict_durations=True, max_duration_s=1.0)
    model.train()
    chosen(toy_corpus, tmp_path, model, generation=settings).log(model, 20, no_trackers())
    pipeline = Pipeline(model, {"phonemes": TOY_PHONEMES, "speakers": TOY_SPEAKERS})
    for task in TASKS:
        sample = replace(toy_dataset(toy_corpus, task)[0], waveform=None)
        [alone] = pipeline.generate([sample], seed=5, settings=settings)
        heard, _ = sf.read(tmp_path / f"samples/step_00000020/{task}/{FIRST[task]}.wav")
        assert heard == pytest.approx(alone.waveform / max(1, np.abs(alone.waveform).max()), abs=1e-3), task


def test_lengths_are_those_of_the_references_unless_they_are_predicted(
    toy_corpus: Path, tmp_path: Path, model: UnifiedAudioModel
) -> None:
    with torch.no_grad():
        *_, bias = model.content_adapter.global_predictor.parameters()
        bias.fill_(9.0)  # a prediction of hours
    chosen(toy_corpus, tmp_path / "a", model).log(model, 20, no_trackers())
    predicted = replace(FAST, predict_durations=True, max_duration_s=2.0)
    chosen(toy_corpus, tmp_path / "b", model, generation=predicted).log(model, 20, no_trackers())
    name = f"samples/step_00000020/text_to_audio/{FIRST['text_to_audio']}.wav"
    assert sf.info(tmp_path / "a" / name).duration == pytest.approx(0.6)
    assert sf.info(tmp_path / "b" / name).duration == pytest.approx(2.0)


def test_training_prints_the_same_losses_with_samples(toy_corpus: Path, tmp_path: Path) -> None:
    make_trainer(toy_corpus, tmp_path / "without").fit()
    samples = SampleLogger(tmp_path / "with", num_items=1, every_n_steps=2, generation=FAST)  # at the next validation
    make_trainer(toy_corpus, tmp_path / "with", samples=samples, trackers=tensorboard(tmp_path / "with")).fit()
    assert logged(tmp_path / "with") == logged(tmp_path / "without")
    a, b = (read_weights(tmp_path / name / "checkpoints/last/ema.safetensors") for name in ("with", "without"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert files(tmp_path / "with") == expected_files("step_00000003", "step_00000006", "reference")
    assert [e.step for e in events(tmp_path / "with").Audio(f"samples/{TASKS[0]}/{FIRST[TASKS[0]]}")] == [3, 6]


def test_modes_and_random_states_stay_even_if_a_decoder_draws(
    toy_corpus: Path, tmp_path: Path, model: UnifiedAudioModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, was_training = model.autoencoder.decode, []

    def noisy(latent: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        was_training.append(any(module.training for module in model.modules()))
        waveform = decode(latent, lengths)
        return waveform + 0.01 * torch.randn_like(waveform)

    monkeypatch.setattr(model.autoencoder, "decode", noisy)
    samples = chosen(toy_corpus, tmp_path, model)
    model.train()
    model.autoencoder.eval()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    for step in (20, 40):
        samples.log(model, step, no_trackers())
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)  # training goes on
        state = torch.get_rng_state()
    assert [module.training for module in model.modules()] == modes
    assert was_training == [False, False]
    name = f"text_to_audio/{FIRST['text_to_audio']}.wav"
    one, two = (tmp_path / f"samples/step_000000{step}" / name for step in (20, 40))
    assert one.read_bytes() == two.read_bytes()  # of the same weights


def test_modes_come_back_when_generation_fails(
    toy_corpus: Path, tmp_path: Path, model: UnifiedAudioModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = chosen(toy_corpus, tmp_path, model)
    monkeypatch.setattr(model.autoencoder, "decode", lambda latent, lengths: 1 / 0)
    model.train()
    with pytest.raises(ZeroDivisionError):
        samples.log(model, 20, no_trackers())
    assert all(module.training for module in model.modules())


def test_a_step_that_is_repeated_replaces_its_files(
    toy_corpus: Path, tmp_path: Path, model: UnifiedAudioModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    trackers = no_trackers()
    monkeypatch.setattr(trackers, "log_audio", lambda name, waveform, rate, step: given.append(f"{step} {name}"))
    chosen(toy_corpus, tmp_path, model).log(model, 20, trackers)
    before = {path: path.read_bytes() for path in tmp_path.glob("samples/step_*/*/*")}
    with torch.no_grad():
        model.backbone.output.weight.mul_(-1)
    resumed = chosen(toy_corpus, tmp_path, model)
    resumed.log(model, 20, trackers)
    after = {path: path.read_bytes() for path in tmp_path.glob("samples/step_*/*/*")}
    assert after.keys() == before.keys() and not any(after[path] == before[path] for path in before)
    chosen(toy_corpus, tmp_path, model).log(model, 40, trackers)
    references = [name for name in given if name.endswith("/reference")]
    assert len(references) == 2 * len(TASKS) and all(name.startswith("20 ") for name in references)
    assert not list(tmp_path.rglob(".*"))  # no temporary files


@pytest.mark.parametrize("audio_id", ["a#b 100%25 ü?&日本", ".hidden", "reference", "x" * 200])
def test_any_audio_id_names_files(audio_id: str, toy_corpus: Path, tmp_path: Path, model: UnifiedAudioModel) -> None:
    for name in ("content", "audio"):
        _, line = next(read_jsonl(toy_corpus / "text_to_speech" / f"{name}.jsonl"))
        line |= {"audio": str(toy_corpus / "text_to_speech" / line["audio"])} if name == "audio" else {}
        write_jsonl(tmp_path / "named" / "text_to_speech" / f"{name}.jsonl", [{**line, "audio_id": audio_id}])
    dataset = toy_dataset(tmp_path / "named", "text_to_speech")
    trackers = Trackers(make_accelerator("no", list(tensorboard(tmp_path).values())))
    trackers.start(0, {})
    samples = SampleLogger(tmp_path, num_items=1, generation=FAST)
    samples.choose(eval_dataloader(ConcatDataset([dataset]), 8, toy_collator()), model)
    samples.log(model, 20, trackers)
    trackers.finish(0)
    stems = [f"{folder}/text_to_speech/{audio_id}" for folder in ("step_00000020", "reference")]
    assert files(tmp_path) == {f"{stem}.{kind}" for stem in stems for kind in ("wav", "png")}
    tag = f"samples/text_to_speech/{audio_id}"
    assert sorted(events(tmp_path).Tags()["audio"]) == [tag, f"{tag}/reference"]


def test_short_items_of_each_task_are_chosen(toy_corpus: Path) -> None:
    dataset = toy_datasets(toy_corpus)
    assert choose_items(dataset, 2) == [0, 1, 8, 9, 16, 17]
    for part in dataset.datasets:
        part.durations_s = np.full(8, 20.0)
    dataset.datasets[0].durations_s[[3, 5, 6]] = 1.5, 1.2, 0.2
    dataset.datasets[1].durations_s[[0, 1, 2]] = 0.1, 0.7, 0.4
    assert choose_items(dataset, 2) == [5, 3, 11, 12, 16, 17]
    dataset.datasets[1].durations_s[:] = np.linspace(0.1, 0.8, 8)
    assert sorted(choose_items(dataset, 2)) == [3, 5, 14, 15, 16, 17]


def test_two_items_of_one_name_are_one_file(toy_corpus: Path) -> None:
    part = toy_dataset(toy_corpus, "text_to_audio")
    assert choose_items(ConcatDataset([part, part]), 10) == list(range(8))


@pytest.mark.parametrize("loader", [None, SimpleNamespace(dataset=[1, 2, 3])])
def test_other_validation_data_give_no_samples(
    loader: Any, tmp_path: Path, model: UnifiedAudioModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=samples_module.__name__)
    samples = SampleLogger(tmp_path)
    samples.choose(loader, model)
    samples.log(model, 20, no_trackers())
    assert len(caplog.records) == 1 and "no samples" in caplog.text and list(tmp_path.iterdir()) == []


def test_the_other_processes_generate_too_but_write_nothing(
    toy_corpus: Path, tmp_path: Path, model: UnifiedAudioModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, calls = model.generate, []
    monkeypatch.setattr(model, "generate", lambda *given: calls.append(1) or generate(*given))
    other: Any = SimpleNamespace(accelerator=SimpleNamespace(is_main_process=False))
    chosen(toy_corpus, tmp_path, model).log(model, 20, other)
    assert calls == [1] and list(tmp_path.iterdir()) == []


def test_a_model_gone_wrong_gives_a_warning_and_no_file(
    toy_corpus: Path, tmp_path: Path, model: UnifiedAudioModel, caplog: pytest.LogCaptureFixture
) -> None:
    samples = chosen(toy_corpus, tmp_path, model)
    with torch.no_grad():
        model.backbone.output.weight.fill_(torch.nan)
    samples.log(model, 20, no_trackers())
    assert caplog.text.count("NaN or infinite") == len(TASKS) and files(tmp_path) == set()


def test_settings_are_refused_before_training(toy_corpus: Path, tmp_path: Path, model: UnifiedAudioModel) -> None:
    with pytest.raises(UserError, match=r"'ddim'.*euler"):
        chosen(toy_corpus, tmp_path, model, generation=GenerationSettings(solver="ddim"))
    for name in ("num_items", "every_n_steps"):
        with pytest.raises(UserError, match=rf"trainer\.samples\.{name} is 0"):
            SampleLogger(tmp_path, **{name: 0})
