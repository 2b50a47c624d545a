"""Frozen parts of a model: weights that its config names by a path, carried along in ``parts/``.

In a model folder's config such a path begins with ``./`` and stays within the folder; ``org/name@revision`` is on the
Hugging Face Hub; nothing else names weights.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from unisono.errors import UserError
from unisono.files import exists, sync_folder
from unisono.inference.model_folder.allowed import Node, file_setting_of
from unisono.inference.model_folder.config_file import PARTS
from unisono.inference.model_folder.pretrained_files import check_folder, files_to_copy, without_names

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?(?:@[\w][\w./-]*)?")
_HERE = "./"
_FOLDER_SETTINGS = ("pretrained",)  # a folder or a Hub id; the other settings name one file


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- writing ----------------------------------------------------------------------------------------------------------


def carry_parts(model_node: Mapping[str, Any], folder: Path, model: nn.Module) -> dict[str, Any]:
    """Copy what a config names on this machine into a model folder; returns the config with portable names.

    Args:
        model_node: ``model`` of a configuration, resolved.
        folder: the model folder in the making.
        model: knows which revisions were loaded from the Hub.
    """
    portable = copy.deepcopy(dict(model_node))
    carried: dict[Path, str] = {}
    for place, node, name in _file_settings(portable, "model"):
        value = node[name]
        source = Path(value)
        if not exists(source):
            if name not in _FOLDER_SETTINGS or not _HUB_ID.fullmatch(value):
                raise UserError(f"{place}.{name} is {value!r}, which is not there any more, and goes into the folder")
            node[name] = _pinned(value, place, model)
            continue
        source = source.resolve()
        if source not in carried:
            part = PurePosixPath(PARTS) / place.removeprefix("model.")
            carried[source] = _carry_folder(source, folder, part) if source.is_dir() else ""
            if not carried[source] or name not in _FOLDER_SETTINGS:
                carried[source] = _carry_file(source, folder, part)
        node[name] = carried[source]
    return portable


def _file_settings(node: Any, place: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Place, node and setting of everything in a config that names weights."""
    if isinstance(node, dict):
        name = file_setting_of(node.get("_target_"))
        if name is not None and isinstance(node.get(name), str):
            yield place, node, name
        for key, inner in node.items():
            yield from _file_settings(inner, f"{place}.{key}")


def _carry_folder(source: Path, folder: Path, part: PurePosixPath) -> str:
    target = folder / part
    target.mkdir(parents=True)
    for path in files_to_copy(source):
        if path.suffix == ".safetensors":
            shutil.copyfile(path, target / path.name)
        else:
            text = without_names(path.name, path.read_text(encoding="utf-8"))
            (target / path.name).write_text(text, encoding="utf-8")
    if any(source.glob("*.model")) and not (source / "tokenizer.json").is_file():
        _write_tokenizer(source, target)
    sync_folder(target)
    sync_folder(target.parent)
    return f"{_HERE}{part}"


def _write_tokenizer(source: Path, target: Path) -> None:
    """``tokenizer.json`` of a tokenizer that has a vocabulary of SentencePiece alone, which is no text."""
    import tempfile

    from transformers import AutoTokenizer

    from unisono.features.pretrained import load_pretrained

    with tempfile.TemporaryDirectory() as written:
        load_pretrained(AutoTokenizer.from_pretrained, str(source), "a tokenizer").save_pretrained(written)
        path = Path(written) / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{source}: its tokenizer cannot be written as tokenizer.json; put one beside its weights")
        shutil.copyfile(path, target / path.name)


def _carry_file(source: Path, folder: Path, part: PurePosixPath) -> str:
    """One safetensors file, alone or in a folder; the settings beside it are in the config already."""
    if source.is_dir():
        files = sorted(source.glob("*.safetensors"))
        if len(files) != 1:
            raise UserError(f"{source}: has {len(files)} safetensors files; a frozen part is one, name it")
        source = files[0]
    part /= "model.safetensors"
    (folder / part).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / part)
    sync_folder((folder / part).parent)
    sync_folder((folder / part).parent.parent)
    return f"{_HERE}{part}"


def _pinned(hub_id: str, place: str, model: nn.Module) -> str:
    """``id@commit``, the commit being the one that was loaded, where ``transformers`` knows it."""
    part: Any = model
    for name in place.split(".")[1:]:
        part = part[name] if isinstance(part, nn.ModuleDict) else getattr(part, name, None)
    loaded = getattr(part, "encoder", None) if hasattr(part, "encoder") else getattr(part, "codec", None)
    commit = getattr(getattr(loaded, "config", None), "_commit_hash", None)
    return f"{hub_id.partition('@')[0]}@{commit}" if commit else hub_id


def hashed_files(folder: Path) -> dict[str, str]:
    """SHA-256 of all weights, and of all files of frozen parts, by their name within a model folder."""
    paths = [*folder.glob("*.safetensors"), *(path for path in (folder / PARTS).rglob("*") if path.is_file())]
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(paths)}


# -- reading ----------------------------------------------------------------------------------------------------------


