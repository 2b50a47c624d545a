"""Checkpoints: saved whole or not at all, brought back in full or refused by name."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from plain import CLASSES, FEATURES, PlainTrainer, assert_same_run, plain_model, plain_trainer, saved
from unisono.errors import UserError
from unisono.training.checkpoint import CheckpointFolder, damage
from unisono.training.weights import load_optimizer_state, load_what_fits, optimizer_state, trainable_state


def finished(exp_dir: Path, **options: Any) -> Path:
    """A run of six steps with checkpoints of steps 2, 4 and 6; returns the folder of checkpoints."""
    plain_trainer(exp_dir, **{"epochs": 1, "save_last_k": 3, "val_every_n_steps": None, **options}).fit()
    return exp_dir / "checkpoints"


def write(folder: CheckpointFolder, step: int, is_best: bool = False) -> Path:
    return folder.save(step, {"model": {"w": torch.full((4,), float(step))}}, {"step": step}, is_best)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_the_best_and_the_permanent_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, save_last_k=2, keep_every_n_steps=5)
    for step in range(1, 13):
        write(folder, step, is_best=step in (2, 3))
    assert names(tmp_path) == ["best", "last", *(f"step_{step:08d}" for step in (3, 5, 10, 11, 12))]
    assert os.readlink(tmp_path / "best") == "step_00000003" and os.readlink(tmp_path / "last") == "step_00000012"


def test_there_is_no_best_without_validation(tmp_path: Path) -> None:
    assert names(finished(tmp_path, val_dataloader=None)) == ["last", *(f"step_{step:08d}" for step in (2, 4, 6))]


def cut(path: Path, share: float = 0.5) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def zeroed(path: Path, begin: float = 0.0, end: float = 1.0) -> None:
    content = bytearray(path.read_bytes())
    first, last = int(len(content) * begin), int(len(content) * end)
    content[first:last] = bytes(last - first)
    path.write_bytes(content)


FAULTS = {
    "weights cut": lambda folder: cut(folder / "model.safetensors"),
    "average cut": lambda folder: cut(folder / "ema.safetensors", 0.99),
    "state cut": lambda folder: cut(folder / "trainer.pt", 0.9),
    "state empty": lambda folder: cut(folder / "trainer.pt", 0),
    "state zeroed": lambda folder: zeroed(folder / "trainer.pt"),
    "first half of the state zeroed": lambda folder: zeroed(folder / "trainer.pt", 0, 0.5),
    "middle of the state zeroed": lambda folder: zeroed(folder / "trainer.pt", 0.4, 0.6),
    "header of the weights zeroed": lambda folder: zeroed(folder / "model.safetensors", 0, 0.2),
    "weights missing": lambda folder: (folder / "model.safetensors").unlink(),
    "average missing": lambda folder: (folder / "ema.safetensors").unlink(),
    "state missing": lambda folder: (folder / "trainer.pt").unlink(),
    "contents missing": lambda folder: (folder / "contents.json").unlink(),
    "contents cut": lambda folder: cut(folder / "contents.json"),
    "contents of something else": lambda folder: (folder / "contents.json").write_text("[1, 2]"),
    "folder empty": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_is_passed_over(fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = finished(tmp_path)
    FAULTS[fault](folder / "step_00000006")
    trainer = plain_trainer(tmp_path, epochs=1, save_last_k=3, val_every_n_steps=None)
    with caplog.at_level(logging.WARNING):
        trainer.load_checkpoint()
    assert trainer.step == 4
    said = next(message for message in caplog.messages if "damaged" in message)
    assert "step_00000006" in said and "step_00000004" in said
    trainer.fit()
    assert trainer.step == 6 and (folder / "last").resolve().name == "step_00000006"
    assert damage(folder / "step_00000006") is None and "abandoned_1_step_00000006" in names(folder)


def test_where_all_are_damaged_nothing_is_deleted(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    for path in folder.glob("step_*"):
        cut(path / "model.safetensors")
    before, metrics = names(folder), (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"(?s)no checkpoint is whole.*step_00000006.*step_00000004.*step_00000002"):
        plain_trainer(tmp_path, epochs=1).fit()
    assert names(folder) == before and (tmp_path / "metrics.jsonl").read_text() == metrics


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_asked_for_by_path_is_refused(fault: str, tmp_path: Path) -> None:
    """Nothing else is taken in its place."""
    asked = finished(tmp_path) / "step_00000004"
    FAULTS[fault](asked)
    with pytest.raises(UserError, match=r"resume=.*step_00000004: no whole checkpoint"):
        plain_trainer(tmp_path, resume=str(asked)).fit()
    assert "step_00000006" in names(asked.parent)


def test_resume_never_refuses_to_overwrite(tmp_path: Path) -> None:
    folder = finished(tmp_path / "first")
    with pytest.raises(UserError, match=r"step_00000006 exists and resume=never"):
        plain_trainer(tmp_path / "first", resume="never").fit()
    assert len(names(folder)) == 5
    fresh = plain_trainer(tmp_path / "second", epochs=1, resume="never")
    fresh.fit()
    assert fresh.step == 6


def test_a_path_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    finished(tmp_path)
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match=r"resume="):
            plain_trainer(tmp_path, resume=str(path)).fit()


def test_links_point_to_checkpoints_after_going_back(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    assert os.readlink(folder / "best") == "step_00000006"
    plain_trainer(tmp_path, epochs=1, resume=str(folder / "step_00000002")).load_checkpoint()
    assert (folder / "last").resolve().name == "step_00000002"
    assert (folder / "best").resolve().is_dir() or not (folder / "best").is_symlink(), "best is left dangling"


# -- weights that do not fit ------------------------------------------------------------------------------------------


def changed_weights() -> dict[str, torch.Tensor]:
    weights = trainable_state(plain_model())
    weights["surplus"] = weights.pop("0.bias")
    weights["4.weight"] = torch.zeros(3, 5)
    return weights


def test_strict_loading_lists_everything(tmp_path: Path) -> None:
    save_file(changed_weights(), tmp_path / "weights.safetensors")
    trainer = plain_trainer(tmp_path / "run", initial_weights=tmp_path / "weights.safetensors")
    before = {name: tensor.clone() for name, tensor in trainer.raw_model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        trainer.fit()
    for part in ("missing: 0.bias", "unknown: surplus", "shape of 4.weight: (3, 5) in the file, (3, 8) in the model",
                 "partial_loading", "weights.safetensors"):  # fmt: skip
        assert part in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.raw_model.state_dict().items())


def test_partial_loading_says_what_it_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = changed_weights()
    weights["0.weight"] += 1
    save_file(weights, tmp_path / "weights.safetensors")
    trainer = plain_trainer(
        tmp_path / "run", initial_weights=tmp_path / "weights.safetensors", partial_loading=True, epochs=1
    )
    fresh = plain_model().state_dict()
    with caplog.at_level(logging.WARNING):
        trainer.load_checkpoint()
    said = "\n".join(caplog.messages)
    assert "missing: 0.bias" in said and "unknown: surplus" in said and "shape of 4.weight" in said
    now = trainer.raw_model.state_dict()
    assert torch.equal(now["0.weight"], weights["0.weight"]) and torch.equal(now["4.weight"], fresh["4.weight"])
    assert torch.equal(trainer.ema.average["0.weight"], weights["0.weight"])
    with pytest.raises(UserError, match="none of its 1 tensors"):
        load_what_fits(plain_model(), {"other": torch.zeros(1)}, "here")


def test_a_checkpoint_of_another_model_is_refused_even_with_partial_loading(tmp_path: Path) -> None:
    """Partial loading is for beginnings; a run that goes on has an optimizer that must fit."""
    finished(tmp_path)
    with pytest.raises(UserError, match=r"shape of 0.weight: \(8, 6\) in the file, \(9, 6\) in the model"):
        plain_trainer(tmp_path, model=plain_model(dim=9), partial_loading=True).fit()


def test_a_run_begins_with_weights_of_a_file_a_checkpoint_or_an_exported_model(tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path / "first", epochs=1)
    trainer.fit()
    trainer.export(tmp_path / "model", {"seed": 3})
    assert names(tmp_path / "model") == ["config.yaml", "model.safetensors"]
    raw, averaged = saved(tmp_path / "first"), load_file(tmp_path / "model/model.safetensors")
    assert not torch.equal(raw["model/0.weight"], averaged["0.weight"])
    assert torch.equal(raw["ema/0.weight"], averaged["0.weight"])
    last = tmp_path / "first/checkpoints/last"
    for number, (path, weight) in enumerate(
        [
            (last, raw["model/0.weight"]),
            (last / "ema.safetensors", None),  # has no buffers, so it is not a whole model
            (last / "model.safetensors", raw["model/0.weight"]),
            (tmp_path / "model", averaged["0.weight"]),
        ]
    ):
        begun = plain_trainer(tmp_path / f"run {number}", initial_weights=path)
        if weight is None:
            with pytest.raises(UserError, match=r"missing: 1.running_mean"):
                begun.load_checkpoint()
            continue
        begun.load_checkpoint()
        assert begun.step == 0 and torch.equal(begun.raw_model.state_dict()["0.weight"], weight)


@pytest.mark.parametrize("content", [None, b"", b"not safetensors"])
def test_initial_weights_that_cannot_be_read_are_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.safetensors: (no such|damaged) weights"):
        plain_trainer(tmp_path / "run", initial_weights=path).fit()


# -- frozen parts, tied weights, values of hooks ----------------------------------------------------------------------


def half_frozen(scale: float = 1.0) -> nn.Module:
    """A pretrained part with statistics of its own, and a head."""
    torch.manual_seed(0)
    pretrained = nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    with torch.no_grad():
        pretrained[0].weight.mul_(scale)
    return nn.Sequential(pretrained.requires_grad_(False), nn.Linear(4, CLASSES))


def test_a_frozen_part_is_not_saved_but_recognised(tmp_path: Path) -> None:
    finished(tmp_path, model=half_frozen())
    assert set(saved(tmp_path)) == {"model/1.weight", "model/1.bias", "ema/1.weight", "ema/1.bias"}
    with pytest.raises(UserError, match=r"(?s)other frozen parts.*\n  0: [0-9a-f]{16} there, [0-9a-f]{16} now"):
        plain_trainer(tmp_path, model=half_frozen(scale=2.0)).fit()
    plain_trainer(tmp_path, model=half_frozen()).fit()


def test_a_frozen_part_computes_the_same_all_along(tmp_path: Path) -> None:
    """Its statistics are not saved, so they must not move: else a resumed run would go on with others."""
    model = half_frozen()
    finished(tmp_path / "broken", model=model)
    assert torch.equal(model[0][1].running_mean, half_frozen()[0][1].running_mean)
    plain_trainer(tmp_path / "broken", model=half_frozen(), val_every_n_steps=6).fit()
    plain_trainer(tmp_path / "whole", model=half_frozen(), val_every_n_steps=6).fit()
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


def tied_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Tanh(), nn.Linear(FEATURES, FEATURES), nn.Tanh(),
                          nn.Linear(FEATURES, CLASSES))  # fmt: skip
    model[2].weight = model[0].weight
    return model


def test_tied_weights_come_back_tied(tmp_path: Path) -> None:
    finished(tmp_path / "broken", model=tied_model(), val_every_n_steps=6)
    tensors = saved(tmp_path / "broken")
    assert torch.equal(tensors["model/0.weight"], tensors["model/2.weight"]) and "ema/2.weight" not in tensors
    model = tied_model()
    plain_trainer(tmp_path / "broken", model=model, val_every_n_steps=6).fit()
    assert model[2].weight is model[0].weight
    plain_trainer(tmp_path / "whole", model=tied_model(), val_every_n_steps=6).fit()
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


class Payload:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickled_object_is_refused(tmp_path: Path) -> None:
    last = finished(tmp_path) / "step_00000006"
    state = torch.load(last / "trainer.pt", weights_only=True)
    torch.save({**state, "extra": Payload(tmp_path / "executed")}, last / "trainer.pt")
    contents = json.loads((last / "contents.json").read_text())
    contents["bytes"]["trainer.pt"] = (last / "trainer.pt").stat().st_size
    (last / "contents.json").write_text(json.dumps(contents))
    with pytest.raises(UserError, match=r"step_00000006.*trainer\.pt"):
        plain_trainer(tmp_path).fit()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("value", [Path("x"), object(), print])
def test_what_could_not_be_read_back_is_not_saved(value: Any, tmp_path: Path) -> None:
    """Found when saving, not weeks later."""

    class Adding(PlainTrainer):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["mine"] = value if self.step == 4 else [1, "a", torch.ones(2), {"b": None}]

    with pytest.raises((UserError, TypeError), match="mine"):
        plain_trainer(tmp_path, cls=Adding, save_last_k=3).fit()
    assert "step_00000004" not in names(tmp_path / "checkpoints")
    resumed = plain_trainer(tmp_path)
    resumed.load_checkpoint()
    assert resumed.step == 3  # the best


def test_a_run_that_was_copied_without_its_links_goes_on(tmp_path: Path) -> None:
    """As ``cp -rL``, archives and object stores do."""
    plain_trainer(tmp_path / "run", epochs=1).fit()
    shutil.copytree(tmp_path / "run", tmp_path / "copy", symlinks=False)
    assert not (tmp_path / "copy/checkpoints/last").is_symlink()
    plain_trainer(tmp_path / "copy").fit()
    plain_trainer(tmp_path / "run").fit()
    assert_same_run(tmp_path / "copy", tmp_path / "run")
    assert os.readlink(tmp_path / "copy/checkpoints/last") == "step_00000012"


def test_an_optimizer_finds_its_parameters_by_name_in_any_order() -> None:
    def network(names: tuple[str, ...]) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in names})
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    model, optimizer = network(("a", "b"))
    (model["a"].weight.sum() + 100 * model["b"].weight.sum()).backward()
    optimizer.step()
    other, loaded = network(("b", "a"))
    load_optimizer_state(loaded, other, optimizer_state(optimizer, model), "here")
    for name in ("a", "b"):
        assert torch.equal(loaded.state[other[name].weight]["exp_avg"], optimizer.state[model[name].weight]["exp_avg"])
    assert float(loaded.state[other["b"].weight]["exp_avg"][0, 0]) == pytest.approx(10.0)
