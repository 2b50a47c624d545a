"""An evaluation as text: a table per task, what is missing and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from unisono.evaluation.bootstrap import Difference
from unisono.evaluation.comparison import Comparison
from unisono.evaluation.items import MODEL, ROW_TITLES
from unisono.evaluation.metric import ARROWS, BUG, MetricCard
from unisono.evaluation.summary import Mean, Summary, TaskSummary

_REASONS = 5
_TOLD = ("_db", "_s", "_ms", "_percent", "_cents", "_semitones")
"""Units that a name ends in."""


def summary_text(summary: Summary) -> str:
    """Every task's table with metrics as lines, then unavailable metrics, failures and where the files are."""
    parts = [task_table(task, of_task, summary) for task, of_task in summary.tasks.items()]
    if summary.unavailable:
        reasons: dict[str, list[str]] = {}
        for name, reason in summary.unavailable.items():
            reasons.setdefault(reason, []).append(name)
        parts.append(
            "not available:\n" + "\n".join(f"  {', '.join(names)}: {reason}" for reason, names in reasons.items())
        )
    if summary.failures:
        parts.append(failures_text(summary))
    parts.append(f"report: {summary.report.resolve()}")
    return "\n\n".join(parts)


def task_table(task: str, of_task: TaskSummary, summary: Summary) -> str:
    """Metrics as lines, rows as columns: mean ± half of the 95 % interval, and n where it is not all items."""
    names = [name for name in summary.cards if any(name in means for means in of_task.means.values())]
    names = [n for n in names if any(m.n or m.failed for means in of_task.means.values() if (m := means.get(n)))]
    head = [f"{task}, {of_task.counted}"]
    head += [ROW_TITLES.get(row, row) for row in of_task.means]
    lines = [head]
    for name in names:
        card = summary.cards[name]
        cells = [mean_text(means.get(name), card, of_task.items) for means in of_task.means.values()]
        lines.append([label(card), *cells])
    return aligned(lines)


def label(card: MetricCard) -> str:
    """Name, unit and direction of a metric."""
    unit = f" ({card.unit})" if card.unit and not card.name.endswith(_TOLD) else ""
    return f"{card.name}{unit} {ARROWS[card.direction]}"


def mean_text(mean: Mean | None, card: MetricCard, items: int) -> str:
    """One cell."""
    if mean is None or (mean.mean is None and not mean.failed and not mean.problem):
        return "-"
    if mean.mean is None:
        return f"failed ({mean.failed})" if mean.failed else "failed"
    text = f"{mean.mean:.{card.decimals}f}"
    if mean.interval95 is not None:
        text += f" ± {mean.interval95[1] - mean.mean:.{card.decimals}f}"
    notes = [f"n {mean.n}"] if mean.n != items else []
    notes += [f"{mean.failed} failed"] if mean.failed else []
    return text + (f" ({', '.join(notes)})" if notes else "")


def failures_text(summary: Summary) -> str:
    """How many items failed, and the commonest reasons."""
    of_model = [failure for failure in summary.failures if failure.audio_id and failure.row == MODEL]
    broken = {(failure.task, failure.audio_id) for failure in of_model}
    total = sum(of_task.items for of_task in summary.tasks.values())
    # Reasons that differ in their numbers alone (lengths, delays) are one, shown by its first example.
    examples: dict[str, str] = {}
    reasons = Counter[tuple[str, str]]()
    for failure in summary.failures:
        kind = re.sub(r"\d[\d.]*|'.*?'", "#", failure.reason)
        reasons[(examples.setdefault(kind, failure.reason), failure.metric)] += 1
    by_reason: dict[str, tuple[int, list[str]]] = {}
    for (reason, metric), count in reasons.items():
        most, metrics = by_reason.get(reason, (0, []))
        by_reason[reason] = (max(most, count), [*metrics, metric])
    ranked = sorted(by_reason.items(), key=lambda entry: -entry[1][0])
    lines = [f"failures: {len(summary.failures)} numbers, {len(broken)} of {total} items of the model"]
    for reason, (count, metrics) in ranked[:_REASONS]:
        shown = ", ".join(metrics[:4]) + (", …" if len(metrics) > 4 else "")
        lines.append(f"  {count} x {reason} [{shown}]")
    if len(ranked) > _REASONS:
        lines.append(f"  {len(ranked) - _REASONS} more reasons in the report")
    if any(failure.reason.startswith(BUG) for failure in summary.failures):
        lines.append("  unexpected errors are faults of a metric, not of the audio: please report them")
    return "\n".join(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first to the left, the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def comparison_text(comparison: Comparison) -> str:
    """A table per task: every system's mean, and each difference from the baseline with its interval."""
    summary = comparison.summary
    parts = [comparison_table(task, comparison) for task in summary.tasks]
    parts += [f"note: {note}" for note in comparison.notes]
    if comparison.mismatches:
        lines = [f"  {metric}: {difference}" for metric, difference in comparison.mismatches.items()]
        parts.append("made differently, so these columns do not compare:\n" + "\n".join(lines))
    parts.append(f"report: {summary.report.resolve()}")
    return "\n\n".join(parts)


def comparison_table(task: str, comparison: Comparison) -> str:
    """Metrics as lines; * marks a difference beyond chance."""
    summary, names = comparison.summary, comparison.names
    of_task = summary.tasks[task]
    baseline, *others = names
    head = [f"{task}, {of_task.counted}", *names.values(), *(f"{names[row]} - {names[baseline]}" for row in others)]
    lines = [head]
    for name, card in summary.cards.items():
        means = [of_task.means.get(row, {}).get(name) for row in names]
        if not any(mean is not None and (mean.n or mean.failed) for mean in means):
            continue
        cells = [mean_text(mean, card, of_task.items) for mean in means]
        cells += [difference_text(comparison.differences[task][row].get(name), card) for row in others]
        lines.append([label(card), *cells])
    return aligned(lines)


def difference_text(difference: Difference | None, card: MetricCard) -> str:
    if difference is None or difference.mean is None:
        return "-"
    digits = card.decimals
    text = f"{difference.mean:+.{digits}f}"
    if difference.interval95 is not None:
        low, high = difference.interval95
        text += f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    elif card.scope == "item":
        text += f" (n {difference.n}: too few for an interval)"
    verdict = difference.verdict(card.direction)
    return f"{text} {verdict}" if verdict else text
