"""Which metrics there are, in the order of the report's columns. A new metric is one class and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unisono.evaluation.collection import CollectionMetric
from unisono.evaluation.metric import Metric, MetricCard
from unisono.evaluation.metrics.composite import Composite, SpectralDistances
from unisono.evaluation.metrics.dnsmos import Dnsmos
from unisono.evaluation.metrics.durations import DurationError
from unisono.evaluation.metrics.event_order import EventOrderAccuracy
from unisono.evaluation.metrics.event_pitch import EventPitchAccuracy
from unisono.evaluation.metrics.events import EventCountError
from unisono.evaluation.metrics.f0 import F0Error, F0ErrorDtw
from unisono.evaluation.metrics.lsd import BandLogSpectralDistance, LogSpectralDistance
from unisono.evaluation.metrics.mcd import Mcd, McdDtw
from unisono.evaluation.metrics.mel_distance import MelDistance, MelDistanceDtw
from unisono.evaluation.metrics.music import KeyAccuracy, TempoError
from unisono.evaluation.metrics.notes import ScoreNotes, ScoreSemitoneAccuracy
from unisono.evaluation.metrics.onset_alignment import OnsetAlignment
from unisono.evaluation.metrics.over_networks import collection_metrics
from unisono.evaluation.metrics.pesq import Pesq
from unisono.evaluation.metrics.phoneme_alignment import PhonemeAlignment
from unisono.evaluation.metrics.segmental_snr import SegmentalSnr
from unisono.evaluation.metrics.si_sdr import SiSdr
from unisono.evaluation.metrics.speaking import SpeakingManner
from unisono.evaluation.metrics.stoi import Stoi
from unisono.evaluation.metrics.visqol import VisqolAudio, VisqolSpeech
from unisono.evaluation.networks.network import AudioNetwork
from unisono.evaluation.networks.table import why_absent
from unisono.features.mel import MelFrontEnd

AnyMetric = Metric | CollectionMetric


def metrics_of(sample_rate: int) -> tuple[AnyMetric, ...]:
    """Every metric, set up for waveforms at ``sample_rate`` Hz."""
    front_end = MelFrontEnd.for_rate(sample_rate)
    return (
        Pesq("wb"),
        Pesq("nb"),
        Stoi(sample_rate, extended=False),
        Stoi(sample_rate, extended=True),
        SiSdr(sample_rate),
        Composite(),
        SegmentalSnr(),
        SpectralDistances(),
        OnsetAlignment(sample_rate),
        F0Error(sample_rate),
        F0ErrorDtw(sample_rate),
        ScoreSemitoneAccuracy(sample_rate),
        ScoreNotes(sample_rate),
        PhonemeAlignment(),
        *collection_metrics(),
        Dnsmos(),
        SpeakingManner(sample_rate),
        Mcd(sample_rate),
        McdDtw(sample_rate),
        VisqolSpeech(),
        LogSpectralDistance(sample_rate),
        BandLogSpectralDistance(sample_rate),
        VisqolAudio(),
        EventCountError(front_end),
        EventOrderAccuracy(front_end),
        EventPitchAccuracy(front_end),
        TempoError(sample_rate),
        KeyAccuracy(sample_rate),
        MelDistance(front_end),
        MelDistanceDtw(front_end),
        DurationError(),
    )


def metric_names(metric: AnyMetric) -> tuple[str, ...]:
    """Names of its numbers, known even where its network is not there."""
    return metric.names if isinstance(metric, CollectionMetric) else tuple(card.name for card in metric.cards)


@dataclass(frozen=True)
class Entry:
    """One number of the catalogue, as `unisono metrics` lists it.

    Attributes:
        card: what its reports say; of a number whose network is not here, without what the network adds.
        tasks: names of those that get it; empty for all.
        unavailable: why it cannot be had here, or None.
        network: whose weights it needs, where it needs some.
    """

    card: MetricCard
    tasks: frozenset[str]
    unavailable: str | None
    network: str = ""


class _Absent(AudioNetwork):
    """Stands in for a network that is not here, so that the cards of its metrics can be shown."""

    sample_rate, fingerprint, implementation, version = 0, "", "", ""

    def __init__(self, name: str) -> None:
        self.name, self.parameters = name, {}

    def __call__(self, waveform: np.ndarray) -> Mapping[str, np.ndarray]:
        raise AssertionError("never called")


def entries(sample_rate: int = 24_000) -> list[Entry]:
    """Every number of the catalogue, in order."""
    found = []
    for metric in metrics_of(sample_rate):
        if isinstance(metric, CollectionMetric):
            reason = metric.unavailable() or why_absent(metric.network, None)
            found += [
                Entry(card, metric.tasks, reason, metric.network) for card in metric.cards(_Absent(metric.network))
            ]
        else:
            found += [Entry(card, metric.tasks, metric.unavailable()) for card in metric.cards]
    return found
