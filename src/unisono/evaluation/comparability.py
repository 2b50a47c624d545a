"""Whether the numbers of several evaluations may stand in one column, and what differs where they may not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from unisono.errors import UserError
from unisono.evaluation.items import MODEL
from unisono.evaluation.results import Stored
from unisono.evaluation.summary import plain

Key = tuple[str, str]
T = TypeVar("T")

_MADE_BY = ("unit", "direction", "scope", "implementation", "version", "parameters")
"""What of a card moves the number; the rest is words about it."""


def check_words(stored: Mapping[str, Stored], names: Mapping[str, str]) -> None:
    """`UserError` where one name stands for numbers of another kind: no setting puts these side by side."""
    for metric in dict.fromkeys(name for one in stored.values() for name in one.cards):
        cards = {names[row]: one.cards[metric] for row, one in stored.items() if metric in one.cards}
        for field in ("unit", "direction", "scope"):
            if len(values := {getattr(card, field) for card in cards.values()}) > 1:
                raise UserError(f"{metric}: its {field} is {' and '.join(sorted(values))}; these are not one metric")


def card_differences(stored: Mapping[str, Stored], names: Mapping[str, str]) -> dict[str, str]:
    """Metrics that two systems have under different cards -> what differs, in words."""
    found: dict[str, str] = {}
    for metric in dict.fromkeys(name for one in stored.values() for name in one.cards):
        having = {names[key]: one.cards[metric] for key, one in stored.items() if metric in one.cards}
        if told := _differing({name: flat({f: getattr(card, f) for f in _MADE_BY}) for name, card in having.items()}):
            found[metric] = "; ".join(told)
    return found


def condition_differences(stored: Mapping[str, Stored], names: Mapping[str, str]) -> dict[str, str]:
    """Numbers that depend on other items than their own and had others (reference set, sizes) -> which."""
    every = [means for one in stored.values() for rows in one.means.values() for means in rows.values()]
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


def without(one: Stored, metrics: Mapping[str, str]) -> Stored:
    """An evaluation without some of its numbers."""
    means = {
        task: {row: _other_than(metrics, of_row) for row, of_row in rows.items()} for task, rows in one.means.items()
    }
    results = [
        replace(result, outcomes={row: _other_than(metrics, of_row) for row, of_row in result.outcomes.items()})
        for result in one.results
    ]
    return replace(one, means=means, results=results)


def _other_than(metrics: Mapping[str, str], numbers: Mapping[str, T]) -> dict[str, T]:
    return {name: number for name, number in numbers.items() if name not in metrics}


def _conditions(metric: str, stored: Mapping[str, Stored], names: Mapping[str, str]) -> list[str]:
    """Differing conditions of a number, by task."""
    told = []
    for task in dict.fromkeys(task for one in stored.values() for task in one.means):
        having: dict[str, dict[str, Any]] = {
            names[key]: flat(mean.conditions)
            for key, one in stored.items()
            if (mean := one.means.get(task, {}).get(MODEL, {}).get(metric)) is not None and mean.mean is not None
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
