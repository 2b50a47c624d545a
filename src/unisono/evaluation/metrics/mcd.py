"""Mel-cepstral distortion: how far two voices' spectral envelopes are apart, frame by frame or along a time warp.

The same pair of recordings gives values from 3 to 22 by published recipes: every choice is on the card, and the two
alignments have two names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisono.evaluation.items import Sample
from unisono.evaluation.metric import Metric, MetricCard
from unisono.evaluation.metrics.world import (
    ACTIVE_DB,
    CEPSTRAL_ORDER,
    F0_PARAMETERS,
    FRAMEWISE_PARAMETERS,
    WARP_PARAMETERS,
    allpass_constant,
    framewise,
    mel_cepstra_of,
    timbre_warp,
    versions,
)

_BLIND_TO = (
    "Level (c0 is left out), pitch, phase, breath and noise between the harmonics, and what lies in pauses of both. "
    "Weak noise counts much, as in every MCD. Values of other recipes are not comparable."
)


@dataclass(frozen=True)
class Mcd(Metric):
    """Mel-cepstral distortion frame by frame, in dB, where the input fixes the timing.

    Attributes:
        sample_rate: Hz at which the envelopes are taken.
    """

    sample_rate: int

    tasks = frozenset({"singing_acoustic_modeling"})
    libraries = ("pyworld",)

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (_card("mcd_db", "MCD", "frame by frame", "", self.sample_rate, FRAMEWISE_PARAMETERS),)

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        sample = sample.resampled(self.sample_rate)
        frames = np.arange(framewise(sample))
        return {"mcd_db": _distortion_db(sample, frames, frames, np.ones(len(frames)))}


@dataclass(frozen=True)
class McdDtw(Metric):
    """Mel-cepstral distortion along the cheapest time warp, in dB, where the model chooses the timing.

    Attributes:
        sample_rate: Hz at which the envelopes are taken.
    """

    sample_rate: int

    tasks = frozenset({"text_to_speech", "singing_voice_synthesis"})
    libraries = ("pyworld",)

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        warp_hides = "Timing, which the warp makes good. "
        return (
            _card("mcd_dtw_db", "MCD (DTW)", "along the cheapest warp", warp_hides, self.sample_rate, WARP_PARAMETERS),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        sample = sample.resampled(self.sample_rate)
        warp = timbre_warp(sample)
        return {"mcd_dtw_db": _distortion_db(sample, warp.first, warp.second, warp.weights)}


def _distortion_db(sample: Sample, first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean over the pairs of frames in which at least one voice sounds."""
    judged, reference = mel_cepstra_of(sample, "judged"), mel_cepstra_of(sample, "reference")
    sounding = judged.active[first] | reference.active[second]
    difference = judged.values[first[sounding], 1:] - reference.values[second[sounding], 1:]
    distortion_db = 10.0 / np.log(10.0) * np.sqrt(2.0 * (difference**2).sum(axis=1))
    return float(np.average(distortion_db, weights=weights[sounding]))


def _card(name: str, title: str, how: str, not_heard: str, sample_rate: int, timing: Mapping[str, Any]) -> MetricCard:
    return MetricCard(
        name=name,
        title=title,
        unit="dB",
        direction="lower",
        value_range="0 (identical envelopes) upwards, seldom above 15",
        definition=f"10 √2 / ln 10 times the Euclidean distance of the mel cepstra c1 to c{CEPSTRAL_ORDER}, {how}, "
        "mean over the frames in which at least one of the two sounds.",
        blind_to=not_heard + _BLIND_TO,
        source="Kubichek 1993; mel cepstra: Tokuda, Kobayashi, Masuko and Imai 1994; envelope: CheapTrick, Morise 2015",
        implementation="unisono.evaluation.metrics.mcd on pyworld.cheaptrick",
        version=versions("pyworld-prebuilt"),
        parameters={
            **F0_PARAMETERS,
            "sample_rate": sample_rate,
            "envelope": "WORLD CheapTrick, 100 dB below its loudest value at least",
            "cepstra": "all-pass warped (SPTK sp2mc)",
            "order": CEPSTRAL_ORDER,
            "alpha": allpass_constant(sample_rate),
            "c0": "left out",
            "frames": f"either of the two within {ACTIVE_DB:g} dB of its own loudest 30 ms",
            **timing,
        },
    )
