"""Resolvers: what ``${name:arguments}`` means in the YAML files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf


def register_omegaconf_resolvers() -> None:
    """Register the project's resolvers; harmless when called twice, and resolvers of the user's own stay."""
    resolvers: dict[str, Callable[..., Any]] = {
        "add": lambda *values: sum(values),
        "sub": lambda a, b: a - b,
        "mul": _product,
        "div": lambda a, b: a / b,
        "floordiv": lambda a, b: a // b,
        "len": _length,
        "latent_rate_hz": lambda sample_rate, hop_samples: sample_rate / hop_samples,
        "project_path": _project_path,
        "config_path": _config_path,
        "phoneme_inventory": _phoneme_inventory,
        "mini_speakers": _mini_speakers,
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


def _project_path(relative: str = "") -> str:
    """Absolute path of a file of the checkout (of the working directory, where installed from a wheel)."""
    from unisono.config.tree import project_dir

    return str(project_dir() / Path(relative))


def _config_path(relative: str = "") -> str:
    """Absolute path of a file of the project's config tree."""
    from unisono.config.tree import config_dir

    return str(config_dir() / Path(relative))


def _phoneme_inventory() -> ListConfig:
    from unisono.text.phonemes import PHONEMES

    return _as_list(PHONEMES)


def _mini_speakers() -> ListConfig:
    from unisono.data.mini.corpus import SPEAKERS

    return _as_list(SPEAKERS)


def _as_list(values: Iterable[str]) -> ListConfig:
    """A list as OmegaConf's own, which ``--cfg job --resolve`` needs."""
    return OmegaConf.create(list(values))
