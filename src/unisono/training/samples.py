"""Samples that are generated while training: files in ``${exp_dir}/samples``, and in the trackers.

``step_00000500/<task>/<audio_id>.wav`` is what the model made of an item after step 500, and
``reference/<task>/<audio_id>.wav`` what it is to make of it. A mel spectrogram (``.png``) lies beside each.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from unisono.data.datasets import ConcatDataset
from unisono.errors import UserError
from unisono.evaluation.report.pictures import mel_picture
from unisono.features.mel import MIN_SAMPLE_RATE, MelFrontEnd
from unisono.media.audio import write_audio
from unisono.models.unified import GenerationSettings, UnifiedAudioModel
from unisono.objectives.noise import derive_seed
from unisono.training.processes import process_state
from unisono.training.tracking import Trackers
from unisono.types import Batch, Sample

logger = logging.getLogger(__name__)

_LONG_ENOUGH_S = 1.0
_CHEAP = GenerationSettings(num_steps=8)


class SampleLogger:
    """Generates a few validation items, always the same, so that one hears from step to step what was learned.

    An item sounds as ``inference.py`` would make it with the same weights, seed and settings, but for its length: where
    durations are not to be predicted, it is that of the reference.

    Args:
        exp_dir: folder of the run.
        seed: noise is drawn from ``(seed, audio_id)``.
        num_items: per task, chosen by ``choose_items``.
        every_n_steps: of training, and after its last step; the trainer counts.
        generation: how; by default with few solver steps.
    """

    def __init__(
        self,
        exp_dir: str | Path,
        seed: int = 0,
        num_items: int = 2,
        every_n_steps: int = 500,
        generation: GenerationSettings = _CHEAP,
    ) -> None:
        for name, value in (("num_items", num_items), ("every_n_steps", every_n_steps)):
            if value < 1:
                raise UserError(f"trainer.samples.{name} is {value}; it must be at least 1 (samples: null for none)")
        self.folder = Path(exp_dir) / "samples"
        self.seed, self.num_items, self.every_n_steps = seed, num_items, every_n_steps
        self.generation = generation
        self.samples: list[Sample] = []
        self.batch: Batch | None = None

    def choose(self, loader: Iterable[Any] | None, model: UnifiedAudioModel) -> None:
        """Read the items, before training and on every process.

        Args:
            loader: of validation; without a ``ConcatDataset`` there will be no samples.
            model: that will generate.

        Raises:
            UserError: a setting that the model's objective does not have, or audio that cannot be read.
        """
        settings = self.generation
        model.settle(settings)
        if not isinstance(loader, DataLoader) or not isinstance(loader.dataset, ConcatDataset):
            if process_state().is_main_process:
                logger.info("no samples while training: validation has no data set of manifests to take items from")
            return
        chosen = choose_items(loader.dataset, self.num_items)
        self.samples = [loader.dataset.sample(item, heard=True) for item in chosen]
        assert loader.collate_fn is not None
        self.batch = loader.collate_fn([dataclasses.replace(sample, waveform=None) for sample in self.samples])

    def log(self, model: UnifiedAudioModel, step: int, trackers: Trackers) -> None:
        """Generate; on the main process write the files and hand them to the trackers.

        Every process has to call this: a sharded model needs all of them. Training goes on as if nothing had been
        generated. What an earlier run wrote for the same step is replaced.
        """
        if self.batch is None:
            return
        started = time.perf_counter()
        device, sample_rate = next(model.parameters()).device, model.autoencoder.sample_rate
        seeds = [derive_seed(self.seed, sample.audio_id) for sample in self.samples]
        durations_s = None
        if not self.generation.predict_durations:
            durations_s = [len(_reference(sample)) / sample_rate for sample in self.samples]
        with _undisturbed_training(model, device, self.seed):
            generated = model.generate(self.batch.to(device), seeds, self.generation, durations_s)
        if not trackers.accelerator.is_main_process:
            return
        waveforms = generated.waveform.float().cpu().numpy()
        for sample, waveform, length in zip(self.samples, waveforms, generated.lengths.tolist(), strict=True):
            self._log_item(sample, waveform[:length], sample_rate, step, trackers)
        seconds = time.perf_counter() - started
        logger.info("%d samples in %s (%.1f s)", len(self.samples), self._step_folder(step), seconds)

    def _step_folder(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"

    def _log_item(self, sample: Sample, waveform: np.ndarray, sample_rate: int, step: int, trackers: Trackers) -> None:
        if not np.isfinite(waveform).all():
            logger.warning("step %d: the sample of %s is NaN or infinite; it is not written", step, sample.item_name)
            return
        reference = _reference(sample)
        name = Path(sample.task, f"{sample.audio_id}.wav")
        tag = f"samples/{sample.task}/{sample.audio_id}"
        clips = {tag: (waveform, self._step_folder(step) / name)}
        earlier = (folder for folder in self.folder.glob("step_*") if folder.name < self._step_folder(step).name)
        if not any((folder / name).exists() for folder in earlier):
            clips[f"{tag}/reference"] = (reference, self.folder / "reference" / name)
        mel = MelFrontEnd.for_rate(sample_rate) if sample_rate >= MIN_SAMPLE_RATE else None
        # One scale for an item's pictures, so that colours and widths compare.
        span_s = max(len(waveform), len(reference)) / sample_rate
        loudest_db = float(mel(reference).max()) if mel is not None else 0.0
        for clip_tag, (audio, path) in clips.items():
            audio = audio / max(1.0, float(np.abs(audio).max()))  # trackers would clip
            write_audio(path, audio, sample_rate)
            trackers.log_audio(clip_tag, audio, sample_rate, step)
            if mel is not None:
                picture = path.with_name(f"{sample.audio_id}.png")
                mel_picture(mel(audio), len(audio) / sample_rate, span_s, loudest_db, picture)
                trackers.log_picture(f"{clip_tag}/mel", _read_picture(picture), step)


def choose_items(dataset: ConcatDataset, num_items: int) -> list[int]:
    """Indices of ``num_items`` items per task, of different ``audio_id``.

    The shortest that last a second or more are taken, for they cost least; then shorter ones, the longest first, for a
    clip of a syllable tells little. Of equals the first.
    """
    chosen: dict[str, dict[str, int]] = {}
    away_s = np.abs(dataset.durations_s - _LONG_ENOUGH_S)
    for item in np.lexsort((away_s, dataset.durations_s < _LONG_ENOUGH_S)).tolist():
        part, position = dataset.locate(item)
        of_task = chosen.setdefault(part.task, {})
        if len(of_task) < num_items:
            of_task.setdefault(part.audio_id(position), item)
    return [item for of_task in chosen.values() for item in of_task.values()]


def _reference(sample: Sample) -> np.ndarray:
    assert sample.waveform is not None, f"{sample.item_name}: validation items have a target"
    return sample.waveform.numpy()


def _read_picture(path: Path) -> np.ndarray:
    """Uint8 ``(H, W, 3)``; what is transparent in the file is grey."""
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@contextmanager
def _undisturbed_training(model: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """Evaluation mode without gradients; modes and random states are as before afterwards.

    The global generators start from ``seed``: a part that draws from them (a sampling decoder) does so alike each time.
    """
    modes = [(module, module.training) for module in model.modules()]
    forked = {"devices": []} if device.type == "cpu" else {"devices": [device], "device_type": device.type}
    with torch.random.fork_rng(**forked), torch.no_grad():
        torch.manual_seed(seed)
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
