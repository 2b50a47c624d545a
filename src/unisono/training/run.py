"""From a configuration to a trained and exported model: the body of ``train.py``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from unisono.config import hydra_entry, save_config
from unisono.config.entries import TRAINING
from unisono.errors import UserError

logger = logging.getLogger(__name__)


@hydra_entry(TRAINING)
def main(cfg: DictConfig) -> None:
    run_training(cfg)


def run_training(cfg: DictConfig) -> Path:
    """Train as configured; returns the exported model folder ``${exp_dir}/model``."""
    from hydra.utils import instantiate

    from unisono.data.mini.ensure import ensure_mini_corpus
    from unisono.training.processes import process_state

    exp_dir = Path(cfg.exp_dir)
    with process_state().main_process_first():
        ensure_mini_corpus(cfg)
    # Data first: every line and every file is checked before a weight is made.
    train_dataloader = instantiate(cfg.train_dataloader)
    val_dataloader = instantiate(cfg.get("val_dataloader"))
    with process_state().main_process_first():
        for loader in (train_dataloader, val_dataloader):
            check_data(loader)
    import torch

    torch.manual_seed(cfg.seed)
    model = instantiate(cfg.model)
    _check_generation(cfg, model)
    if cfg.get("feature_cache") is not None:
        dtype = cfg.get("feature_cache_dtype", "float32")
        use_feature_cache(cfg.feature_cache, dtype, model, [train_dataloader, val_dataloader])
    trainer = instantiate(
        cfg.trainer,
        model=model,
        optimizer=instantiate(cfg.optimizer),
        lr_scheduler=instantiate(cfg.get("lr_scheduler")),
        loss_fn=instantiate(cfg.get("loss_fn")),
        train_dataloader=train_dataloader,
        val_dataloader=val_dataloader,
        trackers=instantiate(cfg.get("trackers") or {}),
    )
    with trainer.lock:
        _train_and_export(trainer, exp_dir, cfg)
    return exp_dir / "model"


def _check_generation(cfg: DictConfig, model: Any) -> None:
    """Raise now for settings that the export, hours later, would refuse."""
    from unisono.inference.model_folder import checked_generation
    from unisono.models.unified import UnifiedAudioModel

    node = cfg.get("generation")
    if node is not None and isinstance(model, UnifiedAudioModel):
        checked_generation(OmegaConf.to_container(node, resolve=True), model, "the configuration")


def _train_and_export(trainer: Any, exp_dir: Path, cfg: DictConfig) -> None:
    is_main = trainer.accelerator.is_main_process
    if cfg.resume != "never":
        check_same_settings(exp_dir if cfg.resume == "auto" else Path(cfg.resume).resolve().parent.parent, cfg)
    trainer.load_checkpoint()
    first_step = trainer.step
    if is_main and first_step == 0:
        save_config(exp_dir / "config.yaml", cfg)
    logger.info("%s trainable parameters; run folder %s", f"{count_trainable(trainer.raw_model):,}", exp_dir)
    settings = OmegaConf.to_container(cfg)
    assert isinstance(settings, dict)
    shown = {str(key): value for key, value in settings.items() if key != "data_dict"}
    # config.yaml has the settings of the checkpoints that are there, until one is made with others.
    trainer.fit(shown, on_saved=lambda: save_config(exp_dir / "config.yaml", cfg))
    if trainer.stop_reason not in ("finished", "stopped early"):
        sys.exit(0)  # asked to by a signal; nothing more of a sweep either
    if trainer.step > first_step or not (exp_dir / "model").is_dir():
        trainer.export(exp_dir / "model", cfg)
    if is_main and trainer.step == first_step > 0:
        logger.warning("%s", nothing_left(exp_dir, cfg, trainer.step))
    logger.info("%s at step %d; the model is in %s", trainer.stop_reason, trainer.step, exp_dir / "model")


def nothing_left(run: Path, cfg: DictConfig, step: int) -> str:
    """What to say where a run had ended already: which of the settings given now were not used, and how to go on."""
    path = run / "config.yaml"
    changed: list[str] = []
    if path.is_file():
        before, now = (dict(_dotted(OmegaConf.to_container(node))) for node in (OmegaConf.load(path), cfg))
        same = ("exp_dir", "resume", "hydra")
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        changed = [f"{key}: {before.get(key)} there, {now.get(key)} now" for key in changed if key not in same]
    shown = ", ".join(changed[:8]) + (" …" if len(changed) > 8 else "")
    unused = f"; changed and without effect: {shown}" if changed else ""
    return (
        f"nothing was trained: {run} had ended at step {step} before{unused}. Raise epochs (now {cfg.get('epochs')}) "
        "to go on with it, or choose another exp_dir to train anew"
    )


def _dotted(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name; lists as a whole."""
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        yield from _dotted(value, f"{prefix}.{key}" if prefix else str(key))


