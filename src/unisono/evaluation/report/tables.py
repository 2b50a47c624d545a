"""Tables of the page: metrics as lines, rows as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unisono.evaluation.bootstrap import Difference
from unisono.evaluation.metric import MetricCard, Outcome
from unisono.evaluation.report.distributions import Value, distribution
from unisono.evaluation.report.views import Cell, DifferenceCell, MetricLine
from unisono.evaluation.summary import Mean, TaskSummary

Values = Mapping[str, Mapping[str, Sequence[Value]]]
"""Of one task: metric -> row -> the items' numbers."""


def metric_line(
    card: MetricCard,
    of_task: TaskSummary,
    values: Values,
    differences: Mapping[str, Mapping[str, Difference]],
    warning: str,
) -> MetricLine:
    """One metric in every row of a task."""
    cells = []
    for key, means in of_task.means.items():
        best_of = of_task.compared_n[card.name] if of_task.best.get(card.name) == key else 0
        cells.append(mean_cell(means.get(card.name), card, best_of))
    compared = [difference_cell(by_metric.get(card.name), card) for by_metric in differences.values()]
    return MetricLine(card, cells, distribution(values.get(card.name, {}), card.decimals), compared, warning)


def mean_cell(mean: Mean | None, card: MetricCard, best_of: int) -> Cell | None:
    """A mean with its interval, or the number of all items together."""
    if mean is None or (mean.n == 0 and mean.failed == 0 and not mean.problem):
        return None
    if mean.mean is None:
        return Cell("–", n=mean.n, failed=mean.failed, status="failed", reason=mean.problem)
    interval = ""
    if mean.interval95 is not None:
        interval = f"± {mean.interval95[1] - mean.mean:.{card.decimals}f}"
    reason = ", ".join(f"{key} {value}" for key, value in mean.conditions.items())
    return Cell(fixed(mean.mean, card.decimals), interval, mean.n, mean.failed, best_of, reason=reason)


def difference_cell(difference: Difference | None, card: MetricCard) -> DifferenceCell | None:
    """A difference from the baseline, with its sign."""
    if difference is None:
        return None
    if difference.mean is None:
        return DifferenceCell("–", "", difference.n, "", difference.reason)
    interval = ""
    if difference.interval95 is not None:
        low, high = difference.interval95
        interval = f"[{signed(low, card.decimals)}, {signed(high, card.decimals)}]"
    text = signed(difference.mean, card.decimals)
    return DifferenceCell(text, interval, difference.n, difference.verdict(card.direction), difference.reason)


def outcome_cell(outcome: Outcome | None, card: MetricCard) -> Cell | None:
    """The number of one item, or why there is none."""
    if outcome is None:
        return None
    if outcome.value is None:
        return Cell("failed" if outcome.status == "failed" else "–", status=outcome.status, reason=outcome.reason)
    # Whole numbers (ranks, counts, hits) of single items need no decimals; their means do.
    whole = card.unit == "" and outcome.value == int(outcome.value) and abs(outcome.value) < 1e6
    return Cell(fixed(outcome.value, 0 if whole else card.decimals))


def fixed(value: float, decimals: int) -> str:
    """Fixed-point text with a true minus sign, and no minus before a zero."""
    text = f"{value:.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("-")


def signed(value: float, decimals: int) -> str:
    """As `fixed`, with a plus sign before what is above zero."""
    text = fixed(value, decimals)
    return f"+{text}" if value > 0 and float(f"{value:.{decimals}f}") else text
