"""What the words of a request say for and against each task."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from unisono.inference.routing import cues
from unisono.inference.routing.reading import read, straight
from unisono.tasks import TASKS

CERTAIN = 4
"""Strength of a task's name and of its own instructions, word for word."""
_FUNCTION_WORDS = (
    "a an the of in on to for from by with and or is are be it its this that at please can me my was were just"
)


@dataclass
class Evidence:
    """What was found.

    Attributes:
        strength: of the best cue of each task.
        said: the words that gave it.
        denied: tasks that only negated words name.
        other: what no task does, and the words that ask for it.
        places: beginnings and ends of all cues of each task by strength, in plain words.
    """

    strength: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    other: tuple[str, str] | None = None
    places: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)

    def add(self, task: str, strength: int, said: str, start: int = 0) -> None:
        self.places.setdefault(task, []).append((start, start + len(said), strength))
        if strength > self.strength.get(task, 0):
            self.strength[task], self.said[task] = strength, said

    def move(self, task: str, to: str) -> None:
        """Count what speaks for one task for another."""
        for start, end, strength in self.places.pop(task, []):
            self.places.setdefault(to, []).append((start, end, strength))
        if task in self.strength:
            strength, said = self.strength.pop(task), self.said.pop(task)
            if strength > self.strength.get(to, 0):
                self.strength[to], self.said[to] = strength, said

    def apart(self, task: str, other: str) -> bool:
        """Whether a whole cue of ``other`` lies where no strong cue of ``task`` does: then both are asked for."""
        mine = [(start, end) for start, end, strength in self.places.get(task, []) if strength > 1]
        return any(
            strength > 2 and not any(start < other_end and other_start < end for other_start, other_end in mine)
            for start, end, strength in self.places.get(other, [])
        )


def weigh(request: str) -> Evidence:
    """Find the cues of a request."""
    evidence = Evidence()
    plain = read(request).plain
    for task, pattern in cues.pairs("defects"):
        for match in pattern.finditer(plain):
            evidence.add(task, 3, match[0], match.start())
        plain = pattern.sub(lambda match: re.sub(r"\S", "#", match[0]), plain)
    negated = negated_spans(plain)
    unsaid: set[str] = set()
    for cue in cues.cues():
        for match in cue.pattern.finditer(plain):
            if not _is_inside(match.start(), negated):
                evidence.add(cue.task, cue.strength, match[0], match.start())
            elif cue.strength > 1:
                unsaid.add(cue.task)
    for does, pattern in cues.pairs("other"):
        for match in pattern.finditer(plain):
            if not _is_inside(match.start(), negated):
                evidence.other = evidence.other or (does, match[0].strip())
    evidence.denied = {task for task in unsaid if evidence.strength.get(task, 0) < 2}
    _weigh_instructions(read(request, mend=False).plain, evidence, bool(negated))
    return evidence


def negated_spans(plain: str) -> list[tuple[int, int]]:
    """Stretches of plain words that are negated, or are to stay as they are; not "why don't you" and "don't forget"."""
    spans = [match.span() for match in cues.compiled("<LEFT_ALONE>").finditer(plain)]
    courteous = [match.span() for match in cues.compiled("<COURTEOUS>").finditer(plain)]
    for match in cues.compiled("<NEGATION>").finditer(plain):
        if _is_inside(match.start(), courteous) or _is_inside(match.end() - 1, courteous):
            continue
        end = cues.form("NEGATION_END").search(plain, match.end())
        spans.append((match.start(), end.start() if end else len(plain)))
    return spans


def _is_inside(place: int, spans: list[tuple[int, int]]) -> bool:
    return any(start <= place < end for start, end in spans)


def _weigh_instructions(plain: str, evidence: Evidence, is_negated: bool) -> None:
    """Instructions of the task table: the very words are certain; a registered task is also known by most of them."""
    bare = plain.strip(" .!")
    for task in TASKS.values():
        if any(bare == _written(one) for one in task.instructions):
            evidence.add(task.name, CERTAIN, bare)
            evidence.denied.discard(task.name)
            evidence.other = None
        elif task.name not in cues.built_in() and not is_negated:
            said = _content_words(bare)
            likeness = max(_likeness(said, _content_words(_written(one))) for one in task.instructions)
            if likeness >= 0.5:
                evidence.add(task.name, CERTAIN if likeness >= 0.75 else 3 if likeness >= 0.6 else 2, bare)


@lru_cache(maxsize=4096)
def _written(instruction: str) -> str:
    """An instruction of the task table in plain words."""
    return read(straight(instruction), mend=False).plain.strip(" .!")


@lru_cache(maxsize=4096)
def _content_words(plain: str) -> frozenset[str]:
    found = (re.sub(r"(?:ing|ed|es|s|e)$", "", word) if len(word) > 4 else word for word in re.findall(r"\w+", plain))
    return frozenset(word for word in found if word not in _FUNCTION_WORDS.split())


def _likeness(said: frozenset[str], written: frozenset[str]) -> float:
    """Dice's overlap of two sets of words, in [0, 1]."""
    return 2 * len(said & written) / (len(said) + len(written)) if said and written else 0.0
