"""Written English as the words that are said: numbers, dates, times, money, units, abbreviations, initials.

    spoken_phrases("Dr. Smith paid $5.20 on Jan. 3, 1999.", known)
    # [["doctor", "smith", "paid", "five", "dollars", "and", "twenty", "cents", "on", "january", "third", …]]

Rules, not understanding: "1999" is a year, "St." before a name a saint, "5/6/1999" the sixth of May. Roman numerals are
left alone. A character that has no reading (``*``, ``_``, an emoji, a letter of another script) is an error, so that no
text is recorded as something it is not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

from unisono.errors import UserError
from unisono.text.expansions import LETTER, expand
from unisono.text.ipa import check_characters, fold

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("’‘‛ʼ`´", "'"),
        **dict.fromkeys("“”„«»‟″", '"'),
        **dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff"),
        **dict.fromkeys("‐‑", "-"),
        **dict.fromkeys("―‒", "—"),
        "…": "...",
        "−": "-",
    }
)
_PARAGRAPH = re.compile(r"\n\s*\n")
_TOKEN = re.compile(rf"{LETTER}[a-z]|" + r"'?[^\W\d_]+(?:'[^\W\d_]+)*'?|[^\s]")
_PAUSES = frozenset(".,;:!?—()[]")
_SILENT = frozenset("\"'-")
_LONGEST_ACRONYM = 5


def spoken_phrases(text: str, known: Callable[[str], bool]) -> list[list[str]]:
    """Lower-case words as the CMU dictionary spells them, in phrases.

    Args:
        text: written English.
        known: is a lower-case word in the dictionary? Decides between an acronym that is spelled ("BBC" in a
            dictionary without it) and a word, and where apostrophes belong to a word.

    Returns:
        Stretches between punctuation marks, none empty. A letter said by its name is the letter, ``a.`` for "A".
    """
    text = fold(text).translate(_CHARACTERS)
    check_characters(text, "en-us")
    shouted = text.upper() == text
    expanded = expand(_PARAGRAPH.sub(" — ", text))
    phrases: list[list[str]] = [[]]
    for token in _TOKEN.findall(expanded):
        if token in _PAUSES:
            phrases.append([])
        elif token[0] == LETTER:
            phrases[-1] += letter_names(token[1])
        elif token[0].isalpha() or len(token) > 1:
            phrases[-1] += _words(token, known, shouted)
        elif token not in _SILENT:
            raise UserError(
                f"text {text[:60]!r} holds {token!r}, which has no reading; remove it or write what is said"
            )
    return [phrase for phrase in phrases if phrase]


def letter_names(letters: str) -> list[str]:
    """The dictionary's words for the names of letters; its "a" is the article."""
    return ["a." if letter == "a" else letter for letter in letters.lower()]


def plain_letters(word: str) -> str:
    """``café`` without its accent."""
    if word.isascii():
        return word
    decomposed = unicodedata.normalize("NFKD", word)
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _words(token: str, known: Callable[[str], bool], shouted: bool) -> list[str]:
    word = next(filter(known, _spellings(token.lower())), None)
    if word is not None:
        return [word]
    bare = token.strip("'")
    if not shouted and bare.isascii():
        stem, plural = (bare[:-1], True) if len(bare) > 2 and bare[-1] == "s" else (bare, False)
        if stem.isupper() and len(stem) <= _LONGEST_ACRONYM:
            *names, last = letter_names(stem)
            return [*names, f"{last[0]}'s" if plural else last]
    return [bare.lower()]


def _spellings(token: str) -> Iterator[str]:
    """What the dictionary may know a token as: quotation marks look like the apostrophes of 'tis and readers'."""
    if not (token[0] == "'" == token[-1]):
        yield token
    for inner in (token.removesuffix("'"), token.removeprefix("'"), token.strip("'")):
        yield inner
        if not inner.isascii():
            yield plain_letters(inner)
