"""Systems side by side: evaluations of the same test set in one table, with paired differences.

output_dir/
  report.html        opens by double click
  comparison.json    means of every system, differences with their intervals, cards
  audio/, pictures/  copied from the evaluations, so that the folder stands for itself
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unisono.errors import UserError
from unisono.evaluation.bootstrap import METHOD, Difference, paired_difference
from unisono.evaluation.comparability import (
    card_differences,
    check_references,
    check_words,
    condition_differences,
    without,
)
from unisono.evaluation.items import MODEL, REFERENCE, EvaluationItem
from unisono.evaluation.measure import ItemResult
from unisono.evaluation.merging import merged, settings_of_systems
from unisono.evaluation.metric import MetricCard, SetOutcome
from unisono.evaluation.output_folder import written
from unisono.evaluation.report.page import fact_title, grouped_reasons, write_report
from unisono.evaluation.report.views import Layout
from unisono.evaluation.results import ITEMS_FILE, REPORT_FILE, Stored, collect_failures, item_record, read_results
from unisono.evaluation.summary import Summary, summarise_task, to_json, write_text


@dataclass(frozen=True)
class Comparison:
    """What a comparison gave.

    Attributes:
        summary: as of one evaluation, with the systems as rows.
        names: titles of the systems by row; the first is the baseline.
        settings: detail -> what it is in each system (weights, seed, solver), where it is not the same in all.
        differences: task -> system's row -> metric -> difference from the baseline.
        mismatches: metric -> how the cards differ, where that was allowed.
        notes: what not every system has, and which numbers are left out.
    """

    summary: Summary
    names: dict[str, str]
    settings: dict[str, str]
    differences: dict[str, dict[str, dict[str, Difference]]]
    mismatches: dict[str, str]
    notes: list[str]


def compare(
    systems: Mapping[str, Path], output_dir: Path, *, allow_different_cards: bool = False, title: str | None = None
) -> Comparison:
    """Put evaluations side by side and write the report.

    Args:
        systems: folder of an evaluation by the system's name; the first is the baseline.
        output_dir: made if needed.
        allow_different_cards: put numbers in one column though they were made differently; the report marks them.
        title: heading of the report.

    Raises:
        UserError: fewer than two systems, nothing in common, or cards that differ.
    """
    if len(systems) < 2:
        raise UserError("a comparison needs two evaluations or more; give their folders")
    output_dir = Path(output_dir)
    stored = {f"system_{i}": read_results(Path(folder)) for i, folder in enumerate(systems.values(), 1)}
    names = dict(zip(stored, systems, strict=True))
    for folder in systems.values():
        if output_dir.resolve().is_relative_to(Path(folder).resolve()):
            raise UserError(f"--output {output_dir} lies in one of the evaluations; name another folder")
    check_words(stored, names)
    mismatches = card_differences(stored, names)
    if mismatches and not allow_different_cards:
        told = "\n".join(f"  {metric}: {difference}" for metric, difference in mismatches.items())
        raise UserError(
            f"these numbers were made differently and do not compare:\n{told}\n"
            "evaluate again in the same way, or say --allow-different-cards to put them side by side all the same"
        )
    check_references(stored, names)
    with written(output_dir):
        return _compared(stored, names, output_dir, mismatches, allow_different_cards, title)


def _compared(
    stored: Mapping[str, Stored],
    names: Mapping[str, str],
    output_dir: Path,
    mismatches: dict[str, str],
    allow_different_cards: bool,
    title: str | None,
) -> Comparison:
    """The comparison of evaluations that may be compared, and its files."""
    conditions = condition_differences(stored, names)
    if allow_different_cards:
        mismatches |= conditions
    else:
        stored = {row: without(one, conditions) for row, one in stored.items()}
    settings = settings_of_systems(stored, names)
    items, results, notes = merged(stored, names, output_dir, settings)
    notes += [f"not compared: {metrics} ({why})" for metrics, why in grouped_reasons(conditions)]
    notes += metrics_lacking(stored, names)
    cards = {name: card for one in reversed(list(stored.values())) for name, card in one.cards.items()}
    cards = {name: cards[name] for name in dict.fromkeys(n for one in stored.values() for n in one.cards)}
    heading = title or " against ".join(reversed(list(names.values())))
    summary = _summary(heading, stored, items, results, cards, output_dir, mismatches)
    differences = all_differences(summary, stored, items, results, cards, frozenset(mismatches))
    comparison = Comparison(summary, dict(names), settings, differences, mismatches, notes)
    lines = [to_json(item_record(item, result)) for item, result in zip(items, results, strict=True)]
    write_text(summary.items_file, "".join(f"{line}\n" for line in lines))
    folders = {names[row]: one.folder for row, one in stored.items()}
    write_text(summary.metrics_file, to_json(as_json(comparison, folders), indent=2) + "\n")
    layout = Layout(
        rows=names,
        clips={"input": "Input", REFERENCE: "Reference", **names},
        judged=tuple(names),
        baseline=next(iter(names)),
    )
    facts = {names[row]: one.title for row, one in stored.items()}
    facts |= {fact_title(key): value for key, value in settings.items()}
    warnings = dict.fromkeys(mismatches, "made differently, see below")
    write_report(summary, items, results, None, facts, layout, differences, warnings, notes)
    return comparison


def metrics_lacking(stored: Mapping[str, Stored], names: Mapping[str, str]) -> list[str]:
    """A note for every system that was evaluated without some metric that another has."""
    every = dict.fromkeys(name for one in stored.values() for name in one.cards)
    lacking = {names[row]: [name for name in every if name not in one.cards] for row, one in stored.items()}
    return [
        f"{system} was evaluated without {', '.join(absent[:3])}{', …' if len(absent) > 3 else ''} "
        f"({len(absent)} of {len(every)} metrics)"
        for system, absent in lacking.items()
        if absent
    ]


def _summary(
    title: str,
    stored: Mapping[str, Stored],
    items: Sequence[EvaluationItem],
    results: Sequence[ItemResult],
    cards: Mapping[str, MetricCard],
    output_dir: Path,
    made_differently: Collection[str],
) -> Summary:
    tasks = {}
    for task in dict.fromkeys(item.task for item in items):
        chosen = [result for item, result in zip(items, results, strict=True) if item.task == task]
        outcomes, sources = [result.outcomes for result in chosen], [result.source for result in chosen]
        of_task = summarise_task(outcomes, sources, cards, _sets(task, stored))
        best = {metric: row for metric, row in of_task.best.items() if metric not in made_differently}
        tasks[task] = replace(of_task, best=best)
    used = {name for of_task in tasks.values() for means in of_task.means.values() for name in means}
    return Summary(
        title=title,
        sample_rate=next(iter(stored.values())).sample_rate,
        tasks=tasks,
        cards={name: card for name, card in cards.items() if name in used},
        unavailable={name: why for one in stored.values() for name, why in one.unavailable.items()},
        failures=tuple(collect_failures(items, results, tasks)),
        report=output_dir / REPORT_FILE,
        metrics_file=output_dir / "comparison.json",
        items_file=output_dir / ITEMS_FILE,
    )


def _sets(task: str, stored: Mapping[str, Stored]) -> dict[str, dict[str, SetOutcome]]:
    return {
        row: {
            name: SetOutcome(mean.mean, mean.n, mean.failed, mean.problem, mean.conditions)
            for name, mean in one.means.get(task, {}).get(MODEL, {}).items()
            if one.cards[name].scope == "set"
        }
        for row, one in stored.items()
    }


def all_differences(
    summary: Summary,
    stored: Mapping[str, Stored],
    items: Iterable[EvaluationItem],
    results: Iterable[ItemResult],
    cards: Mapping[str, MetricCard],
    made_differently: frozenset[str],
) -> dict[str, dict[str, dict[str, Difference]]]:
    """Every system but the baseline, task by task and metric by metric; none of numbers that were made differently."""
    pairs = list(zip(items, results, strict=True))
    baseline, *others = stored
    differences: dict[str, dict[str, dict[str, Difference]]] = {}
    for task, of_task in summary.tasks.items():
        chosen = [(item.audio_id, result) for item, result in pairs if item.task == task]
        sources = {audio_id: result.source for audio_id, result in chosen}
        for row in others:
            of_row: dict[str, Difference] = {}
            for name, card in cards.items():
                if name in made_differently:
                    continue
                if card.scope == "set":
                    one, other = (of_task.means.get(r, {}).get(name) for r in (row, baseline))
                    if one is not None and other is not None and one.mean is not None and other.mean is not None:
                        of_row[name] = Difference(one.n, one.mean - other.mean, None, "one number of all items")
                    continue
                system, base = (_values(chosen, r, name) for r in (row, baseline))
                if system or base:
                    of_row[name] = paired_difference(system, base, sources)
            differences.setdefault(task, {})[row] = of_row
    return differences


def _values(chosen: Sequence[tuple[str, ItemResult]], row: str, metric: str) -> dict[str, float]:
    outcomes = {audio_id: result.outcomes.get(row, {}).get(metric) for audio_id, result in chosen}
    return {audio_id: o.value for audio_id, o in outcomes.items() if o is not None and o.value is not None}


def as_json(comparison: Comparison, systems: Mapping[str, Path]) -> dict[str, Any]:
    """What comparison.json holds."""
    names = comparison.names
    return {
        "systems": {name: str(folder) for name, folder in systems.items()},
        "baseline": next(iter(systems)),
        "different_settings": comparison.settings,
        "intervals": METHOD,
        "tasks": {
            task: {
                "items": of_task.items,
                "sources": of_task.sources,
                "means": {names[row]: {m: asdict(v) for m, v in means.items()} for row, means in of_task.means.items()},
                "differences": {
                    names[row]: {
                        metric: {**asdict(d), "verdict": d.verdict(comparison.summary.cards[metric].direction)}
                        for metric, d in by_metric.items()
                    }
                    for row, by_metric in comparison.differences[task].items()
                },
            }
            for task, of_task in comparison.summary.tasks.items()
        },
        "different_cards": comparison.mismatches,
        "notes": comparison.notes,
        "cards": {name: asdict(card) for name, card in comparison.summary.cards.items()},
    }
