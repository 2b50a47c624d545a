"""What a recipe finds in a corpus: items, and what had to be left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from unisono.data.prepare.jobs import LeaveOut, LeftOut

__all__ = ["Found", "Item", "LeaveOut", "LeftOut"]


@dataclass(slots=True)
class Item:
    """One recording and what is known about it.

    Attributes:
        audio_id: unique within the corpus; names output files.
        audio: path of the recording, as the recipe found it.
        group: items of one group never lie on two sides of a split (a speaker, a song, a text, a video).
        split: ``train``, ``val`` or ``test`` as the corpus has it; None where it has none.
        fields: of the line in ``content.jsonl``, the same for every task.
        license: where it differs from item to item.
        data: what the steps need besides; plain values, for it is sent to other processes.
    """

    audio_id: str
    audio: str
    group: str
    split: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    license: str | None = None
    data: Any = None

    def __str__(self) -> str:
        return f"{self.audio_id} ({self.audio})"


@dataclass
class Found:
    """Everything a corpus has."""

    items: list[Item] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, item: str, kind: str, reason: str) -> None:
        self.left_out.append(LeftOut(item, kind, reason))
