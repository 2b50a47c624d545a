"""The words by which captions of sounds and of music are told apart, and English from other languages (`words.txt`)."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def sections(file: str) -> dict[str, tuple[str, ...]]:
    """Lines of a data file beside this module by their ``[section]``, without comments."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in resources.files(__package__).joinpath(file).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return {name: tuple(lines) for name, lines in found.items()}


@cache
def listed(section: str) -> frozenset[str]:
    """Words of a section of `words.txt`."""
    return frozenset(" ".join(sections("words.txt")[section]).split())


def is_noun(word: str, nouns: frozenset[str]) -> bool:
    """Whether the word is one of the nouns, or its plural."""
    return any(form in nouns for form in (word, word.removesuffix("s"), word.removesuffix("es")))


def is_verb(word: str, verbs: frozenset[str]) -> bool:
    """Whether the word is a form of one of the verbs: barks, barked, barking, slammed, buzzes, cries."""
    forms = {word, word.removesuffix("s")}
    for ending in ("es", "ed", "ing", "ings"):
        if word.endswith(ending):
            stem = word.removesuffix(ending)
            forms |= {stem, stem + "e"}
            if stem.endswith("i"):
                forms.add(stem[:-1] + "y")
            if len(stem) > 2 and stem[-1] == stem[-2]:
                forms.add(stem[:-1])
    return not forms.isdisjoint(verbs)
