"""Waveforms and samples that tests of metrics judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile as sf

from unisono.evaluation.items import MODEL, EvaluationItem, Sample
from unisono.evaluation.metric import Metric
from unisono.evaluation.runner import Settings

RATE = 16_000
QUIET = Settings(sample_rate=RATE, workers=0, progress=False, cache=None)
"""Settings that measure in this process, without a word."""


def voice_like(duration_s: float = 2.0, seed: int = 0) -> np.ndarray:
    """A harmonic stack with syllables and changing timbre, float32 ``(S,)`` at `RATE`."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(duration_s * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * time_s + seed)) / RATE
    weights = rng.uniform(0.1, 1.0, (25, 8))
    turn = (time_s * 4).astype(int) % 8
    voiced = sum(weights[k - 1, turn] / k**0.5 * np.sin(k * phase) for k in range(1, 26))
    return (0.08 * voiced * (0.55 - 0.45 * np.cos(2 * np.pi * 4 * time_s))).astype(np.float32)


def noisy(waveform: np.ndarray, level: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (waveform + level * rng.normal(size=len(waveform))).astype(np.float32)


def sample(waveform, reference, row: str = MODEL, task: str = "speech_enhancement", **fields) -> Sample:
    item = EvaluationItem("a", task, "Do it.", "text", Path("a.wav"), **fields)
    return Sample(row, waveform, reference, None, RATE, item)


def value(metric: Metric, *args, **fields) -> float:
    """The first number of a metric for a sample of these."""
    number = metric(sample(*args, **fields))[metric.cards[0].name]
    assert isinstance(number, float)
    return number


def write(path: Path, waveform: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, waveform, rate, subtype="FLOAT")
    return path
