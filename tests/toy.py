"""A very small unified model and data sets over the toy corpus."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import torch

from conftest import TOY_PHONEMES, TOY_SPEAKERS
from unisono.data.collate import Collator
from unisono.data.datasets import (
    AudioGenerationDataset,
    SpeechEnhancementDataset,
    TextToAudioDataset,
    TextToSpeechDataset,
)
from unisono.models.autoencoder import LogMelAutoencoder
from unisono.models.backbone import LayerFusionDiT
from unisono.models.content_adapter import PrefixAdapter
from unisono.models.content_encoder import AudioEncoder, ByteTextEncoder, PhonemeEncoder
from unisono.models.unified import UnifiedAudioModel
from unisono.objectives import FlowMatching

DATASETS: dict[str, type[AudioGenerationDataset]] = {
    cls.task: cls for cls in (TextToAudioDataset, TextToSpeechDataset, SpeechEnhancementDataset)
}


def toy_dataset(root: Path, task: str) -> AudioGenerationDataset:
    return DATASETS[task](root / task / "content.jsonl", root / task / "audio.jsonl")


def toy_collator() -> Collator:
    return Collator(TOY_PHONEMES, TOY_SPEAKERS)


def toy_model(
    dim: int = 64,
    layers: int = 4,
    seed: int = 0,
    adapter: type = PrefixAdapter,
    backbone: type = LayerFusionDiT,
    mels: int = 40,
) -> UnifiedAudioModel:
    torch.manual_seed(seed)
    return UnifiedAudioModel(
        autoencoder=LogMelAutoencoder(n_mels=mels, mean=-6.0, std=2.5, griffin_lim_steps=8),
        instruction_encoder=ByteTextEncoder(32, num_layers=1, num_heads=2, ngram_buckets=256),
        content_encoders={
            "text": ByteTextEncoder(dim, num_layers=1, num_heads=2, ngram_buckets=256),
            "phoneme": PhonemeEncoder(dim, TOY_PHONEMES, TOY_SPEAKERS, num_layers=1, num_heads=2),
            "audio": AudioEncoder(dim, latent_dim=mels),
        },
        content_adapter=adapter(dim, instruction_dim=32, num_heads=2),
        backbone=backbone(latent_dim=mels, dim=dim, num_layers=layers, num_heads=2, frames_dim=dim),
        objective=FlowMatching(),
    )


def randomised(model: UnifiedAudioModel, seed: int = 1) -> UnifiedAudioModel:
    """The output layer starts at zero; tests of wiring need a network whose output depends on its input."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and float(p.abs().sum()) == 0:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
    return model


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A tar archive of files by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
