"""Do the events of a clip come in the order of its caption: each is looked for by the spectra of the reference's.

The truth is `details["events"]`. A group is what the caption names at once ("three low knocks").

Shapes: S samples, T frames, M mel bands, G groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
from scipy.spatial.distance import cdist

import unisono
from unisono.evaluation.items import EvaluationItem, Sample
from unisono.evaluation.metric import MetricCard, MetricFailure, NotApplicable
from unisono.evaluation.metrics.events import EventMetric, events_of, time_of
from unisono.features.mel import MelFrontEnd

# Chosen on other renderings of the captions of the mini corpus' test and val items, in their order and reversed.
_BELOW_PEAK_DB = 45.0
_SHAPE_RANGE_DB = 40.0
_SHAPE_SMOOTHING_BANDS = 5
_GROUP_BELOW_PEAK_DB = 35.0
_HEARD_WITHIN_DB = 4.0
_APART_DB = 3.0
_HEARD_FOR_S = 0.03
_TAIL_S = 0.2
_MAX_GROUPS = 5
_LIMIT_S = 60.0


@dataclass(frozen=True)
class EventGroup:
    """Events that the caption names at once: one kind and pitch, and the span of all of them in the reference."""

    kind: str
    pitch: str
    start_s: float
    end_s: float


def event_groups(item: EvaluationItem) -> list[EventGroup]:
    """The groups of an item in the order of the caption.

    Raises:
        MetricFailure: a field is wrong.
        NotApplicable: groups sound at the same time, or are not given.
    """
    members: dict[int, list[Mapping[str, Any]]] = {}
    for event in events_of(item):
        group = event.get("group")
        if group is None or event.get("kind") is None:
            raise NotApplicable("an event has no kind or no group")
        if not isinstance(group, int):
            raise MetricFailure(f"group of an event is {group!r}, not a whole number")
        members.setdefault(group, []).append(event)
    groups = [
        EventGroup(
            kind=str(events[0]["kind"]),
            pitch=str(events[0].get("pitch")),
            start_s=min(time_of(event, "start_s") for event in events),
            end_s=max(time_of(event, "end_s") for event in events),
        )
        for _, events in sorted(members.items())
    ]
    if any(before.end_s > after.start_s for before, after in itertools.pairwise(groups)):
        raise NotApplicable("events of several kinds at the same time: they have no order and are not told apart")
    return groups


def spectral_shapes(waveform: np.ndarray, front_end: MelFrontEnd) -> tuple[np.ndarray, np.ndarray]:
    """Mel spectra relative to each frame's loudest band, floored at -40 dB and smoothed over 5 bands, ``(T, M)``, and
    the level of that band in dB, ``(T,)``. Of the waveform at a peak of 1, as the front end has a floor of its own."""
    mel_db = front_end(waveform / max(float(np.abs(waveform).max()), 1e-30))
    level_db = mel_db.max(axis=1)
    shapes = np.maximum(mel_db - level_db[:, None], -_SHAPE_RANGE_DB)
    return scipy.ndimage.uniform_filter1d(shapes, _SHAPE_SMOOTHING_BANDS, axis=1, mode="nearest"), level_db


def group_templates(reference: np.ndarray, groups: Sequence[EventGroup], front_end: MelFrontEnd) -> list[np.ndarray]:
    """Spectral shapes ``(T, M)`` of the reference in each group's span, without frames that are quiet in it."""
    shapes, level_db = spectral_shapes(reference, front_end)
    time_s = np.arange(len(shapes)) / front_end.frame_rate_hz
    templates = []
    for start_s, end_s in group_spans_s(groups):
        within = (time_s >= start_s) & (time_s <= end_s)
        loud = within & (level_db > level_db.max() - _BELOW_PEAK_DB)
        loud &= level_db > level_db[within].max(initial=-np.inf) - _GROUP_BELOW_PEAK_DB
        if loud.sum() < heard_frames(front_end):
            raise NotApplicable("the reference is silent where one of its events should be")
        templates.append(shapes[loud])
    return templates


def group_spans_s(groups: Sequence[EventGroup]) -> list[tuple[float, float]]:
    """Where each group sounds in the reference: with its reverberation, and not into the next one."""
    starts_s = [group.start_s - 0.01 for group in groups]
    ends_s = [
        min(group.end_s + _TAIL_S, start_s) for group, start_s in zip(groups, [*starts_s[1:], np.inf], strict=True)
    ]
    return list(zip(starts_s, ends_s, strict=True))


def distances_db(shapes: np.ndarray, templates: Sequence[np.ndarray]) -> np.ndarray:
    """Mean absolute difference of each frame ``(T, M)`` to the nearest frame of each template, ``(T, G)``."""
    return np.stack([(cdist(shapes, t, "cityblock") / t.shape[1]).min(axis=1) for t in templates], axis=1)


@dataclass(frozen=True)
class Division:
    """The best division of a clip into one stretch per group, in any order.

    Attributes:
        order: groups by time.
        stretches: first frame and frame after the last of each group, by group; of the frames that were given.
        heard: whether each group sounds in its stretch, by group.
    """

    order: tuple[int, ...]
    stretches: tuple[tuple[int, int], ...]
    heard: tuple[bool, ...]

    @property
    def order_accuracy(self) -> float:
        """Share of the pairs of groups that are both heard and come in the given order."""
        place = {group: index for index, group in enumerate(self.order)}
        pairs = list(itertools.combinations(range(len(self.order)), 2))
        right = [place[a] < place[b] and self.heard[a] and self.heard[b] for a, b in pairs]
        return sum(right) / len(pairs)


