"""Scenes of the mini corpus for text_to_audio: a caption, and sound that it describes exactly.

``make_scene`` draws a composition that belongs to the split, words it, and renders it. An attribute that the caption
leaves unmarked is in the middle range; a group not called distant is near.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unisono.data.mini.captions import caption
from unisono.data.mini.compositions import (
    DISTANT_TAIL_S,
    GAP_S,
    INTERVAL_SPREAD,
    LEAD_OF_BACKGROUND_S,
    MARGIN_S,
    SHORTEST_SCENE_S,
    SUSTAINED_S,
    Composition,
    Group,
    draw_composition,
)
from unisono.data.mini.events import KINDS, PITCH_FACTORS, RATE_FACTORS
from unisono.data.mini.synthesis import SAMPLE_RATE, Take, from_afar, peak_normalised
from unisono.timing import seconds_to_samples

__all__ = ["SAMPLE_RATE", "EventTruth", "Scene", "make_scene", "render_scene"]

PEAK = (0.70, 0.95)
DISTANT_GAIN = 0.35
LOUDEST_RMS = 0.3
"""Of one event whose peak would be 1: a steady tone is turned down, or it would drown a knock of the same peak."""
LOUDEST_BACKGROUND_RMS = 0.09
LOUDEST_BACKGROUND_PEAK = 0.45


@dataclass(frozen=True)
class EventTruth:
    """One audible event; each of three knocks is one.

    Attributes:
        kind: a key of ``events.KINDS``.
        start_s, end_s: span in the scene, without the tail of a distant event.
        pitch: "low", "middle" or "high".
        speed: "slow", "medium" or "fast".
        distance: "near" or "distant".
        group: index of the group it belongs to, in order of time; a background is group 0, its foreground 1.
    """

    kind: str
    start_s: float
    end_s: float
    pitch: str
    speed: str
    distance: str
    group: int


@dataclass(frozen=True)
class Scene:
    """A caption, its waveform ``(S,)`` float32 at ``SAMPLE_RATE``, and the events in it by time of onset."""

    caption: str
    waveform: np.ndarray
    events: tuple[EventTruth, ...]


@dataclass(frozen=True)
class _Plan:
    """When the events of a group sound: onsets in seconds from the group's own start, and how they are played."""

    group: Group
    onsets_s: tuple[float, ...]
    takes: tuple[Take, ...]

    @property
    def duration_s(self) -> float:
        return max(onset_s + take.duration_s for onset_s, take in zip(self.onsets_s, self.takes, strict=True))

    @property
    def tail_s(self) -> float:
        return DISTANT_TAIL_S if self.group.distance == "distant" else 0.0


def make_scene(rng: np.random.Generator, split: str) -> Scene:
    """A random scene of the split ("train", "val" or "test"); the splits share no composition and so no caption.

    Raises:
        UserError: the split is none of the three.
    """
    return render_scene(rng, draw_composition(rng, split))


def render_scene(rng: np.random.Generator, composition: Composition) -> Scene:
    """Word and play a composition. Scenes with nothing near in them are quieter, as their distance makes them."""
    words = caption(rng, composition)
    plans, starts_s, duration_s = _arrange(rng, composition)
    waveform = np.zeros(seconds_to_samples(duration_s, SAMPLE_RATE))
    for index, (plan, start_s) in enumerate(zip(plans, starts_s, strict=True)):
        sound = _play(rng, plan)
        if composition.together and index == 0:
            sound = _in_background(sound, plan.group.distance)
        start = seconds_to_samples(start_s, SAMPLE_RATE)
        waveform[start : start + len(sound)] += sound[: len(waveform) - start]
    gain = max(_distance_gain(group.distance) for group in composition.groups)
    waveform = peak_normalised(waveform, rng.uniform(*PEAK) * gain)
    return Scene(words, waveform.astype(np.float32), _truth(plans, starts_s))


