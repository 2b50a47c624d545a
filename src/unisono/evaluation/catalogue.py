"""Which metrics there are, in the order of the report's columns. A new metric is one class and one line here."""

from __future__ import annotations

from unisono.evaluation.durations import DurationError
from unisono.evaluation.events import EventCountError
from unisono.evaluation.metric import Metric
from unisono.evaluation.spectral import LogSpectralDistance, MelDistance, MelDistanceDtw
from unisono.evaluation.speech import SiSdr, Stoi
from unisono.features.mel import MelFrontEnd


def default_metrics(sample_rate: int) -> tuple[Metric, ...]:
    """Every per-item metric, set up for waveforms at ``sample_rate`` Hz."""
    front_end = MelFrontEnd.for_rate(sample_rate)
    return (
        SiSdr(sample_rate),
        Stoi(sample_rate, extended=False),
        Stoi(sample_rate, extended=True),
        MelDistance(front_end),
        MelDistanceDtw(front_end),
        LogSpectralDistance(sample_rate),
        EventCountError(front_end),
        DurationError("s"),
        DurationError("%"),
    )
