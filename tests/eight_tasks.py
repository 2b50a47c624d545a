"""A small model with every content encoder, four clips for each of the eight tasks, and a bare training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from unisono.data.collate import Collator
from unisono.data.datasets import DATASETS
from unisono.data.mini.corpus import build_mini_corpus
from unisono.data.mini.items import SPEAKERS
from unisono.models.autoencoder import LogMelAutoencoder
from unisono.models.backbone import LayerFusionDiT
from unisono.models.content_adapter import PrefixAdapter
from unisono.models.content_encoder import (
    AudioEncoder,
    ByteTextEncoder,
    PhonemeEncoder,
    PitchEncoder,
    ScoreEncoder,
    VideoEncoder,
)
from unisono.models.generation import Generated, GenerationSettings
from unisono.models.unified import UnifiedAudioModel
from unisono.objectives import FlowMatching
from unisono.text.phonemes import PHONEMES
from unisono.threads import one_torch_thread
from unisono.training.losses import AudioGenerationLoss
from unisono.types import AudioContent, Batch, Sample

CLIPS_PER_TASK = 4
_COUNTS = {
    "text_to_audio": (4, 2, 0),
    "text_to_music": (4, 1, 0),
    "text_to_speech": (4, 5, 0),
    "speech_enhancement": (0, 5, 0),
    "singing_voice_synthesis": (4, 4, 0),
    "singing_acoustic_modeling": (0, 4, 0),
    "audio_super_resolution": (0, 4, 0),
    "video_to_audio": (4, 0, 0),
}
"""Three tasks take recordings of others as targets: they have a split of their own, so that no clip is there twice."""


def eight_task_corpus(folder: Path) -> Path:
    """A mini corpus with at least four clips for each task, in about four seconds."""
    return build_mini_corpus(folder, counts=_COUNTS, workers=1, progress=False)


def eight_task_samples(root: Path, crops_s: Sequence[float]) -> list[Sample]:
    """Clips of all tasks, as the data sets give them: the n-th of a task is cropped to the n-th of ``crops_s``.

    Crops of units (speech, singing) are whole units, so they are somewhat shorter. Crops that are nearly silent, as
    before the event of a film, or far too short could not be told apart: others are drawn.
    """
    samples = []
    for task, dataset in DATASETS.items():
        folder = root / task / ("train" if _COUNTS[task][0] else "val")
        # Super-resolution has the first recording of enhancement, which therefore begins with the second.
        first = 1 if task == "speech_enhancement" else 0
        options = {"frame_size": 32} if task == "video_to_audio" else {}
        for index, crop_s in enumerate(crops_s):
            manifests = (folder / "content.jsonl", folder / "audio.jsonl")
            drawn = (dataset(*manifests, crop_s=crop_s, seed=seed, **options)[first + index] for seed in range(50))
            samples.append(next(sample for sample in drawn if _is_heard(sample, crop_s)))
    return samples


def _is_heard(sample: Sample, crop_s: float) -> bool:
    assert sample.waveform is not None
    return len(sample.waveform) >= 0.7 * crop_s * 24_000 and float(sample.waveform.abs().max()) > 0.1


def eight_task_collator() -> Collator:
    return Collator(PHONEMES, SPEAKERS)


def log_mel_for(waveforms: Sequence[torch.Tensor], mels: int = 40) -> LogMelAutoencoder:
    """A log-mel autoencoder whose latents of these ``(S,)`` have mean 0 per channel and deviation 1 in all together.

    It matters: with the mean of silence left in, the same training takes three times as many steps.
    """
    plain = LogMelAutoencoder(n_mels=mels)
    frames = torch.cat([plain.encode(w[None], torch.tensor([len(w)]))[0][0] for w in waveforms])
    mean = frames.mean(dim=0)
    return LogMelAutoencoder(n_mels=mels, mean=mean.tolist(), std=float((frames - mean).std()), griffin_lim_steps=16)


def eight_task_model(
    autoencoder: LogMelAutoencoder, dim: int = 64, layers: int = 4, seed: int = 0
) -> UnifiedAudioModel:
    """A model that takes every kind of content; flow matching in the latent of ``autoencoder``."""
    torch.manual_seed(seed)
    mels = autoencoder.latent_dim
    voices = {"phonemes": PHONEMES, "speakers": SPEAKERS, "num_heads": 2}
    return UnifiedAudioModel(
        autoencoder=autoencoder,
        instruction_encoder=ByteTextEncoder(32, num_layers=1, num_heads=2, ngram_buckets=256),
        content_encoders={
            "text": ByteTextEncoder(dim, num_layers=1, num_heads=2),
            "phoneme": PhonemeEncoder(dim, num_layers=1, **voices),
            "score": ScoreEncoder(dim, num_layers=1, **voices),
            "pitch": PitchEncoder(dim, **voices),
            "audio": AudioEncoder(dim, latent_dim=mels),
            "video": VideoEncoder(dim, channels=8),
        },
        content_adapter=PrefixAdapter(dim, instruction_dim=32, num_heads=2),
        backbone=LayerFusionDiT(latent_dim=mels, dim=dim, num_layers=layers, num_heads=2, frames_dim=dim),
        objective=FlowMatching(),
    )


def fit(
    model: UnifiedAudioModel, batch_of: Callable[[int], Batch], steps: int, lr: float = 3e-3, seed: int = 0
) -> UnifiedAudioModel:
    """A bare PyTorch loop; ``batch_of(step)`` is what each step sees. Returns the trained model."""
    loss_fn = AudioGenerationLoss()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    with one_torch_thread():  # and in float32: so small a network is slower on several, and under autocast
        for step in range(steps):
            batch = batch_of(step)
            torch.manual_seed(1_000_000 * seed + step)
            loss = loss_fn(model(batch)).total
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def generate(model: UnifiedAudioModel, samples: Sequence[Sample], settings: GenerationSettings) -> Generated:
    """What the model makes of the samples' content; the n-th always has the same noise."""
    with one_torch_thread():
        return model.generate(eight_task_collator()(samples), range(len(samples)), settings)


def with_latents(model: UnifiedAudioModel, sample: Sample) -> Sample:
    """The same item with latents for recordings, as from the feature cache; each step is spared their computation."""

    def latent(waveform: torch.Tensor) -> torch.Tensor:
        return model.autoencoder.encode(waveform[None], torch.tensor([len(waveform)]))[0][0]

    contents = tuple(
        AudioContent(latent=latent(content.waveform))
        if isinstance(content, AudioContent) and content.waveform is not None
        else content
        for content in sample.content
    )
    target = sample.waveform
    assert target is not None
    return dataclasses.replace(sample, content=contents, waveform=None, latent=latent(target), num_samples=len(target))
