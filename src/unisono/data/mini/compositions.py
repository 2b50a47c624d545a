"""What a scene consists of, apart from its wording and its sound: drawing compositions and assigning them to splits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import TypeVar

import numpy as np

from unisono.data.mini.events import KINDS, RATE_FACTORS
from unisono.errors import UserError

Item = TypeVar("Item")

SPLITS = ("train", "val", "test")
HELD_OUT_PERCENT = {"test": 12, "val": 8}

LONGEST_SCENE_S = 4.5
SHORTEST_SCENE_S = 1.6
MARGIN_S = (0.05, 0.20)
GAP_S = (0.15, 0.35)
DISTANT_TAIL_S = 0.4
INTERVAL_SPREAD = 0.03
"""Most by which one interval between events differs from the group's own."""
LEAD_OF_BACKGROUND_S = (0.20, 0.40)
"""How much earlier a background starts, and how much later it ends, than the events in front of it."""
SUSTAINED_S = {1: (1.8, 3.6), 2: (1.1, 1.45), 3: (0.9, 1.1)}
"""Range of a sustained event's duration, by the number of groups that follow each other."""


@dataclass(frozen=True)
class Group:
    """Events of one kind with the same attributes.

    Attributes:
        kind: a key of ``KINDS``.
        count: number of discrete events, 1 to 4; 0 for a sustained kind.
        pitch: "low", "middle" or "high".
        speed: "slow", "medium" or "fast".
        distance: "near" or "distant".
    """

    kind: str
    count: int
    pitch: str = "middle"
    speed: str = "medium"
    distance: str = "near"

    @property
    def is_sustained(self) -> bool:
        return KINDS[self.kind].is_sustained

    def longest_s(self, sustained_s: float) -> float:
        """The longest it can sound, from its first onset to the end of its last event or its distant tail."""
        kind = KINDS[self.kind]
        tail_s = DISTANT_TAIL_S if self.distance == "distant" else 0.0
        if kind.duration_s is None:
            return sustained_s + tail_s
        interval_s = kind.interval_s / RATE_FACTORS[self.speed][0] * (1 + INTERVAL_SPREAD)
        return (self.count - 1) * interval_s + kind.duration_s[1] + tail_s


@dataclass(frozen=True)
class Composition:
    """Groups one after the other, or (``together``) a sustained background followed in the tuple by its foreground."""

    groups: tuple[Group, ...]
    together: bool = False

    @property
    def key(self) -> str:
        """The same text for the same composition, whatever its wording."""
        return ("together" if self.together else "sequence") + repr([astuple(group) for group in self.groups])

    @property
    def split(self) -> str:
        """The split it belongs to, a fixed function of ``key``."""
        return held_out_split(self.key)

    @property
    def longest_s(self) -> float:
        """The longest scene that it can become."""
        if self.together:
            return 2 * MARGIN_S[1] + 2 * LEAD_OF_BACKGROUND_S[1] + self.groups[1].longest_s(0.0) + DISTANT_TAIL_S
        sustained_s = SUSTAINED_S[len(self.groups)][1]
        sounding_s = sum(group.longest_s(sustained_s) for group in self.groups)
        return 2 * MARGIN_S[1] + sounding_s + (len(self.groups) - 1) * GAP_S[1]


def held_out_split(key: str) -> str:
    """The split that a thing described by ``key`` belongs to, by a hash of it: 12 % test, 8 % val, else train."""
    percent = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    if percent < HELD_OUT_PERCENT["test"]:
        return "test"
    return "val" if percent < HELD_OUT_PERCENT["test"] + HELD_OUT_PERCENT["val"] else "train"


def draw_composition(rng: np.random.Generator, split: str) -> Composition:
    """A composition that belongs to ``split`` and fits into the longest scene."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} of the mini corpus is unknown; choose one of {', '.join(SPLITS)}")
    while True:
        composition = _draw(rng)
        if composition.longest_s <= LONGEST_SCENE_S and composition.split == split:
            return composition


def _draw(rng: np.random.Generator) -> Composition:
    form = _pick(rng, ("one", "two", "three", "together"), (0.24, 0.42, 0.18, 0.16))
    if form == "together":
        background = _draw_group(rng, [name for name, kind in KINDS.items() if kind.may_accompany])
        foreground = _draw_group(rng, [name for name, kind in KINDS.items() if not kind.is_sustained])
        if background.distance == "near" and foreground.distance == "distant":
            # A near background would bury what is far behind it.
            background, foreground = replace(background, distance="distant"), replace(foreground, distance="near")
        return Composition((background, foreground), together=True)
    if form == "one":
        return Composition((_draw_group(rng, list(KINDS), counts_p=(0.15, 0.30, 0.30, 0.25)),))
    if form == "two" and rng.random() < 0.12:
        return _draw_contrast(rng)
    groups: list[Group] = []
    for _ in range(2 if form == "two" else 3):
        groups.append(_draw_group(rng, [name for name in KINDS if all(name != group.kind for group in groups)]))
    return Composition(tuple(groups))


def _draw_contrast(rng: np.random.Generator) -> Composition:
    """The same discrete kind twice, once low and once high."""
    kind = _pick(rng, [name for name, kind in KINDS.items() if kind.has_pitch and not kind.is_sustained])
    first, second = _draw_group(rng, [kind]), _draw_group(rng, [kind])
    pitches = ("low", "high") if rng.random() < 0.5 else ("high", "low")
    second = replace(second, pitch=pitches[1], distance=first.distance)
    return Composition((replace(first, pitch=pitches[0]), second))


def _draw_group(
    rng: np.random.Generator, names: list[str], counts_p: tuple[float, ...] = (0.35, 0.30, 0.22, 0.13)
) -> Group:
    kind = KINDS[_pick(rng, names)]
    count = 0 if kind.is_sustained else _pick(rng, (1, 2, 3, 4), counts_p)
    pitch, speed = "middle", "medium"
    if kind.has_pitch and rng.random() < 0.5:
        pitch = _pick(rng, ("low", "high"))
    # One event alone has no speed.
    if kind.has_speed and count != 1 and rng.random() < 0.5:
        speed = _pick(rng, ("slow", "fast"))
    distance = "distant" if rng.random() < 0.2 else "near"
    return Group(kind.name, count, pitch, speed, distance)


def _pick(rng: np.random.Generator, items: Sequence[Item], weights: Sequence[float] | None = None) -> Item:
    """What ``rng.choice`` does, ten times faster: it would turn the items into an array at every call."""
    if weights is None:
        return items[int(rng.integers(len(items)))]
    return items[int(np.searchsorted(np.cumsum(weights[:-1]), rng.random(), side="right"))]
