"""Which weights inference takes: the exported model, a checkpoint by name or by path, averaged or raw."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from test_model_folder import TOY_CONFIG
from toy import randomised, toy_model
from unisono.errors import UserError
from unisono.inference import checkpoints
from unisono.inference.checkpoints import LoadedModel, choose_model, load_chosen, load_newest
from unisono.inference.model_folder import save_model_folder
from unisono.objectives import FlowMatching
from unisono.training.checkpoint import CheckpointFolder
from unisono.training.weights import frozen_fingerprints, trainable_state


def add_checkpoint(run: Path, step: int, *, averaged: bool = True, is_best: bool = False) -> Path:
    """A checkpoint as training writes it, of a model whose weights are those of the step."""
    model = randomised(toy_model(seed=step))
    weights = {"model": trainable_state(model)}
    if averaged:
        weights["ema"] = {name: 0.5 * p.detach() for name, p in model.named_parameters() if p.requires_grad}
    state = {"resumed_from": None, "frozen": frozen_fingerprints(model)}
    return CheckpointFolder(run / "checkpoints").save(step, weights, state, is_best)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "a run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(TOY_CONFIG))
    add_checkpoint(run, 1, is_best=True)
    add_checkpoint(run, 2)
    return run


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole_run, tmp_path / "run", symlinks=True)


def load(run: Path, checkpoint: str | None = None, weights: str = "ema", **options: Any) -> LoadedModel:
    return load_newest(run, run / "model", checkpoint, weights, **options)


def parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("name", "step"), [("best", 1), ("last", 2), ("step_00000001", 1), ("PATH", 2)])
def test_a_checkpoint_is_found_by_its_name_or_path(run: Path, name: str, step: int) -> None:
    checkpoint = str(run / "checkpoints/step_00000002") if name == "PATH" else name
    averaged, raw = load(run, checkpoint), load(run, checkpoint, "raw")
    expected = parameters(randomised(toy_model(seed=step)))
    assert averaged.chosen.label == f"step_{step:08d} (averaged weights)"
    assert averaged.weights_hash != raw.weights_hash and averaged.model_hash == raw.model_hash
    for name, own in parameters(raw.model).items():
        torch.testing.assert_close(own, expected[name], rtol=0, atol=0)
        torch.testing.assert_close(parameters(averaged.model)[name], 0.5 * expected[name], rtol=0, atol=0)
    assert not averaged.model.training and averaged.cfg["phonemes"] == TOY_CONFIG["phonemes"]
    assert averaged.cfg["generation"]["default"]["num_steps"] == 24


def test_a_run_without_an_average_gives_its_own_weights(run: Path) -> None:
    add_checkpoint(run, 3, averaged=False)
    assert load(run, "last").weights_hash == load(run, "last", "raw").weights_hash


def test_a_model_folder_is_what_null_stands_for(run: Path) -> None:
    with pytest.raises(UserError, match=r"give checkpoint=last .*best, last, step_00000001, step_00000002"):
        load(run)
    save_model_folder(run / "model", randomised(toy_model(seed=5)), TOY_CONFIG, {})
    exported, named = load(run), load(run, str(run / "model"))
    assert exported.chosen.label == "model" and exported.weights_hash == named.weights_hash
    assert exported.weights_hash not in (load(run, "last").weights_hash, load(run, "best").weights_hash)
    moved = shutil.move(run / "model", run / "elsewhere")
    assert load(run, str(moved)).model_hash == exported.model_hash
    with pytest.raises(UserError, match=r"'raw', but .* has one set of weights; choose a checkpoint .there are best"):
        load(run, str(moved), "raw")


def test_names_on_the_hub_are_looked_up_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model_folder(run / "model", randomised(toy_model()), TOY_CONFIG, {})
    asked = []

    def downloaded(name: str) -> Path:
        asked.append(name)
        return folder

    monkeypatch.setattr(checkpoints, "local_folder", downloaded)
    monkeypatch.setattr("unisono.inference.model_folder.loading.local_folder", downloaded)
    assert load(run, "organisation/model@v2").chosen.label == "organisation/model@v2"
    assert set(asked) == {"organisation/model@v2"}


def test_nothing_is_written_and_no_lock_is_taken(run: Path) -> None:
    def state() -> dict[Path, int]:
        return {path: os.lstat(path).st_mtime_ns for path in run.rglob("*")}

    before = state()
    (run / "checkpoints").chmod(0o555)
    try:
        load(run, "last")
    finally:
        (run / "checkpoints").chmod(0o755)
    assert state().keys() == before.keys() and state() == before


def test_a_checkpoint_that_training_replaces_meanwhile_is_chosen_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = checkpoints.read_weights

    def pruned_under_it(path: Path) -> dict[str, torch.Tensor]:
        if path.parent.name == "step_00000002":
            add_checkpoint(run, 3)
            shutil.rmtree(path.parent)
        return read(path)

    monkeypatch.setattr(checkpoints, "read_weights", pruned_under_it)
    assert load(run, "last").chosen.label.startswith("step_00000003")
    add_checkpoint(run, 2)
    with pytest.raises(UserError, match="no checkpoint 'step_00000002'; it has"):
        load(run, "step_00000002")


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("step_00000007", "has no checkpoint 'step_00000007'; it has best, last, step_00000001, step_00000002"),
        ("lst", "there is none by that name; .*did you mean last"),
        ("RUN", "the folder of a run; give exp_dir=.* checkpoint=last"),
        ("RUN/checkpoints", "which is no checkpoint and no model folder"),
        ("./nowhere/at/all", "nowhere"),
    ],
)
def test_an_unknown_name_is_told_with_those_that_there_are(run: Path, checkpoint: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(run, checkpoint.replace("RUN", str(run)))


def test_a_run_without_checkpoints_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train first: python train\.py exp_dir="):
        load(tmp_path)
    with pytest.raises(UserError, match="has no checkpoint 'last'; it has none"):
        load(tmp_path, "last")
    with pytest.raises(UserError, match="weights is 'both'; choose one of ema, raw"):
        load(tmp_path, "last", "both")


def test_damage_is_named(run: Path) -> None:
    file = run / "checkpoints/step_00000002/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"step_00000002 is no whole checkpoint: model.safetensors has .*step_00000001"):
        load(run, "last")
    assert load(run, "best").weights_hash
    for text in ("model: [", "seed: 3", ""):
        (run / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"config.yaml is .*bring it back"):
            load(run, "best")
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match="keep checkpoints in RUN/checkpoints"):
        load(run, "best")


def test_weights_are_not_put_into_another_model(run: Path) -> None:
    cfg = yaml.safe_load((run / "config.yaml").read_text())
    cfg["model"]["autoencoder"]["mean"] = -5.0
    (run / "config.yaml").write_text(yaml.safe_dump(cfg))
    with pytest.raises(UserError, match="trained beside other frozen parts"):
        load(run, "last")
    cfg["model"]["backbone"]["num_layers"] = 2
    (run / "config.yaml").write_text(yaml.safe_dump(cfg))
    with pytest.raises(UserError, match="do not fit"):
        load(run, "last")


def test_a_run_s_config_builds_nothing_that_is_not_allowed(run: Path) -> None:
    cfg = yaml.safe_load((run / "config.yaml").read_text())
    cfg["model"]["objective"] = {"_target_": "os.system", "command": f"touch '{run}/executed'"}
    (run / "config.yaml").write_text(yaml.safe_dump(cfg))
    with pytest.raises(UserError, match=r"os.system.*inference.py: allow="):
        load(run, "last")
    assert not (run / "executed").exists()
    cfg["model"]["objective"] = {"_target_": "test_inference_checkpoints.OwnObjective"}
    (run / "config.yaml").write_text(yaml.safe_dump(cfg))
    assert load(run, "last", allow=["test_inference_checkpoints.OwnObjective"]).model is not None


def test_a_chosen_model_is_loaded_alike_by_every_process(run: Path) -> None:
    chosen = choose_model(run, run / "model", "last")
    first, second = load_chosen(chosen), load_chosen(chosen)
    assert (first.weights_hash, first.model_hash) == (second.weights_hash, second.model_hash)


class OwnObjective(FlowMatching):
    """What a user may write, and vouch for."""
