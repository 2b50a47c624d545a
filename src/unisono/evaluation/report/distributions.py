"""How the items of a task spread, one metric a strip: a lane of dots per row, with median and quartiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unisono.evaluation.report.pictures import Tick, nice_step

WIDTH, LANE, MARGIN, AXIS = 260, 15, 6, 14
MAX_DOTS = 150


@dataclass(frozen=True)
class Dot:
    """One item: its place in pixels, the card it belongs to and what hovering shows."""

    x: float
    anchor: str
    label: str


@dataclass(frozen=True)
class Lane:
    """One row: its items, and where median and quartiles stand; all in pixels of the view box."""

    key: str
    y: float
    dots: list[Dot]
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Distribution:
    """A strip of ``WIDTH`` by ``height`` pixels; ticks in per cent of the width between the margins."""

    lanes: list[Lane]
    ticks: list[Tick]
    height: int
    summary: str


@dataclass(frozen=True)
class Value:
    """A number of one item."""

    value: float
    audio_id: str
    anchor: str


def distribution(values: Mapping[str, Sequence[Value]], decimals: int) -> Distribution | None:
    """A strip of all rows that have at least two items; None where there is none, or nothing varies.

    Of more than `MAX_DOTS` items a lane shows every k-th in the order of the values, and always both ends.
    """
    lanes_of = {row: sorted(given, key=lambda v: v.value) for row, given in values.items() if len(given) > 1}
    everything = [v.value for given in lanes_of.values() for v in given]
    if not everything or min(everything) == max(everything):
        return None
    low, high = min(everything), max(everything)

    def place(value: float) -> float:
        return round(MARGIN + (WIDTH - 2 * MARGIN) * (value - low) / (high - low), 1)

    lanes, texts = [], []
    for number, (row, given) in enumerate(lanes_of.items()):
        numbers = np.array([v.value for v in given])
        quartiles = np.percentile(numbers, [25, 50, 75])
        shown = given
        if len(given) > MAX_DOTS:
            shown = [given[i] for i in np.unique(np.linspace(0, len(given) - 1, MAX_DOTS).round().astype(int))]
        dots = [Dot(place(v.value), v.anchor, f"{v.audio_id}: {v.value:.{decimals}f}") for v in shown]
        lanes.append(Lane(row, number * LANE + LANE / 2, dots, *(place(float(q)) for q in quartiles)))
        low_q, median, high_q = (f"{q:.{decimals}f}" for q in quartiles)
        texts.append(f"{row} median {median}, quartiles {low_q} to {high_q}")
    return Distribution(lanes, _ticks(low, high), len(lanes) * LANE + AXIS, "; ".join(texts))


def _ticks(low: float, high: float) -> list[Tick]:
    step = nice_step(high - low, 3)
    first = int(np.ceil(low / step - 1e-9))
    marks = [k * step for k in range(first, int(np.floor(high / step + 1e-9)) + 1)]
    return [Tick(f"{mark:.4g}", 100.0 * (mark - low) / (high - low)) for mark in marks]
