"""Which weights to generate with: an exported model folder, one on the Hugging Face Hub, or a checkpoint of a run.

Checkpoints are only read, and no lock is taken: a run that is still training goes on beside it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from unisono.errors import UserError
from unisono.inference.model_folder import checked_generation, input_settings, load_model_folder, local_folder
from unisono.inference.model_folder.allowed import read_nodes
from unisono.inference.model_folder.config_file import CONFIG, WEIGHTS, read_config
from unisono.inference.model_folder.defaults import with_windows
from unisono.inference.model_folder.parts import sha256
from unisono.inference.model_folder.training_data import training_data
from unisono.models.unified import UnifiedAudioModel
from unisono.suggest import did_you_mean
from unisono.training.checkpoint import CheckpointFolder, damage, read_state, read_weights
from unisono.training.weights import check_fingerprints, frozen_fingerprints, load_strictly

logger = logging.getLogger(__name__)

WEIGHT_SETS = ("ema", "raw")
_AVERAGED = "ema.safetensors"
_NAME = re.compile(r"best|last|step_\d+")
_HASH_DIGITS = 16
_ATTEMPTS = 3


@dataclass(frozen=True)
class ChosenModel:
    """Where weights are.

    Attributes:
        place: a model folder or its id on the Hub; of a checkpoint, its folder.
        is_checkpoint: of a run, in a folder beside the run's ``config.yaml``.
        averaged: of a checkpoint: take the averaged weights.
    """

    place: str
    is_checkpoint: bool = False
    averaged: bool = False

    @property
    def label(self) -> str:
        """What people call it."""
        name = Path(self.place).name if os.path.exists(self.place) else self.place
        return f"{name} ({'averaged' if self.averaged else 'raw'} weights)" if self.is_checkpoint else name


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode on the CPU, its config as a model folder has it, and what tells it from others.

    Attributes:
        weights_hash: of the files of weights, 16 hex digits.
        model_hash: of what else decides on the sound: classes and sizes, vocabulary, frozen parts.
    """

    chosen: ChosenModel
    model: UnifiedAudioModel
    cfg: dict[str, Any]
    weights_hash: str
    model_hash: str


# -- choosing ---------------------------------------------------------------------------------------------------------