def inside(folder: Path, name: str, boundary: Path, where: str) -> Path:
    """A file or folder by its name within a model folder; anything that leads out of it is refused.

    Args:
        boundary: what links may lead to: the folder itself, or for a download the cache of its repository.
        where: for the message: what names it.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\x00" in name or ":" in name:
        raise UserError(f"{where} is {name!r:.200}, which leads out of the model folder; that is refused")
    path = folder / pure
    if not exists(path):
        raise UserError(f"{where} is {name!r:.200}, which is not there; download or export the model again")
    if not path.resolve().is_relative_to(boundary):
        raise UserError(f"{where} is {name!r:.200}, a link that leads out of the model folder; that is refused")
    return path


def resolve_parts(
    root: Node, model_node: dict[str, Any], folder: Path, boundary: Path, files: Mapping[str, str]
) -> None:
    """Replace portable names of weights, in the nodes and in the config they came from, by paths on this machine.

    Raises:
        UserError: a name that leads out of the folder, a file that is not the one that was saved, or not listed.
    """
    config = folder / "config.yaml"
    for node in root.walk():
        name = node.file_setting
        value = None if name is None else node.arguments.get(name)
        if name is None or value is None:
            continue
        where = f"{config}: {node.place}.{name}"
        if not isinstance(value, str):
            raise UserError(f"{where} is {value!r:.100}, not a name of weights; export the model again")
        if not value.startswith(_HERE):
            if name not in _FOLDER_SETTINGS or not _HUB_ID.fullmatch(value) or exists(Path(value)):
                kinds = "`./parts/…`" + (" or an id on the Hugging Face Hub" if name in _FOLDER_SETTINGS else "")
                raise UserError(
                    f"{where} is {value!r:.200}; a model folder names weights as {kinds}, and nothing outside it"
                )
            continue
        path = inside(folder, value, boundary, where)
        if name in _FOLDER_SETTINGS:
            if not path.is_dir():
                raise UserError(f"{where} is {value!r}, which is no folder; export the model again")
            check_folder(path)
        elif not path.is_file() or path.suffix != ".safetensors":
            raise UserError(f"{where} is {value!r}, which is no safetensors file; export the model again")
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            check_file(folder, file.relative_to(folder).as_posix(), boundary, files)
        node.arguments[name] = str(path)
        _place(model_node, node.place)[name] = str(path)


def _place(model_node: dict[str, Any], place: str) -> dict[str, Any]:
    node = model_node
    rest = place.removeprefix("model").removeprefix(".")
    while rest:  # names of modalities may have dots
        key = max((key for key in node if rest == key or rest.startswith(f"{key}.")), key=len)
        node, rest = node[key], rest[len(key) :].removeprefix(".")
    return node


def check_file(folder: Path, name: str, boundary: Path, files: Mapping[str, str]) -> None:
    """Raise ``UserError`` if a file is not, to the bit, what was saved under its name."""
    config = folder / "config.yaml"
    path = inside(folder, name, boundary, f"{config}: a file of the model")
    if name not in files:
        raise UserError(f"{path}: is not among `files` of {config}; remove it, or export the model again")
    if sha256(path) != files[name]:
        raise UserError(
            f"{path}: damaged weights or settings (not what was saved: its SHA-256 is another than in {config}); "
            "download or export the model again"
        )


# -- what frozen parts compute with ---------------------------------------------------------------------------------


def frozen_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Parts that bring their own weights, by name: they are not in ``model.safetensors``."""
    from unisono.models.content_encoder import PretrainedTextEncoder

    encoders = {
        f"{name}.encoder": module.encoder
        for name, module in model.named_modules()
        if isinstance(module, PretrainedTextEncoder)
    }
    return {"autoencoder": model.autoencoder, **encoders}


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What is in ``model.safetensors``: all tensors of a model but those of its frozen parts."""
    prefixes = tuple(f"{name}." for name in frozen_parts(model))
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(prefixes)}


def fingerprints(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Of each frozen part: a hash of its settings, and sums over its weights.

    Sums and not a hash of the weights: some are computed when they are loaded (weight normalisation), and their last
    bits differ between processors. Files that a folder carries are compared to the bit besides.
    """
    found = {}
    for name, part in frozen_parts(model).items():
        facts: dict[str, Any] = {"numbers": 0, "sum": 0.0, "sum_of_squares": 0.0}
        if callable(settings := getattr(part, "settings", None)):
            kept = json.dumps([type(part).__name__, settings()], sort_keys=True)
            facts["settings"] = hashlib.sha256(kept.encode()).hexdigest()[:16]
        for tensor in part.state_dict().values():
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                wide = tensor.detach().to(torch.float64)
                facts["numbers"] += wide.numel()
                facts["sum"] += float(wide.abs().sum())
                facts["sum_of_squares"] += float(wide.square().sum())
        found[name] = facts
    return found


def check_fingerprints(saved: Mapping[str, Any], model: nn.Module, where: str) -> None:
    """Raise ``UserError`` if a frozen part is not the one that the model was trained with."""
    for name, now in fingerprints(model).items():
        before = saved.get(name)
        if not isinstance(before, Mapping) or not all(_same(before.get(key), value) for key, value in now.items()):
            raise UserError(
                f"{where}: frozen.{name} says that the model was trained with another {name} than the one that is here "
                f"({dict(before) if isinstance(before, Mapping) else before} there, {now} now); it would sound wrong. "
                "Bring that part back (its revision on the Hub, or its files), or use the version of unisono that "
                "wrote the folder"
            )


def _same(before: Any, now: Any) -> bool:
    if isinstance(now, float) and isinstance(before, (int, float)):
        return math.isclose(before, now, rel_tol=1e-5)
    return bool(before == now)
