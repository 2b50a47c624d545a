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
from unisono.types import PhonemeContent, Sample


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
        settings = settings or GenerationSettings()
        for wanted_s in duration_s or ():
            if wanted_s is not None and not 0 < wanted_s <= settings.max_duration_s:
                raise UserError(f"duration_s is {wanted_s}; it must lie between 0 and {settings.max_duration_s} s")
        for sample in samples:
            for content in sample.content:
                if isinstance(content, PhonemeContent):
                    self.collate.check(sample.item_name or sample.audio_id, content)
        batch = self.collate(samples).to(self.device)
        seeds = [derive_seed(seed, sample.audio_id) for sample in samples]
        bf16 = torch.autocast(self.device.type, torch.bfloat16) if self.mixed_precision == "bf16" else nullcontext()
        with bf16:
            generated = self.model.generate(batch, seeds, settings, duration_s)
        return [
            GeneratedAudio(
                sample.audio_id, generated.waveform[row, : int(generated.lengths[row])].cpu().numpy(), self.sample_rate
            )
            for row, sample in enumerate(samples)
        ]


def weights_hash(folder: str | os.PathLike) -> str:
    """First 16 hex digits of the SHA-256 of a model folder's weights."""
    with (Path(folder) / "model.safetensors").open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()[:16]
