"""``unisono check``: compose a configuration, find its faults, say how large a training step is; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from unisono.config.check import check_config, overrides_without_effect
from unisono.config.entries import ENTRY_POINTS, EVALUATION, INFERENCE, TRAINING, EntryPoint
from unisono.config.entry import primary_config, resolved
from unisono.config.faults import ConfigError
from unisono.config.messages import Composition, explain
from unisono.config.suggest import did_you_mean
from unisono.config.tree import config_dir, hydra_in, locate_config_path
from unisono.errors import UserError


def compose_checked(
    config_name: str, overrides: Sequence[str], config_path: str | None = None, num_processes: int = 1
) -> tuple[DictConfig, EntryPoint, list[str]]:
    """Compose and check; returns the resolved config, what it is for, and warnings. Faults raise ``UserError``."""
    import hydra

    directory = Path(locate_config_path(config_path)) if config_path else config_dir()
    composition = Composition(directory, config_name, tuple(overrides))
    try:
        with hydra_in(directory):
            cfg = hydra.compose(config_name, overrides=list(overrides))
    except Exception as error:
        message = explain(error, composition)
        if message is None:
            raise
        raise UserError(message) from error
    entry = _entry_of(config_name, cfg)
    faults = check_config(cfg, entry, num_processes=num_processes)
    if faults:
        raise ConfigError(faults, primary_config(config_name, directory))
    return resolved(cfg), entry, overrides_without_effect(cfg, overrides)


def _entry_of(config_name: str, cfg: DictConfig) -> EntryPoint:
    """What a config is for: by its name, else by what is in it."""
    if config_name in ENTRY_POINTS:
        return ENTRY_POINTS[config_name]
    if "generation" in cfg:
        return INFERENCE
    return EVALUATION if "inference_dir" in cfg else TRAINING


def launched_processes(path: Path) -> int:
    """Number of processes that a file for ``accelerate launch --config_file`` asks for."""
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file

    if not path.is_file():
        siblings = [str(p) for p in sorted(path.parent.glob("*.yaml"))] if path.parent.is_dir() else []
        raise UserError(f"{path} does not exist; {did_you_mean(str(path), siblings)}")
    try:
        return int(load_config_from_file(str(path)).num_processes)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no file for Accelerate: {error}") from error


def describe(cfg: DictConfig, entry: EntryPoint, num_processes: int) -> str:
    """What a checked configuration comes to: batch, parameters, memory and time of a step."""
    if entry is not TRAINING:
        return ""
    return _batch_line(cfg, num_processes)


def _batch_line(cfg: Any, num_processes: int) -> str:
    batch_size = cfg.train_dataloader.get("batch_size")
    accumulation = cfg.trainer.get("gradient_accumulation_steps", 1)
    if not isinstance(batch_size, int):
        return ""
    total = batch_size * num_processes * accumulation
    return (
        f"one step: {total} items = {batch_size} per batch x {num_processes} processes x {accumulation} micro-batches"
    )
