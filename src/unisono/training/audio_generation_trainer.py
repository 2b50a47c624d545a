"""The trainer of the unified model: a worked example of ``Trainer``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unisono.models.outputs import TrainingOutput
from unisono.models.unified import UnifiedAudioModel
from unisono.objectives.noise import derive_seed, item_noise
from unisono.tasks import TASKS
from unisono.timing import samples_to_frames
from unisono.training.losses import LossResult
from unisono.training.samples import SampleLogger
from unisono.training.trainer import Trainer
from unisono.types import Batch

_SIGMA_BINS = 5


class AudioGenerationTrainer(Trainer):
    """Trains ``UnifiedAudioModel``.

    Validation is comparable between runs: each item has its own fixed noise and is tried at the same noise levels.

    Args:
        val_sigmas: the noise levels.
        samples: generates a few validation items now and then, with the averaged weights; None for none.
        **options: see ``Trainer``.
    """

    raw_model: UnifiedAudioModel
    loss_fn: Callable[[TrainingOutput], LossResult]

    def __init__(
        self,
        *,
        val_sigmas: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        samples: SampleLogger | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.val_sigmas, self.samples, self.sampled_at_step = tuple(val_sigmas), samples, 0

    def on_train_start(self) -> None:
        if self.samples is not None:
            self.samples.choose(self.val_dataloader, self.raw_model)

    def on_validation_end(self) -> None:
        if self.samples is None:
            return
        every = self.samples.every_n_steps
        if self.step // every > self.sampled_at_step // every or self.step == self.total_steps:
            with self.averaged_weights(), self.accelerator.autocast():
                self.samples.log(self.raw_model, self.step, self.trackers)
            self.sampled_at_step = self.step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["sampled_at_step"] = self.sampled_at_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.sampled_at_step = checkpoint.get("sampled_at_step", 0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        result = self.loss_fn(self.model(batch))
        self._report("train", result, batch)
        bins = (result.sigma * _SIGMA_BINS).long().clamp(max=_SIGMA_BINS - 1)
        for index in range(_SIGMA_BINS):
            name = f"train/loss_sigma/{index / _SIGMA_BINS:.1f}-{(index + 1) / _SIGMA_BINS:.1f}"
            self.log(name, result.prediction_error, bins == index)
        return result.total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.waveform_lengths is not None, "validation needs targets"
        autoencoder = self.raw_model.autoencoder
        frames = samples_to_frames(batch.waveform_lengths, autoencoder.hop_samples)
        seeds = [derive_seed("validation", audio_id) for audio_id in batch.audio_ids]
        noise = item_noise(seeds, frames.tolist(), int(frames.max()), autoencoder.latent_dim).to(frames.device)
        batch = self.raw_model.with_latents(batch)  # encoded once for all noise levels
        for sigma in self.val_sigmas:
            result = self.loss_fn(
                self.raw_model(batch, sigma=torch.full((len(batch),), sigma, device=frames.device), noise=noise)
            )
            self._report("val", result, batch)
            self.log(f"val/loss_sigma/{sigma:g}", result.prediction_error)

    def _report(self, prefix: str, result: LossResult, batch: Batch) -> None:
        """The error of the prediction and the duration losses, whole and per task; all are means over items."""
        self.log(f"{prefix}/loss", result.prediction_error)
        for name, part in result.durations.items():
            self.log(f"{prefix}/{name}_duration_loss", part.error, part.known)
        for index, task in enumerate(TASKS):
            if task not in batch.tasks:
                continue
            self.log(f"{prefix}/loss/{task}", result.prediction_error, batch.task_index == index)
            for name, part in result.durations.items():  # a task without such durations has no value to be logged
                self.log(f"{prefix}/{name}_duration_loss/{task}", part.error, part.known & (part.task_index == index))

    def modules_to_compile(self, model: nn.Module) -> Iterable[nn.Module]:
        """The blocks of the backbone: nearly all of the time, equal code, and no branch that depends on the data."""
        assert isinstance(model, UnifiedAudioModel)
        return model.backbone.blocks

    def forward_methods(self, model: nn.Module) -> Iterable[tuple[nn.Module, str]]:
        assert isinstance(model, UnifiedAudioModel)
        return [(model, "generate"), *((block, "context_keys_values") for block in model.backbone.blocks)]

    def write_model(self, folder: Path, cfg: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """A model folder that ``Pipeline.from_pretrained`` reads."""
        from unisono.inference.model_folder import save_model_folder

        save_model_folder(folder, self.raw_model, cfg, self.last_val_metrics, weights)
