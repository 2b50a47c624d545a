"""Training curves from a run's metrics.jsonl, as inline SVG paths with the numbers for hovering beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from unisono.evaluation.report.pictures import Tick, nice_step

VIEW_WIDTH, VIEW_HEIGHT = 420, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 26
MAX_POINTS = 300


@dataclass(frozen=True)
class History:
    """A run's logged numbers: key -> (steps, values), sorted by step, finite values only.

    Attributes:
        problem: why there is nothing, or what could not be read; empty if all is well.
    """

    series: dict[str, tuple[np.ndarray, np.ndarray]]
    last_step: int | None = None
    last_epoch: int | None = None
    problem: str = ""


@dataclass(frozen=True)
class Line:
    """One line of a chart: ``kind`` is its look, ``path`` SVG path data, ``points`` rows of x, y and their pixels."""

    label: str
    kind: str
    path: str
    points: list[list[float]]


@dataclass(frozen=True)
class Chart:
    """A chart in a view box of `VIEW_WIDTH` x `VIEW_HEIGHT`; tick positions in per cent of the plot area."""

    title: str
    x_label: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    summary: str
    wide: bool = field(default=False)


def read_history(path: Path | None) -> History:
    """Read metrics.jsonl. A missing file or broken lines (a killed run's last one) are told, never fatal."""
    if path is None:
        return History({}, problem="No training history was given.")
    if not path.is_file():
        return History({}, problem=f"There is no training history at {path.name}.")
    by_key: dict[str, dict[int, float]] = {}
    steps, epochs, broken = [], [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        step = record.get("step") if isinstance(record, dict) else None
        if not is_number(step):
            broken += 1
            continue
        steps.append(int(step))
        epoch = record.get("epoch")
        if is_number(epoch):
            epochs.append(int(epoch))
        for key, value in record.items():
            if is_number(value):
                by_key.setdefault(key, {})[int(step)] = float(value)
    series = {}
    for key, values in by_key.items():
        ordered = sorted(values.items())
        series[key] = (np.array([s for s, _ in ordered], dtype=float), np.array([v for _, v in ordered], dtype=float))
    problem = f"{broken} broken line{'s' if broken > 1 else ''} in {path.name} left out." if broken else ""
    if not series:
        problem = (problem + f" {path.name} holds no numbers yet.").strip()
    return History(series, max(steps, default=None), max(epochs, default=None), problem)


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Exponential moving average with a half-life of 2 % of the points (at least one), free of start-up bias."""
    decay = 0.5 ** (1.0 / max(1.0, 0.02 * len(values)))
    result, total, weight = np.empty(len(values)), 0.0, 0.0
    for i, value in enumerate(values):
        total = decay * total + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        result[i] = total / weight
    return result


def thinned(x: np.ndarray, y: np.ndarray, keep_extremes: bool) -> tuple[np.ndarray, np.ndarray]:
    """At most about `MAX_POINTS` points: lowest and highest of each stretch, or every k-th and the last."""
    if len(x) <= MAX_POINTS:
        return x, y
    if not keep_extremes:
        index = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).round().astype(int))
        return x[index], y[index]
    extremes: list[int] = []
    for stretch in np.array_split(np.arange(len(x)), MAX_POINTS // 2):
        extremes += sorted({int(stretch[np.argmin(y[stretch])]), int(stretch[np.argmax(y[stretch])])})
    return x[extremes], y[extremes]


def number(value: float) -> str:
    """Short form for axes: four significant digits."""
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e+")


def axis(low: float, high: float, about: int) -> list[Tick]:
    step = nice_step(high - low, about)
    first = math.ceil(low / step - 1e-9)
    marks = [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
    return [
        Tick(number(mark if abs(mark) > step * 1e-6 else 0.0), 100.0 * (mark - low) / (high - low)) for mark in marks
    ]


def value_range(raw: np.ndarray, firm: Sequence[np.ndarray]) -> tuple[float, float]:
    """Limits of the y axis: all of the smooth and validation lines, and all but the wildest 2 % of the raw points."""
    ends = [float(edge) for values in firm if len(values) for edge in (values.min(), values.max())]
    if len(raw):
        ends += [float(edge) for edge in np.percentile(raw, [1, 99])]
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or max(abs(high) * 0.1, 1e-12)
    return low - margin, high + margin


def make_chart(
    title: str, x_label: str, sets: Sequence[tuple[str, str, np.ndarray, np.ndarray]], wide: bool = False
) -> Chart:
    """Scale lines to the view box.

    Args:
        sets: ``(label, kind, x, y)`` each; "raw" lines are thinned to extremes and may leave the plot at the top.
    """
    raw = np.concatenate([y for _, kind, _, y in sets if kind == "raw"] or [np.zeros(0)])
    low, high = value_range(raw, [y for _, kind, _, y in sets if kind != "raw"])
    left = min(float(x.min()) for _, _, x, _ in sets)
    right = max(float(x.max()) for _, _, x, _ in sets)
    right = right if right > left else left + 1.0
    plot_width, plot_height = VIEW_WIDTH - LEFT - RIGHT, VIEW_HEIGHT - TOP - BOTTOM
    lines = []
    for label, kind, x, y in sets:
        x, y = thinned(x, y, keep_extremes=kind == "raw")
        px = LEFT + plot_width * (x - left) / (right - left)
        py = TOP + plot_height * (1 - (np.clip(y, low, high) - low) / (high - low))
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(px, py, strict=True))
        rows = zip(x, y, px, py, strict=True)
        lines.append(
            Line(
                label,
                kind,
                path,
                [[float(f"{v:.6g}") for v in row[:2]] + [round(v, 1) for v in row[2:]] for row in rows],
            )
        )
    ends = "; ".join(f"{label} from {number(y[0])} to {number(y[-1])}" for label, _, _, y in sets)
    return Chart(title, x_label, lines, axis(left, right, 5), axis(low, high, 4), ends, wide)


def charts_of(history: History, task_titles: Mapping[str, str]) -> list[Chart]:
    """One chart per kind of loss (all tasks, then each), validation loss by noise level, and the learning rate."""
    prefixes = ("train/loss", "val/loss")
    names = {
        key.removeprefix(p).strip("/")
        for p in prefixes
        for key in history.series
        if key == p or key.startswith(p + "/")
    }
    order = {task: place for place, task in enumerate(task_titles)}
    charts = []
    for name in sorted(names, key=lambda n: (n != "", order.get(n, len(order)), n)):
        sets = []
        train = history.series.get(f"train/loss/{name}".rstrip("/"))
        if train is not None:
            sets += [("training", "raw", *train), ("training, smoothed", "smooth", train[0], smoothed(train[1]))]
        val = history.series.get(f"val/loss/{name}".rstrip("/"))
        if val is not None:
            sets.append(("validation", "val", *val))
        title = "Loss, all tasks" if name == "" else f"Loss, {task_titles.get(name, name.replace('_', ' '))}"
        charts.append(make_chart(title, "step", sets))
    by_sigma = sigma_chart(history)
    if by_sigma is not None:
        charts.append(by_sigma)
    if "lr" in history.series:
        charts.append(make_chart("Learning rate", "step", [("learning rate", "smooth", *history.series["lr"])]))
    return charts


def sigma_chart(history: History) -> Chart | None:
    """Validation loss over noise level, at the first and the last validation."""
    prefix = "val/loss_sigma/"
    first, last = [], []
    for key, (_, values) in history.series.items():
        if not key.startswith(prefix):
            continue
        try:
            sigma = float(key.removeprefix(prefix))
        except ValueError:
            continue
        first.append((sigma, values[0]))
        last.append((sigma, values[-1]))
    if len(last) < 2:
        return None
    sets = []
    for label, kind, points in (("first validation", "first", first), ("last validation", "val", last)):
        ordered = np.array(sorted(points))
        sets.append((label, kind, ordered[:, 0], ordered[:, 1]))
    return make_chart("Validation loss by noise level", "sigma (0 data, 1 noise)", sets)
