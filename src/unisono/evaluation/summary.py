"""Means with their uncertainty, and which row is best."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unisono.evaluation.intervals import error_of_mean, numbered
from unisono.evaluation.metric import MetricCard, Outcome, SetOutcome
from unisono.files import replaced_file

Outcomes = Mapping[str, Mapping[str, Outcome]]
"""Of one item: row -> metric -> outcome."""


@dataclass(frozen=True)
class Mean:
    """Mean of one metric in one row over the items that have a value, or the one value of all items together.

    Attributes:
        mean: None where no item has a value.
        n: number of values.
        standard_error: of the mean over the choice of items (`unisono.evaluation.intervals`); None below two sources.
        interval95: Student's t interval of the mean; it covers the choice of items, not of seeds.
        failed: items without a value because something is wrong with them.
        not_applicable: items without a value because there is nothing to measure.
        problem: why there is no value, where the metric is one of all items together.
        conditions: what else must agree before two values may be compared, where they depend on other items than
            their own: reference set, sizes.
    """

    mean: float | None
    n: int
    standard_error: float | None
    interval95: tuple[float, float] | None
    failed: int
    not_applicable: int
    problem: str = ""
    conditions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskSummary:
    """Means of one task.

    Attributes:
        items: number of items, failed ones included.
        sources: number of recordings or texts that these go back to; fewer where several items share one.
        means: row -> metric -> mean, only metrics that apply to the task.
        best: metric -> row with the best mean over the items that every row has a value for; absent on a tie, or where
            fewer than two rows have values.
        compared_n: metric -> number of those items.
    """

    items: int
    sources: int
    means: dict[str, dict[str, Mean]]
    best: dict[str, str]
    compared_n: dict[str, int]

    @property
    def counted(self) -> str:
        """How many items, in words, and of how many recordings where several share one."""
        text = f"{self.items} item{'s' if self.items != 1 else ''}"
        return text if self.sources == self.items else f"{text} of {self.sources} recordings or texts"


@dataclass(frozen=True)
class Failure:
    """One number that could not be had."""

    task: str
    audio_id: str
    row: str
    metric: str
    reason: str


@dataclass(frozen=True)
class Summary:
    """Result of an evaluation; the same is in ``metrics_file``.

    Attributes:
        title: as given.
        sample_rate: Hz at which everything was compared.
        tasks: task -> summary, in the order of the items.
        cards: metric -> how it is made.
        unavailable: metric -> why it was not measured at all (an optional library is missing).
        failures: every failed number.
        report: the HTML page.
        metrics_file: means, failures and cards as JSON.
        items_file: one JSON object per item.
    """

    title: str
    sample_rate: int
    tasks: dict[str, TaskSummary]
    cards: dict[str, MetricCard]
    unavailable: dict[str, str]
    failures: tuple[Failure, ...]
    report: Path
    metrics_file: Path
    items_file: Path


def mean_of(outcomes: Sequence[Outcome], sources: np.ndarray | None = None) -> Mean:
    """Mean, standard error and 95 % interval of the outcomes that have a value.

    Args:
        sources: number of each outcome's source (`intervals.numbered`); None: each has its own.
    """
    sources = np.arange(len(outcomes)) if sources is None else sources
    having = [i for i, outcome in enumerate(outcomes) if outcome.value is not None]
    values = np.array([outcomes[i].value for i in having], dtype=np.float64)
    mean = float(values.mean()) if having else None
    errors = error_of_mean(values, sources[having]) if having else None
    return Mean(
        mean=mean,
        n=len(having),
        standard_error=None if errors is None else errors[0],
        interval95=None if mean is None or errors is None else (mean - errors[1], mean + errors[1]),
        failed=sum(outcome.status == "failed" for outcome in outcomes),
        not_applicable=sum(outcome.status == "not_applicable" for outcome in outcomes),
    )


def value_of(outcome: SetOutcome) -> Mean:
    """A number of all items together, in the form of a mean."""
    return Mean(
        mean=outcome.value,
        n=outcome.n,
        standard_error=None,
        interval95=None,
        failed=outcome.missing,
        not_applicable=0,
        problem=outcome.reason,
        conditions=outcome.conditions,
    )


def best_row(values: Mapping[str, Mapping[int, float]], lower_is_better: bool) -> tuple[str | None, int]:
    """The row with the best mean over the items that every row has, and how many items these are.

    Args:
        values: row -> item -> value. Rows without any value do not take part.
    """
    rows = {row: by_item for row, by_item in values.items() if by_item}
    if len(rows) < 2:
        return None, 0
    shared = sorted(set.intersection(*(set(by_item) for by_item in rows.values())))
    if not shared:
        return None, 0
    means = {row: float(np.mean([by_item[i] for i in shared])) for row, by_item in rows.items()}
    target = min(means.values()) if lower_is_better else max(means.values())
    winners = [row for row, mean in means.items() if mean == target]
    return (winners[0] if len(winners) == 1 else None), len(shared)


def summarise_task(
    results: Sequence[Outcomes],
    sources: Sequence[str],
    cards: Mapping[str, MetricCard],
    sets: Mapping[str, Mapping[str, SetOutcome]] | None = None,
    conditions: Mapping[str, Mapping[str, dict[str, Any]]] | None = None,
) -> TaskSummary:
    """Means of one task.

    Args:
        results: of each item, ``row -> metric -> outcome``.
        sources: of each item (`ItemResult.source`).
        cards: by metric.
        sets: numbers of all items together, ``row -> metric -> outcome``.
        conditions: of numbers of single items that depend on the others, ``row -> metric -> conditions``.
    """
    sets, conditions = sets or {}, conditions or {}
    of_items = numbered(sources)
    rows = list(dict.fromkeys(row for outcomes in results for row in outcomes))
    means: dict[str, dict[str, Mean]] = {row: {} for row in rows}
    best: dict[str, str] = {}
    compared_n: dict[str, int] = {}
    for metric in cards:
        for row in rows:
            if metric in sets.get(row, {}):
                means[row][metric] = value_of(sets[row][metric])
        values: dict[str, dict[int, float]] = {}
        for row in rows:
            found = {i: o[row][metric] for i, o in enumerate(results) if row in o and metric in o[row]}
            if found:
                mean = mean_of(list(found.values()), of_items[list(found)])
                means[row][metric] = replace(mean, conditions=conditions.get(row, {}).get(metric, {}))
                values[row] = {i: outcome.value for i, outcome in found.items() if outcome.value is not None}
        winner, n = best_row(values, cards[metric].direction == "lower")
        if winner is not None:
            best[metric], compared_n[metric] = winner, n
    return TaskSummary(
        items=len(results), sources=len(set(of_items.tolist())), means=means, best=best, compared_n=compared_n
    )


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: paths and unknown objects become text, numpy values numbers, NaN null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole or not at all."""
    with replaced_file(path) as temporary:
        # A lone surrogate (a broken character in a caption) cannot be UTF-8; it is written as "?".
        temporary.write_text(text, encoding="utf-8", errors="replace")
    return path


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON: NaN never gets this far."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
