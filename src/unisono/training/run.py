"""From a configuration to a trained and exported model: the body of ``train.py``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from unisono.config import check_training_nodes, hydra_entry

logger = logging.getLogger(__name__)


@hydra_entry("default")
def main(cfg: DictConfig) -> None:
    run_training(cfg)


def run_training(cfg: DictConfig) -> Path:
    """Train as configured; returns the exported model folder ``${exp_dir}/model``."""
    check_training_nodes(cfg)
    from accelerate import PartialState
    from hydra.utils import instantiate

    from unisono.data.mini.ensure import ensure_mini_corpus
    from unisono.inference.model_folder import save_model_folder

    exp_dir = Path(cfg.exp_dir)
    with PartialState().main_process_first():
        ensure_mini_corpus(cfg)
    # Data first: every line and every file is checked before a weight is made.
    train_dataloader = instantiate(cfg.train_dataloader)
    val_dataloader = instantiate(cfg.val_dataloader)
    with PartialState().main_process_first():
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
        exp_dir=cfg.exp_dir,
        epochs=cfg.epochs,
        epoch_length=cfg.epoch_length,
        seed=cfg.seed,
        resume=cfg.resume,
        warmup_params=cfg.warmup_params,
    )
    is_main = trainer.accelerator.is_main_process
    if is_main:
        exp_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, exp_dir / "config.yaml", resolve=True)
        logger.info("%.1f M trainable parameters; run folder %s", count_trainable(model) / 1e6, exp_dir)
    trainer.fit()
    folder = exp_dir / "model"
    if is_main:
        with trainer.averaged_weights():
            save_model_folder(folder, trainer.raw_model, cfg, trainer.last_val_metrics)
        logger.info("model exported to %s", folder)
    trainer.accelerator.wait_for_everyone()
    return folder


def check_data(loader: Any, cache: Path) -> None:
    """Raise before training for unknown phonemes or speakers and for audio that cannot be read or is not finite."""
    from unisono.data.collate import Collator, check_vocabulary
    from unisono.data.datasets import ConcatDataset
    from unisono.data.verify import verify_audio

    if isinstance(loader.dataset, ConcatDataset):  # other data sets are the user's own to check
        if isinstance(loader.collate_fn, Collator):
            check_vocabulary(loader.dataset, loader.collate_fn)
        verify_audio(loader.dataset.datasets, cache=cache)


def count_trainable(model) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
