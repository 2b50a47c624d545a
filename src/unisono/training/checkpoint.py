"""Checkpoints on disk: written whole, renamed into place, and only then are old ones pruned."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import shutil
import zipfile
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unisono.errors import UserError
from unisono.files import sync_folder, sync_path

logger = logging.getLogger(__name__)
_STATE = "trainer.pt"
_CONTENTS = "contents.json"  # written last: sizes and checksums of the others, and what the run branched off from


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; a truncated or damaged one is an error with its name."""
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged weights ({error}); use another checkpoint") from error


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The trainer's state; nothing in it is unpickled but tensors and plain containers."""
    try:
        return torch.load(checkpoint / _STATE, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{checkpoint / _STATE}: not the plain values and tensors that a trainer saves ({reason}); use another one"
        ) from error


def _refuse_objects(value: Any, place: str) -> None:
    """Raise for what ``read_state`` would refuse, before it takes a good checkpoint's place."""
    if type(value) in (dict, OrderedDict, defaultdict):
        for key, inner in value.items():
            _refuse_objects(inner, f"{place}.{key}" if place else str(key))
    elif type(value) in (list, tuple, set):
        for inner in value:
            _refuse_objects(inner, place)
    elif value is not None and not isinstance(value, Tensor) and type(value) not in (str, int, float, bool, bytes):
        raise TypeError(
            f"{place} of the checkpoint is a {type(value).__name__} ({value!r:.60}); on_save_checkpoint may add plain "
            "values, tensors, and lists and dicts of them: nothing else could be read back without running code"
        )


def _checksum(path: Path) -> int:
    """CRC-32 of a file; a disk or a power cut can spoil content and leave the size. (torch writes some of its own.)"""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint folder, None if it is whole."""
    try:
        contents = json.loads((checkpoint / _CONTENTS).read_text(encoding="utf-8"))
        for name, size in contents["bytes"].items():
            if (found := (checkpoint / name).stat().st_size) != size:
                return f"{name} has {found} of {size} bytes"
            if name.endswith(".safetensors") and _checksum(checkpoint / name) != contents["crc32"][name]:
                return f"{name} is not what was written"
        with zipfile.ZipFile(checkpoint / _STATE) as state:
            if state.testzip() is not None:  # checksums that torch writes
                return f"{_STATE} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, zipfile.BadZipFile) as error:
        return f"{type(error).__name__}: {error}"
    return None


def came_from(checkpoint: Path) -> str | None:
    """The checkpoint that a whole one's run was told to go on from by its path, if it was."""
    return json.loads((checkpoint / _CONTENTS).read_text(encoding="utf-8"))["resumed_from"]


