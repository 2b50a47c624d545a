"""Checkpoints on disk: written whole, renamed into place, and only then are old ones pruned."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unisono.errors import UserError

_STATE = "trainer.pt"


def sync_path(path: Path) -> None:
    """Flush a file, or a folder's own entries (renames, links), to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Flush a folder's files and the folder itself to disk."""
    for path in [*folder.iterdir(), folder]:
        sync_path(path)


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Weights that are trained, and buffers that belong to them; frozen pretrained parts stay out."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items() if name not in frozen
    }


def load_strictly(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Load weights; anything missing, unknown or of another shape is listed in one error."""
    expected = trainable_state(model)
    faults = [f"missing: {name}" for name in expected.keys() - weights.keys()]
    faults += [f"unknown: {name}" for name in weights.keys() - expected.keys()]
    faults += [
        f"shape of {name}: {tuple(weights[name].shape)} in the file, {tuple(expected[name].shape)} in the model"
        for name in expected.keys() & weights.keys()
        if weights[name].shape != expected[name].shape
    ]
    if faults:
        shown = "\n  ".join(sorted(faults)[:20])
        more = f"\n  … and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise UserError(f"{where}: the weights do not fit the configured model:\n  {shown}{more}")
    model.load_state_dict(weights, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; a truncated or damaged one is an error with its name."""
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged weights ({error}); use another checkpoint") from error


class CheckpointFolder:
    """``checkpoints/step_00001000`` and the links ``last`` and ``best``.

    Args:
        folder: the ``checkpoints`` folder of a run.
        save_last_k: how many to keep beside ``best``.
    """

    def __init__(self, folder: Path, save_last_k: int = 2) -> None:
        if save_last_k < 1:
            raise ValueError(f"save_last_k is {save_last_k}; at least one checkpoint must be kept")
        self.folder, self.save_last_k = folder, save_last_k

    def steps(self) -> list[Path]:
        """Whole checkpoints, oldest first (a folder gets its final name only when it is whole)."""
        return sorted(path for path in self.folder.glob("step_*") if path.is_dir())

    def latest(self) -> Path | None:
        steps = self.steps()
        return steps[-1] if steps else None

    def best(self) -> Path | None:
        link = self.folder / "best"
        return link.resolve() if link.exists() else None

    def save(self, step: int, weights: dict[str, dict[str, Tensor]], state: dict[str, Any], is_best: bool) -> Path:
        """Write ``{name}.safetensors`` for each set of weights and the trainer's state."""
        final = self.folder / f"step_{step:08d}"
        temporary = self.folder / f".tmp_{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, tensors in weights.items():
            save_file(tensors, temporary / f"{name}.safetensors")
        torch.save(state, temporary / _STATE)
        sync_folder(temporary)
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
        self._link("last", final)
        if is_best:
            self._link("best", final)
        sync_path(self.folder)
        self._prune()
        return final

    def set_aside_after(self, step: int) -> None:
        """Move checkpoints of later steps away: a run that goes on from ``step`` writes its own."""
        for path in self.steps():
            if int(path.name.removeprefix("step_")) > step:
                number = 1
                while (aside := self.folder / f"abandoned_{number}_{path.name}").exists():
                    number += 1
                os.replace(path, aside)
        newest = self.latest()
        if newest is not None:  # the link must not point to what was moved
            self._link("last", newest)

    def _link(self, name: str, target: Path) -> None:
        temporary = self.folder / f".tmp_{name}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        os.replace(temporary, self.folder / name)

    def _prune(self) -> None:
        best = self.best()
        for path in self.steps()[: -self.save_last_k]:
            if best is None or path.resolve() != best:
                shutil.rmtree(path)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The trainer's state; nothing in it is unpickled but tensors and plain containers."""
    return torch.load(checkpoint / _STATE, map_location="cpu", weights_only=True)
