"""From a run's generated items to metrics and report: the body of ``evaluate.py``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from unisono.config import hydra_entry, save_config
from unisono.config.entries import EVALUATION
from unisono.data.manifest import read_jsonl
from unisono.errors import UserError

logger = logging.getLogger(__name__)


@hydra_entry(EVALUATION)
def main(cfg: DictConfig) -> None:
    report = run_evaluation(cfg)
    print(f"report: {report.resolve()}")


def run_evaluation(cfg: DictConfig) -> Path:
    """Measure every test item of the configured data sets; returns the report's path."""
    from hydra.utils import instantiate

    from unisono.data.datasets.if_present import without_absent_sets
    from unisono.evaluation.runner import evaluate
    from unisono.inference.checkpoints import load_newest

    inference_dir = Path(cfg.inference_dir)
    manifest = inference_dir / "manifest.jsonl"
    if not manifest.is_file():
        raise UserError(f"{manifest} does not exist; generate first: python inference.py exp_dir={cfg.exp_dir}")
    generated = {(record["task"], record["audio_id"]): record for _, record in read_jsonl(manifest)}
    items = [
        _item(dataset, index, generated, inference_dir)
        for dataset in instantiate(without_absent_sets(cfg.datasets))
        for index in range(len(dataset))
    ]
    model = load_newest(cfg.exp_dir, cfg.model_dir, cfg.checkpoint, allow=cfg.allow).model
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    output_dir = Path(cfg.output_dir)
    save_config(output_dir / "config.yaml", cfg)
    evaluate(
        items,
        output_dir,
        sample_rate=cfg.sample_rate,
        recode=_recoder(model.autoencoder),
        history=Path(cfg.exp_dir) / "metrics.jsonl",
        title=f"Unisono: {Path(cfg.exp_dir).name}",
        workers=cfg.num_workers,
        facts={"Trainable parameters": f"{parameters / 1e6:.1f} M", "Latent": f"{type(model.autoencoder).__name__}"},
    )
    return output_dir / "report.html"


def _item(dataset: Any, index: int, generated: dict[tuple[str, str], dict[str, Any]], inference_dir: Path) -> Any:
    from unisono.evaluation.runner import EvaluationItem

    line = dataset.line(index)
    audio_id = line.record["audio_id"]
    made = generated.get((dataset.task, audio_id), {})
    true_duration_s = float(dataset.durations_s[index]) if dataset.has_targets else None
    shown = ("seed", "num_steps", "guidance_scale", "solver", "weights", "seconds")
    return EvaluationItem(
        audio_id=audio_id,
        task=dataset.task,
        instruction=made.get("instruction", ""),
        content_text=dataset.describe(line),
        # An item without a line in the manifest was not generated (or by another model): missing, never left out.
        generated=inference_dir / made.get("audio", f"{dataset.task}/{audio_id} (not generated)"),
        reference=dataset.target(index),
        input_audio=inputs[0][1] if (inputs := dataset.input_files(line)) else None,
        predicted_duration_s=made.get("duration_s"),
        true_duration_s=true_duration_s,
        details={**line.record, **{key: made[key] for key in shown if key in made}},
    )


def _recoder(autoencoder: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Waveform through the autoencoder and back: the ceiling of what the model can reach."""
    import torch

    def recode(waveform: np.ndarray) -> np.ndarray:
        samples = torch.from_numpy(waveform)[None]
        latent, lengths = autoencoder.encode(samples, torch.tensor([samples.shape[1]]))
        return autoencoder.decode(latent, lengths)[0, : len(waveform)].numpy()

    return recode
