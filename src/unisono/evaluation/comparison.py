"""Systems side by side: evaluations of the same test set in one table, with paired differences.

output_dir/
  report.html        opens by double click
  comparison.json    means of every system, differences with their intervals, cards
  audio/, pictures/  copied from the evaluations, so that the folder stands for itself
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unisono.errors import UserError
from unisono.evaluation.bootstrap import METHOD, Difference, paired_difference
from unisono.evaluation.items import MODEL, REFERENCE, EvaluationItem
from unisono.evaluation.measure import ClipResult, ItemResult
from unisono.evaluation.metric import MetricCard, SetOutcome
from unisono.evaluation.report.page import write_report
from unisono.evaluation.report.views import Layout
from unisono.evaluation.results import Stored, item_record, read_results
from unisono.evaluation.runner import collect_failures
from unisono.evaluation.summary import Summary, plain, summarise_task, to_json, write_text

Key = tuple[str, str]


@dataclass(frozen=True)
class Comparison:
    """What a comparison gave.

    Attributes:
        summary: as of one evaluation, with the systems as rows.
        names: titles of the systems by row; the first is the baseline.
        differences: task -> system's row -> metric -> difference from the baseline.
        mismatches: metric -> how the cards differ, where that was allowed.
        notes: items that not every system has.
    """

    summary: Summary
    names: dict[str, str]
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
    if output_dir.resolve() in {Path(folder).resolve() for folder in systems.values()}:
        raise UserError(f"--output {output_dir} is one of the evaluations; name another folder")
    mismatches = card_differences(stored, names)
    if mismatches and not allow_different_cards:
        told = "\n".join(f"  {metric}: {difference}" for metric, difference in mismatches.items())
        raise UserError(
            f"these numbers were made differently and do not compare:\n{told}\n"
            "evaluate again in the same way, or say --allow-different-cards to put them side by side all the same"
        )
    check_references(stored, names)
    items, results, notes = merged(stored, names, output_dir)
    conditions = condition_differences(stored, names)
    notes += [f"{metric} is not compared: {why}" for metric, why in conditions.items()]
    if not allow_different_cards:
        stored = {row: without_sets(one, conditions) for row, one in stored.items()}
    mismatches |= conditions if allow_different_cards else {}
    cards = {name: card for one in reversed(list(stored.values())) for name, card in one.cards.items()}
    cards = {name: cards[name] for name in dict.fromkeys(n for one in stored.values() for n in one.cards)}
    summary = _summary(title or " against ".join(reversed(list(systems))), stored, items, results, cards, output_dir)
    differences = all_differences(summary, stored, items, results, cards, frozenset(mismatches))
    comparison = Comparison(summary, names, differences, mismatches, notes)
    write_text(
        summary.items_file, "".join(to_json(item_record(i, r)) + "\n" for i, r in zip(items, results, strict=True))
    )
    write_text(summary.metrics_file, to_json(as_json(comparison, systems), indent=2) + "\n")
    layout = Layout(
        rows=names,
        clips={"input": "Input", REFERENCE: "Reference", **names},
        judged=tuple(names),
        baseline=next(iter(names)),
    )
    facts = {name: str(one.title) for name, one in zip(systems, stored.values(), strict=True)}
    facts |= {"Not in every system": "; ".join(notes)} if notes else {}
    warnings = dict.fromkeys(mismatches, "made differently, see below")
    write_report(summary, items, results, None, facts, layout, differences, warnings)
    return comparison


_MADE_BY = ("unit", "direction", "scope", "implementation", "version", "parameters")
"""What of a card moves the number; the rest is words about it."""


def card_differences(stored: Mapping[str, Stored], names: Mapping[str, str]) -> dict[str, str]:
    """Metrics that two systems have under different cards -> what differs, in words."""
    found: dict[str, str] = {}
    for metric in dict.fromkeys(name for one in stored.values() for name in one.cards):
        having = {names[key]: one.cards[metric] for key, one in stored.items() if metric in one.cards}
        if told := _differing({name: flat({f: getattr(card, f) for f in _MADE_BY}) for name, card in having.items()}):
            found[metric] = "; ".join(told)
    return found


def condition_differences(stored: Mapping[str, Stored], names: Mapping[str, str]) -> dict[str, str]:
    """Numbers of all items together that were taken under other conditions (reference set, sizes) -> which."""
    every = [means for one in stored.values() for rows in one.sets.values() for means in rows.values()]
    metrics = dict.fromkeys(name for means in every for name in means)
    return {metric: "; ".join(told) for metric in metrics if (told := _conditions(metric, stored, names))}


def check_references(stored: Mapping[str, Stored], names: Mapping[str, str]) -> None:
    """`UserError` where an item of one name is compared with another recording or text in another system.

    Hashes are of the samples at the evaluation's rate; those of two rates say nothing, and their cards differ anyway.
    """
    seen: dict[tuple[Key, int], tuple[str, str]] = {}
    others: dict[tuple[str, str], list[str]] = {}
    for row, one in stored.items():
        for item, result in zip(one.items, one.results, strict=True):
            first, reference = seen.setdefault(
                ((item.task, item.audio_id), one.sample_rate), (row, result.reference_hash)
            )
            if reference != result.reference_hash:
                others.setdefault((names[first], names[row]), []).append(item.audio_id)
    if others:
        told = "; ".join(
            f"{len(ids)} items of {b} have another reference or text than in {a}, such as {ids[0]!r}"
            for (a, b), ids in others.items()
        )
        raise UserError(f"these are not the same test items: {told}; evaluate all systems against one test set")


def without_sets(one: Stored, metrics: Mapping[str, str]) -> Stored:
    """An evaluation without some numbers of all items together."""
    sets = {
        task: {row: {name: m for name, m in means.items() if name not in metrics} for row, means in rows.items()}
        for task, rows in one.sets.items()
    }
    return replace(one, sets=sets)


def _conditions(metric: str, stored: Mapping[str, Stored], names: Mapping[str, str]) -> list[str]:
    """Differing conditions of a number of all items together, by task."""
    told = []
    for task in dict.fromkeys(task for one in stored.values() for task in one.sets):
        having: dict[str, dict[str, Any]] = {
            names[key]: flat(mean.conditions)
            for key, one in stored.items()
            if (mean := one.sets.get(task, {}).get(MODEL, {}).get(metric)) is not None and mean.mean is not None
        }
        told += [f"{task}: {line}" for line in _differing(having)]
    return told


def _differing(having: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each entry that is not the same in all."""
    lines = []
    for key in dict.fromkeys(key for entries in having.values() for key in entries):
        values = {name: entries.get(key, "nothing") for name, entries in having.items()}
        if len({json.dumps(plain(value), sort_keys=True) for value in values.values()}) > 1:
            lines.append(f"{key} is " + ", ".join(f"{value} in {name}" for name, value in values.items()))
    return lines


