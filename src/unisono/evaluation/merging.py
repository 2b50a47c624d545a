"""Several evaluations of one test set as one list of items: players, numbers and what each system tells of an item."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unisono.errors import UserError
from unisono.evaluation.comparability import Key
from unisono.evaluation.items import MODEL, REFERENCE, EvaluationItem
from unisono.evaluation.measure import ClipResult, ItemResult
from unisono.evaluation.output_folder import folder_names
from unisono.evaluation.report.cards import detail_text
from unisono.evaluation.report.page import common_details
from unisono.evaluation.results import Stored


def merged(
    stored: Mapping[str, Stored], names: Mapping[str, str], output_dir: Path, apart: Collection[str] = ()
) -> tuple[list[EvaluationItem], list[ItemResult], list[str]]:
    """Every item of any system, with a row per system, and notes on those that a system lacks.

    Args:
        stored, names: the systems and their titles, by row.
        output_dir: players and pictures are copied into it.
        apart: details that are told of the systems (`settings_of_systems`), not of each item.

    Raises:
        UserError: no item in common.
    """
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
    places = folder_names([next(of[key][0] for of in by_key.values() if key in of) for key in keys])
    for key, place in zip(keys, places, strict=True):
        having = {row: of_system[key] for row, of_system in by_key.items() if key in of_system}
        of_first = next(iter(having.values()))[1]
        clips, outcomes = {}, {}
        for row, (_, result) in having.items():
            outcomes[row] = result.outcomes.get(MODEL, {})
            clips[row] = copied(result.clips[MODEL], stored[row].folder, output_dir, place, row)
        first_folder = stored[next(iter(having))].folder
        for shown in ("input", REFERENCE):
            if shown in of_first.clips:
                clips[shown] = copied(of_first.clips[shown], first_folder, output_dir, place, shown)
        items.append(_told_of_all({names[row]: item for row, (item, _) in having.items()}, apart))
        span_s = max(result.span_s for _, result in having.values())
        results.append(ItemResult(outcomes, clips, span_s, source=of_first.source))
    return items, results, notes


def _told_of_all(items: Mapping[str, EvaluationItem], apart: Collection[str]) -> EvaluationItem:
    """One item for what several systems tell of it; what they tell differently is told of each.

    Args:
        items: by the system's name.
        apart: details that are told of the systems (`settings_of_systems`), not of an item.
    """
    first = next(iter(items.values()))
    predicted_s = {item.predicted_duration_s for item in items.values()}
    details = dict.fromkeys(key for item in items.values() for key in item.details if key not in apart)
    return replace(
        first,
        instruction=_told({name: item.instruction for name, item in items.items()}),
        predicted_duration_s=first.predicted_duration_s if len(predicted_s) == 1 else None,
        details={
            key: _told({name: item.details[key] for name, item in items.items() if key in item.details})
            for key in details
        },
    )


def _told(values: Mapping[str, Any]) -> Any:
    """What all systems tell alike, or in words what each tells."""
    first, *others = values.values()
    if all(other == first for other in others):
        return first
    return ", ".join(f"{detail_text(value)} in {name}" for name, value in values.items())


def settings_of_systems(stored: Mapping[str, Stored], names: Mapping[str, str]) -> dict[str, str]:
    """Details that all items of a system share (weights, seed, solver) and that are not the same in all systems."""
    shared = {row: common_details(one.items) for row, one in stored.items()}
    found = {}
    for key in dict.fromkeys(key for of_system in shared.values() for key in of_system):
        having = [row for row, one in stored.items() if any(key in item.details for item in one.items)]
        values = {names[row]: shared[row][key] for row in having if key in shared[row]}
        of_runs = len(values) == len(having)
        if of_runs and (len(set(map(detail_text, values.values()))) > 1 or len(having) < len(stored)):
            found[key] = ", ".join(f"{detail_text(value)} in {name}" for name, value in values.items())
    return found


def copied(clip: ClipResult, folder: Path, output_dir: Path, place: str, key: str) -> ClipResult:
    """A player whose files lie in ``output_dir`` in the item's own place; a file that is gone becomes a problem.

    Where a stored evaluation says its files are is not trusted: it may come from somebody else.
    """
    found: dict[str, str | None] = {"audio": None, "picture": None}
    for kind, suffix in (("audio", ".flac"), ("picture", ".png")):
        name = getattr(clip, kind)
        if name is None:
            continue
        source = (folder / name).resolve()
        if source.suffix != suffix or not source.is_relative_to(folder.resolve()):
            raise UserError(f"{folder}: damaged results (a player's file is {name!r}); evaluate again")
        if not source.is_file():
            return replace(clip, audio=None, picture=None, problem=clip.problem or f"{name} is gone from {folder.name}")
        target = f"{kind if kind == 'audio' else 'pictures'}/{place}/{key}{suffix}"
        (output_dir / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, output_dir / target)
        found[kind] = target
    return replace(clip, audio=found["audio"], picture=found["picture"])
