"""Sound events: what the truth about them is, and whether there are as many as the caption asks for.

The truth is `details["events"]`: one object per event, with `kind`, `start_s`, `end_s`, `pitch` and `group`. Onsets are
counted in the waveform, where that can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
import scipy.signal

import unisono
from unisono.evaluation.items import EvaluationItem, Sample
from unisono.evaluation.metric import Metric, MetricCard, MetricFailure, NotApplicable
from unisono.features.mel import MelFrontEnd

_BELOW_PEAK_DB = 45.0
_RISE_DB = 9.0
_LOOK_BACK_S = 0.08
_MIN_GAP_S = 0.1
_SMOOTH_S = 0.04


def onset_envelope_db(waveform: np.ndarray, front_end: MelFrontEnd) -> np.ndarray:
    """How many dB the loudest mel band of each frame rises above the quietest moment of the last 80 ms, ``(T,)``.

    The loudest band rather than the sum over bands, so that a whistle counts as much as a knock; levels more than 45 dB
    below the clip's peak are raised to that floor, so that reverberation and noise between events do not rise.
    """
    level_db = front_end(waveform).max(axis=1)
    level_db = np.maximum(level_db, level_db.max() - _BELOW_PEAK_DB)
    smooth = max(1, round(_SMOOTH_S * front_end.frame_rate_hz))
    level_db = scipy.ndimage.uniform_filter1d(level_db, smooth, mode="nearest")
    look_back = max(2, round(_LOOK_BACK_S * front_end.frame_rate_hz))
    # An event that starts with the clip rises out of silence: the moments before the first frame hold the floor.
    padded = np.concatenate([np.full(look_back, level_db.max() - _BELOW_PEAK_DB), level_db])
    quietest = np.lib.stride_tricks.sliding_window_view(padded, look_back + 1).min(axis=1)
    return level_db - quietest


def count_onsets(waveform: np.ndarray, front_end: MelFrontEnd) -> int:
    """Number of peaks of the onset envelope of at least 9 dB, at least 0.1 s apart."""
    envelope = np.concatenate([[0.0], onset_envelope_db(waveform, front_end), [0.0]])
    gap = max(1, round(_MIN_GAP_S * front_end.frame_rate_hz))
    peaks, _ = scipy.signal.find_peaks(envelope, height=_RISE_DB, prominence=_RISE_DB, distance=gap)
    return len(peaks)


def events_of(item: EvaluationItem) -> Sequence[Any]:
    """`details["events"]`; `MetricFailure` if it is no list of objects."""
    events = item.details["events"]
    if not isinstance(events, list | tuple):
        raise MetricFailure(f"details['events'] is a {type(events).__name__}, not a list with one object per event")
    if not events:
        raise NotApplicable("the item has no events")
    if not all(isinstance(event, Mapping) for event in events):
        raise MetricFailure("details['events'] holds something else than one object per event")
    return events


def time_of(event: Mapping[str, Any], name: str) -> float:
    """A time of an event in seconds; `NotApplicable` if it is not given, `MetricFailure` if it is none."""
    value = event.get(name)
    if value is None:
        raise NotApplicable(f"an event has no {name}")
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise MetricFailure(f"{name} of an event is {value!r}, not a time in seconds")
    return float(value)


@dataclass(frozen=True)
class EventMetric(Metric):
    """What the metrics of events have in common."""

    front_end: MelFrontEnd

    tasks = frozenset({"text_to_audio"})

    def applies_to(self, item: EvaluationItem) -> bool:
        return super().applies_to(item) and item.details.get("events") is not None


@dataclass(frozen=True)
class EventCountError(EventMetric):
    """Absolute difference between counted onsets and the number of events that the caption stands for."""

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name="event_count_error",
                title="Event count error",
                unit="",
                direction="lower",
                value_range="0 (right number of events) upwards, whole numbers",
                definition="Absolute difference of the number of onsets heard and the number of events of the caption.",
                blind_to="What the events sound like. Measured only where the counter finds the true number in the "
                "reference itself; elsewhere (overlapping or rustling events) it is not applicable.",
                source="this project",
                implementation="unisono.evaluation.metrics.events.EventCountError",
                version=unisono.__version__,
                parameters=self.front_end.parameters
                | {
                    "floor_below_peak_db": _BELOW_PEAK_DB,
                    "min_rise_db": _RISE_DB,
                    "look_back_s": _LOOK_BACK_S,
                    "min_gap_s": _MIN_GAP_S,
                    "smoothing_s": _SMOOTH_S,
                },
            ),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        events = events_of(sample.item)
        in_reference = count_onsets(sample.needed_reference, self.front_end)
        if in_reference != len(events):
            raise NotApplicable(f"the counter finds {in_reference} of {len(events)} events in the reference itself")
        return {"event_count_error": float(abs(count_onsets(sample.waveform, self.front_end) - len(events)))}
