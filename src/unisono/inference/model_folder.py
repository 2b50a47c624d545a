"""The portable form of a model: ``config.yaml``, ``model.safetensors`` and a model card ``README.md``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from unisono.errors import UserError
from unisono.files import replaced_folder
from unisono.models.unified import UnifiedAudioModel
from unisono.training.checkpoint import read_weights
from unisono.training.weights import load_strictly, trainable_state

FORMAT_VERSION = 1
# What a config that comes with a model may build: classes that live in these packages, and nothing else.
_ALLOWED_PACKAGES = ("unisono.models.", "unisono.objectives.")


def save_model_folder(
    folder: Path,
    model: UnifiedAudioModel,
    cfg: DictConfig | Mapping[str, Any],
    metrics: Mapping[str, float],
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a model folder, whole or not at all.

    Args:
        folder: where; replaced if it exists.
        model: that is written.
        cfg: configuration with the nodes ``model``, ``phonemes``, ``speakers``.
        metrics: last validation means, for the model card.
        weights: those of ``trainable_state``, where they were gathered already.
    """
    resolved = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else dict(cfg)
    assert isinstance(resolved, dict)
    kept = {
        "format_version": FORMAT_VERSION,
        "phonemes": resolved.get("phonemes", []),
        "speakers": resolved.get("speakers", []),
        "model": resolved["model"],
    }
    with replaced_folder(folder) as temporary:
        config = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
        (temporary / "config.yaml").write_text(config, encoding="utf-8")
        save_file(trainable_state(model) if weights is None else dict(weights), temporary / "model.safetensors")
        (temporary / "README.md").write_text(_model_card(model, kept, metrics), encoding="utf-8")
    return folder


def _model_card(model: UnifiedAudioModel, cfg: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    sizes = "\n".join(
        f"| {name} | {sum(p.numel() for p in part.parameters()):,} |" for name, part in model.named_children()
    )
    values = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items()) or "| none | |"
    ae = model.autoencoder
    return f"""---
library_name: unisono
tags: [audio-generation, {model.objective.tag}]
---

# A Unisono model

{ae.sample_rate} Hz, {ae.latent_rate_hz:g} latent frames per second, {ae.latent_dim} latent channels.
Content: {", ".join(model.content_encoders)}. Speakers: {", ".join(cfg["speakers"]) or "none"}.

```python
from unisono import Pipeline
pipeline = Pipeline.from_pretrained("this folder")
```

| component | parameters |
| --- | ---: |
{sizes}

| last validation | |
| --- | ---: |
{values}
"""


def load_model_folder(folder: str | os.PathLike) -> tuple[UnifiedAudioModel, dict[str, Any]]:
    """Model (in eval mode, on the CPU) and config of a folder; nothing in it can run code of its own."""
    folder = Path(folder)
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder} is no model folder (it lacks config.yaml); train first, or check the path")
    try:
        cfg = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({error}); export the model again") from error
    if not isinstance(cfg, dict) or cfg.get("format_version") != FORMAT_VERSION or "model" not in cfg:
        raise UserError(f"{path}: not a model config of format_version {FORMAT_VERSION}; export the model again")
    for name in ("phonemes", "speakers"):
        values = cfg.setdefault(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise UserError(f"{path}: `{name}` is not a list of texts; export the model again")
    try:
        model = _build(cfg["model"], str(path), "model")
    except RecursionError as error:  # a YAML alias can refer to the node that holds it
        raise UserError(f"{path}: `model` holds itself; export the model again") from error
    if not isinstance(model, UnifiedAudioModel):
        raise UserError(f"{path}: `model` builds a {type(model).__name__}, not a UnifiedAudioModel")
    load_strictly(model, read_weights(folder / "model.safetensors"), str(folder / "model.safetensors"))
    return model.eval(), cfg


def _build(node: Any, path: str, where: str) -> Any:
    """Instantiate nodes with a ``_target_`` from allowed packages; every other key is plain data."""
    if isinstance(node, list):
        return [_build(item, path, f"{where}[{i}]") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {key: _build(value, path, f"{where}.{key}") for key, value in node.items()}
    target = str(node["_target_"])
    unusual = sorted(str(key) for key in node if key != "_target_" and str(key).startswith("_"))
    if unusual or not target.startswith(_ALLOWED_PACKAGES):
        what = f"keys {unusual}" if unusual else f"_target_ {target!r}"
        raise UserError(f"{path}: {where} has {what}; a model folder may build only classes of {_ALLOWED_PACKAGES}")
    import importlib

    module_name, _, class_name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path}: {where} names {target!r}, which does not exist ({error})") from error
    # The resolved object decides, so an alias of something else inside these modules is refused too.
    if not isinstance(cls, type) or not cls.__module__.startswith(_ALLOWED_PACKAGES):
        raise UserError(f"{path}: {where} names {target!r}, which is not a class of {_ALLOWED_PACKAGES}")
    arguments = {key: _build(value, path, f"{where}.{key}") for key, value in node.items() if key != "_target_"}
    try:
        return cls(**arguments)
    except RecursionError:
        raise
    except Exception as error:  # whatever a constructor makes of settings it was not written for
        raise UserError(f"{path}: {where} ({target}): {type(error).__name__}: {error}") from error
