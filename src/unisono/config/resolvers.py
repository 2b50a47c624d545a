"""Resolvers: what ``${name:arguments}`` means in the YAML files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer

from unisono.errors import UserError


def register_omegaconf_resolvers() -> None:
    """Register the project's resolvers; harmless when called twice, and resolvers of the user's own stay."""
    resolvers: dict[str, Callable[..., Any]] = {
        "add": lambda *values: sum(values),
        "sub": lambda a, b: a - b,
        "mul": _product,
        "div": lambda a, b: a / b,
        "floordiv": lambda a, b: a // b,
        "least": lambda *values: min(values),
        "len": _length,
        "concat": _concat,
        "split": _split,
        "latent_rate_hz": lambda sample_rate, hop_samples: sample_rate / hop_samples,
        "project_path": _project_path,
        "config_path": _config_path,
        "phoneme_inventory": _phoneme_inventory,
        "mini_speakers": _mini_speakers,
        "speakers_of": _speakers_of,
    }
    for name, function in resolvers.items():
        if not OmegaConf.has_resolver(name):
            OmegaConf.register_new_resolver(name, function)


def _product(*values: Any) -> Any:
    result = 1
    for value in values:
        result = result * value
    return result


def _length(value: Sized) -> int:
    return len(value)


def _concat(*lists: Sequence[Any]) -> ListConfig:
    """The items of all lists, each once, in the order in which they first come."""
    for value in lists:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise UserError(f"concat takes lists, such as ${{concat:${{mini_speakers:}},[me]}}, not {value!r}")
    return OmegaConf.create(list(dict.fromkeys(item for value in lists for item in value)))


def _split(_parent_: BaseContainer) -> str:
    """The key of the node that the interpolation stands in: ``train`` in ``data_dict.NAME.train``."""
    key = _parent_._key()
    if not isinstance(key, str):
        raise UserError("${split:} stands for the key above it, and there is none in a list; write the split's name")
    return key


def _project_path(relative: str = "") -> str:
    """Absolute path of a file of the checkout (of the working directory, where installed from a wheel)."""
    from unisono.config.tree import project_dir

    return str(project_dir() / Path(relative))


def _config_path(relative: str = "") -> str:
    """Absolute path of a file of the project's config tree."""
    from unisono.config.tree import config_dir

    return str(config_dir() / Path(relative))


def _phoneme_inventory(*more: str) -> ListConfig:
    """The phonemes that the model knows by default, and more."""
    from unisono.text.phonemes import PHONEMES

    return _concat(PHONEMES, [str(symbol) for symbol in more])


def _mini_speakers(*more: str) -> ListConfig:
    """The speakers of the mini corpus, and more."""
    from unisono.data.mini.corpus import SPEAKERS

    return _concat(SPEAKERS, [str(name) for name in more])


def _speakers_of(path: str) -> ListConfig:
    """Names of the speakers of a corpus that a recipe made (its folder), or of a ``content.jsonl``."""
    import json

    from unisono.data.manifest import read_jsonl

    if Path(path).is_file():
        found = {str(record["speaker"]) for _, record in read_jsonl(path) if record.get("speaker")}
        return _as_list(sorted(found))
    try:
        corpus = json.loads(Path(path, "corpus.json").read_text(encoding="utf-8"))
        return _as_list(sorted(map(str, corpus["speakers"])))
    except FileNotFoundError:
        raise UserError(f"{path} is no content.jsonl and has no corpus.json; prepare it or correct the path") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}/corpus.json names no speakers ({error!r}); name a content.jsonl instead") from error


def _as_list(values: Iterable[str]) -> ListConfig:
    """A list as OmegaConf's own, which ``--cfg job --resolve`` needs."""
    return OmegaConf.create(list(values))
