"""Write a model folder."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from unisono.errors import UserError
from unisono.files import replaced_folder
from unisono.inference.model_folder.allowed import read_nodes
from unisono.inference.model_folder.card import model_card
from unisono.inference.model_folder.config_file import CARD, CONFIG, FORMAT_VERSION, PARTS, WEIGHTS, write_config
from unisono.inference.model_folder.defaults import checked_generation, with_windows
from unisono.inference.model_folder.inputs import input_settings
from unisono.inference.model_folder.parts import carry_parts, fingerprints, hashed_files, own_tensors
from unisono.inference.model_folder.training_data import training_data
from unisono.models.unified import UnifiedAudioModel
from unisono.training.weights import is_sharded, whole

logger = logging.getLogger(__name__)


def save_model_folder(
    folder: Path,
    model: UnifiedAudioModel,
    cfg: DictConfig | Mapping[str, Any],
    metrics: Mapping[str, float],
    weights: Mapping[str, Tensor] | None = None,
    data: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Write a model folder, whole or not at all.

    Args:
        folder: where; a model folder that is there is replaced.
        model: that is written.
        cfg: configuration of the training, or of a model folder: the nodes ``model``, ``phonemes``, ``speakers``, and
            where they are there ``generation``, ``license``, ``train_dataloader``.
        metrics: last validation means, for the model card; empty keeps those of a model folder's ``cfg``.
        weights: trained ones, where they were gathered already (averaged, sharded).
        data: what it was trained on, as ``training_data`` has it; None reads it off ``cfg``.

    Raises:
        UserError: ``folder`` holds something else; settings of ``generation`` that the model cannot use; weights of a
            frozen part that are not where ``cfg`` says.
    """
    folder = Path(folder)
    _refuse_foreign(folder)
    resolved = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else dict(cfg)
    assert isinstance(resolved, dict)
    before = resolved.get("training") or {}
    before = before if isinstance(before, dict) else {}
    trained = [dict(entry) for entry in data] if data is not None else training_data(cfg) or before.get("data", [])
    generation = with_windows(resolved.get("generation"), trained)
    kept: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "license": resolved.get("license"),
        "phonemes": list(resolved.get("phonemes") or []),
        "speakers": list(resolved.get("speakers") or []),
        "model": resolved["model"],
        "inputs": input_settings(cfg, trained),
        "generation": checked_generation(generation, model, str(folder / CONFIG)),
        "training": {
            "data": [_without_languages(facts) for facts in trained],
            "metrics": _finite(metrics) or before.get("metrics", {}),
        },
        "frozen": fingerprints(model),
    }
    tensors = _all_own(model, weights)
    with replaced_folder(folder) as temporary:
        kept["model"] = carry_parts(resolved["model"], temporary, model)
        save_file(tensors, temporary / WEIGHTS)
        kept["files"] = hashed_files(temporary)
        write_config(temporary / CONFIG, kept)
        # As readable as the rest: safetensors makes files for their owner alone.
        os.chmod(temporary / WEIGHTS, (temporary / CONFIG).stat().st_mode & 0o777)
        (temporary / CARD).write_text(model_card(model, kept), encoding="utf-8")
    try:
        read_nodes(kept["model"], str(folder / CONFIG))
    except UserError as error:
        logger.warning("the model folder is written, but will not load as it is: %s", error)
    return folder


def _without_languages(facts: Mapping[str, Any]) -> dict[str, Any]:
    """They stand among the inputs."""
    return {name: value for name, value in facts.items() if name != "languages"}


def _refuse_foreign(folder: Path) -> None:
    """What is replaced must be a model folder and nothing more."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the model")
    names = {path.name for path in folder.iterdir()}
    if foreign := sorted(names - {CONFIG, WEIGHTS, CARD, PARTS}):
        raise UserError(
            f"{folder} holds more than a model ({', '.join(foreign[:5])}), and would be replaced; choose another "
            "folder, or move them away"
        )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _all_own(model: UnifiedAudioModel, weights: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Everything that a folder's weights hold, contiguous on the CPU: what somebody froze by hand as well."""
    found = dict(weights or {})
    for name, tensor in own_tensors(model).items():
        if name not in found:
            if weights is not None and is_sharded(tensor):  # the other processes are not here to gather it
                raise UserError(f"{name} is frozen and sharded, and was not gathered; train it, or do not shard")
            found[name] = whole(tensor)
    return found
