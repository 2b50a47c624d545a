"""The report: one HTML page beside its audio and pictures, which opens by double click and needs no network."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import unisono
from unisono.evaluation.bootstrap import METHOD, Difference
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.measure import ItemResult
from unisono.evaluation.metric import ARROWS
from unisono.evaluation.report import curves
from unisono.evaluation.report.cards import detail_text, item_view, worst_first
from unisono.evaluation.report.distributions import Value
from unisono.evaluation.report.pictures import frequency_ticks
from unisono.evaluation.report.tables import metric_line
from unisono.evaluation.report.views import ONE_MODEL, Layout, TaskView
from unisono.evaluation.summary import Summary, write_text

DIRECTION_WORDS = {"lower": "lower is better", "higher": "higher is better"}
MOST_CARDS = 300
"""Items of a task that the page shows; of more, the worst."""
MOST_FAILURES = 500
"""Lines of the table of failures; all are in metrics.json."""

Differences = Mapping[str, Mapping[str, Mapping[str, Difference]]]
"""Where systems are compared: task -> system -> metric -> its difference from the baseline."""


def write_report(
    summary: Summary,
    items: Sequence[EvaluationItem],
    results: Sequence[ItemResult],
    history: Path | None,
    facts: Mapping[str, str],
    layout: Layout = ONE_MODEL,
    differences: Differences | None = None,
    warnings: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Render ``summary.report``; audio and pictures are there already.

    Args:
        summary, items, results: what was measured.
        history: the run's metrics.jsonl, for the loss curves; None leaves the section out.
        facts: lines of the table at the top.
        layout: rows and players.
        differences: of systems from a baseline.
        warnings: by metric: why its numbers should not be compared.
        notes: what to know before reading the tables.
    """
    import jinja2

    package = resources.files("unisono.evaluation.report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals.update(arrow=ARROWS, direction_words=DIRECTION_WORDS)
    template = environment.from_string((package / "report.html.jinja").read_text(encoding="utf-8"))
    training = curves.read_history(history)
    shared = common_details(items)
    tasks = [
        task_view(task, summary, items, results, shared, layout, (differences or {}).get(task, {}), warnings or {})
        for task in summary.tasks
    ]
    failures = grouped_failures(summary, layout)
    page = template.render(
        title=summary.title,
        facts=run_facts(summary, items, training, shared, facts),
        with_history=history is not None,
        charts=curves.charts_of(training, {task: task_title(task) for task in summary.tasks}),
        history_problem=training.problem,
        tasks=tasks,
        layout=layout,
        frequency_ticks=frequency_ticks(summary.sample_rate),
        cards=list(summary.cards.values()),
        notes=notes,
        unavailable=grouped_reasons(summary.unavailable),
        failures=failures[:MOST_FAILURES],
        more_failures=max(0, len(failures) - MOST_FAILURES),
        bootstrap_method=METHOD,
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
    facts += [(fact_title(key), detail_text(value)) for key, value in shared.items()]
    facts.append(("Test items", f"{len(items)} in {len(summary.tasks)} task{'s' if len(summary.tasks) != 1 else ''}"))
    facts.append(("Compared at", f"{summary.sample_rate} Hz"))
    facts.append(("Unisono", unisono.__version__))
    facts.append(("Evaluated", datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")))
    return facts


def fact_title(key: str) -> str:
    """A detail's name as it stands above the page."""
    return key.replace("_", " ").capitalize()


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
    layout: Layout,
    differences: Mapping[str, Mapping[str, Difference]],
    warnings: Mapping[str, str],
) -> TaskView:
    """The table and the cards of one task."""
    of_task = summary.tasks[task]
    measured = {
        name
        for means in of_task.means.values()
        for name, mean in means.items()
        if mean.n or mean.failed or mean.problem
    }
    columns = [card for name, card in summary.cards.items() if name in measured]
    of_items = [card for card in columns if card.scope == "item"]
    number = list(summary.tasks).index(task) + 1
    chosen = [
        (item, result, f"t{number}i{i}")
        for i, (item, result) in enumerate((i, r) for i, r in zip(items, results, strict=True) if i.task == task)
    ]
    views = [item_view(item, result, of_items, shared, anchor, layout) for item, result, anchor in chosen]
    shown = worst_first(views, of_items)[:MOST_CARDS]
    anchors = {view.anchor for view in shown}
    values = spread([(item.audio_id, result, anchor if anchor in anchors else "") for item, result, anchor in chosen])
    return TaskView(
        name=task,
        title=task_title(task),
        anchor=f"task-{number}",
        n_items=of_task.items,
        counted=of_task.counted,
        n_failed=sum(view.failed for view in views),
        columns=of_items,
        rows=[(key, layout.rows[key]) for key in of_task.means],
        compared=[layout.rows[system] for system in differences],
        lines=[metric_line(c, of_task, values, differences, warnings.get(c.name, "")) for c in columns],
        has_best=bool(of_task.best),
        items=shown,
        left_out=max(0, len(views) - MOST_CARDS),
    )


def spread(results: Sequence[tuple[str, ItemResult, str]]) -> dict[str, dict[str, list[Value]]]:
    """metric -> row -> the items' numbers; items without a card have no anchor."""
    values: dict[str, dict[str, list[Value]]] = {}
    for audio_id, result, anchor in results:
        for row, by_metric in result.outcomes.items():
            for name, outcome in by_metric.items():
                if outcome.value is not None:
                    values.setdefault(name, {}).setdefault(row, []).append(Value(outcome.value, audio_id, anchor))
    return values


def grouped_reasons(unavailable: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names of metrics that have one reason in common, and the reason."""
    grouped: dict[str, list[str]] = {}
    for name, reason in unavailable.items():
        grouped.setdefault(reason, []).append(name)
    return [(", ".join(names), reason) for reason, names in grouped.items()]


def grouped_failures(summary: Summary, layout: Layout) -> list[tuple[str, str, str, str, str]]:
    """Item, task, row, metrics and reason: one line for all the metrics that one reason costs."""
    grouped: dict[tuple[str, str, str, str], list[str]] = {}
    for failure in summary.failures:
        item = failure.audio_id or "all together"
        key = (item, task_title(failure.task), layout.rows[failure.row], failure.reason)
        grouped.setdefault(key, []).append(failure.metric)
    return [(item, task, row, ", ".join(metrics), reason) for (item, task, row, reason), metrics in grouped.items()]