# What may differ between a run and the one it goes on with: lengths, logging, where and how fast, not what is learned.
_FREE_SETTINGS = (
    *("exp_dir", "epochs", "resume", "val_dataloader", "data_dict", "trackers", "feature_cache"),
    *("license", "generation"),
)
_FIXED_OF_TRAINER = ("seed", "warmup_params")
_FREE_LOADER_SETTINGS = ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor")


def check_same_settings(run: Path, cfg: DictConfig) -> None:
    """Compare with the run that is gone on with, if it was made with another model, data, optimizer or seed.

    Raises:
        UserError: with resume=auto. Where a checkpoint's path was given, the differences are only told.
    """
    path = run / "config.yaml"
    if not path.is_file() or not (run / "checkpoints").is_dir():
        return
    try:
        saved = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        saved, why = None, str(error).splitlines()[0]
    else:
        why = "it is empty"
    if not isinstance(saved, DictConfig) or not saved:
        raise UserError(f"{path} is damaged ({why}); without it, settings are not compared: remove it to go on")
    before, now = (_flat(OmegaConf.to_container(node)) for node in (saved, cfg))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if not changed:
        return
    last = run / "checkpoints/last"
    shown = "\n  ".join(f"{key}: {before.get(key)} there, {now.get(key)} now" for key in changed[:8])
    if cfg.resume == "auto":
        raise UserError(
            f"{run} holds a run with other settings; choose another exp_dir. With trainer.initial_weights={last} that "
            f"one begins at its weights; with resume={last} it goes on with its optimizer and schedule too:\n  {shown}"
        )
    logger.warning(
        "going on with a run that had other settings; optimizer and learning-rate schedule keep the state of the "
        "checkpoint, learning rates included:\n  %s", shown
    )  # fmt: skip


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Settings that matter for going on, by dotted name."""
    if not isinstance(node, dict):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if prefix == "" and key == "trainer":
            flat |= _flat({name: value for name, value in dict(value).items() if name in _FIXED_OF_TRAINER}, "trainer")
        elif not (prefix == "" and key in _FREE_SETTINGS) and key not in _FREE_LOADER_SETTINGS:
            flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def check_data(loader: Any) -> None:
    """Raise before training for unknown phonemes or speakers and for audio that cannot be read or is not finite."""
    from unisono.data.collate import Collator
    from unisono.data.datasets import ConcatDataset
    from unisono.data.sampler import TrainBatchSampler
    from unisono.data.validate.verify import verify_audio
    from unisono.data.vocabulary import check_vocabulary

    if isinstance(getattr(loader, "dataset", None), ConcatDataset):  # other data sets are the user's own to check
        if isinstance(loader.collate_fn, Collator):
            check_vocabulary(loader.dataset, loader.collate_fn)
        verify_audio(loader.dataset.datasets)
        for dataset in loader.dataset.datasets:
            left_out = f"; {dataset.num_left_out} longer ones left out" if dataset.num_left_out else ""
            minutes = dataset.durations_s.sum() / 60
            logger.info("%s: %d items, %.1f min%s", dataset.name, len(dataset), minutes, left_out)
        if isinstance(loader.batch_sampler, TrainBatchSampler):
            for line in loader.batch_sampler.summary():
                logger.info("training takes %s", line)


def use_feature_cache(folder: str, dtype: str, model: Any, loaders: Sequence[Any]) -> None:
    """Let the loaders' data sets read from the cache that ``unisono cache`` filled."""
    from unisono.data.datasets import ConcatDataset
    from unisono.data.feature_cache.attach import attach
    from unisono.data.feature_cache.demands import parts_of
    from unisono.models.unified import UnifiedAudioModel

    if not isinstance(model, UnifiedAudioModel):
        raise UserError(f"feature_cache serves the unified model, not {type(model).__name__}; set it to null")
    for loader in loaders:
        dataset = getattr(loader, "dataset", None)
        if isinstance(dataset, ConcatDataset):
            attach(dataset.datasets, parts_of(model), folder, dtype)
        elif loader is not None:
            raise UserError("feature_cache serves data sets of manifests, not this loader; set it to null")


def count_trainable(model) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
