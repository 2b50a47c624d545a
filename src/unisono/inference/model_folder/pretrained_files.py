"""Folders of ``transformers`` within a model folder: what is copied into one, and what is checked before one is loaded.

``transformers`` follows names that stand in such a folder's JSON files: of code, of other files, of shards of weights.
None of them is left in a copy, and none is accepted in a folder that is loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unisono.errors import UserError

# Data only. A tokenizer is in tokenizer.json; pickled weights, code and archives have no business here.
_SUFFIXES = {".json", ".txt", ".safetensors"}
_REFUSED_FILES = {"adapter_config.json"}  # names a base model to fetch
_INDEX = "model.safetensors.index.json"
# Keys of these files that name code or files elsewhere, or change how weights are read.
_REFUSED_KEYS = re.compile(r"auto_map|custom_pipelines|quantization_config|transformers_weights|\w+_file")
_WITH_KEYS = ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json")
_MAX_JSON_BYTES = 64 * 2**20  # a tokenizer of 250 000 pieces has 17 MB
_MAX_CONFIG_BYTES = 2**20
# Parts that are made one by one, and what may count them; everything else is a size, which costs nothing by itself.
_COUNTS = re.compile(r"layer|block|head|expert|depth|codebooks|num_res|ratios|bandwidths")
_MAX_COUNT, _MAX_NUMBER = 1024, 10_000_000


def files_to_copy(source: Path) -> Iterator[Path]:
    """Settings, vocabulary and weights of a folder of ``transformers``."""
    index = source / _INDEX
    shards = set(_weight_map(index).values()) if index.is_file() else {"model.safetensors"}
    for path in sorted(source.iterdir()):
        is_data = path.suffix in _SUFFIXES and path.name not in _REFUSED_FILES
        if path.is_file() and is_data and (path.suffix != ".safetensors" or path.name in shards):
            yield path


def without_names(name: str, text: str) -> str:
    """A JSON file's text without what ``transformers`` would follow; other files as they are."""
    if name not in _WITH_KEYS:
        return text

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cleaned(inner) for key, inner in value.items() if not _names_something(key, inner)}
        return [cleaned(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(cleaned(json.loads(text)), ensure_ascii=False, indent=2) + "\n"


def _names_something(key: str, value: Any) -> bool:
    return _REFUSED_KEYS.fullmatch(key) is not None and value is not None


def check_folder(folder: Path) -> None:
    """Raise ``UserError`` for what a folder of ``transformers`` must not have, and for sizes beyond its weights."""
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.suffix not in _SUFFIXES or path.name in _REFUSED_FILES:
            kinds = ", ".join(sorted(_SUFFIXES))
            raise UserError(f"{path}: does not belong in a model folder, which holds {kinds} files; remove it")
        if path.suffix != ".safetensors" and path.stat().st_size > _MAX_JSON_BYTES:
            raise UserError(f"{path}: has more than {_MAX_JSON_BYTES // 2**20} MiB; export the model again")
    for name in _WITH_KEYS:
        if (path := folder / name).is_file():
            if path.stat().st_size > _MAX_CONFIG_BYTES:
                raise UserError(f"{path}: has more than {_MAX_CONFIG_BYTES // 2**20} MiB; export the model again")
            _check_values(_read_json(path), path, "")
    if (index := folder / _INDEX).is_file():
        present = {path.name for path in folder.glob("*.safetensors")}
        if strange := sorted({str(name) for name in _weight_map(index).values()} - present):
            raise UserError(f"{index}: names {strange[0]!r:.100}, which is no file beside it; export the model again")


def _check_values(value: Any, path: Path, key: str) -> None:
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            if _names_something(inner_key, inner):
                raise UserError(
                    f"{path}: has `{inner_key}`, which names code or another file; a model folder may not: remove it"
                )
            _check_values(inner, path, inner_key)
    elif isinstance(value, list):
        if path.name == "config.json" and len(value) > _MAX_COUNT:
            raise UserError(f"{path}: `{key}` has {len(value)} values; at most {_MAX_COUNT} are allowed")
        for inner in value:
            _check_values(inner, path, key)
    elif path.name == "config.json" and isinstance(value, (int, float)):
        most = _MAX_COUNT if isinstance(value, int) and _COUNTS.search(key) else _MAX_NUMBER
        most = _MAX_COUNT if "bandwidths" in key else most
        if not abs(value) <= most:
            raise UserError(f"{path}: `{key}` is {value}; a model folder may have at most {most} there")


def check_sizes(folder: Path, class_of: Callable[[Any], Any]) -> None:
    """Compare what the settings would make with the weights that are there, before any memory is taken.

    Args:
        class_of: from the configuration of ``transformers`` to the class whose weights are wanted.
    """
    import torch
    from transformers import AutoConfig

    from unisono.features.pretrained import load_pretrained

    config = load_pretrained(AutoConfig.from_pretrained, str(folder), "a pretrained part")
    try:
        with torch.device("meta"):
            model = class_of(config)
    except Exception as error:  # whatever a constructor makes of settings that it was not written for
        raise UserError(f"{folder / 'config.json'}: {type(error).__name__}: {error}") from error
    wanted = sum(tensor.numel() for tensor in model.state_dict().values())
    found = sum(count_numbers(path) for path in folder.glob("*.safetensors"))
    if wanted > 1.1 * found + 2**20:  # buffers, and what is tied, are not in the file
        raise UserError(
            f"{folder / 'config.json'}: describes {wanted:,} numbers, the weights beside it have {found:,}; export the "
            "model again"
        )


def count_numbers(path: Path) -> int:
    """How many numbers a safetensors file has, by its header alone."""
    from math import prod

    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path}: damaged weights ({error}); download or export the model again") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); download or export the model again") from error


def _weight_map(index: Path) -> dict[str, str]:
    read = _read_json(index)
    weight_map = read.get("weight_map") if isinstance(read, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UserError(f"{index}: has no weight_map; download or export the model again")
    return weight_map
