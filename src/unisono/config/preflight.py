"""``unisono check``: compose a configuration, find its faults, say how large a training step is; nothing is run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from unisono.config.check import check_config, overrides_without_effect
from unisono.config.entries import ENTRY_POINTS, EVALUATION, INFERENCE, TRAINING, EntryPoint
from unisono.config.entry import primary_config, resolved
from unisono.config.faults import ConfigError
from unisono.config.messages import Composition, explain
from unisono.config.signatures import find_target
from unisono.config.tree import config_dir, hydra_in, locate_config_path
from unisono.data.manifest import read_jsonl
from unisono.errors import UserError
from unisono.suggest import did_you_mean
from unisono.timing import latent_rate_hz


def compose_checked(
    config_name: str,
    overrides: Sequence[str],
    config_path: str | None = None,
    num_processes: int = 1,
    with_files: bool = True,
) -> tuple[DictConfig, EntryPoint, list[str]]:
    """Compose and check; returns the resolved config, what it is for, and warnings. Faults raise ``UserError``."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    directory = Path(locate_config_path(config_path)) if config_path else config_dir()
    composition = Composition(directory, config_name, tuple(overrides))
    try:
        with hydra_in(directory):
            cfg = hydra.compose(config_name, overrides=list(overrides), return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)  # for interpolations such as ${hydra:runtime.cwd}
            with open_dict(cfg):
                del cfg["hydra"]
    except Exception as error:
        message = explain(error, composition)
        if message is None:
            raise
        raise UserError(message) from error
    entry = _entry_of(config_name, cfg)
    faults = check_config(cfg, entry, num_processes=num_processes, with_files=with_files)
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


@dataclass(frozen=True)
class Launch:
    """How the training will be launched: number of processes, and the precision if a file for Accelerate gives one."""

    num_processes: int = 1
    mixed_precision: str | None = None


def read_launch(path: Path) -> Launch:
    """What a file for ``accelerate launch --config_file`` asks for."""
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file

    if not path.is_file():
        siblings = [str(p) for p in sorted(path.parent.glob("*.yaml"))] if path.parent.is_dir() else []
        raise UserError(f"{path} does not exist; {did_you_mean(str(path), siblings)}")
    try:
        given = load_config_from_file(str(path))
        number, precision = int(given.num_processes), given.mixed_precision
    except (AttributeError, ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no file for Accelerate: {error}") from error
    if number < 1:
        raise UserError(f"{path} has no num_processes; add it, or say --num-processes")
    return Launch(number, None if precision is None else str(precision))


def describe(cfg: DictConfig, launch: Launch, duration_s: float | None = None) -> str:
    """What a checked training configuration comes to: batch, parameters, memory and time of a step.

    Args:
        cfg: resolved.
        launch: how it will be launched.
        duration_s: length of the clips; None for the longest of the training manifests, or 10 s where they do not tell.
    """
    from unisono.models.unified import UnifiedAudioModel

    batch_size = cfg.train_dataloader.get("batch_size")
    if find_target(cfg.model._target_) is not UnifiedAudioModel or not isinstance(batch_size, int):
        return "no estimate of memory and time: the model or the loader is of your own"
    accumulation = cfg.trainer.get("gradient_accumulation_steps", 1)
    total = batch_size * launch.num_processes * accumulation
    budget = cfg.train_dataloader.get("max_batch_frames")
    most = "" if budget is None else "at most "
    lines = [
        f"one step takes {most}{total} items: {most}{batch_size} per batch x {launch.num_processes} processes "
        f"x {accumulation} micro-batches"
    ]
    longest_s, source = (duration_s, "as asked for") if duration_s else longest_clip_s(cfg)
    if budget is not None:
        frames = math.ceil(longest_s * latent_rate_hz(cfg.sample_rate, cfg.hop_samples))
        batch_size = max(1, min(batch_size, budget // frames))
        lines.append(f"{batch_size} of the longest fill max_batch_frames ({budget} latent frames)")
    lines += [f"clips of {longest_s:g} s: {source}", ""]
    try:
        lines.append(_estimate(cfg, launch, batch_size, accumulation, longest_s))
    except UserError as error:  # parts of the user's own may need values; the configuration is no worse for it
        lines.append(f"no estimate of memory and time: {error}")
    return "\n".join(lines)


def _estimate(cfg: DictConfig, launch: Launch, batch_size: int, accumulation: int, duration_s: float) -> str:
    import torch

    from unisono.training.estimate import estimate_step, format_estimate
    from unisono.training.processes import chosen_precision, uses_cpu
    from unisono.training.trainer import Trainer

    device = torch.device("cpu") if uses_cpu() else torch.accelerator.current_accelerator()
    assert device is not None
    wanted: Any = cfg.trainer.get("mixed_precision", "auto")
    wanted = launch.mixed_precision if wanted == "auto" and launch.mixed_precision is not None else wanted
    estimate = estimate_step(
        cfg.model,
        cfg.optimizer,
        batch_size=batch_size,
        duration_s=duration_s,
        mixed_precision=chosen_precision(wanted, device),
        gradient_accumulation_steps=accumulation,
        ema=cfg.trainer.get("ema_decay", inspect.signature(Trainer).parameters["ema_decay"].default) is not None,
        device=device,
    )
    shown = format_estimate(estimate)
    if launch.num_processes > 1:
        buckets = estimate.needs.gradient_bytes / 1e9
        shown += f"\n\nOf {launch.num_processes} processes each takes {buckets:.2f} GB more, to exchange gradients."
    return shown


def longest_clip_s(cfg: DictConfig) -> tuple[float, str]:
    """Length of the longest training clip, and where it is from; the optional ``duration_s`` of manifests tells."""
    longest_s, limits = 0.0, []
    dataset = cfg.train_dataloader.get("dataset") or {}  # a stream has none
    for node in dataset.get("datasets", []):
        limit, crop_s = node.get("max_duration_s"), node.get("crop_s") or math.inf
        limits.append(limit if crop_s == math.inf else min(limit or math.inf, crop_s))
        path = Path(str(node.get("audio")))
        if not path.is_file():
            continue
        for _, record in read_jsonl(path):
            given = record.get("duration_s")
            if isinstance(given, (int, float)) and (limit is None or given <= limit):
                longest_s = max(longest_s, min(float(given), crop_s))
    if longest_s:
        return round(longest_s, 2), "the longest of the training manifests"
    if limits and all(limit is not None for limit in limits):
        return float(max(limits)), "max_duration_s or crop_s of the training sets"
    return 10.0, "assumed, because the training manifests do not tell; say --duration-s"
