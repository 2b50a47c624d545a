"""From a run's generated items to metrics and report: the body of ``evaluate.py``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import DictConfig, OmegaConf

from unisono.config import hydra_entry, save_config
from unisono.config.entries import EVALUATION
from unisono.data.manifest import read_jsonl
from unisono.errors import UserError

logger = logging.getLogger(__name__)


@hydra_entry(EVALUATION)
def main(cfg: DictConfig) -> None:
    from unisono.evaluation.terminal import summary_text

    summary = run_evaluation(cfg)
    print(summary_text(summary))


def run_evaluation(cfg: DictConfig) -> Any:
    """Measure every test item of the configured data sets; returns the `Summary`."""
    from hydra.utils import instantiate

    from unisono.data.datasets.if_present import without_absent_sets
    from unisono.evaluation.dataset_items import item_of
    from unisono.evaluation.runner import Settings, evaluate
    from unisono.inference.checkpoints import load_newest
    from unisono.inference.pipeline import choose_device

    inference_dir = Path(cfg.inference_dir)
    manifest = inference_dir / "manifest.jsonl"
    if not manifest.is_file():
        raise UserError(f"{manifest} does not exist; generate first: python inference.py exp_dir={cfg.exp_dir}")
    made = {(record["task"], record["audio_id"]): record for _, record in read_jsonl(manifest)}
    items = []
    for dataset in instantiate(without_absent_sets(cfg.datasets)):
        for index in range(len(dataset)):
            audio_id = dataset.audio_id(index)
            record = made.get((dataset.task, audio_id), {})
            # An item without a line in the manifest was not generated (or by another model): missing, never left out.
            path = inference_dir / record.get("audio", f"{dataset.task}/{audio_id} (not generated)")
            items.append(item_of(dataset, index, path, record))
    facts, recode = {}, None
    if cfg.code_references:
        model = load_newest(cfg.exp_dir, cfg.model_dir, cfg.checkpoint, allow=cfg.allow).model
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        facts = {"Trainable parameters": f"{parameters / 1e6:.1f} M", "Latent": type(model.autoencoder).__name__}
        recode = _recoder(model.autoencoder, cfg.sample_rate)
    settings = Settings(
        sample_rate=cfg.sample_rate,
        metrics=cfg.metrics,
        skip=tuple(cfg.skip_metrics),
        networks=dict(cast(dict[str, Any], OmegaConf.to_container(cfg.networks, resolve=True))),
        device=str(choose_device(cfg.device)),
        workers=cfg.num_workers,
    )
    output_dir = Path(cfg.output_dir)
    save_config(output_dir / "config.yaml", cfg)
    return evaluate(
        items,
        output_dir,
        settings,
        title=f"Unisono: {Path(cfg.exp_dir).name}",
        recode=recode,
        history=Path(cfg.exp_dir) / "metrics.jsonl",
        facts=facts,
    )


def _recoder(autoencoder: Any, sample_rate: int) -> Callable[[np.ndarray], np.ndarray]:
    """Waveform through the autoencoder and back: the ceiling of what the model can reach."""
    from unisono.evaluation.reconstruction import reconstructed

    if autoencoder.sample_rate != sample_rate:
        raise UserError(
            f"sample_rate is {sample_rate}, the model's autoencoder works at {autoencoder.sample_rate}; evaluate at "
            "that rate, or leave the coded references out: code_references=false"
        )
    return lambda waveform: reconstructed(autoencoder, waveform)
