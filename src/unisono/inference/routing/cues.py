"""What people say when they want a task, as patterns over words (`cues.tsv`)."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from unisono.inference.routing import words


class Cue(NamedTuple):
    """A pattern that speaks for a task. Strength 3 names the act whole, 2 all but names it, 1 is a hint."""

    task: str
    strength: int
    pattern: re.Pattern[str]


@cache
def named(name: str) -> str:
    """A pattern of the section ``[patterns]``, as text to be put into others."""
    if name == "SOUNDS":
        sounds = words.listed("sound_nouns") | words.listed("sound_verbs")
        return "|".join(sorted(sounds - words.listed("spoken")))
    patterns = dict(line.split("\t") for line in words.sections("cues.tsv")["patterns"])
    return filled(patterns[name])


def filled(pattern: str) -> str:
    """The pattern with each ``<NAME>`` replaced."""
    return re.sub(r"<([A-Z_]+)>", lambda match: named(match[1]), pattern)


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern at word boundaries."""
    return re.compile(rf"(?<![\w'])(?:{filled(pattern)})(?![\w'])")


@cache
def form(name: str) -> re.Pattern[str]:
    """A pattern of the section ``[patterns]``, with no boundaries of its own."""
    return re.compile(named(name))


@cache
def cues() -> tuple[Cue, ...]:
    """Cues of the built-in tasks. Tasks that are registered elsewhere are known by their own instructions alone."""
    rows = (line.split("\t") for line in words.sections("cues.tsv")["cues"])
    return tuple(Cue(task, int(strength), compiled(pattern)) for task, strength, pattern in rows)


@cache
def pairs(section: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Key and pattern of each line of a section: ``defects``, ``other`` or ``captions``."""
    rows = (line.split("\t") for line in words.sections("cues.tsv")[section])
    return tuple((key, compiled(pattern)) for key, pattern in rows)


@cache
def built_in() -> frozenset[str]:
    """Names of the tasks that have cues."""
    return frozenset(cue.task for cue in cues())


@cache
def literal_words() -> frozenset[str]:
    """Words and beginnings of words that stand in the patterns as they are."""
    lines = [
        line for section in ("patterns", "cues", "defects", "other") for line in words.sections("cues.tsv")[section]
    ]
    patterns = "\n".join(line.rpartition("\t")[2] for line in lines)
    return frozenset(re.findall(r"(?<![\w\\\])])[a-z]{3,}(?![\w\\(\[])", patterns))


@cache
def is_cue(word: str) -> bool:
    """Whether the word alone is a cue."""
    return any(cue.pattern.fullmatch(word) for cue in cues())
