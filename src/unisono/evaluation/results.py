"""The two result files: metrics.json (means, failures, cards) and items.jsonl (every number of every item)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import unisono
from unisono.errors import UserError
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.measure import ClipResult, ItemResult
from unisono.evaluation.metric import MetricCard, Outcome
from unisono.evaluation.summary import Failure, Mean, Summary, TaskSummary, to_json, write_text

METRICS_FILE, ITEMS_FILE, REPORT_FILE = "metrics.json", "items.jsonl", "report.html"
JOURNAL_FILE = ".measured.jsonl"
"""There while an evaluation is not whole (`unisono.evaluation.journal`)."""
FORMAT = 3
"""Of both files; a reader refuses another."""
_LARGEST = 1e15
"""No metric gives more."""


def write_results(summary: Summary, items: Sequence[EvaluationItem], results: Sequence[ItemResult]) -> None:
    """``items.jsonl`` and ``metrics.json``."""
    lines = (to_json(item_record(item, result)) + "\n" for item, result in zip(items, results, strict=True))
    write_text(summary.items_file, "".join(lines))
    write_text(summary.metrics_file, to_json(summary_as_dict(summary), indent=2) + "\n")


def collect_failures(
    items: Sequence[EvaluationItem], results: Sequence[ItemResult], tasks: Mapping[str, TaskSummary]
) -> Iterator[Failure]:
    """Every number that could not be had; of all items together under an empty id."""
    for item, result in zip(items, results, strict=True):
        for row, by_metric in result.outcomes.items():
            for metric, outcome in by_metric.items():
                if outcome.status == "failed":
                    yield Failure(item.task, item.audio_id, row, metric, outcome.reason)
    for task, summary in tasks.items():
        for row, means in summary.means.items():
            for metric, mean in means.items():
                if mean.problem:
                    yield Failure(task, "", row, metric, mean.problem)


def summary_as_dict(summary: Summary) -> dict[str, Any]:
    """What metrics.json holds; file names relative to its folder."""
    return {
        "format": FORMAT,
        "title": summary.title,
        "unisono_version": unisono.__version__,
        "sample_rate": summary.sample_rate,
        "tasks": {task: asdict(of_task) for task, of_task in summary.tasks.items()},
        "unavailable": summary.unavailable,
        "failures": [asdict(failure) for failure in summary.failures],
        "cards": {name: asdict(card) for name, card in summary.cards.items()},
        "report": summary.report.name,
        "items": summary.items_file.name,
    }


def item_record(item: EvaluationItem, result: ItemResult) -> dict[str, Any]:
    """One line of items.jsonl; files relative to the output folder, a number or null with the reason beside it."""
    reasons = {
        row: {name: f"{o.status}: {o.reason}" for name, o in by_metric.items() if o.value is None}
        for row, by_metric in result.outcomes.items()
    }
    return {
        "audio_id": item.audio_id,
        "task": item.task,
        "instruction": item.instruction,
        "content_text": item.content_text,
        "predicted_duration_s": item.predicted_duration_s,
        "true_duration_s": item.true_duration_s,
        "metrics": {row: {name: o.value for name, o in named.items()} for row, named in result.outcomes.items()},
        "without_value": {row: named for row, named in reasons.items() if named},
        "clips": {key: asdict(clip) for key, clip in result.clips.items()},
        "span_s": result.span_s,
        "reference_hash": result.reference_hash,
        "source": result.source,
        "details": item.details,
    }


@dataclass(frozen=True)
class Stored:
    """An evaluation read back from its folder.

    Attributes:
        folder: where it lies.
        title, sample_rate: as it was made.
        cards: by metric.
        means: ``means[task][row][metric]``, numbers of all items together among them.
        unavailable: reason by metric.
        items, results: in the order of the file; the items' own files are known only by their players.
    """

    folder: Path
    title: str
    sample_rate: int
    cards: dict[str, MetricCard]
    means: dict[str, dict[str, dict[str, Mean]]]
    unavailable: dict[str, str]
    items: list[EvaluationItem]
    results: list[ItemResult]


def read_results(folder: Path) -> Stored:
    """Read an evaluation's folder, which may come from somebody else: nothing in it is taken on trust.

    Raises:
        UserError: no evaluation there, of another format, or damaged.
    """
    path, items_path = folder / METRICS_FILE, folder / ITEMS_FILE
    for needed in (path, items_path):
        if not needed.is_file() and (folder / JOURNAL_FILE).is_file():
            raise UserError(f"{folder}: the evaluation there was interrupted; give its command again, and it goes on")
        if not needed.is_file():
            raise UserError(
                f"{needed} does not exist; give the output folder of an evaluation (evaluate.py, unisono evaluate)"
            )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        version = stored.get("format")
        if version == FORMAT:
            return _stored(folder, stored, items_path)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, OSError) as error:
        raise UserError(f"{folder}: damaged results ({type(error).__name__}: {error}); evaluate again") from error
    raise UserError(f"{path} has format {version!r}, this version reads {FORMAT}; evaluate again")


def _stored(folder: Path, stored: Mapping[str, Any], items_path: Path) -> Stored:
    cards = {str(name): _card(name, card) for name, card in stored["cards"].items()}
    lines = items_path.read_text(encoding="utf-8").splitlines()
    pairs = [_item(json.loads(line, parse_constant=_refuse), folder, cards) for line in lines if line.strip()]
    seen = [(item.task, item.audio_id) for item, _ in pairs]
    _require(len(set(seen)) == len(seen), "an item is there twice")
    rate = stored["sample_rate"]
    _require(isinstance(rate, int) and 0 < rate < 10**7, f"sample_rate is {rate!r}")
    return Stored(
        folder=folder,
        title=str(stored["title"]),
        sample_rate=rate,
        cards=cards,
        means=_means(stored["tasks"], cards),
        unavailable={str(name): str(reason) for name, reason in dict(stored["unavailable"]).items()},
        items=[item for item, _ in pairs],
        results=[result for _, result in pairs],
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _number(value: Any) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
    _require(fits, f"{str(value)[:40]} is no number of a metric")
    return float(value)


def _card(name: str, given: Mapping[str, Any]) -> MetricCard:
    card = MetricCard(**given)
    _require(card.name == name, f"the card of {name!r} is that of {card.name!r}")
    _require(card.direction in ("lower", "higher") and card.scope in ("item", "set"), f"card of {name!r}")
    _require(type(card.decimals) is int and 0 <= card.decimals <= 12, f"{name!r} has {card.decimals!r} decimals")
    _require(isinstance(card.parameters, dict), f"parameters of {name!r}")
    words = (card.title, card.unit, card.value_range, card.definition, card.blind_to, card.source, card.version)
    _require(all(isinstance(word, str) for word in (*words, card.implementation)), f"card of {name!r}")
    return card


def _means(tasks: Mapping[str, Any], cards: Mapping[str, MetricCard]) -> dict[str, dict[str, dict[str, Mean]]]:
    means = {
        task: {row: {name: _mean(mean) for name, mean in of_row.items()} for row, of_row in of_task["means"].items()}
        for task, of_task in tasks.items()
    }
    named = [name for rows in means.values() for of_row in rows.values() for name in of_row]
    _require(all(name in cards for name in named), "a mean without a card")
    return means


def _mean(given: Mapping[str, Any]) -> Mean:
    mean = Mean(**given)
    _require(mean.mean is None or _number(mean.mean) is not None, "a mean")
    _require(all(type(count) is int for count in (mean.n, mean.failed, mean.not_applicable)), "counts of a mean")
    _require(isinstance(mean.problem, str) and isinstance(mean.conditions, dict), "conditions of a mean")
    return mean


def _item(
    record: Mapping[str, Any], folder: Path, cards: Mapping[str, MetricCard]
) -> tuple[EvaluationItem, ItemResult]:
    clips = {str(key): _clip(clip) for key, clip in record["clips"].items()}
    outcomes = {
        str(row): {
            name: _outcome(value, record["without_value"].get(row, {}).get(name)) for name, value in named.items()
        }
        for row, named in record["metrics"].items()
    }
    _require(all(name in cards for named in outcomes.values() for name in named), "a number without a card")
    words = [record[name] for name in ("audio_id", "task", "instruction", "content_text", "reference_hash", "source")]
    _require(all(isinstance(word, str) for word in words), "an item's names are no texts")
    _require(isinstance(record["details"], dict), "an item's details are no object")
    durations_s = [record[name] for name in ("predicted_duration_s", "true_duration_s")]
    predicted_s, true_s = (None if value is None else _number(value) for value in durations_s)
    item = EvaluationItem(
        audio_id=record["audio_id"],
        task=record["task"],
        instruction=record["instruction"],
        content_text=record["content_text"],
        generated=folder / (clips["model"].audio or "missing"),
        predicted_duration_s=predicted_s,
        true_duration_s=true_s,
        details=record["details"],
    )
    span_s = _number(record["span_s"])
    _require(span_s > 0, f"span_s is {span_s}")
    return item, ItemResult(outcomes, clips, span_s, record["reference_hash"], record["source"])


def _clip(given: Mapping[str, Any]) -> ClipResult:
    clip = ClipResult(**given)
    _require(all(name is None or isinstance(name, str) for name in (clip.audio, clip.picture)), "a player's file")
    _require(isinstance(clip.problem, str) and isinstance(clip.notes, list), "a player's notes")
    return replace(clip, duration_s=None if clip.duration_s is None else _number(clip.duration_s))


def _outcome(value: Any, reason: str | None) -> Outcome:
    if value is not None:
        return Outcome("ok", _number(value))
    status, _, text = str(reason or "failed: unknown").partition(": ")
    return Outcome("failed" if status == "failed" else "not_applicable", reason=text)
