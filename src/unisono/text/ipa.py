"""Text of about a hundred languages as IPA symbols, by eSpeak NG.

Symbols are eSpeak NG's own phonemes, so affricates, diphthongs and long sounds are one symbol (``ts``, ``aɪ``, ``tː``)
and no tie bar is needed. What is done to its output:

- Stress marks are dropped, or kept in front of the vowel (``ˈaɪ``).
- Tones stay part of the vowel as eSpeak NG's tone names, numbers in the manner of Chao (``ɑ55``, ``ɑ35``, ``ɑ214``,
  ``ɑ51``). Its IPA output keeps their first digit only, which would make 妈 and 骂 the same.
- Words that it reads as English within another language keep their English symbols; the marks around them go.
- A few symbols that it leaves in ASCII become IPA (Mandarin ``s.`` is ``ʂ``, ``th`` is ``tʰ``).

Letters of another script than the language's own or Latin are an error: eSpeak NG would say their names.
"""

from __future__ import annotations

import ctypes
import functools
import re
import unicodedata
from collections.abc import Sequence

from unisono.errors import UserError
from unisono.suggest import did_you_mean
from unisono.text.espeak_library import LIBRARY_LOCK, fresh_library, library_paths

_CHARS_UTF8 = 1
_MNEMONICS, _IPA = 0x00, 0x02
_SEPARATOR = "|"

# Scripts besides Latin by language, in the words that Unicode character names begin with.
_SCRIPTS = {
    "CYRILLIC": "ba be bg cv kk ky mk nog ru sr tt uk",
    "GREEK": "el grc",
    "ARABIC": "ar fa sd ug ur",
    "HEBREW": "he",
    "DEVANAGARI": "hi kok mr ne",
    "BENGALI": "as bn bpy",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "ORIYA": "or",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "SINHALA": "si",
    "THAI": "th",
    "MYANMAR": "my shn",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy hyw",
    "ETHIOPIC": "am ti",
    "CHEROKEE": "chr",
    "HANGUL": "ko",
    "CJK": "cmn hak yue zh",
    "BOPOMOFO": "cmn zh",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "KATAKANA-HIRAGANA": "ja",
}
# Reads past its memory at some numbers (eSpeak NG 1.52).
_CRASHING = frozenset({"kl"})
_SPOKEN_SYMBOLS = frozenset("°©®™№¦")

_AS_IPA = {
    "s.": "ʂ",
    "ts.": "ʈʂ",
    "ts.h": "ʈʂʰ",
    "r.": "ɽ",
    "i.": "ɨ",
    "ε": "ɛ",
    "Φ": "ɸ",
    "tS": "tʃ",
    "dZ": "dʒ",
    "e-": "e",
}
_ASPIRATED = re.compile(r"(p|t|k|ts|tɕ)h")
_LANGUAGE_SWITCH = re.compile(r"\([A-Za-z0-9-]+\)")
# A clause ends at punctuation, and eSpeak NG has read one character beyond it; long ones are also cut between words.
_CLAUSE_END = re.compile(r"([^\w\s]|\n\s*\n)\s*\S?\Z")


@functools.cache
def languages() -> dict[str, str]:
    """Voice files of eSpeak NG by language code (``de``, ``fr``, ``zh``, ``pt-br``)."""
    _, data = library_paths()
    ranked: dict[str, tuple[int, str]] = {}
    for path in sorted(path for path in (data / "lang").rglob("*") if path.is_file()):
        lines = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        codes = [line for line in lines if line[:1] == ["language"] and len(line) > 1]
        if not codes:
            continue
        dictionary = next((line[1] for line in lines if line[:1] == ["dictionary"]), codes[0][1].split("-")[0])
        # Reading with these voices, or with one whose dictionary is not in the wheel, may end the process.
        if path.name in _CRASHING or not (data / f"{dictionary}_dict").is_file():
            continue
        for line in codes:
            rank = int(line[2]) if len(line) > 2 and line[2].isdigit() else 5
            entry = (rank, path.relative_to(data / "lang").as_posix())
            ranked[line[1]] = min(entry, ranked.get(line[1], entry))
    return {code: file for code, (_, file) in sorted(ranked.items())}


def check_language(language: str) -> str:
    """The voice file of ``language``; a :class:`UserError` names the nearest codes."""
    known = languages()
    if language not in known:
        near = did_you_mean(str(language), known, otherwise="the codes are")
        raise UserError(f"language {language!r} is none of eSpeak NG's {len(known)}; {near}")
    return known[language]


def transcribe_ipa(
    texts: Sequence[str], language: str, *, keep_stress: bool = False
) -> list[list[list[str]] | UserError]:
    """Phrases of symbols for each text, or why it cannot be read.

    Args:
        texts: the library is loaded once for all of them (15 ms); each takes about 0.2 ms more.
        language: a code of :func:`languages`.
        keep_stress: leave ``ˈ`` and ``ˌ`` in front of the vowel.

    Returns:
        In the order of ``texts``: a list of phrases (stretches between punctuation marks), none empty; or the error.
    """
    voice = check_language(language)
    results: list[list[list[str]] | UserError] = []
    with LIBRARY_LOCK, fresh_library() as (library, _):
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        status = library.espeak_SetVoiceByName(ctypes.c_char_p(voice.encode()))
        if status != 0:
            raise UserError(f"eSpeak NG has no data for language {language!r} (status {status}); choose another")
        for text in texts:
            try:
                text = fold(text)
                check_characters(text, language)
                phrases = _phrases(library, text, keep_stress)
                if not phrases:
                    raise UserError(f"text {_short(text)!r} holds nothing to pronounce; give at least one word")
                results.append(phrases)
            except UserError as error:
                results.append(error)
    return results