def choose_model(
    exp_dir: str | os.PathLike,
    model_dir: str | os.PathLike,
    checkpoint: str | None = None,
    weights: str = "ema",
) -> ChosenModel:
    """What ``checkpoint`` and ``weights`` of ``configs/inference.yaml`` mean.

    Args:
        exp_dir: folder of a run.
        model_dir: the model folder that None stands for.
        checkpoint: None; "best", "last" or "step_00001000" of the run; a path of a checkpoint or of a model folder; an
            id on the Hugging Face Hub.
        weights: "ema" for the averaged ones, where there are any, "raw" for those that the optimizer left; the choice
            is a checkpoint's alone.

    Raises:
        UserError: nothing there by that name (with what there is); a damaged checkpoint; raw weights of a model folder.
    """
    if weights not in WEIGHT_SETS:
        raise UserError(f"weights is {weights!r}; choose one of {', '.join(WEIGHT_SETS)}")
    checkpoints = Path(exp_dir) / "checkpoints"
    if checkpoint is None:
        folder = Path(model_dir)
        if not (folder / WEIGHTS).is_file():
            there = _there(checkpoints)
            remedy = f"train first: python train.py exp_dir={exp_dir}"
            if there:
                remedy = f"the run has not ended yet: give checkpoint=last for its newest weights (there are {there})"
            raise UserError(f"{folder} holds no model ({WEIGHTS}); {remedy}")
        return _model_folder(str(folder), weights, checkpoints)
    if _NAME.fullmatch(checkpoint):
        folder = checkpoints / checkpoint
        if not folder.is_dir():
            raise UserError(f"{exp_dir} has no checkpoint {checkpoint!r}; it has {_there(checkpoints) or 'none'}")
        return _checkpoint(folder, weights)
    path = Path(checkpoint).expanduser()
    if (path / "contents.json").is_file() or (path / "trainer.pt").is_file():
        return _checkpoint(path, weights)
    if (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
        return _model_folder(str(path), weights, checkpoints)
    if (path / "checkpoints").is_dir():
        raise UserError(f"checkpoint is {checkpoint!r}, the folder of a run; give exp_dir={checkpoint} checkpoint=last")
    if path.exists() or "/" not in checkpoint:
        what = "which is no checkpoint and no model folder" if path.exists() else "and there is none by that name"
        hint = did_you_mean(checkpoint, filter(None, _there(checkpoints).split(", ")), "it has")
        raise UserError(
            f"checkpoint is {checkpoint!r}, {what}; it may be null (the exported model), a path, an id on the Hugging "
            f"Face Hub (organisation/model), or a name in {exp_dir}: {hint}"
        )
    return _model_folder(checkpoint, weights, checkpoints)


def _model_folder(place: str, weights: str, checkpoints: Path) -> ChosenModel:
    if weights == "raw":
        there = _there(checkpoints)
        raise UserError(
            f"weights is 'raw', but {place} is an exported model, which has one set of weights; choose a checkpoint "
            f"({f'there are {there}' if there else 'checkpoint=last'}), or leave weights out"
        )
    return ChosenModel(place)


def _checkpoint(folder: Path, weights: str) -> ChosenModel:
    folder = folder.resolve()  # "last" leads elsewhere after the next save
    fault = damage(folder)
    if fault is not None:
        others = _there(folder.parent)
        raise UserError(f"{folder} is no whole checkpoint: {fault}; choose another ({others or 'there is none'})")
    averaged = weights == "ema" and (folder / _AVERAGED).is_file()
    if weights == "ema" and not averaged:
        logger.info("%s has no averaged weights (trainer.ema_decay is null): its own are taken", folder)
    return ChosenModel(str(folder), is_checkpoint=True, averaged=averaged)


def _there(checkpoints: Path) -> str:
    """Names of the checkpoints of a run; empty where there are none."""
    links = [name for name in ("best", "last") if (checkpoints / name).is_dir()]
    return ", ".join([*links, *(path.name for path in CheckpointFolder(checkpoints).steps())])


# -- loading ----------------------------------------------------------------------------------------------------------


def load_newest(
    exp_dir: str | os.PathLike,
    model_dir: str | os.PathLike,
    checkpoint: str | None = None,
    weights: str = "ema",
    allow: Sequence[str] = (),
) -> LoadedModel:
    """Choose and load; chooses again where a training replaced the checkpoint meanwhile."""
    for _ in range(_ATTEMPTS - 1):
        chosen = choose_model(exp_dir, model_dir, checkpoint, weights)
        try:
            return load_chosen(chosen, allow)
        except (UserError, FileNotFoundError):
            if not chosen.is_checkpoint or Path(chosen.place).is_dir():
                raise
            logger.info("%s went while it was read; looking again", chosen.place)
    return load_chosen(choose_model(exp_dir, model_dir, checkpoint, weights), allow)


def load_chosen(chosen: ChosenModel, allow: Sequence[str] = ()) -> LoadedModel:
    """Load what ``choose_model`` chose.

    Args:
        allow: classes of one's own that a config may build, see ``load_model_folder``.

    Raises:
        UserError: weights that do not fit or were trained beside other frozen parts; a class that is not allowed.
    """
    if chosen.is_checkpoint:
        return _load_checkpoint(chosen, allow)
    model, cfg = load_model_folder(chosen.place, allow)
    written = read_config(local_folder(chosen.place) / CONFIG)  # with the names that mean the same on any machine
    model_hash = _hash([written["model"], written["phonemes"], written["speakers"], written["frozen"]])
    return LoadedModel(chosen, model, cfg, written["files"][WEIGHTS][:_HASH_DIGITS], model_hash)


def _load_checkpoint(chosen: ChosenModel, allow: Sequence[str]) -> LoadedModel:
    from hydra.utils import instantiate

    folder = Path(chosen.place)
    config = folder.parent.parent / CONFIG
    cfg = _run_config(config, folder)
    try:
        read_nodes(cfg["model"], str(config), allow)
    except UserError as error:
        raise UserError(f"{error}; for inference.py: allow=[NAME]") from error
    model = instantiate(cfg["model"])  # as training does, so that frozen parts come from where they were
    if not isinstance(model, UnifiedAudioModel):
        raise UserError(f"{config}: model is a {type(model).__name__}; only a UnifiedAudioModel generates")
    files = [folder / WEIGHTS, *([folder / _AVERAGED] if chosen.averaged else [])]
    weights = {name: tensor for file in files for name, tensor in read_weights(file).items()}  # buffers: not averaged
    load_strictly(model, weights, str(folder))
    frozen = frozen_fingerprints(model)
    check_fingerprints(read_state(folder)["frozen"], frozen, str(folder))
    trained = training_data(cfg)  # as the export has it: an item is the same from both
    kept = {
        "license": cfg.get("license"),
        "phonemes": list(cfg.get("phonemes") or []),
        "speakers": list(cfg.get("speakers") or []),
        "model": cfg["model"],
        "inputs": input_settings(cfg, trained),
        "generation": checked_generation(with_windows(cfg.get("generation"), trained), model, str(config)),
        "training": {"data": trained, "metrics": {}},
    }
    model_hash = _hash([kept["model"], kept["phonemes"], kept["speakers"], frozen])
    return LoadedModel(chosen, model.eval(), kept, _hash([sha256(file) for file in files]), model_hash)


def _run_config(path: Path, checkpoint: Path) -> Mapping[str, Any]:
    """The configuration that a run was trained with, as plain containers."""
    if not path.is_file():
        raise UserError(
            f"{checkpoint}: {path} is not there, and says what the weights belong to; keep checkpoints in "
            "RUN/checkpoints, beside the run's config.yaml"
        )
    try:
        cfg = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}); bring it back") from error
    if not isinstance(cfg, DictConfig) or "model" not in cfg:
        raise UserError(f"{path} is not the configuration of a training (no `model`); bring it back")
    plain = OmegaConf.to_container(cfg)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:_HASH_DIGITS]
