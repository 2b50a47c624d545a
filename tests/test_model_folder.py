"""Model folders: what is saved comes back, nothing foreign is built, what does not fit is named."""

from __future__ import annotations

import copy
import datetime
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from conftest import TOY_PHONEMES, TOY_SPEAKERS
from toy import toy_model
from unisono.errors import UserError
from unisono.inference.model_folder import load_model_folder, save_model_folder
from unisono.inference.model_folder.allowed import _KNOWN, _ROLES, _Reader, read_nodes
from unisono.objectives import FlowMatching

TOY_CONFIG = {
    "phonemes": list(TOY_PHONEMES),
    "speakers": list(TOY_SPEAKERS),
    "model": {
        "_target_": "unisono.models.unified.UnifiedAudioModel",
        "autoencoder": {
            "_target_": "unisono.models.autoencoder.LogMelAutoencoder",
            "n_mels": 40,
            "mean": -6.0,
            "std": 2.5,
            "griffin_lim_steps": 8,
        },
        "instruction_encoder": {
            "_target_": "unisono.models.content_encoder.ByteTextEncoder",
            "dim": 32,
            "num_layers": 1,
            "num_heads": 2,
            "ngram_buckets": 256,
        },
        "content_encoders": {
            "text": {
                "_target_": "unisono.models.content_encoder.ByteTextEncoder",
                "dim": 64,
                "num_layers": 1,
                "num_heads": 2,
                "ngram_buckets": 256,
            },
            "phoneme": {
                "_target_": "unisono.models.content_encoder.PhonemeEncoder",
                "dim": 64,
                "phonemes": list(TOY_PHONEMES),
                "speakers": list(TOY_SPEAKERS),
                "num_layers": 1,
                "num_heads": 2,
            },
            "audio": {"_target_": "unisono.models.content_encoder.AudioEncoder", "dim": 64, "latent_dim": 40},
        },
        "content_adapter": {
            "_target_": "unisono.models.content_adapter.PrefixAdapter",
            "dim": 64,
            "instruction_dim": 32,
            "num_heads": 2,
        },
        "backbone": {
            "_target_": "unisono.models.backbone.LayerFusionDiT",
            "latent_dim": 40,
            "dim": 64,
            "num_layers": 4,
            "num_heads": 2,
            "frames_dim": 64,
        },
        "objective": {"_target_": "unisono.objectives.FlowMatching"},
    },
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    return save_model_folder(folder, toy_model(), TOY_CONFIG, {"val/loss": 1.0})


@pytest.fixture
def model_folder(exported: Path, tmp_path: Path) -> Path:
    """A folder that may be broken."""
    return Path(shutil.copytree(exported, tmp_path / "model"))


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    cfg = yaml.safe_load((folder / "config.yaml").read_text())
    edit(cfg)
    (folder / "config.yaml").write_text(yaml.safe_dump(cfg))


def folder_refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model_folder(folder)
    return str(caught.value)


def test_a_model_folder_gives_back_the_model(model_folder: Path) -> None:
    model, cfg = load_model_folder(model_folder)
    expected = toy_model().state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert cfg["speakers"] == list(TOY_SPEAKERS) and not model.training
    assert sorted(path.name for path in model_folder.iterdir()) == ["README.md", "config.yaml", "model.safetensors"]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.nn.Linear",
        "unisono.data.manifest.read_jsonl",
        "unisono.models",
        "unisono.models.",
        "unisono.models..os.system",
        "unisono.models.unified.torch",
        "unisono.models.unified.torch.nn.Linear",
        "unisono.models.unified.nn.Linear",
        "unisono.models.unified.torch.hub.load",
        "unisono.models.layers.nn",
        "unisono.models.autoencoder.statistics.Path",
        "unisono.models.autoencoder.statistics.write_statistics",
        "unisono.models.autoencoder.base.Autoencoder",
        "unisono.models.autoencoder.NoSuchClass",
        "unisono.models.autoencoder.Autoencoder",
        "unisono.models.discriminators.MultiPeriodDiscriminator",
        "unisono.models.reconstruction.ReconstructionModel",
        "unisono.objectives.FlowMatching",
        "unisono.models.content_encoder.ByteTextEncoder",
        "unisono.models.no_such_module.Thing",
        "unisono.models.unified.UnifiedAudioModel.from_pretrained",
        "",
        5,
        ["os.system"],
        {"_target_": "os.system"},
    ],
)
def test_only_the_package_s_own_model_classes_are_built(model_folder: Path, target: Any, monkeypatch) -> None:
    for name in ("system", "popen"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("ran a command"))
    edit_config(model_folder, lambda cfg: cfg["model"]["autoencoder"].update({"_target_": target}))
    message = folder_refusal(model_folder)
    assert message.startswith(f"{model_folder / 'config.yaml'}: model.autoencoder")
    assert str(target) in message