def fold(text: str) -> str:
    """Composed characters, and plain letters for ligatures, full-width and other presentation forms of letters."""
    if text.isascii():
        return text
    composed = unicodedata.normalize("NFC", text)
    return "".join(
        unicodedata.normalize("NFKC", character) if character.isalpha() else character for character in composed
    )


def check_characters(text: str, language: str) -> None:
    """Raise :class:`UserError` for a character that has no reading in ``language``, naming it."""
    if text.isascii() and text.isprintable():
        return
    for character in text:
        if character.isascii() and (character.isprintable() or character in "\t\n\r"):
            continue
        if not _has_reading(character, language):
            name = unicodedata.name(character, f"U+{ord(character):04X}")
            raise UserError(
                f"text {_short(text)!r} holds {character!r} ({name}), which has no reading in language {language!r}; "
                "remove it or spell it out"
            )


@functools.lru_cache(maxsize=65536)
def _has_reading(character: str, language: str) -> bool:
    category = unicodedata.category(character)
    if category in ("Cc", "Cs", "Co", "Cn"):
        return character in "\t\n\r\x85"
    if category == "So":
        return character in _SPOKEN_SYMBOLS
    if category in ("Ll", "Lu", "Lt", "Lo", "Lm"):
        script = unicodedata.name(character, "").split(" ")[0]
        codes = _SCRIPTS.get(script, "").split()
        if script in ("LATIN", "MICRO"):
            return True
        return language in codes or language.split("-")[0] in codes
    return True


def _phrases(library: ctypes.CDLL, text: str, keep_stress: bool) -> list[list[str]]:
    clauses = _read(library, text, _IPA)
    # Variants of phonemes and tones are told apart in eSpeak NG's own notation only.
    names = _read(library, text, _MNEMONICS)
    assert len(clauses) == len(names), f"eSpeak NG cut {text!r} in two ways"
    phrases: list[list[str]] = [[]]
    for (clause, read), (mnemonics, _) in zip(clauses, names, strict=True):
        phrases[-1] += _symbols(clause, mnemonics, keep_stress)
        if _CLAUSE_END.search(read):
            phrases.append([])
    return [phrase for phrase in phrases if phrase]


def _read(library: ctypes.CDLL, text: str, notation: int) -> list[tuple[str, str]]:
    """``[(phonemes of a clause, the text they came from)]``."""
    raw = text.encode()
    buffer = ctypes.create_string_buffer(raw)
    start = ctypes.addressof(buffer)
    position = ctypes.c_void_p(start)
    mode = notation | ord(_SEPARATOR) << 8
    clauses: list[tuple[str, str]] = []
    last = 0
    while position.value is not None:
        phonemes = library.espeak_TextToPhonemes(ctypes.byref(position), _CHARS_UTF8, mode)
        end = len(raw) if position.value is None else position.value - start
        clauses.append(((phonemes or b"").decode("utf-8", "replace"), raw[last:end].decode("utf-8", "replace")))
        last = end
    return clauses


def _symbols(clause: str, mnemonics: str, keep_stress: bool) -> list[str]:
    symbols: list[str] = []
    parts = zip(_LANGUAGE_SWITCH.split(clause), _LANGUAGE_SWITCH.split(mnemonics), strict=True)
    for tokens, names in ((_tokens(part), _tokens(part_names)) for part, part_names in parts):
        # Some phonemes of languages without tones have a name in one of the notations only.
        tones = map(_tone, tokens, names) if len(tokens) == len(names) else ((token, "") for token in tokens)
        for token, tone in tones:
            plain = token.replace("ˈ", "").replace("ˌ", "").replace("ːː", "ː")
            # Marks of variants that have no IPA.
            plain = plain.rstrip('-#"')
            plain = _AS_IPA.get(plain, plain)
            if _ASPIRATED.fullmatch(plain):
                plain = plain[:-1] + "ʰ"
            stress = token[0] if keep_stress and token[0] in "ˈˌ" else ""
            if plain:
                symbols.append(unicodedata.normalize("NFC", stress + plain + tone))
    return symbols


def _tokens(clause: str) -> list[str]:
    """Units of a clause; pauses have a name (``_``, ``_:``) and no IPA."""
    return [token for token in re.split(r"[| ]", clause) if token and not token.startswith("_")]


def _tone(token: str, name: str) -> tuple[str, str]:
    """``("ˈɑ2", "'A214")`` gives ``("ˈɑ", "214")``: the IPA of a tone is its first digit, and ɜ stands for a 3."""
    digits = re.search(r"\d+\Z", name)
    if not digits or len(token.strip("ˈˌ")) < 2 or not (token[-1].isdigit() or token[-1] == "ɜ"):
        return token, ""
    first = "3" if token[-1] == "ɜ" else token[-1]
    position = digits.group().find(first)
    return (token, "") if position < 0 else (token[:-1], digits.group()[position:])


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
