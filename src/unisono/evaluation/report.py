"""The report: one HTML page beside its audio and pictures, which opens by double click and needs no network."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import unisono
from unisono.evaluation import curves
from unisono.evaluation.measure import ClipResult, ItemResult
from unisono.evaluation.metric import CODED, INPUT, MODEL, ROW_TITLES, EvaluationItem, MetricCard, Outcome
from unisono.evaluation.pictures import Tick, frequency_ticks, time_ticks
from unisono.evaluation.summary import Mean, Summary, TaskSummary, plain, write_text

_CLIP_TITLES = {
    INPUT: "Input",
    "reference": "Reference",
    CODED: "Reference, coded",
    MODEL: "Generated",
}
_DIRECTION_WORDS = {"lower": "lower is better", "higher": "higher is better"}
_MAX_DETAIL_CHARACTERS = 4000


@dataclass(frozen=True)
class Cell:
    """One number of a table: text, what stands behind it, and its marks; ``best_of`` is the number of items on which it
    is the best row, 0 if it is not."""

    text: str
    interval: str = ""
    n: int | None = None
    failed: int = 0
    best_of: int = 0
    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One row of a table; a cell is None where the metric does not apply to the row."""

    title: str
    key: str
    cells: list[Cell | None]


@dataclass(frozen=True)
class ClipView:
    """One player with its picture."""

    key: str
    title: str
    audio_url: str | None
    picture_url: str | None
    duration: str
    problem: str
    notes: list[str]


@dataclass(frozen=True)
class ItemView:
    """One card of the report."""

    audio_id: str
    anchor: str
    instruction: str
    content_text: str
    clips: list[ClipView]
    span_s: float
    time_ticks: list[Tick]
    rows: list[Row]
    duration: str
    details: list[tuple[str, str]]
    problems: list[str]
    failed: bool
    sort_values: dict[str, float | None]


@dataclass(frozen=True)
class TaskView:
    """One task: its table of means and its cards."""

    name: str
    title: str
    anchor: str
    n_items: int
    n_failed: int
    columns: list[MetricCard]
    rows: list[Row]
    has_best: bool
    items: list[ItemView]


def write_report(
    summary: Summary,
    items: Sequence[EvaluationItem],
    results: Sequence[ItemResult],
    history: Path | None,
    facts: Mapping[str, str],
) -> Path:
    """Render ``summary.report``; audio and pictures are there already."""
    import jinja2

    package = resources.files("unisono.evaluation")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals.update(arrow={"lower": "↓", "higher": "↑"}, direction_words=_DIRECTION_WORDS)
    template = environment.from_string((package / "report.html.jinja").read_text(encoding="utf-8"))
    training = curves.read_history(history)
    shared = common_details(items)
    page = template.render(
        title=summary.title,
        facts=run_facts(summary, items, training, shared, facts),
        charts=curves.charts_of(training, {task: task_title(task) for task in summary.tasks}),
        history_problem=training.problem,
        tasks=[task_view(task, summary, items, results, shared) for task in summary.tasks],
        frequency_ticks=frequency_ticks(summary.sample_rate),
        cards=list(summary.cards.values()),
        unavailable=summary.unavailable,
        failures=grouped_failures(summary),
        geometry=curves,
        css=(package / "report.css").read_text(encoding="utf-8"),
        js=(package / "report.js").read_text(encoding="utf-8"),
    )
    return write_text(summary.report, page)


def task_title(task: str) -> str:
    return task.replace("_", " ").strip().capitalize() or "Unnamed task"


