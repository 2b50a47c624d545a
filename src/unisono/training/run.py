"""From a configuration to a trained and exported model: the body of ``train.py``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

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
    from unisono.inference.model_folder import save_model_folder
    from unisono.training.processes import process_state

    exp_dir = Path(cfg.exp_dir)
    with process_state().main_process_first():
        ensure_mini_corpus(cfg)
    # Data first: every line and every file is checked before a weight is made.
    train_dataloader = instantiate(cfg.train_dataloader)
    val_dataloader = instantiate(cfg.val_dataloader)
    with process_state().main_process_first():
        for loader in (train_dataloader, val_dataloader):
            check_data(loader, cache=exp_dir / "verified_audio.json")
    import torch

    torch.manual_seed(cfg.seed)
    model = instantiate(cfg.model)
    trainer = instantiate(
        cfg.trainer,
        model=model,
        optimizer=instantiate(cfg.optimizer),
        lr_scheduler=instantiate(cfg.lr_scheduler),
        loss_fn=instantiate(cfg.loss_fn),
        train_dataloader=train_dataloader,
        val_dataloader=val_dataloader,
        trackers=instantiate(cfg.get("trackers") or {}),
    )
    is_main = trainer.accelerator.is_main_process
    if cfg.resume == "auto":
        check_same_settings(exp_dir / "config.yaml", cfg)
    trainer.load_checkpoint()
    if is_main:
        save_config(exp_dir / "config.yaml", cfg)
        logger.info("%.1f M trainable parameters; run folder %s", count_trainable(model) / 1e6, exp_dir)
    settings = OmegaConf.to_container(cfg)
    assert isinstance(settings, dict)
    trainer.fit({str(key): value for key, value in settings.items() if key != "data_dict"})
    folder = exp_dir / "model"
    if is_main:
        with trainer.averaged_weights():
            save_model_folder(folder, trainer.raw_model, cfg, trainer.last_val_metrics)
        logger.info("model exported to %s", folder)
    trainer.accelerator.wait_for_everyone()
    return folder


# What may differ between a run and the one it goes on with: lengths, logging, where and how fast, not what is learned.
_FREE_SETTINGS = ("exp_dir", "epochs", "resume", "trainer", "val_dataloader", "data_dict", "trackers")
_FREE_LOADER_SETTINGS = ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor")


def check_same_settings(path: Path, cfg: DictConfig) -> None:
    """Raise if the run in ``exp_dir`` was made with another model, data, optimizer or seed."""
    if not path.is_file() or not (path.parent / "checkpoints").is_dir():
        return
    before, now = (_flat(OmegaConf.to_container(node)) for node in (OmegaConf.load(path), cfg))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        shown = "\n  ".join(f"{key}: {before.get(key)} there, {now.get(key)} now" for key in changed[:8])
        raise UserError(
            f"{path.parent} holds a run with other settings; choose another exp_dir, or say resume={path.parent}/"
            f"checkpoints/last to go on from its weights with the new ones:\n  {shown}"
        )


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Settings that matter for going on, by dotted name."""
    if not isinstance(node, dict):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if not (prefix == "" and key in _FREE_SETTINGS) and key not in _FREE_LOADER_SETTINGS:
            flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def check_data(loader: Any, cache: Path) -> None:
    """Raise before training for unknown phonemes or speakers and for audio that cannot be read or is not finite."""
    from unisono.data.collate import Collator, check_vocabulary
    from unisono.data.datasets import ConcatDataset
    from unisono.data.verify import verify_audio

    if isinstance(loader.dataset, ConcatDataset):  # other data sets are the user's own to check
        if isinstance(loader.collate_fn, Collator):
            check_vocabulary(loader.dataset, loader.collate_fn)
        verify_audio(loader.dataset.datasets, cache=cache)
        for dataset in loader.dataset.datasets:
            left_out = f"; {dataset.num_left_out} longer ones left out" if dataset.num_left_out else ""
            minutes = dataset.durations_s.sum() / 60
            logger.info("%s: %d items, %.1f min%s", dataset.name, len(dataset), minutes, left_out)


def count_trainable(model) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