class CheckpointFolder:
    """``checkpoints/step_00001000`` and the links ``last`` and ``best``.

    Args:
        folder: the ``checkpoints`` folder of a run.
        save_last_k: how many to keep beside ``best`` and the permanent ones.
        keep_every_n_steps: checkpoints of these steps are permanent: never pruned.
    """

    def __init__(self, folder: Path, save_last_k: int = 2, keep_every_n_steps: int | None = None) -> None:
        if save_last_k < 1:
            raise ValueError(f"save_last_k is {save_last_k}; at least one checkpoint must be kept")
        self.folder, self.save_last_k, self.keep_every_n_steps = folder, save_last_k, keep_every_n_steps

    def steps(self) -> list[Path]:
        """Checkpoints, oldest first (a folder gets its final name only when it is whole)."""
        found = (path for path in self.folder.glob("step_*") if path.is_dir() and path.name[5:].isdigit())
        return sorted(found, key=step_of)

    def latest_whole(self) -> Path | None:
        """The newest that nothing happened to; None where there are no checkpoints, an error where all are damaged."""
        damaged: list[str] = []
        for path in reversed(self.steps()):
            fault = damage(path)
            if fault is None:
                for line in damaged:
                    logger.warning("checkpoint %s; going back to %s", line, path.name)
                return path
            damaged.append(f"{path} is damaged: {fault}")
        if damaged:
            raise UserError(
                "no checkpoint is whole, and resume=auto does not start anew over them; bring one back, or remove "
                f"{self.folder}:\n  " + "\n  ".join(damaged)
            )
        return None

    def best(self) -> Path | None:
        link = self.folder / "best"
        return link.resolve() if link.exists() else None

    def save(
        self, step: int, weights: Mapping[str, dict[str, Tensor]], state: dict[str, Any], is_best: bool = False
    ) -> Path:
        """Write ``{name}.safetensors`` for each set of weights and the trainer's state.

        Raises:
            UserError: it could not be written, for example because the disk is full; older checkpoints are intact.
        """
        _refuse_objects(state, "")
        final = self.folder / f"step_{step:08d}"
        temporary = self.folder / f".tmp_{final.name}"
        try:
            for left in self.folder.glob(".tmp_step_*"):  # by a save or a pruning that was killed
                shutil.rmtree(left, ignore_errors=True)
            temporary.mkdir(parents=True)
            self._write(temporary, step, weights, state)
        except (OSError, RuntimeError, SafetensorError) as error:
            free_bytes = shutil.disk_usage(self.folder if self.folder.is_dir() else Path()).free
            shutil.rmtree(temporary, ignore_errors=True)
            raise self._not_written(final, error, free_bytes) from error
        self._remove(final)
        os.replace(temporary, final)
        self._link("last", final)
        if is_best:
            self._link("best", final)
        sync_path(self.folder)
        self.prune()
        return final

    @staticmethod
    def _write(folder: Path, step: int, weights: Mapping[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        for name, tensors in weights.items():
            save_file(tensors, folder / f"{name}.safetensors")
        torch.save(state, folder / _STATE)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        checksums = {path.name: _checksum(path) for path in sorted(folder.glob("*.safetensors"))}
        resumed_from = state.get("resumed_from")
        contents = {"step": step, "resumed_from": resumed_from, "bytes": sizes, "crc32": checksums}
        (folder / _CONTENTS).write_text(json.dumps(contents, indent=1), encoding="utf-8")
        sync_folder(folder)

    def _not_written(self, final: Path, error: Exception, free_bytes: int) -> UserError:
        # torch has a message of its own for a disk that takes no more, which does not say so.
        is_full = free_bytes < 1_000_000 or "o space left" in str(error)
        is_full = is_full or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        kept = self.steps()
        whole = f"{kept[-1]} and those before are intact" if kept else "there is no earlier checkpoint"
        reason = "the disk is full" if is_full else f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return UserError(
            f"{final} could not be written: {reason} ({free_bytes / 1e9:.2f} GB free); {whole}. Make room "
            "(trainer.save_last_k limits how many are kept), then give the same command again"
        )

    def set_aside_after(self, step: int) -> None:
        """Move checkpoints of later steps away: a run that goes on from ``step`` writes its own."""
        for path in self.steps():
            if step_of(path) > step:
                number = 1
                while (aside := self.folder / f"abandoned_{number}_{path.name}").exists():
                    number += 1
                os.replace(path, aside)
                logger.warning("%s is set aside as %s, which is never deleted", path, aside.name)
        newest, best = self.steps()[-1:], self.folder / "best"
        if newest:  # the links must not point to what was moved
            self._link("last", newest[0])
        if best.is_symlink() and not best.exists():
            best.unlink()

    def mark_best(self, checkpoint: Path) -> None:
        """Let ``best`` point to a checkpoint of this folder, where a kill came between its rename and the link."""
        if checkpoint.parent == self.folder.resolve():
            self._link("best", checkpoint)

    def _link(self, name: str, target: Path) -> None:
        temporary, link = self.folder / f".tmp_{name}", self.folder / name
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        if link.is_dir() and not link.is_symlink():  # a run that was copied by a tool that knows no links
            self._remove(link)
        os.replace(temporary, link)

    def prune(self) -> None:
        """Delete what is neither among the last, nor the best, nor permanent."""
        best, every = self.best(), self.keep_every_n_steps
        passing = [path for path in self.steps() if not every or step_of(path) % every]
        for path in passing[: -self.save_last_k]:
            if best is None or path.resolve() != best:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        """Delete under another name: a folder that is half deleted when the run is killed is no checkpoint."""
        if path.exists():
            doomed = self.folder / f".tmp_{path.name}_removed"
            os.replace(path, doomed)
            shutil.rmtree(doomed)


def step_of(path: Path) -> int:
    """Step of a checkpoint folder ``step_00001000``."""
    return int(path.name.removeprefix("step_"))
