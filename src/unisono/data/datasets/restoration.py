"""Recordings to be restored: noisy speech, audio of narrow bandwidth."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unisono.data.datasets.base import AudioGenerationDataset, Target
from unisono.data.feature_cache import CachedLatents
from unisono.data.manifest import Fields
from unisono.errors import UserError
from unisono.media import tolerances
from unisono.media.locations import Location
from unisono.types import AudioContent, Content

Degradation = Callable[[np.random.Generator, np.ndarray, int], Any]
"""``(rng, waveform (S,), sample_rate) -> degraded``, whose ``waveform (S,)`` lies as the given one does in time."""


def degraded_elsewhere(rng: np.random.Generator, waveform: np.ndarray, sample_rate: int) -> Any:
    """Stands for the degradation of a configuration where lines are only checked or copied."""
    raise AssertionError("nothing is degraded here")


class RestorationDataset(AudioGenerationDataset):
    """Recordings and the worse ones that they are to be made from.

    Args:
        content, audio, **options: see ``AudioGenerationDataset``.
        degradation: makes the input from the target, anew each epoch; without one each line names its input.
    """

    input_field: str

    def __init__(self, content: Any, audio: Any = None, degradation: Degradation | None = None, **options: Any) -> None:
        self.degradation = degradation
        self.input_latents: CachedLatents | None = None
        if degradation is not None and content is not None and audio is None:
            raise UserError(
                f"{content}: a degradation needs targets to degrade (audio is null); generating takes the lines' own "
                f"{self.input_field}"
            )
        super().__init__(content, audio, **options)

    @property
    def needs_waveform(self) -> bool:  # type: ignore[override]
        return self.degradation is not None

    def check_options(self) -> list[Any]:
        return [self.degradation is not None]

    def check(self, line: Fields, duration_s: float | None) -> None:
        if self.degradation is not None:
            return
        self.check_file(line, self.input_field)
        if not self.check_files:
            return
        input_s = self.recording_s(line, self.input_field)
        if duration_s is not None and abs(input_s - duration_s) > tolerances.LENGTH_S:
            place = line.location(self.input_field)
            raise line.fail(
                f"field {self.input_field!r}: {place} lasts {input_s:.3f} s, its target {duration_s:.3f} s; "
                f"they must agree within {tolerances.LENGTH_S} s and start together"
            )

    def load_content(self, line: Fields, target: Target, rng: np.random.Generator) -> tuple[Content, ...]:
        if self.degradation is not None:
            assert target.waveform is not None
            if target.window is None:  # a part may be silent or dull where the whole is not
                self.check_target(line, target.waveform)
            degraded = self.degradation(rng, target.waveform.numpy(), self.sample_rate)
            return (AudioContent(torch.from_numpy(degraded.waveform)),)
        if self.input_latents is not None:
            latent, _ = self.input_latents.read(line.location(self.input_field), target.window, target.num_samples)
            return (AudioContent(latent=latent),)
        waveform = self.read(line, self.input_field, target.window)
        if target.num_samples is not None and waveform.shape[0] != target.num_samples:
            # Within the tolerance that check() allows: the input's end is cut or filled with silence.
            waveform = torch.nn.functional.pad(waveform, (0, target.num_samples - waveform.shape[0]))
        return (AudioContent(waveform),)

    @abstractmethod
    def check_target(self, line: Fields, waveform: Tensor) -> None:
        """Raise where a target is no good to be degraded."""

    def input_files(self, line: Fields) -> tuple[tuple[str, Location], ...]:
        return () if self.degradation is not None else ((self.input_field, line.location(self.input_field)),)

    def describe(self, line: Fields) -> str:
        return PurePath(line.record.get(self.input_field) or line.record["audio_id"]).name


class SpeechEnhancementDataset(RestorationDataset):
    """Noisy and clean speech of equal length; ``degradation`` makes the noisy one, see ``SpeechDegradation``."""

    task = "speech_enhancement"
    input_field = "noisy_audio"

    def check_target(self, line: Fields, waveform: Tensor) -> None:
        if not bool(waveform.any()):
            raise line.fail("the clean target is silent, so no noise has a ratio to it; remove the line")


class AudioSuperResolutionDataset(RestorationDataset):
    """Audio of narrow bandwidth and the same of full bandwidth; ``degradation``: see ``BandwidthDegradation``.

    Args:
        min_bandwidth_hz: what a target must reach where the data set degrades, lest the model learn to add nothing;
            null asks nothing. Parts (``crop_s``) are not judged: ``unisono validate --min-bandwidth-hz`` does it
            beforehand.
        content, audio, degradation, **options: see ``RestorationDataset``.
    """

    task = "audio_super_resolution"
    input_field = "narrow_audio"

    def __init__(
        self,
        content: Any,
        audio: Any = None,
        degradation: Degradation | None = None,
        min_bandwidth_hz: float | None = None,
        **options: Any,
    ) -> None:
        self.min_bandwidth_hz = min_bandwidth_hz
        super().__init__(content, audio, degradation, **options)

    def check(self, line: Fields, duration_s: float | None) -> None:
        line.positive("bandwidth_hz", "a positive number of Hz", None)
        super().check(line, duration_s)

    def check_target(self, line: Fields, waveform: Tensor) -> None:
        if self.min_bandwidth_hz is None:
            return
        from unisono.data.degrade import effective_bandwidth_hz

        found_hz = effective_bandwidth_hz(waveform.numpy(), self.sample_rate)
        if found_hz < self.min_bandwidth_hz:
            raise line.fail(
                f"the target reaches only {found_hz:.0f} Hz, min_bandwidth_hz is {self.min_bandwidth_hz:g}; remove the "
                "line (unisono validate --fix does) or lower it"
            )
