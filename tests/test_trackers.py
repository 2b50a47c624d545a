"""Trackers: what they hold equals metrics.jsonl, also of a resumed run; they start only when training does, and none
that fails after that can stop it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate.tracking
import numpy as np
import pytest
from accelerate.tracking import GeneralTracker
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from test_trainer import make_trainer
from unisono.config import compose
from unisono.errors import UserError
from unisono.training import tracking
from unisono.training.processes import make_accelerator
from unisono.training.tracking import Trackers

SETTINGS = {"optimizer": {"lr": 0.001, "betas": [0.9, 0.99]}, "seed": 3, "debug": None}


def tensorboard(exp_dir: Path) -> Any:
    file = Path(__file__).resolve().parents[1] / "configs/tracker/tensorboard.yaml"
    config = OmegaConf.create({"exp_dir": str(exp_dir), "trackers": OmegaConf.load(file)})
    return instantiate(config.trackers)


def curves(exp_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """name -> (step, value), as TensorBoard shows them."""
    events = EventAccumulator(str(exp_dir / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def logged_curves(exp_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """The same from metrics.jsonl."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in map(json.loads, (exp_dir / "metrics.jsonl").open()):
        for name, value in record.items():
            if name != "step":
                curves.setdefault(name, []).append((record["step"], value))
    return curves


