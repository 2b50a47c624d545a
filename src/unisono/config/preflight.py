"""``unisono check``: compose a configuration, find its faults, say how large a training step is; nothing is run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from unisono.config.check import check_config, debug_without_effect, overrides_without_effect
from unisono.config.data_rules import chosen_sets, data_warnings
from unisono.config.entries import ENTRY_POINTS, EVALUATION, INFERENCE, TRAINING, EntryPoint
from unisono.config.entry import primary_config, resolved
from unisono.config.faults import ConfigError
from unisono.config.manifest_rules import unread_manifests
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
    done = resolved(cfg)
    plain: Any = OmegaConf.to_container(done)
    notes = unread_manifests(chosen_sets(plain, plain)) if with_files else []
    notes += debug_without_effect(cfg, overrides)
    return done, entry, [*overrides_without_effect(cfg, overrides), *data_warnings(done), *notes]


def _entry_of(config_name: str, cfg: DictConfig) -> EntryPoint:
    """What a config is for: by its name, else by what is in it."""
    if config_name in ENTRY_POINTS:
        return ENTRY_POINTS[config_name]
    if "generation" in cfg and "trainer" not in cfg:
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
    longest_s, limits, unlimited = (0.0, ""), [], False
    for node in _training_sets(cfg):
        limit_s, limit = _shown_at_most(node)
        limits.append((limit_s, limit))
        unlimited = unlimited or limit_s == math.inf
        path, left_out_s = Path(str(node.get("audio"))), node.get("max_duration_s") or math.inf
        for _, record in read_jsonl(path) if path.is_file() else ():
            given = record.get("duration_s")
            if isinstance(given, (int, float)) and given <= left_out_s:
                source = (
                    "the longest of the training manifests" if given <= limit_s else f"{limit} of the training sets"
                )
                longest_s = max(longest_s, (min(float(given), limit_s), source))
    if longest_s[0]:
        return round(longest_s[0], 2), longest_s[1]
    if limits and not unlimited:
        at_most_s, limit = max(limits)
        return float(at_most_s), f"{limit} of the training sets"
    return 10.0, "assumed, because the training manifests do not tell; say --duration-s"


def _training_sets(cfg: DictConfig) -> list[Any]:
    """Nodes of the data sets that are trained on, those of shards included."""
    loader = cfg.train_dataloader
    dataset = loader.get("dataset") or {}
    streamed = [shards.get("dataset") for shards in loader.get("datasets") or [] if isinstance(shards, DictConfig)]
    return [*dataset.get("datasets", []), *(node for node in streamed if node is not None)]


def _shown_at_most(node: Any) -> tuple[float, str]:
    """Seconds that a data set shows of an item at most, and the setting that says so."""
    given = [(node.get(name), name) for name in ("crop_s", "max_duration_s")]
    return min(((float(seconds), name) for seconds, name in given if seconds), default=(math.inf, ""))
