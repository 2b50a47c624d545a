"""An instruction made plain: words with their places in what was typed, slips mended, quotations set apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from unisono.inference.routing import cues, words
from unisono.tasks import TASKS, Task

QUOTE = "QUOTE"
_SAME_LENGTH = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‐": "-", "‑": "-", "–": "-"}
)
_TOKEN = re.compile(r"""\d+\.\d+[^\W_]*|[^\W_]+(?:'[^\W_]+)*|[.,;:!?]""")
_QUOTED = re.compile(r"""(?<!\w)"([^"]+)"|(?<![\w"])'(.+?)'(?!\w)""", re.DOTALL)
_CONTRACTIONS = (
    (re.compile(r"^can't$|^cannot$"), "can not"),
    (re.compile(r"^won't$"), "will not"),
    (re.compile(r"^(\w+)n't$"), r"\1 not"),
    (re.compile(r"^let's$"), "let us"),
    (re.compile(r"^(\w+)'d$"), r"\1 would"),
    (re.compile(r"^(\w+)'m$"), r"\1 am"),
    (re.compile(r"^(\w+)'re$"), r"\1 are"),
    (re.compile(r"^(\w+)'ll$"), r"\1 will"),
    (re.compile(r"^(\w+)'ve$"), r"\1 have"),
    (re.compile(r"^(it|that|there|what|here|who|how|where|he|she)'s$"), r"\1 is"),
    (
        re.compile(r"^(dont|doesnt|didnt|isnt|cant|couldnt|wouldnt)$"),
        lambda match: match[0][:-2].replace("ca", "can") + " not",
    ),
)


@dataclass(frozen=True)
class Words:
    """Words of an instruction.

    Attributes:
        typed: what the user typed, with straight quotation marks.
        plain: the words as cues know them, one space between them.
        starts: place in ``plain`` where each token begins.
        spans: place in ``typed`` of each token.
    """

    typed: str
    plain: str
    starts: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def original(self, start: int, end: int | None = None) -> str:
        """What was typed for ``plain[start:end]``."""
        end = len(self.plain) if end is None else end
        inside = [span for place, span in zip(self.starts, self.spans, strict=True) if start <= place < end]
        return self.typed[inside[0][0] : inside[-1][1]] if inside else ""


def straight(instruction: str) -> str:
    """One form of each letter and quotation mark, without control characters."""
    text = unicodedata.normalize("NFC", instruction).translate(_SAME_LENGTH)
    return "".join(
        " " if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") else letter for letter in text
    ).strip()


def quotations(typed: str) -> list[tuple[int, int, str]]:
    """Begin, end and text of each quotation."""
    return [(match.start(), match.end(), (match[1] or match[2]).strip()) for match in _QUOTED.finditer(typed)]


def read(typed: str, mend: bool = True) -> Words:
    """Words of an instruction, a quotation being one of them."""
    plain: list[str] = []
    starts, spans, length = [], [], 0
    for start, end, word in _tokens(typed):
        text = word if word == QUOTE else _plain_word(word, mend)
        plain.append(text)
        starts.append(length)
        spans.append((start, end))
        length += len(text) + 1
    return Words(typed, " ".join(plain), tuple(starts), tuple(spans))


def _tokens(typed: str) -> Iterator[tuple[int, int, str]]:
    place = 0
    for start, end, _ in [*quotations(typed), (len(typed), len(typed), "")]:
        for match in _TOKEN.finditer(typed, place, start):
            yield match.start(), match.end(), match[0]
        if end > start:
            yield start, end, QUOTE
        place = end


def _plain_word(word: str, mend: bool) -> str:
    word = word.lower()
    for pattern, expanded in _CONTRACTIONS:
        if pattern.match(word):
            return pattern.sub(expanded, word)
    return mended(word) if mend else word


@lru_cache(maxsize=4)
def vocabulary(tasks: tuple[Task, ...]) -> frozenset[str]:
    """Words that cues, captions and the instructions of tasks are made of."""
    known = set(cues.literal_words())
    for section in ("english", "sound_nouns", "sound_verbs", "music_words", "instruments"):
        known |= words.listed(section)
    for task in tasks:
        known |= set(re.findall(r"[a-z0-9]+", " ".join((*task.instructions, task.name, task.short)).lower()))
    return frozenset(known)


def is_known(word: str) -> bool:
    """Whether the word, or the word that it is a form of, is in the vocabulary."""
    known = vocabulary(tuple(TASKS.values()))
    american = re.sub(r"is(e|es|ed|er|ers|ing)$", r"iz\1", word)
    return any(
        one in known
        or one.isdecimal()
        or words.is_verb(one, known)
        or one.removesuffix("ly") in known
        or one.removesuffix("e") in known
        for one in (word, american)
    )


def mended(word: str) -> str:
    """The word, or the one known word that it is a slip away from: a letter more, fewer, other, or two changed about.

    Short words are left alone, as most are near to another; two slips are allowed from eight letters on.
    """
    if len(word) < 5 or not word.isalpha() or not word.isascii() or is_known(word):
        return {"teh": "the", "pls": "please", "plz": "please", "u": "you"}.get(word, word)
    if cues.is_cue(word):
        return word
    return _nearest(word, tuple(TASKS.values()))


@lru_cache(maxsize=4096)
def _nearest(word: str, tasks: tuple[Task, ...]) -> str:
    allowed = 1 if len(word) < 8 else 2
    near = sorted(
        (slips, other)
        for other in vocabulary(tasks)
        if len(other) >= 4 and abs(len(other) - len(word)) <= allowed and (slips := _slips(word, other)) <= allowed
    )
    best = [other for slips, other in near if slips == near[0][0]]
    return best[0] if len(best) == 1 or (best and best[0][0] == word[0]) else word


def _slips(word: str, other: str) -> int:
    """Edit distance in which two neighbours changed about count once (optimal string alignment)."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(word, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != wanted)))
            if i > 1 and j > 1 and letter == other[j - 2] and word[i - 2] == wanted:
                row[j] = min(row[j], before[j - 2] + 1)
        before, last = last, row
    return last[-1]


def is_english(typed: str) -> bool:
    """Whether the words outside quotations can be English: two in five are known, and few are of other languages."""
    tokens = [word.lower() for _, _, word in _tokens(typed) if word != QUOTE and word[0].isalnum()]
    tokens = [part for word in tokens if len(part := re.sub(r"'\w+$", "", word)) > 1 or not part.isascii()]
    if not tokens:
        return True
    if any(not _is_latin(word) for word in tokens):
        return False
    english = sum(word in words.listed("strongly_english") for word in tokens)
    foreign = sum(word in words.listed("foreign") for word in tokens)
    if foreign > english:
        return False
    known = sum(is_known(word) or is_known(mended(word)) or cues.is_cue(word) for word in tokens)
    accents = sum(not word.isascii() and not is_known(word) for word in tokens)
    exact = any(is_known(word) or cues.is_cue(word) for word in tokens)  # "Applaus" only looks like English
    return exact and known > accents and 5 * known >= 2 * len(tokens)


def _is_latin(word: str) -> bool:
    return all(not letter.isalpha() or "LATIN" in unicodedata.name(letter, "") for letter in word)