def flat(entries: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested entries under dotted names."""
    result: dict[str, Any] = {}
    for key, value in entries.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result


def merged(
    stored: Mapping[str, Stored], names: Mapping[str, str], output_dir: Path
) -> tuple[list[EvaluationItem], list[ItemResult], list[str]]:
    """Every item of any system, with a row per system; players and pictures are copied."""
    by_key: dict[str, dict[Key, tuple[EvaluationItem, ItemResult]]] = {
        row: {(i.task, i.audio_id): (i, r) for i, r in zip(one.items, one.results, strict=True)}
        for row, one in stored.items()
    }
    keys = list(dict.fromkeys(key for of_system in by_key.values() for key in of_system))
    shared = set.intersection(*(set(of_system) for of_system in by_key.values()))
    if not shared:
        raise UserError(
            "the evaluations have no item in common: "
            + "; ".join(
                f"{names[row]}: {next(iter(of_system), ('', 'nothing'))[1]!r}, …" for row, of_system in by_key.items()
            )
        )
    notes = [
        f"{names[row]} lacks {len(absent)} of {len(keys)} items"
        for row, of_system in by_key.items()
        if (absent := [key for key in keys if key not in of_system])
    ]
    items, results = [], []
    for key in keys:
        having = {row: of_system[key] for row, of_system in by_key.items() if key in of_system}
        first, of_first = next(iter(having.values()))
        clips, outcomes = {}, {}
        for row, (_, result) in having.items():
            outcomes[row] = result.outcomes.get(MODEL, {})
            clips[row] = copied(result.clips[MODEL], stored[row].folder, output_dir, row)
        first_folder = stored[next(iter(having))].folder
        for shown in ("input", REFERENCE):
            if shown in of_first.clips:
                clips[shown] = copied(of_first.clips[shown], first_folder, output_dir, shown)
        items.append(replace(first, details=dict(first.details)))
        results.append(ItemResult(outcomes, clips, max(result.span_s for _, result in having.values())))
    return items, results, notes


def copied(clip: ClipResult, folder: Path, output_dir: Path, key: str) -> ClipResult:
    """A player whose files lie in ``output_dir`` under the system's key; a file that is gone becomes a problem."""
    places: dict[str, str | None] = {"audio": clip.audio, "picture": clip.picture}
    for kind, name in places.items():
        if name is None:
            continue
        source, place = folder / name, str(Path(name).with_stem(key))
        if not source.is_file():
            return replace(clip, audio=None, picture=None, problem=clip.problem or f"{name} is gone from {folder.name}")
        (output_dir / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, output_dir / place)
        places[kind] = place
    return replace(clip, audio=places["audio"], picture=places["picture"])


def _summary(
    title: str,
    stored: Mapping[str, Stored],
    items: Sequence[EvaluationItem],
    results: Sequence[ItemResult],
    cards: Mapping[str, MetricCard],
    output_dir: Path,
) -> Summary:
    tasks = {}
    for task in dict.fromkeys(item.task for item in items):
        outcomes = [result.outcomes for item, result in zip(items, results, strict=True) if item.task == task]
        tasks[task] = summarise_task(outcomes, cards, _sets(task, stored))
    used = {name for of_task in tasks.values() for means in of_task.means.values() for name in means}
    return Summary(
        title=title,
        sample_rate=next(iter(stored.values())).sample_rate,
        tasks=tasks,
        cards={name: card for name, card in cards.items() if name in used},
        unavailable={name: why for one in stored.values() for name, why in one.unavailable.items()},
        failures=tuple(collect_failures(items, results, tasks)),
        report=output_dir / "report.html",
        metrics_file=output_dir / "comparison.json",
        items_file=output_dir / "items.jsonl",
    )


def _sets(task: str, stored: Mapping[str, Stored]) -> dict[str, dict[str, SetOutcome]]:
    return {
        row: {
            name: SetOutcome(mean.mean, mean.n, mean.failed, mean.problem, mean.conditions)
            for name, mean in one.sets.get(task, {}).get(MODEL, {}).items()
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
                    of_row[name] = paired_difference(system, base)
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
        "intervals": METHOD,
        "tasks": {
            task: {
                "items": of_task.items,
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
        "not_in_every_system": comparison.notes,
        "cards": {name: asdict(card) for name, card in comparison.summary.cards.items()},
    }