def divide(distances: np.ndarray, least_frames: int) -> Division:
    """Order and stretches of the groups with the smallest sum of ``distances`` ``(T, G)``, every frame to one group.

    A group is heard if its stretch has ``least_frames`` and its mean distance there is at most 4 dB.
    """
    frames, num_groups = distances.shape
    sums = np.concatenate([np.zeros((1, num_groups)), np.cumsum(distances, axis=0)])
    best_total, best_order, best_cuts = np.inf, tuple(range(num_groups)), (0,) * num_groups + (frames,)
    for order in itertools.permutations(range(num_groups)):
        total, arrivals = sums[:, order[0]], []
        for group in order[1:]:
            # Of a stretch that ends before frame t, the best first frame is where this was smallest up to t.
            before = total - sums[:, group]
            smallest = np.minimum.accumulate(before)
            arrivals.append(np.maximum.accumulate(np.where(before == smallest, np.arange(frames + 1), 0)))
            total = smallest + sums[:, group]
        if total[-1] < best_total:
            cuts = [frames]
            for arrival in reversed(arrivals):
                cuts.insert(0, int(arrival[cuts[0]]))
            best_total, best_order, best_cuts = total[-1], order, (0, *cuts)
    bounds = dict(zip(best_order, itertools.pairwise(best_cuts), strict=True))
    stretches = tuple(bounds[group] for group in range(num_groups))
    heard = tuple(
        end - start >= least_frames and float(distances[start:end, group].mean()) <= _HEARD_WITHIN_DB
        for group, (start, end) in enumerate(stretches)
    )
    return Division(tuple(best_order), stretches, heard)


def heard_frames(front_end: MelFrontEnd) -> int:
    return max(2, round(_HEARD_FOR_S * front_end.frame_rate_hz))


def find_groups(sample: Sample, groups: Sequence[EventGroup], front_end: MelFrontEnd) -> tuple[Division, np.ndarray]:
    """Where the groups are in the judged clip: the division of its frames that are not quiet, and their indices."""

    def find() -> tuple[Division, np.ndarray]:
        longest_s = max(len(sample.waveform), len(sample.needed_reference)) / sample.sample_rate
        if longest_s > _LIMIT_S:
            raise MetricFailure(f"{longest_s:.0f} s of audio; events are told apart in up to {_LIMIT_S:.0f} s")
        templates = group_templates(sample.needed_reference, groups, front_end)
        for one, other in itertools.permutations(range(len(groups)), 2):
            if distances_db(templates[one], [templates[other]]).mean() < _APART_DB:
                raise NotApplicable(f"{groups[one].kind} and {groups[other].kind} of the reference sound too alike")
        shapes, level_db = spectral_shapes(sample.waveform, front_end)
        sounding = np.flatnonzero(level_db > level_db.max() - _BELOW_PEAK_DB)
        return divide(distances_db(shapes[sounding], templates), heard_frames(front_end)), sounding

    if len(groups) > _MAX_GROUPS:
        raise NotApplicable(f"{len(groups)} groups of events; orders of up to {_MAX_GROUPS} are compared")
    return sample.once("event_groups", find)


@dataclass(frozen=True)
class EventOrderAccuracy(EventMetric):
    """Whether the events come in the order of the caption."""

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name="event_order_accuracy",
                title="Event order accuracy",
                unit="",
                direction="higher",
                value_range="0 to 1 (all in order)",
                definition="The clip is divided into one stretch for each group of events that the caption names, in "
                "whichever order fits the reference's spectra of the groups best. Share of the pairs of groups that "
                "are both heard and come in the order of the caption.",
                blind_to="Number, speed and level of the events. A group is heard only if it sounds like the "
                "reference's, at its pitch. Not applicable where the caption names one group, or several at the same "
                "time, or where they sound alike.",
                source="this project",
                implementation="unisono.evaluation.metrics.event_order.EventOrderAccuracy",
                version=unisono.__version__,
                parameters=self.front_end.parameters | finding_parameters(),
            ),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        groups = event_groups(sample.item)
        if len(groups) < 2:
            raise NotApplicable("events of one kind only: they have no order")
        division, _ = find_groups(sample, groups, self.front_end)
        return {"event_order_accuracy": division.order_accuracy}


def finding_parameters() -> dict[str, Any]:
    return {
        "floor_below_peak_db": _BELOW_PEAK_DB,
        "level_normalisation": "peak of 1",
        "shape": "mel levels relative to the frame's loudest band",
        "shape_range_db": _SHAPE_RANGE_DB,
        "shape_smoothing_bands": _SHAPE_SMOOTHING_BANDS,
        "template": "frames of the reference from a group's first onset to 0.2 s after its last event",
        "template_below_peak_db": _GROUP_BELOW_PEAK_DB,
        "distance": "mean absolute difference to the template's nearest frame",
        "heard_within_db": _HEARD_WITHIN_DB,
        "heard_for_s": _HEARD_FOR_S,
        "groups_apart_db": _APART_DB,
        "max_groups": _MAX_GROUPS,
        "limit_s": _LIMIT_S,
    }
