"""The trainer of the unified model: a worked example of ``Trainer``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unisono.models.unified import UnifiedAudioModel
from unisono.objectives.noise import derive_seed, item_noise
from unisono.tasks import TASKS
from unisono.timing import samples_to_frames
from unisono.training.losses import LossResult
from unisono.training.metrics import MeanMetrics
from unisono.training.trainer import Trainer
from unisono.types import Batch


class AudioGenerationTrainer(Trainer):
    """Trains ``UnifiedAudioModel``.

    Validation is comparable between runs: each item has its own fixed noise and is tried at the same noise levels.

    Args:
        val_sigmas: the noise levels.
        **options: see ``Trainer``.
    """

    raw_model: UnifiedAudioModel

    def __init__(self, *, val_sigmas: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9), **options: Any) -> None:
        super().__init__(**options)
        self.val_sigmas = tuple(val_sigmas)

    def training_step(self, batch: Batch) -> Tensor:
        result = self.loss_fn(self.model(batch))
        self._report(self.train_metrics, "train", result, batch)
        self.train_metrics.update("train/total_loss", result.total)
        return result.total

    def validation_step(self, batch: Batch, metrics: MeanMetrics) -> None:
        assert batch.waveform is not None and batch.waveform_lengths is not None
        autoencoder = self.raw_model.autoencoder
        frames = samples_to_frames(batch.waveform_lengths, autoencoder.hop_samples)
        seeds = [derive_seed("validation", audio_id) for audio_id in batch.audio_ids]
        noise = item_noise(seeds, frames.tolist(), int(frames.max()), autoencoder.latent_dim).to(frames.device)
        for sigma in self.val_sigmas:
            result = self.loss_fn(
                self.raw_model(batch, sigma=torch.full((len(batch),), sigma, device=frames.device), noise=noise)
            )
            self._report(metrics, "val", result, batch)
            metrics.update(f"val/loss_sigma/{sigma:g}", result.prediction_error)

    @staticmethod
    def _report(metrics: MeanMetrics, prefix: str, result: LossResult, batch: Batch) -> None:
        """The error of the prediction, whole and per task, and the duration losses; all are means over items."""
        metrics.update(f"{prefix}/loss", result.prediction_error)
        for index, name in enumerate(TASKS):
            if name in batch.tasks:
                metrics.update(f"{prefix}/loss/{name}", result.prediction_error, batch.task_index == index)
        for name, values in (("local", result.local_duration), ("global", result.global_duration)):
            if len(values):
                metrics.update(f"{prefix}/{name}_duration_loss", values)