@pytest.mark.parametrize("key", ["_partial_", "_args_", "_convert_", "_recursive_", "__class__"])
def test_hydra_s_own_keys_are_refused(model_folder: Path, key: str) -> None:
    edit_config(model_folder, lambda cfg: cfg["model"]["backbone"].update({key: True}))
    assert f"model.backbone has keys ['{key}']" in folder_refusal(model_folder)


def _nothing(cfg: dict[str, Any]) -> None:
    cfg.clear()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_nothing, "not a model config"),
        (lambda cfg: cfg["model"]["backbone"].update(dim={"_target_": "os.system"}), "no class belongs there"),
        (lambda cfg: cfg["model"]["backbone"].update(dim=[{"a": {"_target_": "os.system"}}]), "no class belongs there"),
        (lambda cfg: cfg["model"].update(content_encoders=[]), "model.content_encoders names no class"),
        (lambda cfg: cfg["model"]["content_encoders"].update(text="x"), "content_encoders.text names no class"),
        (lambda cfg: cfg["model"].update(date=datetime.date(2026, 1, 1)), "model.date is a date"),
        (lambda cfg: cfg["model"].update(cfg_drop_ratio=float("nan")), "a number that no setting can have"),
        (lambda cfg: cfg["model"].update(cfg_drop_ratio=10**30), "a number that no setting can have"),
        (lambda cfg: cfg.update(training={"data": ["x"]}), "`training` is not a record"),
        (lambda cfg: cfg["training"].update(data=[{"name": "x", "task": ["y"]}]), "`training` is not a record"),
        (lambda cfg: cfg.update(license=[1]), "`license` is not a text"),
        (lambda cfg: cfg.update(files=[]), "`files` is not a mapping"),
        (lambda cfg: cfg["files"].update({"model.safetensors": "5"}), "not a SHA-256"),
        (lambda cfg: cfg["frozen"]["autoencoder"].update(settings="0"), "trained with another autoencoder"),
        (lambda cfg: cfg["frozen"].clear(), "trained with another autoencoder"),
        (lambda cfg: cfg["model"]["autoencoder"].update(floor=1e-3), "trained with another autoencoder"),
        (lambda cfg: cfg.update(format_version=1), "format_version 2"),
        (lambda cfg: cfg.pop("model"), "not a model config"),
        (lambda cfg: cfg.update(model=3), "model names no class"),
        (
            lambda cfg: cfg.update(model=cfg["model"]["backbone"]),
            "model names unisono.models.backbone.LayerFusionDiT, a backbone",
        ),
        (lambda cfg: cfg.update(speakers="ann"), "`speakers` is not a list of texts"),
        (lambda cfg: cfg.update(phonemes=[1]), "`phonemes` is not a list of texts"),
        (lambda cfg: cfg["model"]["backbone"].pop("dim"), "model.backbone"),
        (lambda cfg: cfg["model"]["backbone"].update(dim="wide"), "model.backbone"),
        (lambda cfg: cfg["model"]["backbone"].update(dim=-64), "model.backbone"),
        (lambda cfg: cfg["model"]["backbone"].update(num_heads=0), "model.backbone"),
        (lambda cfg: cfg["model"]["backbone"].update({7: "number as key"}), "model.backbone"),
        (lambda cfg: cfg["model"]["autoencoder"].update(std=0.0), "std is 0.0"),
        (lambda cfg: cfg["model"]["autoencoder"].update(mean=[1.0, 2.0]), "mean is [1.0, 2.0]"),
        (
            lambda cfg: cfg["model"]["autoencoder"].update(n_mels=20),
            "backbone.latent_dim is 40, but autoencoder.latent_dim is 20",
        ),
    ],
)
def test_a_bad_model_config_is_refused(model_folder: Path, edit: Callable, words: str) -> None:
    edit_config(model_folder, edit)
    message = folder_refusal(model_folder)
    assert str(model_folder / "config.yaml") in message and words in message


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "\t- x",
        "!!python/object/apply:os.system ['true']",
        "\x00",
        "- 1",
        "a: &a [*a]",
        "model: &a {x: *a}",
        "[a]: 1",
    ],
)
def test_a_config_that_is_no_plain_yaml_is_refused(model_folder: Path, text: str) -> None:
    for prefix in ("", "format_version: 1\n"):
        (model_folder / "config.yaml").write_text(prefix + text)
        assert str(model_folder / "config.yaml") in folder_refusal(model_folder)
    (model_folder / "config.yaml").write_bytes(b"\xff\xfe\xff")
    assert "not YAML" in folder_refusal(model_folder)


