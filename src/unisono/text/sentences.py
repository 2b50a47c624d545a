"""A text in pieces that can be spoken one after the other."""

from __future__ import annotations

import re

# A full stop after one of these ends no sentence.
_ABBREVIATIONS = frozenset(
    (
        *("dr", "mr", "mrs", "ms", "prof", "st", "sr", "jr", "gen", "col", "capt", "lt", "sgt", "rev", "hon", "dept"),
        *("vs", "etc", "vol", "fig", "e.g", "i.e", "a.m", "p.m", "u.s", "u.k", "approx"),
        *("jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"),
    )
)
_END = re.compile(r"(?:[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+[」』”]*)|\n\s*\n")
_PAUSE = re.compile(r"[,;:—–](?=\s)|[，、；：]|\s[-—–]\s")


def split_sentences(text: str, longest: int = 200) -> list[str]:
    """Sentences in their order; one of more than ``longest`` characters is parted at a comma, else at a space.

    The pieces, joined, have all the text but for space between them.
    """
    sentences, begin = [], 0
    for match in _END.finditer(text):
        if not _ends_sentence(text[begin : match.start()], match[0], text[match.end() :]):
            continue
        sentences.append(text[begin : match.end()].strip())
        begin = match.end()
    sentences.append(text[begin:].strip())
    return [piece for sentence in sentences if re.search(r"\w", sentence) for piece in _parted(sentence, longest)]


def _ends_sentence(before: str, mark: str, after: str) -> bool:
    """Whether a sentence ends at ``mark``: not after "Dr.", nor where the next word begins small."""
    if not mark.strip() or not after.strip():
        return True
    if after.lstrip()[:1].islower():
        return False
    words = before.split()
    word = words[-1].lower().lstrip("(\"'“‘") if words else ""
    initial = len(words) > 1 and len(word) == 1 and word.isalpha() and word != "i"  # "George W. Bush"
    numbered = word in ("no", "nos") and after.lstrip()[:1].isdigit()
    return not (mark == "." and (word in _ABBREVIATIONS or initial or numbered))


def _parted(sentence: str, longest: int) -> list[str]:
    pieces = []
    while len(sentence) > longest:
        pauses = [match.end() for match in _PAUSE.finditer(sentence, 0, longest)]
        # Not so early that next to nothing would be said before the pause.
        cut = pauses[-1] if pauses and pauses[-1] > longest // 4 else sentence.rfind(" ", 0, longest)
        cut = cut if cut > 0 else longest
        pieces.append(sentence[:cut].strip())
        sentence = sentence[cut:].strip()
    return [*pieces, sentence] if re.search(r"\w", sentence) else pieces
