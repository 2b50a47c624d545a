"""What moves in the films of the mini corpus: how it strikes, how it is drawn, what it sounds like.

All motion is a gap between two things, 1 at its widest and 0 at the strikes, a function of time. Pictures are float32
``(H, W, 3)`` in [0, 255]; an actor draws within its box. Strikers have bright colours, what they strike is grey or
brown, so both can be told apart in the pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

COLOURS = {
    "red": (225, 45, 45),
    "green": (60, 200, 80),
    "blue": (60, 110, 245),
    "yellow": (240, 220, 50),
    "purple": (180, 70, 225),
    "white": (245, 245, 245),
}
SIZES = {"small": ("high", 0.6), "": ("middle", 1.0), "large": ("low", 1.4)}
"""Pitch that a size sounds like, and the factor on lengths in the picture."""
REACH_S = 0.22
"""How long before a strike the striker sets out, and how long after it is back."""
DROP_S = 0.35
_RIPPLE_S = 0.30
_GREY, _BROWN, _DARK, _WATER = (125, 125, 130), (120, 92, 70), (70, 66, 72), (70, 95, 110)
_FLOOR = 0.80
"""Height of what lies below in the picture, as a share of its own from the top."""


@dataclass(frozen=True)
class Box:
    """The part of the picture that an actor has: its horizontal extent in pixels, and the picture's height."""

    left: float
    right: float
    height: float

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2

    @property
    def unit(self) -> float:
        """A twelfth of the height: lengths are given in it, the same for broad and narrow boxes."""
        return self.height / 12

    @property
    def floor(self) -> float:
        return _FLOOR * self.height