def _arrange(rng: np.random.Generator, composition: Composition) -> tuple[list[_Plan], list[float], float]:
    """Plans of the groups, their starts in seconds, and the length of the scene."""
    margin_s = float(rng.uniform(*MARGIN_S))
    if composition.together:
        background, foreground = composition.groups
        front = _plan(rng, foreground, 0.0)
        lead_s, trail_s = rng.uniform(*LEAD_OF_BACKGROUND_S, 2)
        behind_s = max(lead_s + front.duration_s + trail_s, SHORTEST_SCENE_S - 2 * MARGIN_S[0])
        plans = [_plan(rng, background, behind_s), front]
        starts_s = [margin_s, margin_s + lead_s]
    else:
        sustained_s = SUSTAINED_S[len(composition.groups)]
        plans, starts_s = [], []
        start_s = margin_s
        for group in composition.groups:
            plans.append(_plan(rng, group, rng.uniform(*sustained_s)))
            starts_s.append(start_s)
            start_s += plans[-1].duration_s + plans[-1].tail_s + rng.uniform(*GAP_S)
    end_s = max(start_s + plan.duration_s + plan.tail_s for plan, start_s in zip(plans, starts_s, strict=True))
    return plans, starts_s, max(end_s + rng.uniform(*MARGIN_S), SHORTEST_SCENE_S)


def _plan(rng: np.random.Generator, group: Group, sustained_s: float) -> _Plan:
    kind = KINDS[group.kind]
    pitch = rng.uniform(*PITCH_FACTORS[group.pitch])
    rate = rng.uniform(*RATE_FACTORS[group.speed])
    if kind.duration_s is None:
        return _Plan(group, (0.0,), (Take(sustained_s, pitch, rate),))
    spread = rng.uniform(1 - INTERVAL_SPREAD, 1 + INTERVAL_SPREAD, group.count - 1)
    onsets_s = np.concatenate([[0.0], np.cumsum(kind.interval_s / rate * spread)])
    takes = tuple(Take(rng.uniform(*kind.duration_s), pitch) for _ in onsets_s)
    return _Plan(group, tuple(onsets_s.tolist()), takes)


def _play(rng: np.random.Generator, plan: _Plan) -> np.ndarray:
    """The group's sound ``(S,)`` at its level in the scene."""
    kind = KINDS[plan.group.kind]
    # One sample more: onset and duration are rounded apart.
    sound = np.zeros(seconds_to_samples(plan.duration_s, SAMPLE_RATE) + 1)
    for onset_s, take in zip(plan.onsets_s, plan.takes, strict=True):
        event = kind.render(rng, take)
        event *= min(1.0, LOUDEST_RMS / _rms(event)) * rng.uniform(0.85, 1.0)
        onset = seconds_to_samples(onset_s, SAMPLE_RATE)
        sound[onset : onset + len(event)] += event
    if plan.group.distance == "distant":
        peak = float(np.abs(sound).max())
        sound = peak_normalised(from_afar(rng, sound, DISTANT_TAIL_S), peak * DISTANT_GAIN)
    return sound


def _in_background(sound: np.ndarray, distance: str) -> np.ndarray:
    gain = _distance_gain(distance)
    peak = float(np.abs(sound).max())
    return sound * min(1.0, LOUDEST_BACKGROUND_RMS * gain / _rms(sound), LOUDEST_BACKGROUND_PEAK * gain / peak)


def _truth(plans: list[_Plan], starts_s: list[float]) -> tuple[EventTruth, ...]:
    events = []
    for index, (plan, start_s) in enumerate(zip(plans, starts_s, strict=True)):
        group = plan.group
        for onset_s, take in zip(plan.onsets_s, plan.takes, strict=True):
            begin_s = float(start_s + onset_s)
            end_s = begin_s + float(take.duration_s)
            events.append(EventTruth(group.kind, begin_s, end_s, group.pitch, group.speed, group.distance, index))
    return tuple(sorted(events, key=lambda event: event.start_s))


def _distance_gain(distance: str) -> float:
    return DISTANT_GAIN if distance == "distant" else 1.0


def _rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(waveform**2)))