def run_facts(
    summary: Summary,
    items: Sequence[EvaluationItem],
    training: curves.History,
    shared: Mapping[str, Any],
    given: Mapping[str, str],
) -> list[tuple[str, str]]:
    """What to know about the run: given facts, training progress, details that all items share, versions."""
    facts = [(str(key), str(value)) for key, value in given.items()]
    if training.last_step is not None:
        facts.append(("Trained steps", f"{training.last_step:,}".replace(",", "\u202f")))
    for label, key in (("Last training loss", "train/loss"), ("Last validation loss", "val/loss")):
        if key in training.series:
            facts.append((label, curves.number(float(training.series[key][1][-1]))))
    facts += [(key.replace("_", " ").capitalize(), detail_text(value)) for key, value in shared.items()]
    facts.append(("Test items", f"{len(items)} in {len(summary.tasks)} task{'s' if len(summary.tasks) != 1 else ''}"))
    facts.append(("Compared at", f"{summary.sample_rate} Hz"))
    facts.append(("Unisono", unisono.__version__))
    facts.append(("Evaluated", datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")))
    return facts


def common_details(items: Sequence[EvaluationItem]) -> dict[str, Any]:
    """Details with one short value for all items (seed, steps): facts of the run, not of an item."""
    if len(items) < 2:
        return {}
    first = items[0].details
    return {
        key: value
        for key, value in first.items()
        if isinstance(value, str | int | float | bool)
        and all(key in item.details and item.details[key] == value for item in items)
    }


def task_view(
    task: str,
    summary: Summary,
    items: Sequence[EvaluationItem],
    results: Sequence[ItemResult],
    shared: Mapping[str, Any],
) -> TaskView:
    of_task = summary.tasks[task]
    measured = {name for means in of_task.means.values() for name, mean in means.items() if mean.n or mean.failed}
    columns = [card for name, card in summary.cards.items() if name in measured]
    number = list(summary.tasks).index(task) + 1
    views = [
        item_view(item, result, columns, shared, f"t{number}i{i}")
        for i, (item, result) in enumerate((i, r) for i, r in zip(items, results, strict=True) if i.task == task)
    ]
    return TaskView(
        name=task,
        title=task_title(task),
        anchor=f"task-{number}",
        n_items=of_task.items,
        n_failed=sum(view.failed for view in views),
        columns=columns,
        rows=mean_rows(of_task, columns),
        has_best=bool(of_task.best),
        items=views,
    )


def mean_rows(of_task: TaskSummary, columns: Sequence[MetricCard]) -> list[Row]:
    rows = []
    for key, means in of_task.means.items():
        cells = []
        for card in columns:
            best_of = of_task.compared_n[card.name] if of_task.best.get(card.name) == key else 0
            cells.append(mean_cell(means.get(card.name), card, best_of))
        rows.append(Row(ROW_TITLES[key], key, cells))
    return rows


def mean_cell(mean: Mean | None, card: MetricCard, best_of: int) -> Cell | None:
    if mean is None or (mean.n == 0 and mean.failed == 0):
        return None
    if mean.mean is None:
        return Cell("–", n=0, failed=mean.failed)
    interval = ""
    if mean.interval95 is not None:
        interval = f"± {mean.interval95[1] - mean.mean:.{card.decimals}f}"
    return Cell(fixed(mean.mean, card.decimals), interval, mean.n, mean.failed, best_of)


def item_view(
    item: EvaluationItem,
    result: ItemResult,
    columns: Sequence[MetricCard],
    shared: Mapping[str, Any],
    anchor: str,
) -> ItemView:
    rows = [
        Row(ROW_TITLES[key], key, [outcome_cell(by_metric.get(card.name), card) for card in columns])
        for key, by_metric in result.outcomes.items()
    ]
    of_model = result.outcomes[MODEL]
    return ItemView(
        audio_id=item.audio_id,
        anchor=anchor,
        instruction=item.instruction,
        content_text=item.content_text,
        clips=[clip_view(key, result.clips[key]) for key in _CLIP_TITLES if key in result.clips],
        span_s=result.span_s,
        time_ticks=time_ticks(result.span_s),
        rows=rows,
        duration=duration_text(item),
        details=[(key, detail_text(value)) for key, value in item.details.items() if key not in shared],
        problems=problems_of(result),
        failed=any(o.status == "failed" for by_metric in result.outcomes.values() for o in by_metric.values()),
        sort_values={name: o.value for name, o in of_model.items() if o.status != "not_applicable"},
    )


def problems_of(result: ItemResult) -> list[str]:
    """Why numbers are missing, where the players do not say it already: a line per row and reason, with the metrics."""
    told = {(row, clip.problem) for row, clip in result.clips.items()}
    told |= {
        (row, f"reference: {result.clips['reference'].problem}") for row in result.clips if "reference" in result.clips
    }
    grouped: dict[tuple[str, str], list[str]] = {}
    for row, by_metric in result.outcomes.items():
        for name, outcome in by_metric.items():
            if outcome.status == "failed" and (row, outcome.reason) not in told:
                grouped.setdefault((row, outcome.reason), []).append(name)
    return [f"{ROW_TITLES[row]}: {reason} ({', '.join(names)})" for (row, reason), names in grouped.items()]


def grouped_failures(summary: Summary) -> list[tuple[str, str, str, str, str]]:
    """Item, task, row, metrics and reason: one line for all the metrics that one reason costs."""
    grouped: dict[tuple[str, str, str, str], list[str]] = {}
    for failure in summary.failures:
        key = (failure.audio_id, task_title(failure.task), ROW_TITLES[failure.row], failure.reason)
        grouped.setdefault(key, []).append(failure.metric)
    return [(item, task, row, ", ".join(metrics), reason) for (item, task, row, reason), metrics in grouped.items()]


def fixed(value: float, decimals: int) -> str:
    """Fixed-point text with a true minus sign, and no minus before a zero."""
    text = f"{value:.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("-")


def outcome_cell(outcome: Outcome | None, card: MetricCard) -> Cell | None:
    if outcome is None:
        return None
    if outcome.value is None:
        return Cell("failed" if outcome.status == "failed" else "–", status=outcome.status, reason=outcome.reason)
    # Whole numbers (ranks, counts, hits) of single items need no decimals; their means do.
    whole = card.unit == "" and outcome.value == int(outcome.value) and abs(outcome.value) < 1e6
    return Cell(fixed(outcome.value, 0 if whole else card.decimals))


def clip_view(key: str, clip: ClipResult) -> ClipView:
    return ClipView(
        key=key,
        title=_CLIP_TITLES[key],
        audio_url=None if clip.audio is None else quote(clip.audio),
        picture_url=None if clip.picture is None else quote(clip.picture),
        duration="" if clip.duration_s is None else f"{clip.duration_s:.2f} s",
        problem=clip.problem,
        notes=clip.notes,
    )


def duration_text(item: EvaluationItem) -> str:
    """Predicted and true length, and the difference in per cent where both are known."""
    predicted_s, true_s = item.predicted_duration_s, item.true_duration_s
    parts = []
    if predicted_s is not None:
        parts.append(f"predicted {predicted_s:.2f} s")
    if true_s is not None:
        parts.append(f"true {true_s:.2f} s")
    if predicted_s is not None and true_s:
        percent = fixed(100.0 * (predicted_s - true_s) / true_s, 1)
        parts.append(f"{percent} %" if predicted_s <= true_s else f"+{percent} %")
    return " · ".join(parts)


def detail_text(value: Any) -> str:
    """A detail as text: lists of words (phonemes) spaced, anything nested as JSON."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value):
        text = " ".join(value)
    else:
        text = json.dumps(plain(value), ensure_ascii=False)
    return text if len(text) <= _MAX_DETAIL_CHARACTERS else text[:_MAX_DETAIL_CHARACTERS] + " …"
