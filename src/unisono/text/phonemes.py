"""The phoneme inventory: one fixed tuple of IPA symbols, shared by manifests, models and speech synthesis.

It holds what eSpeak NG says for its English voices (American, British, Scottish, Caribbean, New York, Lancaster, West
Midlands, Received Pronunciation; collected from the 126 000 words of the CMU dictionary) and the IPA values of ARPAbet.
Stress marks are not part of a symbol. A model stores the inventory it was trained with, so symbols may be added at the
end, never reordered.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from unisono.errors import UserError

SILENCE = "_"

_CONSONANTS = "b d dʒ f h j k l m n nʲ n̩ p r s t tʃ t̪ v w x z ð ŋ ɡ ɡʲ ɬ ɲ ɹ ɾ ʃ ʍ ʒ ʔ ʲ θ"
_VOWELS = "a aː aa e eː i iː o oː æ ɐ ɑː ɑ̃ ɒ ɔ ɔː ɔ̃ ə ɚ ɛ ɛː ɜ ɜː ɪ uː ʉ ʉː ʊ ʌ ᵻ"
_DIPHTHONGS = "aɪ aʊ ei eə eɪ iə oə oɪ oʊ æʊ ɑə ɔə ɔɪ əu əɪ əʊ ɛə ʊə ʌʉ ʌʊ aɪə"
_WITH_LIQUID = "aɪɚ ɑːɹ ɔːɹ əɹ əl ɛɹ ɪɹ ʉɹ ʊɹ ʌɹ"

PHONEMES: tuple[str, ...] = (SILENCE, *f"{_CONSONANTS} {_VOWELS} {_DIPHTHONGS} {_WITH_LIQUID}".split())

ARPABET_TO_IPA: dict[str, str] = {
    "AA": "ɑː", "AE": "æ", "AH": "ʌ", "AO": "ɔː", "AW": "aʊ", "AY": "aɪ", "B": "b", "CH": "tʃ", "D": "d", "DH": "ð",
    "EH": "ɛ", "ER": "ɜː", "EY": "eɪ", "F": "f", "G": "ɡ", "HH": "h", "IH": "ɪ", "IY": "iː", "JH": "dʒ", "K": "k",
    "L": "l", "M": "m", "N": "n", "NG": "ŋ", "OW": "oʊ", "OY": "ɔɪ", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ", "T": "t",
    "TH": "θ", "UH": "ʊ", "UW": "uː", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
}  # fmt: skip

_KNOWN = frozenset(PHONEMES)
# Characters of other transcriptions that look like a symbol of ours.
_LOOK_ALIKE = {"g": "ɡ", "'": "ˈ", ":": "ː"}


def check_phonemes(symbols: Sequence[str], where: str) -> None:
    """Raise :class:`UserError` for the first symbol outside :data:`PHONEMES`, with place and nearest known ones."""
    for position, symbol in enumerate(symbols):
        if symbol in _KNOWN:
            continue
        raise UserError(
            f"{where}: phoneme {position} is {symbol!r}, which is not in the inventory; "
            f"use {_suggestion(symbol)} (the whole list: unisono.text.phonemes.PHONEMES)"
        )


def _suggestion(symbol: str) -> str:
    nearest = nearest_phonemes(symbol)
    return "one of " + ", ".join(nearest) if nearest else "an IPA symbol of it"


def nearest_phonemes(symbol: str, count: int = 3) -> list[str]:
    """The known symbols most like ``symbol``, best first: ARPAbet by its table, IPA by shared characters."""
    arpabet = ARPABET_TO_IPA.get(symbol.rstrip("012").upper()) if symbol.isascii() else None
    plain = "".join(_LOOK_ALIKE.get(character, character) for character in symbol)
    plain = plain.replace("ˈ", "").replace("ˌ", "")
    # Longer vowels hold their short form and the reverse: a low cutoff finds both.
    alike = difflib.get_close_matches(plain, PHONEMES, n=count, cutoff=0.4)
    ranked = [arpabet] if arpabet else []
    return (ranked + [phoneme for phoneme in alike if phoneme != arpabet])[:count]


def checked_pronunciations(pronunciations: Mapping[str, str]) -> dict[str, str]:
    """Words and their ARPAbet phones, ``{"unisono": "Y UW N IH S OW N OW"}``; anything else is a UserError."""
    for word, phones in pronunciations.items():
        if not phones.split() or not set(phones.split()) <= ARPABET_TO_IPA.keys():
            raise UserError(
                f"pronunciation of {word!r} is {phones!r}; write ARPAbet without stress, such as 'HH AH L OW'"
            )
    return dict(pronunciations)


# What eSpeak NG says for English, in the symbols of ARPABET_TO_IPA. Symbols that both have stand for themselves.
_TO_ARPABET_INVENTORY: dict[str, str] = {
    "nʲ": "n j", "n̩": "ʌ n", "r": "ɹ", "t̪": "t", "x": "k", "ɡʲ": "ɡ", "ɬ": "l", "ɲ": "n j", "ɾ": "t", "ʍ": "w",
    "ʔ": "t", "ʲ": "j", "a": "æ", "aː": "ɑː", "aa": "ɑː", "e": "ɛ", "eː": "eɪ", "i": "iː", "o": "oʊ", "oː": "ɔː",
    "ɐ": "ʌ", "ɑ̃": "ɑː n", "ɒ": "ɑː", "ɔ": "ɔː", "ɔ̃": "ɔː n", "ə": "ʌ", "ɚ": "ɜː", "ɛː": "ɛ", "ɜ": "ɜː", "ʉ": "uː",
    "ʉː": "uː", "ᵻ": "ɪ", "ei": "eɪ", "eə": "ɛ", "iə": "iː ʌ", "oə": "ɔː", "oɪ": "ɔɪ", "æʊ": "aʊ", "ɑə": "ɑː",
    "ɔə": "ɔː", "əu": "oʊ", "əɪ": "aɪ", "əʊ": "oʊ", "ɛə": "ɛ", "ʊə": "ʊ", "ʌʉ": "aʊ", "ʌʊ": "oʊ", "aɪə": "aɪ ʌ",
    "aɪɚ": "aɪ ɜː", "ɑːɹ": "ɑː ɹ", "ɔːɹ": "ɔː ɹ", "əɹ": "ɜː", "əl": "ʌ l", "ɛɹ": "ɛ ɹ", "ɪɹ": "ɪ ɹ", "ʉɹ": "ʊ ɹ",
    "ʊɹ": "ʊ ɹ", "ʌɹ": "ɜː",
}  # fmt: skip


def to_arpabet_inventory(symbols: Sequence[str], where: str) -> list[str]:
    """Symbols of :data:`PHONEMES` in the 39 of :data:`ARPABET_TO_IPA` and silence; some become two."""
    check_phonemes(symbols, where)
    return [part for symbol in symbols for part in _TO_ARPABET_INVENTORY.get(symbol, symbol).split()]


def vocabulary_with(symbols: Sequence[str]) -> str:
    """The override of a configuration that adds symbols to the default vocabulary."""
    quoted = ",".join(f'"{symbol}"' for symbol in symbols)
    return f"phonemes='${{phoneme_inventory:{quoted}}}'"
