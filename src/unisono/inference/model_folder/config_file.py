"""``config.yaml`` of a model folder: plain data, read within bounds that are checked before anything is built of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from unisono.errors import UserError
from unisono.inference.model_folder.inputs import checked_inputs

FORMAT_VERSION = 2
CONFIG, WEIGHTS, CARD, PARTS = "config.yaml", "model.safetensors", "README.md", "parts"

# A config with ten thousand voices has about a tenth of these.
MAX_BYTES, MAX_VALUES = 4 * 2**20, 500_000
MAX_DEPTH, MAX_TEXT = 24, 4096
_EXACT = 2**53  # beyond, not every integer is a float
_HASH = re.compile(r"[0-9a-f]{64}")
# With libyaml where there is one: ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(yaml.SafeDumper):
    """Writes a list that is there twice twice: a reader need not know aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_config(path: Path, cfg: Mapping[str, Any]) -> None:
    text = yaml.dump(dict(cfg), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    path.write_text(text, encoding="utf-8")


def read_config(path: Path) -> dict[str, Any]:
    """A model folder's configuration, its nodes checked for their kind but for what is in ``model``.

    Raises:
        UserError: not YAML; larger or deeper than any model's; aliases, repeated keys or values that are no plain data;
            another version of the format.
    """
    _refuse_run(path.parent)
    if not path.is_file():
        raise UserError(f"{path.parent} is no model folder (it lacks {path.name}); train first, or check the path")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: has more than {MAX_BYTES // 2**20} MiB, which no model's config has; export it again")
    try:
        text = data.decode("utf-8")
        _scan(text, str(path))
        cfg = yaml.load(text, Loader=_Loader)  # a safe loader: plain values only
    # ValueError: numbers and dates that are none, UnicodeDecodeError among them.
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not YAML ({error}); export the model again") from error
    if not isinstance(cfg, dict) or cfg.get("format_version") != FORMAT_VERSION or "model" not in cfg:
        raise UserError(f"{path}: not a model config of format_version {FORMAT_VERSION}; export the model again")
    _check_plain(cfg, str(path), "")
    _check_nodes(cfg, str(path))
    return cfg


def _refuse_run(folder: Path) -> None:
    """What is near to a model folder, and often given for it."""
    if (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file():
        return
    if (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} is the folder of a run; its model is {folder / 'model'}, once training has ended")
    if (folder / "contents.json").is_file():
        raise UserError(
            f"{folder} is a checkpoint, for inference.py (checkpoint={folder}); a model folder is what training exports"
        )


def _scan(text: str, where: str) -> None:
    """Raise for what would be costly, or said twice, before any value is made."""
    open_nodes: list[tuple[set[str], list[bool]] | None] = []  # of a mapping: its keys, whether a key comes next
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        place = f"{where}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise UserError(f"{place}: anchors and aliases (&name, *name) are refused; write the value out")
        if count > MAX_VALUES:
            raise UserError(f"{place}: more than {MAX_VALUES} values, which no model's config has; export it again")
        if isinstance(event, yaml.CollectionEndEvent):
            open_nodes.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        is_scalar = isinstance(event, yaml.ScalarEvent)
        if is_scalar and len(event.value) > MAX_TEXT:
            raise UserError(f"{place}: a value of {len(event.value)} characters; at most {MAX_TEXT} are read")
        if open_nodes and open_nodes[-1] is not None:
            keys, key_is_next = open_nodes[-1]
            if key_is_next[0] and is_scalar:
                if event.value in keys:
                    raise UserError(f"{place}: `{event.value}` is there twice; keep one of them")
                keys.add(event.value)
            key_is_next[0] = not key_is_next[0]
        if not is_scalar:
            open_nodes.append((set(), [True]) if isinstance(event, yaml.MappingStartEvent) else None)
            if len(open_nodes) > MAX_DEPTH:
                raise UserError(
                    f"{place}: nested more than {MAX_DEPTH} deep, which no model's config is; export it again"
                )


def _check_plain(value: Any, where: str, place: str) -> None:
    """Texts, finite numbers, true, false, null, and lists and mappings of them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise UserError(f"{where}: {place or 'the config'} has the key {key!r:.60}, which is no text")
            _check_plain(inner, where, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_plain(inner, where, f"{place}[{index}]")
    elif value is None or isinstance(value, (bool, str)):
        return
    elif not isinstance(value, (int, float)):
        raise UserError(
            f"{where}: {place} is a {type(value).__name__} ({value!r:.60}); only texts and numbers are read"
        )
    elif not (abs(value) <= _EXACT if isinstance(value, int) else math.isfinite(value)):
        raise UserError(f"{where}: {place} is {str(value)[:60]}, a number that no setting can have")


def _check_nodes(cfg: dict[str, Any], where: str) -> None:
    kinds = {"phonemes": list, "speakers": list} | dict.fromkeys(
        ("inputs", "generation", "frozen", "files", "training"), dict
    )
    for name, kind in kinds.items():
        if not isinstance(cfg.setdefault(name, kind()), kind):
            what = "list of texts" if kind is list else "mapping"
            raise UserError(f"{where}: `{name}` is not a {what}; export the model again")
    for name in ("phonemes", "speakers"):
        if not all(isinstance(value, str) for value in cfg[name]):
            raise UserError(f"{where}: `{name}` is not a list of texts; export the model again")
    if not isinstance(cfg.setdefault("license", None), str | None):
        raise UserError(f"{where}: `license` is not a text; export the model again")
    checked_inputs(cfg["inputs"], f"{where}: inputs")
    if not _is_record(cfg["training"]):
        raise UserError(f"{where}: `training` is not a record of data sets and metrics; export the model again")
    for name, digest in cfg["files"].items():
        if not isinstance(digest, str) or not _HASH.fullmatch(digest):
            raise UserError(f"{where}: files.{name} is {digest!r:.80}, not a SHA-256; export the model again")


def _is_record(training: dict[str, Any]) -> bool:
    data, metrics = training.get("data", []), training.get("metrics", {})
    if not isinstance(data, list) or not isinstance(metrics, dict) or not training.keys() <= {"data", "metrics"}:
        return False
    return all(
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("task"), str | None)
        and isinstance(entry.get("licenses", {}), dict)
        and all(isinstance(count, int) for count in entry.get("licenses", {}).values())
        for entry in data
    ) and all(isinstance(value, int | float) for value in metrics.values())
