"""Segmental signal-to-noise ratio, and the frames that it shares with the composite measures.

Shapes: S samples, F frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

import unisono
from unisono.evaluation.alignment import ALIGNMENT, LENGTHS
from unisono.evaluation.items import Sample
from unisono.evaluation.metric import Metric, MetricCard, MetricFailure
from unisono.evaluation.metrics.audible import audible_pair

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 480
HOP_SAMPLES = 120
LOWEST_DB, HIGHEST_DB = -10.0, 35.0

FRAMES = {
    "sample_rate": SAMPLE_RATE_HZ,
    "resampler": "soxr HQ",
    "frame_s": WINDOW_SAMPLES / SAMPLE_RATE_HZ,
    "hop_s": HOP_SAMPLES / SAMPLE_RATE_HZ,
    "window": "Hann without its zeros",
    "frames": "all full ones but the last",
}
"""For the cards: frames as in the programs of Loizou's book, the last full frame left out with them."""


def window() -> np.ndarray:
    """Hann window ``(480,)`` whose zeros would be the samples before the first and after the last."""
    return 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, WINDOW_SAMPLES + 1) / (WINDOW_SAMPLES + 1)))


def frames(waveform: np.ndarray) -> np.ndarray:
    """A view ``(F, 480)`` of ``(S,)`` in steps of 120 samples, not weighted; `MetricFailure` without any frame."""
    count = (len(waveform) - WINDOW_SAMPLES) // HOP_SAMPLES
    if count < 1:
        shortest_s = (WINDOW_SAMPLES + HOP_SAMPLES) / SAMPLE_RATE_HZ
        raise MetricFailure(f"{len(waveform) / SAMPLE_RATE_HZ:.3f} s is too short; needs {shortest_s} s")
    return np.lib.stride_tricks.sliding_window_view(waveform, WINDOW_SAMPLES)[::HOP_SAMPLES][:count]


def frame_snr_db(waveform: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """SNR of each frame ``(F,)`` in dB within -10 to 35; a frame without any difference has 35, silent or not."""
    weights = window() ** 2
    reference = reference.astype(np.float64)
    signal = frames(reference**2) @ weights
    noise = frames((reference - waveform) ** 2) @ weights
    with np.errstate(divide="ignore", invalid="ignore"):
        snr_db = 10 * np.log10(signal / noise)
    return np.clip(np.where(noise == 0, HIGHEST_DB, snr_db), LOWEST_DB, HIGHEST_DB)


def segmental_snr_db(sample: Sample) -> float:
    """Mean of `frame_snr_db` at 16 kHz; computed once however many metrics ask."""
    return sample.once("segmental_snr_db", lambda: _compute(sample))


def _compute(sample: Sample) -> float:
    waveform, reference = audible_pair(sample, SAMPLE_RATE_HZ)
    return float(frame_snr_db(waveform, reference).mean())


@dataclass(frozen=True)
class SegmentalSnr(Metric):
    """Mean over short frames of the signal-to-noise ratio in dB."""

    tasks = frozenset({"speech_enhancement"})

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name="segmental_snr_db",
                title="Segmental SNR",
                unit="dB",
                direction="higher",
                value_range="-10 to 35 dB; 35 for an exact copy",
                definition="Mean over frames of 30 ms of the energy of the reference over that of the difference, each "
                "frame limited to -10 to 35 dB.",
                blind_to="Nothing is forgiven: a change of level, polarity or phase counts as noise, so that it says "
                "little of vocoded speech. All frames count: much silence in the reference pulls it to -10 dB for any "
                "output that is not silent there.",
                source="Hansen and Pellom 1998; frames and limits after Hu and Loizou 2008",
                implementation="unisono.evaluation.metrics.segmental_snr.SegmentalSnr",
                version=unisono.__version__,
                parameters=FRAMES
                | {
                    "limits_db": [LOWEST_DB, HIGHEST_DB],
                    "level": "as it stands",
                    "pauses": "count",
                    "identical_frames_db": HIGHEST_DB,
                    "dtype": "float64",
                    "alignment": ALIGNMENT,
                    "lengths": LENGTHS,
                },
            ),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        return {"segmental_snr_db": segmental_snr_db(sample)}
