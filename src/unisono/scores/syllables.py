"""Syllables of what is sung: of the words of a score, and of speech.

Each syllable has one nucleus, a sound that can carry a note. The consonants between two nuclei go by the maximal onset
principle: as many as a word of the language could begin with go to the later syllable (Selkirk, "The Syllable", 1982).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from unisono.text.phonemes import SILENCE

# Clusters that English syllables begin with; single consonants do as well, but for ŋ.
_ENGLISH_ONSETS = frozenset({
    "pl", "pɹ", "pj", "bl", "bɹ", "bj", "tɹ", "tw", "tj", "dɹ", "dw", "dj", "kl", "kɹ", "kw", "kj", "ɡl", "ɡɹ", "ɡw",
    "ɡj", "fl", "fɹ", "fj", "vj", "vl", "θɹ", "θw", "θj", "ʃɹ", "ʃl", "ʃm", "ʃn", "ʃw", "hj", "hw", "mj", "nj", "lj",
    "sp", "st", "sk", "sm", "sn", "sl", "sw", "sf", "sj", "spl", "spɹ", "spj", "stɹ", "stj", "skɹ", "skl", "skw",
    "skj",
})  # fmt: skip
_VOWEL_LETTERS = frozenset("aeiouyɑɐɒæʌəɚɛɜɝɞɘɨɪʊʉɯɤɔøœɶʏɵᵻ")
_SYLLABIC_MARKS = "\u0329\u030d"
_MARKS = "ˈˌ"
_SONORITY = (
    (frozenset("jwɥɰ"), 6),
    (frozenset("lrɹɾʁʀɭɽʎɫɻɺ"), 5),
    (frozenset("mnŋɲɳɴ"), 4),
    (frozenset("vzʒðʐʑɣβʝɦ"), 3),
    (frozenset("fsʃθʂɕxçχhħɬɸʍ"), 2),
)
_SPELLED_VOWELS = re.compile(r"[aeiouyäöüáàâãåéèêëíìîïóòôõøúùûýæœ]+")


@dataclass(frozen=True)
class Syllable:
    """A syllable of a list of phonemes: the indices of its own."""

    onset: tuple[int, ...]
    nucleus: int
    coda: tuple[int, ...]


def is_nucleus(symbol: str) -> bool:
    """Can the symbol carry a note by itself? Vowels, diphthongs, ``əl``, and syllabic consonants (``n̩``)."""
    plain = symbol.strip(_MARKS)
    first = unicodedata.normalize("NFD", plain[:1])[:1]
    return first in _VOWEL_LETTERS or any(mark in unicodedata.normalize("NFD", plain) for mark in _SYLLABIC_MARKS)


def carrier(symbols: Sequence[str]) -> int:
    """Index of the symbol that holds the note of a syllable: the last nucleus, else the most sonorous symbol."""
    nuclei = [index for index, symbol in enumerate(symbols) if is_nucleus(symbol)]
    if nuclei:
        return nuclei[-1]
    return max(range(len(symbols)), key=lambda index: _sonority(symbols[index]))


def split_syllables(phonemes: Sequence[str], language: str = "en-us") -> list[Syllable]:
    """Syllables of speech; silences belong to none, and one between two nuclei parts their syllables."""
    nuclei = [index for index, symbol in enumerate(phonemes) if is_nucleus(symbol)]
    edges = [-1, *nuclei, len(phonemes)]
    codas: list[tuple[int, ...]] = []
    onsets: list[tuple[int, ...]] = []
    for place, (left, right) in enumerate(pairwise(edges)):
        pauses = [index for index in range(left + 1, right) if phonemes[index] == SILENCE]
        consonants = tuple(index for index in range(left + 1, right) if phonemes[index] != SILENCE)
        if place == 0:
            cut = 0
        elif place == len(nuclei):
            cut = len(consonants)
        elif pauses:
            cut = sum(index < pauses[0] for index in consonants)
        else:
            cut = len(consonants) - onset_length([phonemes[index] for index in consonants], language)
        codas.append(consonants[:cut])
        onsets.append(consonants[cut:])
    return [Syllable(*parts) for parts in zip(onsets, nuclei, codas[1:], strict=False)]


def share_out(symbols: Sequence[str], spellings: Sequence[str], language: str = "en-us") -> list[list[str]]:
    """Symbols of a word for each of its syllables.

    Args:
        symbols: of the whole word.
        spellings: its written syllables (``["beau", "ti", "ful"]``).
        language: decides which consonants may begin a syllable.

    Returns:
        One list per syllable, together ``symbols``. A word with more vowels than syllables ("ev'-ry") has several in
        one syllable, as the spelling suggests; with fewer ("pray-er"), the syllables left over are empty.
    """
    if len(spellings) == 1:
        return [list(symbols)]
    nuclei = [index for index, symbol in enumerate(symbols) if is_nucleus(symbol)]
    counts = _vowels_of_each(len(nuclei), tuple(_spelled_vowels(text) for text in spellings))
    parts: list[list[str]] = []
    start = taken = 0
    for count in counts:
        taken += count
        if count == 0 and parts:
            parts.append([])
            continue
        end = len(symbols)
        if taken < len(nuclei):
            last, following = nuclei[taken - 1] if taken else -1, nuclei[taken]
            end = following - onset_length(symbols[last + 1 : following], language)
        parts.append(list(symbols[start:end]))
        start = end
    return parts


def _spelled_vowels(text: str) -> int:
    """How many vowels a written syllable seems to have; a final e is silent after another one."""
    groups = _SPELLED_VOWELS.findall(text.lower())
    if len(groups) > 1 and text.lower().endswith("e"):
        groups = groups[:-1]
    return max(1, len(groups))


@lru_cache(maxsize=4096)
def _vowels_of_each(num_vowels: int, spelled: tuple[int, ...]) -> tuple[int, ...]:
    """How many vowels each syllable gets: one each if that comes out even, else as near to the spelling as can be."""
    if num_vowels == len(spelled):
        return (1,) * num_vowels
    # best[k][n]: least cost of giving n vowels to the first k syllables, and the counts.
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
    for position, wanted in enumerate(spelled):
        reached: dict[int, tuple[int, tuple[int, ...]]] = {}
        for given, (cost, counts) in best.items():
            # The first syllable of a word has its vowel, if there is one.
            least = 1 if (position == 0 or num_vowels >= len(spelled)) and num_vowels else 0
            for count in range(least, num_vowels - given + 1):
                # Among equals, the earlier syllables get more.
                candidate = (cost + (count - wanted) ** 2, (*counts, count))
                known = reached.get(given + count)
                if known is None or (candidate[0], [-c for c in candidate[1]]) < (known[0], [-c for c in known[1]]):
                    reached[given + count] = candidate
        best = reached
    return best[num_vowels][1]


def onset_length(consonants: Sequence[str], language: str = "en-us") -> int:
    """How many of the consonants between two nuclei begin the later syllable."""
    length = 0
    for count in range(1, len(consonants) + 1):
        if not _may_begin(consonants[len(consonants) - count :], language):
            break
        length = count
    return length


def _may_begin(cluster: Sequence[str], language: str) -> bool:
    plain = [symbol.strip(_MARKS) for symbol in cluster]
    english = language.split("-")[0] == "en"
    if len(plain) == 1:
        return plain[0] != "ŋ"
    if english:
        return "".join(plain) in _ENGLISH_ONSETS
    # Rising sonority; s and ʃ may also come before a stop.
    if plain[0] in ("s", "ʃ") and _sonority(plain[1]) <= 1:
        plain = plain[1:]
    levels = [_sonority(symbol) for symbol in plain]
    return all(a < b for a, b in pairwise(levels))


def _sonority(symbol: str) -> int:
    """Stops and affricates 1, voiceless fricatives 2, voiced ones 3, nasals 4, liquids 5, glides 6, vowels 7."""
    plain = unicodedata.normalize("NFD", symbol.strip(_MARKS))
    if is_nucleus(plain):
        return 7
    if len(plain) > 1 and plain[0] in "ptkbdɡʈɖ":
        return 1
    return next((level for letters, level in _SONORITY if plain[:1] in letters), 1)