def test_weights_that_do_not_fit_are_listed_by_name(model_folder: Path) -> None:
    path = model_folder / "model.safetensors"
    weights = load_file(path)
    lost, reshaped = "null_frame", "null_context"
    del weights[lost]
    weights[reshaped] = torch.zeros(3)
    weights["extra.weight"] = torch.zeros(1)
    save_file(weights, path)
    message = folder_refusal(model_folder)
    assert str(path) in message
    assert f"missing: {lost}" in message and "unknown: extra.weight" in message
    assert f"shape of {reshaped}: (3,) in the file, (64,) in the model" in message


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_refused(model_folder: Path, kept: float) -> None:
    path = model_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert f"{path}: damaged weights" in folder_refusal(model_folder)


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors"])
def test_a_missing_part_is_named(model_folder: Path, name: str) -> None:
    (model_folder / name).unlink()
    assert name in folder_refusal(model_folder)


class OwnObjective(FlowMatching):
    """A class of somebody's own code."""


def test_own_classes_are_built_where_the_caller_allows_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = copy.deepcopy(TOY_CONFIG)
    name = f"{__name__}.OwnObjective"
    cfg["model"]["objective"] = {"_target_": name, "logit_mean": 0.5}
    folder = save_model_folder(tmp_path / "model", toy_model(), cfg, {})
    assert "will not load as it is" in caplog.text and name in caplog.text
    assert name in folder_refusal(folder)
    model, _ = load_model_folder(folder, allow=[name])
    assert isinstance(model.objective, OwnObjective) and model.objective.logit_mean == 0.5
    with pytest.raises(UserError, match="no class belongs there"):  # and nowhere else
        read_nodes({"_target_": cfg["model"]["_target_"], "cfg_drop_ratio": {"_target_": name}}, "config", [name])


def test_every_listed_class_is_what_it_is_called() -> None:
    """Names are looked up in a table; each of them must be there, a class, and a part that a config can name."""
    for target in _KNOWN:
        role, cls = _Reader("config", frozenset())._find(target, "model")
        assert isinstance(cls, type) and cls.__name__ == target.rpartition(".")[2] and role in _ROLES


def test_a_name_that_stands_for_something_else_by_now_is_refused(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.objectives.flow_matching.FlowMatching", os.system)
    assert "not the class expected" in folder_refusal(model_folder)
    monkeypatch.setattr("unisono.objectives.flow_matching.FlowMatching", OwnObjective)
    assert "not the class expected" in folder_refusal(model_folder)


def test_what_was_frozen_by_hand_is_saved_too(tmp_path: Path) -> None:
    model = toy_model().requires_grad_(False)
    loaded, _ = load_model_folder(save_model_folder(tmp_path / "model", model, TOY_CONFIG, {}))
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_saving_replaces_a_model_and_nothing_else(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / ".git").mkdir()
    with pytest.raises(UserError, match=r"holds more than a model \(\.git\)"):
        save_model_folder(model_folder, toy_model(), TOY_CONFIG, {})
    assert (model_folder / ".git").is_dir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        save_model_folder(tmp_path / "file", toy_model(), TOY_CONFIG, {})


def test_a_model_that_is_saved_again_is_the_same(model_folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    model, cfg = load_model_folder(model_folder)
    save_model_folder(model_folder, model, cfg, {})  # in its own place, too
    assert {path.name: path.read_bytes() for path in model_folder.iterdir()} == before
    assert (model_folder / "model.safetensors").stat().st_mode == (model_folder / "config.yaml").stat().st_mode


def test_an_export_that_fails_leaves_the_old_one(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in model_folder.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("unisono.inference.model_folder.saving.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_model_folder(model_folder, toy_model(seed=1), TOY_CONFIG, {})
    assert {path.name: path.read_bytes() for path in model_folder.iterdir()} == before
    assert list(model_folder.parent.iterdir()) == [model_folder]
