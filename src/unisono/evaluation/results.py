"""The two result files: metrics.json (means, failures, cards) and items.jsonl (every number of every item)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import unisono
from unisono.errors import UserError
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.measure import ClipResult, ItemResult
from unisono.evaluation.metric import MetricCard, Outcome
from unisono.evaluation.summary import Mean, Summary, to_json, write_text

METRICS_FILE, ITEMS_FILE, REPORT_FILE = "metrics.json", "items.jsonl", "report.html"
FORMAT = 2
"""Of both files; a reader refuses another."""


def write_results(summary: Summary, items: Sequence[EvaluationItem], results: Sequence[ItemResult]) -> None:
    """``items.jsonl`` and ``metrics.json``."""
    lines = (to_json(item_record(item, result)) + "\n" for item, result in zip(items, results, strict=True))
    write_text(summary.items_file, "".join(lines))
    write_text(summary.metrics_file, to_json(summary_as_dict(summary), indent=2) + "\n")


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
        "details": item.details,
    }


@dataclass(frozen=True)
class Stored:
    """An evaluation read back from its folder.

    Attributes:
        folder: where it lies.
        title, sample_rate: as it was made.
        cards: by metric.
        sets: ``sets[task][row][metric]``: numbers of all items together.
        unavailable: reason by metric.
        items, results: in the order of the file; the items' own files are known only by their players.
    """

    folder: Path
    title: str
    sample_rate: int
    cards: dict[str, MetricCard]
    sets: dict[str, dict[str, dict[str, Mean]]]
    unavailable: dict[str, str]
    items: list[EvaluationItem]
    results: list[ItemResult]


def read_results(folder: Path) -> Stored:
    """Read an evaluation's folder.

    Raises:
        UserError: no evaluation there, of another format, or damaged.
    """
    path, items_path = folder / METRICS_FILE, folder / ITEMS_FILE
    for needed in (path, items_path):
        if not needed.is_file():
            raise UserError(
                f"{needed} does not exist; give the output folder of an evaluation (evaluate.py, unisono evaluate)"
            )
    again = "evaluate again"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.get("format") != FORMAT:
            raise UserError(f"{path} has format {stored.get('format')}, this version reads {FORMAT}; {again}")
        cards = {name: MetricCard(**card) for name, card in stored["cards"].items()}
        sets = _sets(stored["tasks"], cards)
        records = [json.loads(line) for line in items_path.read_text(encoding="utf-8").splitlines() if line.strip()]
        pairs = [_item(record, folder) for record in records]
        return Stored(
            folder=folder,
            title=stored["title"],
            sample_rate=stored["sample_rate"],
            cards=cards,
            sets=sets,
            unavailable=stored["unavailable"],
            items=[item for item, _ in pairs],
            results=[result for _, result in pairs],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: damaged results ({type(error).__name__}: {error}); {again}") from error


def _sets(tasks: Mapping[str, Any], cards: Mapping[str, MetricCard]) -> dict[str, dict[str, dict[str, Mean]]]:
    return {
        task: {
            row: {name: Mean(**mean) for name, mean in means.items() if cards[name].scope == "set"}
            for row, means in of_task["means"].items()
        }
        for task, of_task in tasks.items()
    }


def _item(record: Mapping[str, Any], folder: Path) -> tuple[EvaluationItem, ItemResult]:
    clips = {key: ClipResult(**clip) for key, clip in record["clips"].items()}
    outcomes = {
        row: {name: _outcome(value, record["without_value"].get(row, {}).get(name)) for name, value in named.items()}
        for row, named in record["metrics"].items()
    }
    item = EvaluationItem(
        audio_id=record["audio_id"],
        task=record["task"],
        instruction=record["instruction"],
        content_text=record["content_text"],
        generated=folder / (clips["model"].audio or "missing"),
        predicted_duration_s=record["predicted_duration_s"],
        true_duration_s=record["true_duration_s"],
        details=record["details"],
    )
    return item, ItemResult(outcomes, clips, record["span_s"], record["reference_hash"])


def _outcome(value: float | None, reason: str | None) -> Outcome:
    if value is not None:
        return Outcome("ok", value)
    status, _, text = (reason or "failed: unknown").partition(": ")
    return Outcome("failed" if status == "failed" else "not_applicable", reason=text)
