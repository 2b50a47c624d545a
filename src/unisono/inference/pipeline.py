"""The Python API of generation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unisono.data.collate import Collator
from unisono.errors import UserError
from unisono.inference.model_folder import load_model_folder, save_model_folder
from unisono.models.unified import GenerationSettings, UnifiedAudioModel
from unisono.objectives.noise import derive_seed
from unisono.types import PhonemeContent, Sample, ScoreContent


@dataclass(frozen=True)
class GeneratedAudio:
    """One generated item: ``waveform`` float32 ``(S,)`` at ``sample_rate`` Hz."""

    audio_id: str
    waveform: np.ndarray
    sample_rate: int

    @property
    def duration_s(self) -> float:
        return len(self.waveform) / self.sample_rate


def choose_device(name: str) -> torch.device:
    """A torch device from its name; "auto" is the first GPU, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device is {name!r}; use auto, cpu, cuda or cuda:N") from error


class Pipeline:
    """A model ready to generate.

    Args:
        model: trained model.
        cfg: the model folder's configuration (``model``, ``phonemes``, ``speakers``).
        device: where it runs.
        mixed_precision: "no" or "bf16".
    """

    def __init__(
        self,
        model: UnifiedAudioModel,
        cfg: dict[str, Any],
        device: torch.device | str = "cpu",
        mixed_precision: str = "no",
    ) -> None:
        if mixed_precision not in ("no", "bf16"):
            raise UserError(f"mixed_precision is {mixed_precision!r}; use no or bf16")
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.cfg, self.mixed_precision = cfg, mixed_precision
        encoders = dict(model.content_encoders.items())
        self.collate = Collator(
            cfg["phonemes"],
            cfg["speakers"],
            model.autoencoder.sample_rate,
            model.autoencoder.hop_samples,
            text_tokenizer=getattr(encoders.get("text"), "pretrained", None),
            instruction_tokenizer=getattr(model.instruction_encoder, "pretrained", None),
        )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, device: str = "auto", mixed_precision: str = "no") -> Pipeline:
        """Load a model folder."""
        model, cfg = load_model_folder(folder)
        return cls(model, cfg, choose_device(device), mixed_precision)

    def save_pretrained(self, folder: str | os.PathLike) -> Path:
        """Write a model folder."""
        return save_model_folder(Path(folder), self.model, self.cfg, {})

    @property
    def sample_rate(self) -> int:
        return self.model.autoencoder.sample_rate

    def generate(
        self,
        samples: Sequence[Sample],
        *,
        seed: int = 0,
        settings: GenerationSettings | None = None,
        duration_s: Sequence[float | None] | None = None,
    ) -> list[GeneratedAudio]:
        """Generate a batch; an item's noise depends on ``(seed, audio_id)`` alone, not on its neighbours."""
        if not samples:
            return []
        settings = settings or GenerationSettings()
        wanted = [None] * len(samples) if duration_s is None else list(duration_s)
        if len(wanted) != len(samples):
            raise UserError(f"duration_s has {len(wanted)} values for {len(samples)} items; give one for each, or None")
        for sample, wanted_s in zip(samples, wanted, strict=True):
            self._check(sample, wanted_s, settings)
        batch = self.collate(samples).to(self.device)
        seeds = [derive_seed(seed, sample.audio_id) for sample in samples]
        bf16 = torch.autocast(self.device.type, torch.bfloat16) if self.mixed_precision == "bf16" else nullcontext()
        with bf16:
            generated = self.model.generate(batch, seeds, settings, duration_s)
        waveforms = [generated.waveform[row, : int(generated.lengths[row])].cpu() for row in range(len(samples))]
        for sample, waveform in zip(samples, waveforms, strict=True):
            if not bool(waveform.isfinite().all()):
                raise UserError(
                    f"{sample.item_name or sample.audio_id}: what the model made holds NaN or infinite values; its "
                    "weights do, or guidance_scale is far too large"
                )
        return [
            GeneratedAudio(sample.audio_id, waveform.numpy(), self.sample_rate)
            for sample, waveform in zip(samples, waveforms, strict=True)
        ]

    def _check(self, sample: Sample, wanted_s: float | None, settings: GenerationSettings) -> None:
        """Raise where an item has no length, or one that would not be kept."""
        where, limit_s = sample.item_name or sample.audio_id, settings.max_duration_s
        if wanted_s is not None and not 0 < wanted_s <= limit_s:
            raise UserError(
                f"{where}: duration_s is {wanted_s}; it must lie between 0 and {limit_s} s (max_duration_s)"
            )
        if wanted_s is None and not sample.content:
            raise UserError(f"{where}: there is no content, so nothing tells a length; give duration_s")
        for content in sample.content:
            if not isinstance(content, PhonemeContent | ScoreContent):
                continue
            if content.durations_s is None or settings.predict_durations or wanted_s is not None:
                continue
            units_s = float(content.durations_s.sum())
            if units_s > limit_s:
                raise UserError(
                    f"{where}: its durations sum to {units_s:.3f} s, and max_duration_s is {limit_s}: it would be "
                    "hurried through; raise max_duration_s, or give duration_s"
                )


def weights_hash(folder: str | os.PathLike) -> str:
    """First 16 hex digits of the SHA-256 of a model folder's weights."""
    with (Path(folder) / "model.safetensors").open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()[:16]
