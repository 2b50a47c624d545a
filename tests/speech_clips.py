"""Synthetic speech, and what metrics say of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.signal

from unisono.evaluation.items import MODEL, EvaluationItem, Sample
from unisono.evaluation.metric import Metric, measure

RATE = 16_000


def speech(seconds: float, sample_rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Something that speech detectors take for speech: a buzz through moving formants, in syllables and pauses."""
    rng = np.random.default_rng(seed)
    n = round(seconds * sample_rate)
    time_s = np.arange(n) / sample_rate
    buzz = scipy.signal.sawtooth(2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 0.7 * time_s)) / sample_rate)
    voice = buzz + 0.1 * rng.normal(size=n)
    out = np.zeros(n)
    syllable = round(0.22 * sample_rate)
    for first in range(0, n, syllable):
        if (first // syllable) % 5 == 4:
            continue
        part = voice[first : first + syllable]
        for centre_hz in rng.uniform([300, 900, 2200], [800, 2000, 3500]):
            radius = np.exp(-np.pi * 90 / sample_rate)
            poles = [1, -2 * radius * np.cos(2 * np.pi * centre_hz / sample_rate), radius**2]
            part = scipy.signal.lfilter([1 - radius], poles, part) + 0.3 * part
        out[first : first + syllable] = part * np.hanning(syllable)[: len(part)]
    return (0.4 * out / np.abs(out).max()).astype(np.float32)


def noisy(clean: np.ndarray, snr_db: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=len(clean))
    noise *= np.sqrt(np.mean(clean**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    return (clean + noise).astype(np.float32)


def sample(waveform: np.ndarray, reference: np.ndarray | None, sample_rate: int = RATE) -> Sample:
    item = EvaluationItem("clip", "speech_enhancement", "", "", Path("clip.wav"))
    judged = np.asarray(waveform, dtype=np.float32)
    target = None if reference is None else np.asarray(reference, dtype=np.float32)
    return Sample(MODEL, judged, target, None, sample_rate, item)


def values(metric: Metric, clip: Sample) -> dict[str, float]:
    outcomes = measure(metric, clip)
    assert all(outcome.status == "ok" for outcome in outcomes.values()), outcomes
    return {name: outcome.value for name, outcome in outcomes.items() if outcome.value is not None}


def reasons(metric: Metric, clip: Sample, status: str = "failed") -> dict[str, str]:
    outcomes = measure(metric, clip)
    assert all(outcome.status == status for outcome in outcomes.values()), outcomes
    return {name: outcome.reason for name, outcome in outcomes.items()}


CLEAN = speech(3)
