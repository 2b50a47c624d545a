"""The catalogue as text: what `unisono metrics` prints, and the tables of docs/evaluation.md."""

from __future__ import annotations

from unisono.evaluation.catalogue import Entry, entries
from unisono.evaluation.metric import ARROWS
from unisono.evaluation.networks.table import NETWORKS
from unisono.tasks import TASKS, get_task

_HEAD = ["metric", "tasks", "unit", "better", "of", "here"]


def catalogue_text(task: str | None) -> str:
    """Every metric, or those of a task, one a line, and what the networks take."""
    lines = [_HEAD]
    for entry in _entries(task):
        card = entry.card
        here = "yes"
        if entry.unavailable is not None:
            here = f"with networks.{entry.network}" if entry.network else entry.unavailable
        lines.append([card.name, _tasks(entry), card.unit, card.direction, card.scope, here])
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    table = "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    return f"{table}\n\nnetworks, given as --network NAME=PATH or networks.NAME=PATH:\n{networks_text()}"


def networks_text() -> str:
    """What every network takes, one a line."""
    return "\n".join(f"  {row.name}: {row.takes}" for row in NETWORKS.values() if not row.built_in)


def catalogue_markdown(task: str | None = None) -> str:
    """A table with definition, blind spots and source; numbers that differ by the network alone share a line."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in _entries(task):
        card = entry.card
        key = (card.definition, card.blind_to, card.source, card.unit, card.direction, card.value_range, card.scope)
        groups.setdefault(key, []).append(entry)
    lines = ["| metric | tasks | unit | definition | blind to | source |", "| --- | --- | --- | --- | --- | --- |"]
    for (definition, blind_to, source, unit, direction, value_range, scope), of_group in groups.items():
        names = ", ".join(f"`{entry.card.name}`" for entry in of_group)
        tasks = " ".join(dict.fromkeys(short for entry in of_group for short in _tasks(entry).split()))
        arrow = ARROWS[direction]
        of = "" if scope == "item" else " One number of all items together."
        cells = (names, tasks, f"{unit} {arrow}".strip(), f"{definition}{of} Range: {value_range}.", blind_to, source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def _entries(task: str | None) -> list[Entry]:
    chosen = None if task is None else get_task(task)
    return [entry for entry in entries() if chosen is None or not entry.tasks or chosen.name in entry.tasks]


def _tasks(entry: Entry) -> str:
    return " ".join(task.short for task in TASKS.values() if task.name in entry.tasks) if entry.tasks else "all"
