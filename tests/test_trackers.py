"""Trackers: what they hold equals metrics.jsonl, also of a resumed run, and they start only when training does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

    def die(batch: Any) -> None:
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
    assert broken.checkpoints.latest().name == "step_00000003"  # so steps 4 and 5 are logged again

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
    """Keeps what Accelerate hands to a tracker."""

    requires_logging_directory = False

    def __init__(self, name: str = "recorder", fails_with: Exception | None = None) -> None:
        self.name, self.fails_with = name, fails_with
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
        self.logged.append({"step": step, **values})

    def finish(self, exit_code: int = 0) -> None:
        self.exit_codes.append(exit_code)


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
