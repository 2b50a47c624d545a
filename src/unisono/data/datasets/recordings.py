"""Recordings alone, of any data sets: what autoencoders and vocoders are trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from unisono.data.collate import lengths_of, pad
from unisono.data.datasets.base import AudioGenerationDataset, Window
from unisono.data.datasets.concat import ConcatDataset
from unisono.errors import UserError
from unisono.objectives.noise import derive_seed
from unisono.tasks import task_index
from unisono.types import Batch, Sample


class TargetRecordings(ConcatDataset):
    """The target recordings of several data sets, or a random part of each; their contents are not read.

    Where a crop lies is a function of ``(seed, epoch, audio_id)``.

    Args:
        datasets: of any tasks, with targets.
        crop_s: show a part of at most this length, at least one latent frame; None shows recordings whole.
        seed: of the crops.
    """

    def __init__(self, datasets: Sequence[AudioGenerationDataset], crop_s: float | None = None, seed: int = 0) -> None:
        super().__init__(datasets)
        if crop_s is not None and not crop_s > 0:
            raise UserError(f"crop_s is {crop_s}; it must be above 0, or null for whole recordings")
        if crop_s is not None and crop_s < (frame_s := datasets[0].frame_s) * (1 - 1e-6):
            raise UserError(f"crop_s is {crop_s}; it must be at least a latent frame, {frame_s:g} s")
        for dataset in datasets:
            if not dataset.has_targets:
                raise UserError(f"{dataset.name}: there are no target recordings; name an audio.jsonl beside it")
        self.crop_s, self.seed = crop_s, seed

    @property
    def durations_s(self) -> np.ndarray:
        durations_s = super().durations_s
        return durations_s if self.crop_s is None else np.minimum(durations_s, np.float32(self.crop_s))

    def sample(self, index: int, heard: bool = False) -> Sample:
        """The recording, in ``waveform``; a recording is always heard."""
        epoch, item = divmod(index, len(self))
        dataset, position = self.locate(item)
        line = dataset.target_line(position)
        audio_id, whole_s = line.record["audio_id"], float(dataset.index.duration_s[position])
        window = None
        if self.crop_s is not None and whole_s > self.crop_s:
            rng = np.random.default_rng([derive_seed(self.seed, "recording", epoch, audio_id)])
            window = Window(float(rng.uniform(0.0, whole_s - self.crop_s)), self.crop_s)
        waveform = dataset.read(line, "audio", window)
        return Sample(audio_id, dataset.task, "", (), waveform=waveform, item_name=line.where)


class RecordingCollator:
    """Samples with a waveform to a batch of waveforms."""

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        waveforms = [sample.waveform for sample in samples if sample.waveform is not None]
        if len(waveforms) != len(samples):
            raise ValueError("a recording is missing: these samples come from data sets that read latents")
        return Batch(
            audio_ids=tuple(sample.audio_id for sample in samples),
            tasks=tuple(sample.task for sample in samples),
            task_index=torch.tensor([task_index(sample.task) for sample in samples]),
            instruction={},
            waveform=pad(waveforms),
            waveform_lengths=lengths_of(waveforms),
        )