def one_per_step(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Training and validation of a step log the epoch once each."""
    return list(dict(curve).items())


def assert_tensorboard_equals_the_log(exp_dir: Path) -> None:
    shown, written = curves(exp_dir), logged_curves(exp_dir)
    assert shown.keys() == written.keys() and "val/loss" in shown
    for name, curve in written.items():
        if name == "epoch":
            assert one_per_step(shown[name]) == one_per_step(curve)
        else:
            assert [step for step, _ in shown[name]] == [step for step, _ in curve], name
            assert [v for _, v in shown[name]] == pytest.approx([v for _, v in curve], rel=1e-6), name  # float32 there


class Killed(Exception):
    pass


def kill_at(trainer: Any, step: int) -> None:
    """Train until ``step`` is updated, but not yet logged."""

    def die(*_: Any) -> None:
        if trainer.step == step:
            raise Killed

    trainer.on_train_batch_end = die
    with pytest.raises(Killed):
        trainer.fit(SETTINGS)


def test_tensorboard_shows_each_step_of_a_resumed_run_once(toy_corpus: Path, tmp_path: Path) -> None:
    options = {"save_every_n_steps": 3, "val_every_n_steps": 6}
    broken = make_trainer(toy_corpus, tmp_path, trackers=tensorboard(tmp_path), **options)
    assert not (tmp_path / "tensorboard").exists()  # nothing before training starts
    kill_at(broken, 6)
    assert [step for step, _ in curves(tmp_path)["lr"]] == [1, 2, 3, 4, 5]
    assert (tmp_path / "checkpoints/last").resolve().name == "step_00000003"  # so steps 4 and 5 are logged again

    make_trainer(toy_corpus, tmp_path, trackers=tensorboard(tmp_path), **options).fit(SETTINGS)
    assert [step for step, _ in curves(tmp_path)["lr"]] == [1, 2, 3, 4, 5, 6]
    assert_tensorboard_equals_the_log(tmp_path)
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert len(files) == 2 and all(path.is_file() for path in files)  # one run: the settings make no run of their own

    make_trainer(toy_corpus, tmp_path, trackers=tensorboard(tmp_path), **options).fit(SETTINGS)
    assert sorted((tmp_path / "tensorboard").iterdir()) == files  # finished already


def test_tensorboard_holds_the_settings(toy_corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(toy_corpus, tmp_path, epoch_length=1, trackers=tensorboard(tmp_path))
    trainer.fit(SETTINGS)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()

    def content(tag: str) -> HParamsPluginData:
        return HParamsPluginData.FromString(events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content)

    held = content("session_start_info").session_start_info.hparams
    assert held.keys() == {"optimizer.lr", "optimizer.betas", "seed"}
    assert held["optimizer.lr"].number_value == 0.001 and held["seed"].number_value == 3
    assert held["optimizer.betas"].string_value == "[0.9, 0.99]"
    assert [metric.name.tag for metric in content("experiment").experiment.metric_infos] == ["val/loss"]


class Recorder(GeneralTracker):
    """Keeps what Accelerate hands to a tracker; ``log`` fails at the calls (from 1) in ``bad_calls``."""

    requires_logging_directory = False

    def __init__(
        self, name: str = "recorder", fails_with: Exception | None = None, bad_calls: Sequence[int] = ()
    ) -> None:
        self.name, self.fails_with, self.bad_calls = name, fails_with, bad_calls
        self.calls = 0
        self.logged: list[dict[str, Any]] = []
        self.settings: Mapping[str, Any] = {}
        self.exit_codes: list[int] = []
        super().__init__()

    @property
    def tracker(self) -> Recorder:
        return self

    def start(self) -> None:
        if self.fails_with is not None:
            raise self.fails_with

    def store_init_configuration(self, values: dict) -> None:
        self.settings = values

    def log(self, values: dict, step: int | None = None, **kwargs: Any) -> None:
        self.calls += 1
        if self.calls in self.bad_calls:
            raise ConnectionError("no route to host")
        self.logged.append({"step": step, **values})

    def finish(self, exit_code: int = 0) -> None:
        self.exit_codes.append(exit_code)


class Unclosable(Recorder):
    def finish(self, exit_code: int = 0) -> None:
        raise ConnectionError("nobody there")


def test_several_trackers_get_what_the_log_gets_and_trainings_do_not_mix(toy_corpus: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        recorders = {"a": Recorder("a"), "b": Recorder("b")}
        make_trainer(toy_corpus, tmp_path / name, epoch_length=2, trackers=recorders).fit(SETTINGS)
        written = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        for recorder in recorders.values():
            assert recorder.logged == written
            assert recorder.settings == {"optimizer.lr": 0.001, "optimizer.betas": "[0.9, 0.99]", "seed": 3}
            assert recorder.exit_codes == [0]


def test_a_broken_training_is_not_reported_as_finished(
    toy_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    recorder = Recorder("wandb")
    kill_at(make_trainer(toy_corpus, tmp_path, trackers={"wandb": recorder}), 1)
    assert recorder.exit_codes == [1]


def test_a_missing_package_stops_before_anything_is_written(
    toy_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["tensorboard"])
    trackers = {**tensorboard(tmp_path), "wandb": Recorder("wandb")}
    with pytest.raises(UserError, match=r"trackers\.wandb needs the package wandb.*pip install wandb"):
        make_trainer(toy_corpus, tmp_path, trackers=trackers)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_track_is_named(toy_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trackers\.mine is 'tensorboard'"):
        make_trainer(toy_corpus, tmp_path, trackers={"mine": "tensorboard"})
    offline = Recorder("service", fails_with=ConnectionError("no network"))
    trainer = make_trainer(toy_corpus, tmp_path, trackers={"service": offline})
    with pytest.raises(UserError, match=r"service.*ConnectionError: no network.*tracker@trackers=none"):
        trainer.fit()
    assert trainer.step == 0


def started(*trackers: GeneralTracker) -> Trackers:
    given = Trackers(make_accelerator("no", trackers))
    given.start(0, SETTINGS)
    return given


def test_trackers_that_started_are_closed_when_another_does_not() -> None:
    first, offline = Recorder("wandb"), Unclosable("service", fails_with=ConnectionError("no network"))
    trackers = Trackers(make_accelerator("no", [first, offline]))
    with pytest.raises(UserError, match="tracker service did not start"):
        trackers.start(0, SETTINGS)
    for _ in range(2):
        trackers.finish(exit_code=1)
    assert first.exit_codes == [1]  # once


def test_a_tracker_that_fails_does_not_stop_training(
    toy_corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three failures in a row leave it out, and the others get everything."""
    broken, whole = Unclosable("service", bad_calls=range(100)), Recorder("whole")
    make_trainer(toy_corpus, tmp_path, trackers={"a": broken, "b": whole}).fit(SETTINGS)
    assert broken.calls == 3
    assert whole.logged == [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert whole.exit_codes == [0]
    said = [record.getMessage() for record in caplog.records if record.name == tracking.__name__]
    assert len(said) == 3, said
    assert "service did not take values: ConnectionError: no route to host" in said[0] and "metrics.jsonl" in said[0]
    assert "service failed 3 times in a row" in said[1]
    assert "service could not be closed: ConnectionError: nobody there" in said[2]


def test_failures_that_are_not_in_a_row_leave_no_tracker_out(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(bad_calls=(1, 2, 4, 5))
    trackers = started(recorder)
    for step in range(1, 8):
        trackers.log({"loss": 0.5}, step)
    assert recorder.logged == [{"step": step, "loss": 0.5} for step in (3, 6, 7)]
    assert len(caplog.records) == 1  # said once


def test_a_tracker_that_cannot_be_closed_hides_no_error(
    toy_corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kill_at(make_trainer(toy_corpus, tmp_path, trackers={"service": Unclosable()}), 1)  # raises Killed, nothing else
    assert "could not be closed" in caplog.text


WAVEFORM = np.linspace(-0.5, 0.5, 480, dtype=np.float32)
PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


class Listener(Recorder):
    """A tracker of one's own that takes pictures, and would take audio."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[tuple[dict, int]] = []
        self.audio_calls = 0

    def log_audio(self, values: dict, sample_rate: int, step: int) -> None:
        assert values["a/b"] is WAVEFORM and sample_rate == 24_000
        self.audio_calls += 1
        raise ValueError("no room")

    def log_images(self, values: dict, step: int) -> None:
        self.pictures.append((values, step))


def test_trouble_with_audio_costs_neither_pictures_nor_curves(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    trackers = started(listener)
    for step in range(1, 6):
        trackers.log_audio("a/b", WAVEFORM, 24_000, step)
        trackers.log_picture("a/b/mel", PICTURE, step)
        trackers.log({"loss": 0.5}, step)
    assert listener.audio_calls == 3
    assert listener.pictures == [({"a/b/mel": [PICTURE]}, step) for step in range(1, 6)]
    assert [record["step"] for record in listener.logged] == [1, 2, 3, 4, 5]
    assert "recorder did not take audio: ValueError: no room" in caplog.text and "${exp_dir}/samples" in caplog.text


def test_a_tracker_that_lost_the_values_is_spared_the_rest() -> None:
    listener = Listener()
    listener.bad_calls = range(100)
    trackers = started(listener)
    for step in range(1, 4):
        trackers.log({"loss": 0.5}, step)
    trackers.log_picture("a/b/mel", PICTURE, 3)
    assert listener.pictures == []


def test_what_takes_no_audio_is_told_where_the_files_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=tracking.__name__)
    trackers = started(Recorder("plain"))
    for step in (1, 2):
        trackers.log_audio("a/b", WAVEFORM, 24_000, step)
    assert [record.getMessage() for record in caplog.records] == [
        "tracker plain takes no audio; the files are in ${exp_dir}/samples"
    ]


def test_mlflow_gets_files(tmp_path: Path) -> None:
    """In folders of steps, because its artifacts have none."""
    kept: dict[str, bytes] = {}

    class Offline(accelerate.tracking.MLflowTracker):
        def start(self) -> None: ...
        def finish(self) -> None: ...
        def store_init_configuration(self, values: dict) -> None: ...
        def log_artifact(self, local_path: str, artifact_path: str | None = None) -> None:
            kept[f"{artifact_path}/{Path(local_path).name}"] = Path(local_path).read_bytes()

    trackers = started(Offline())
    trackers.log_audio("samples/tts/a b#1", WAVEFORM, 24_000, 20)
    trackers.log_picture("samples/tts/a b#1/mel", PICTURE, 20)
    assert list(kept) == ["samples/tts/step_00000020/a b#1.wav", "samples/tts/a b#1/step_00000020/mel.png"]
    for name, head in zip(kept, (b"RIFF", b"\x89PNG"), strict=True):
        assert kept[name].startswith(head)


def test_wandb_gets_its_own_types(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[dict, int]] = []
    made = SimpleNamespace(Audio=lambda data, sample_rate: ("audio", data, sample_rate), Image=lambda data: data)
    monkeypatch.setitem(sys.modules, "wandb", made)
    tracker = accelerate.tracking.WandBTracker("unisono")
    tracker.run = SimpleNamespace(log=lambda values, step: logged.append((values, step)))
    trackers = Trackers(make_accelerator("no", [tracker]))
    trackers.accelerator.trackers.append(tracker)
    trackers.log_audio("a", WAVEFORM, 24_000, 7)
    trackers.log_picture("a/mel", PICTURE, 7)
    assert logged == [({"a": ("audio", WAVEFORM, 24_000)}, 7), ({"a/mel": [PICTURE]}, 7)]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ([], {"tensorboard"}),
        (["tracker@trackers=[tensorboard,wandb,mlflow]"], {"tensorboard", "wandb", "mlflow"}),
        (["tracker@trackers=none"], set()),
    ],
)
def test_the_group_of_trackers_combines(choice: list[str], expected: set[str]) -> None:
    nodes = compose("default", [*choice, "exp_dir=somewhere"]).trackers
    assert set(nodes) == expected
    for name, tracker in instantiate(nodes).items():  # a tracker that is only made needs no package
        assert tracker.name == name
    if "tensorboard" in expected:
        assert nodes.tensorboard.logging_dir == "somewhere"
