"""Model folders: what is saved comes back, nothing foreign is built, what does not fit is named."""

from __future__ import annotations

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
        (lambda cfg: cfg.update(format_version=2), "format_version 1"),
        (lambda cfg: cfg.pop("model"), "not a model config"),
        (lambda cfg: cfg.update(model=3), "`model` builds a int"),
        (lambda cfg: cfg.update(model=cfg["model"]["backbone"]), "builds a LayerFusionDiT, not a UnifiedAudioModel"),
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
    "text", ["{", "\t- x", "!!python/object/apply:os.system ['true']", "\x00", "- 1", "a: &a [*a]", "model: &a {x: *a}"]
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


def test_an_export_that_fails_leaves_the_old_one(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in model_folder.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("unisono.inference.model_folder.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_model_folder(model_folder, toy_model(seed=1), TOY_CONFIG, {})
    assert {path.name: path.read_bytes() for path in model_folder.iterdir()} == before
    assert list(model_folder.parent.iterdir()) == [model_folder]