class Canvas:
    """A picture to draw soft-edged shapes on; positions are ``x`` to the right and ``y`` down, in pixels."""

    def __init__(self, picture: np.ndarray) -> None:
        self.picture = picture
        height, width, _ = picture.shape
        # One column and one row: what depends on both spreads by itself.
        self.y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
        self.x = np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5)

    def _blend(self, cover: np.ndarray, colour: tuple[int, int, int]) -> None:
        cover = np.clip(cover, 0, 1)[..., None]
        self.picture += cover * (np.array(colour, np.float32) - self.picture)

    def disc(self, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        self._blend(radius + 0.5 - np.hypot(self.x - x, self.y - y), colour)

    def block(self, left: float, top: float, right: float, bottom: float, colour: tuple[int, int, int]) -> None:
        across = np.minimum(self.x - left, right - self.x) + 0.5
        self._blend(np.minimum(across, np.minimum(self.y - top, bottom - self.y) + 0.5), colour)

    def line(
        self, start: tuple[float, float], end: tuple[float, float], width: float, colour: tuple[int, int, int]
    ) -> None:
        (x0, y0), (x1, y1) = start, end
        along = np.clip(
            ((self.x - x0) * (x1 - x0) + (self.y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2), 0, 1
        )
        distance = np.hypot(self.x - x0 - along * (x1 - x0), self.y - y0 - along * (y1 - y0))
        self._blend(width / 2 + 0.5 - distance, colour)

    def ring(self, x: float, y: float, radius: float, flatness: float, colour: tuple[int, int, int]) -> None:
        distance = np.hypot(self.x - x, (self.y - y) / flatness)
        self._blend(1.2 - np.abs(distance - radius), colour)


Colour = tuple[int, int, int]
DrawStill = Callable[[Canvas, Box, float, Colour], None]
DrawMoving = Callable[[Canvas, Box, float, float, float, Colour], None]
"""Of a canvas, the box, the size's factor, the gap, seconds since the last strike (inf before it), and the colour."""


@dataclass(frozen=True)
class Actor:
    """One kind of actor.

    Attributes:
        kind: key of ``events.KINDS`` that each strike sounds like.
        clause: says what happens, with ``{colour}`` and ``{size}`` (followed by a space or empty).
        several: the same for several strikes where that differs, with ``{number}``.
        has_size: comes in three sizes.
        still, moving: draw what stays where it is, once, and what moves.
        motion: "strike" (forth and back), "bounce" (a ball under gravity) or "fall" (drop after drop).
    """

    kind: str
    clause: str
    still: DrawStill
    moving: DrawMoving
    has_size: bool
    several: str = ""
    motion: str = "strike"

    def draw_times(
        self, rng: np.random.Generator, strikes: int, first_s: tuple[float, float], interval_s: tuple[float, float]
    ) -> tuple[float, ...]:
        """Times of the strikes in seconds, whole milliseconds."""
        first = rng.uniform(*first_s)
        if self.motion == "bounce":
            # It falls for `first` seconds or less from rest; each bounce keeps a share of the speed.
            intervals_s = 2 * min(first, 0.45) * rng.uniform(0.80, 0.90) ** np.arange(1, strikes)
        else:
            intervals_s = rng.uniform(*interval_s, strikes - 1)
        return tuple(np.round(first + np.concatenate([[0.0], np.cumsum(intervals_s)]), 3).tolist())

    def gap(self, times_s: tuple[float, ...], now_s: float) -> float:
        """How far the two things are apart at ``now_s``, 0 to 1."""
        if self.motion == "bounce":
            return _bounce_gap(times_s, now_s)
        if self.motion == "fall":
            coming = [time_s - now_s for time_s in times_s if time_s >= now_s]
            return _opening(min(coming), DROP_S) if coming else 1.0
        return _opening(min(abs(time_s - now_s) for time_s in times_s), REACH_S)


def _opening(apart_s: float, reach_s: float) -> float:
    """The gap so long before or after a strike: fastest at the strike, and wide from ``reach_s`` on."""
    return 1 - max(0.0, 1 - apart_s / reach_s) ** 2


def _bounce_gap(times_s: tuple[float, ...], now_s: float) -> float:
    """Free fall from rest, parabolas between the strikes, at rest after the last."""
    fall_s = min(times_s[0], 0.45)
    if now_s <= times_s[0]:
        return 1 - max(0.0, (now_s - times_s[0] + fall_s) / fall_s) ** 2
    for before_s, after_s in pairwise(times_s):
        if now_s <= after_s:
            return (now_s - before_s) * (after_s - now_s) / fall_s**2
    return 0.0


def paint(
    canvas: Canvas, actor: Actor, box: Box, factor: float, times_s: tuple[float, ...], now_s: float, colour: Colour
) -> None:
    """Draw what moves at ``now_s``."""
    since_s = min((now_s - time_s for time_s in times_s if time_s <= now_s), default=np.inf)
    actor.moving(canvas, box, factor, actor.gap(times_s, now_s), since_s, colour)


# ---------------------------------------------------------------------------------------------- drawing


def _drum(canvas: Canvas, box: Box, factor: float, colour: Colour) -> None:
    half = 2.0 * box.unit * factor
    canvas.block(box.middle - half, box.floor, box.middle + half, box.height - 2, _BROWN)
    canvas.block(box.middle - half, box.floor, box.middle + half, box.floor + 2, _GREY)


def _ball(canvas: Canvas, box: Box, factor: float, gap: float, since_s: float, colour: Colour) -> None:
    radius = 1.1 * box.unit
    canvas.disc(box.middle, box.floor - radius - gap * 6.5 * box.unit, radius, colour)


def _wood(canvas: Canvas, box: Box, factor: float, colour: Colour) -> None:
    half = 1.8 * box.unit * factor
    canvas.block(box.middle - half, box.floor, box.middle + half, box.floor + 1.6 * box.unit * factor, _BROWN)


def _hammer(canvas: Canvas, box: Box, factor: float, gap: float, since_s: float, colour: Colour) -> None:
    bottom = box.floor - gap * 5 * box.unit
    top, half = bottom - 1.6 * box.unit, 1.0 * box.unit
    canvas.block(box.middle + half, top + 0.4 * box.unit, box.right - 2, top + 0.9 * box.unit, _DARK)
    canvas.block(box.middle - half, top, box.middle + half, bottom, colour)


def _bell(canvas: Canvas, box: Box, factor: float, colour: Colour) -> None:
    size = 1.5 * box.unit * factor
    x, y = box.middle + 0.4 * box.unit, 7 * box.unit
    canvas.block(x, y - size, x + size, y + size, _GREY)
    canvas.block(x, y + size - 2, x + 1.2 * size, y + size, _GREY)


def _pendulum(canvas: Canvas, box: Box, factor: float, gap: float, since_s: float, colour: Colour) -> None:
    """Its bob hangs beside the bell and swings as far to the left as the box allows."""
    length, radius = 6 * box.unit, 0.9 * box.unit
    pivot = (box.middle - 0.5 * box.unit, box.unit)
    angle = gap * min(0.8, float(np.arcsin((pivot[0] - box.left - radius) / length)))
    bob = (pivot[0] - length * np.sin(angle), pivot[1] + length * np.cos(angle))
    canvas.line(pivot, bob, 1.5, _DARK)
    canvas.disc(*bob, radius, colour)


def _pool(canvas: Canvas, box: Box, factor: float, colour: Colour) -> None:
    canvas.block(box.left + 2, box.floor, box.right - 2, box.height - 2, _WATER)


def _drop(canvas: Canvas, box: Box, factor: float, gap: float, since_s: float, colour: Colour) -> None:
    radius = 0.7 * box.unit * factor
    if gap < 1:
        canvas.disc(box.middle, box.floor - radius - gap * 7 * box.unit, radius, colour)
    if since_s < _RIPPLE_S:
        width = (0.6 + 2.4 * since_s / _RIPPLE_S) * box.unit
        canvas.ring(box.middle, box.floor + 0.9 * box.unit, width, 0.3, _GREY)


def _nothing(canvas: Canvas, box: Box, factor: float, colour: Colour) -> None:
    pass


def _glasses(canvas: Canvas, box: Box, factor: float, gap: float, since_s: float, colour: Colour) -> None:
    shift, width, height = gap * 1.2 * box.unit, 1.3 * box.unit * factor, 2.6 * box.unit * factor
    y = 6 * box.unit
    for side in (-1, 1):
        near, far = box.middle + side * shift, box.middle + side * (shift + width)
        left, right = min(near, far), max(near, far)
        canvas.block((left + right) / 2 - 1, y, (left + right) / 2 + 1, y + 0.8 * height, _DARK)
        canvas.block(left, y - height / 2, right, y + height / 2, colour)


def _gloves(canvas: Canvas, box: Box, factor: float, gap: float, since_s: float, colour: Colour) -> None:
    shift, radius = gap * 1.2 * box.unit, 0.9 * box.unit
    y = 6 * box.unit
    for side in (-1, 1):
        x = box.middle + side * (shift + radius)
        canvas.line((x, y), (x + side * 1.5 * box.unit, box.height - 2), 0.8 * box.unit, _DARK)
        canvas.disc(x, y, radius, colour)


def _cymbal(canvas: Canvas, box: Box, factor: float, colour: Colour) -> None:
    canvas.block(box.middle - 1, box.floor, box.middle + 1, box.height - 2, _DARK)
    canvas.block(box.left + 4, box.floor, box.right - 4, box.floor + 3, _GREY)


def _stick(canvas: Canvas, box: Box, factor: float, gap: float, since_s: float, colour: Colour) -> None:
    tip = (box.middle - box.unit, box.floor - 0.35 * box.unit - gap * 5 * box.unit)
    canvas.line(tip, (box.middle + 2 * box.unit, tip[1] - 2 * box.unit), 0.7 * box.unit, colour)


def _ground(canvas: Canvas, box: Box, factor: float, colour: Colour) -> None:
    canvas.block(box.left, box.floor, box.right, box.height, _DARK)


def _boot(canvas: Canvas, box: Box, factor: float, gap: float, since_s: float, colour: Colour) -> None:
    sole = box.floor - gap * 4 * box.unit
    canvas.block(box.middle - 1.2 * box.unit, sole - 4 * box.unit, box.middle, sole, colour)
    canvas.block(box.middle - 1.2 * box.unit, sole - 1.3 * box.unit, box.middle + 1.5 * box.unit, sole, colour)


ACTORS: dict[str, Actor] = {
    "ball": Actor("drum", "a {colour} ball bounces on a {size}drum", _drum, _ball, True, motion="bounce"),
    "hammer": Actor("knock", "a {colour} hammer hits a {size}block of wood", _wood, _hammer, True),
    "pendulum": Actor("bell", "a {colour} pendulum strikes a {size}bell", _bell, _pendulum, True),
    "drop": Actor(
        "drip", "a {size}{colour} drop falls into the water", _pool, _drop, True,
        several="{number} {size}{colour} drops fall into the water", motion="fall",
    ),
    "glasses": Actor("clink", "two {size}{colour} glasses clink together", _nothing, _glasses, True),
    "gloves": Actor("clap", "two {colour} gloves clap", _nothing, _gloves, False),
    "stick": Actor("cymbal", "a {colour} stick hits a cymbal", _cymbal, _stick, False),
    "boot": Actor("footstep", "a {colour} boot stamps on the floor", _ground, _boot, False),
}  # fmt: skip
