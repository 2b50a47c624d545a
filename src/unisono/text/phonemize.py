"""Text to phonemes: English by the CMU dictionary, other languages and unknown English words by eSpeak NG.

    phonemizer = Phonemizer("en-us")
    phonemizer.words("Dr. Smith paid $5.")      # ['doctor', 'smith', 'paid', 'five', 'dollars']
    phonemizer.phonemes("Hello, world!")        # ['_', 'h', 'ʌ', 'l', 'oʊ', '_', 'w', 'ɜː', 'l', 'd', '_']
    Phonemizer("de").phonemes("Guten Tag")      # ['_', 'ɡ', 'uː', 't', 'ə', 'n', 't', 'ɑː', 'k', '_']

What is known and what is not:

- American English (``en-us``, ``en``) uses 39 symbols, the IPA values of ARPAbet, all in
  :data:`unisono.text.phonemes.PHONEMES`. The dictionary inside the pocketsphinx wheel has no stress marks, and so
  neither have these phonemes. Other English voices (``en-gb``) are eSpeak NG's, within ``PHONEMES`` as well.
- Heteronyms are not resolved: a word gets its first pronunciation in the dictionary, so "read" always rhymes with
  "bed".
- Words that the dictionary lacks are read by eSpeak NG, mapped to the 39 symbols, and reported.
- ``_`` marks pauses: at both ends and at punctuation, or nowhere (``silences=False``).
- The same text gives the same phonemes in every process; instances can be sent to workers.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unisono.errors import UserError
from unisono.text.ipa import check_language, transcribe_ipa
from unisono.text.normalize import spoken_phrases
from unisono.text.phonemes import (
    ARPABET_TO_IPA,
    PHONEMES,
    SILENCE,
    check_phonemes,
    checked_pronunciations,
    to_arpabet_inventory,
)

_AMERICAN = ("en-us", "en")
_SIBILANTS = frozenset(("S", "Z", "SH", "ZH", "CH", "JH"))
_VOICELESS = frozenset(("P", "T", "K", "F", "TH"))
_WRITTEN_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_MAX_TEXT_CHARACTERS = 10_000


@dataclass(frozen=True)
class Transcription:
    """How a text is said.

    Attributes:
        words: normalised words (``Phonemizer.words``).
        phonemes: IPA symbols, ``_`` for pauses.
        fallback_words: those of ``words`` that the dictionary lacks, each once.
    """

    words: tuple[str, ...]
    phonemes: tuple[str, ...]
    fallback_words: tuple[str, ...] = ()


class Phonemizer:
    """Turns text of one language into phonemes.

    Args:
        language: ``en-us``, or any code of :func:`unisono.text.ipa.languages`.
        pronunciations: English words with their ARPAbet phones, ``{"unisono": "Y UW N IH S OW N OW"}``; they go before
            the dictionary's.
        silences: put ``_`` at both ends and at punctuation.
        keep_stress: leave stress marks in front of vowels (``ˈaɪ``). The dictionary of American English has none.

    Raises:
        UserError: unknown language, pronunciation that is no ARPAbet, missing package.
    """

    def __init__(
        self,
        language: str = "en-us",
        *,
        pronunciations: Mapping[str, str] | None = None,
        silences: bool = True,
        keep_stress: bool = False,
    ) -> None:
        self.language, self.silences, self.keep_stress = language, silences, keep_stress
        self.american = language in _AMERICAN
        given = checked_pronunciations(pronunciations or {})
        self.pronunciations = {word.lower(): phones for word, phones in given.items()}
        if not self.american:
            check_language(language)
            if pronunciations:
                raise UserError(f"pronunciations are for en-us, not for {language!r}; leave them out")
        elif keep_stress:
            raise UserError("the dictionary of en-us has no stress marks; use keep_stress=False or another language")
        self._guessed: dict[str, tuple[str, ...]] = {}  # words outside the dictionary
        self._spoken: dict[str, tuple[str, ...]] = {}  # single words of pronounce()

    def words(self, text: str) -> list[str]:
        """The words that are said, lower case: normalised for American English, as written for other languages."""
        if self.american:
            return [word for phrase in self._spoken_phrases(text) for word in phrase]
        return [word.lower() for word in _WRITTEN_WORD.findall(text)]

    def phonemes(self, text: str) -> list[str]:
        """Symbols of one text. For many texts :meth:`transcribe_many` is far faster."""
        return list(self.transcribe(text).phonemes)

    def transcribe(self, text: str) -> Transcription:
        """Words, phonemes and fallbacks of one text."""
        result = self.transcribe_many([text])[0]
        if isinstance(result, UserError):
            raise result
        return result

    def transcribe_many(self, texts: Sequence[str]) -> list[Transcription | UserError]:
        """Transcriptions in the order of ``texts``; a text that cannot be read gives its error in place."""
        checked = [_text_error(text) for text in texts]
        usable = [text for text, error in zip(texts, checked, strict=True) if error is None]
        results = iter(self._american_texts(usable) if self.american else self._other_texts(usable))
        return [next(results) if error is None else error for error in checked]

    def pronounce(self, words: Sequence[str]) -> list[list[str]]:
        """Symbols of single words, each said on its own, without ``_``. What was guessed or read is remembered."""
        said: dict[str, tuple[str, ...]] = {}
        for word in dict.fromkeys(words):
            phones = self._phones(word.lower()) if self.american else None
            if phones is not None:
                said[word] = _to_ipa(phones)
            elif word in self._spoken:
                said[word] = self._spoken[word]
        missing = [word for word in dict.fromkeys(words) if word not in said]
        for word, result in zip(missing, self.transcribe_many(missing), strict=True):
            if isinstance(result, UserError):
                raise result
            self._spoken[word] = said[word] = tuple(symbol for symbol in result.phonemes if symbol != SILENCE)
        return [list(said[word]) for word in words]

    def inventory(self, texts: Iterable[str] | None = None) -> tuple[str, ...]:
        """The vocabulary a config has to list: ``_``, then the symbols in a fixed order.

        Args:
            texts: whose symbols are wanted; errors are raised. Not needed for English: American English gives its 39
                symbols, other English voices all of ``PHONEMES``. eSpeak NG has no list for the other languages, so
                give texts that hold all their sounds.
        """
        if texts is None:
            if self.american:
                return (SILENCE, *(symbol for symbol in PHONEMES if symbol in set(ARPABET_TO_IPA.values())))
            if self.language.startswith("en-"):
                return PHONEMES
            raise UserError(f"the symbols of language {self.language!r} are not known beforehand; give texts")
        found: set[str] = set()
        for result in self.transcribe_many(list(texts)):
            if isinstance(result, UserError):
                raise result
            found.update(result.phonemes)
        return (SILENCE, *sorted(found - {SILENCE}))

    # -------------------------------------------------------------------------------------------- American English

    def _spoken_phrases(self, text: str) -> list[list[str]]:
        return spoken_phrases(text, lambda word: self._phones(word) is not None)

    def _phones(self, word: str) -> str | None:
        """ARPAbet of a word that needs no guess; possessives follow from their stem."""
        dictionary = cmu_dictionary()
        phones = self.pronunciations[word] if word in self.pronunciations else dictionary.get(word)
        if phones is None and word.endswith("'s"):
            stem = self.pronunciations.get(word[:-2]) or dictionary.get(word[:-2])
            if stem is not None:
                last = stem.rpartition(" ")[2]
                return f"{stem} {'IH Z' if last in _SIBILANTS else 'S' if last in _VOICELESS else 'Z'}"
        return phones

    def _american_texts(self, texts: Sequence[str]) -> list[Transcription | UserError]:
        read: list[list[list[str]] | UserError] = []
        for text in texts:
            try:
                phrases = self._spoken_phrases(text)
                read.append(phrases if phrases else _nothing_to_say(text))
            except UserError as error:
                read.append(error)
        unknown = {
            word: None
            for phrases in read
            if isinstance(phrases, list)
            for phrase in phrases
            for word in phrase
            if word not in self._guessed and self._phones(word) is None
        }
        failed = self._guess(list(unknown)) if unknown else {}
        return [phrases if isinstance(phrases, UserError) else self._joined(phrases, failed) for phrases in read]

    def _guess(self, words: Sequence[str]) -> dict[str, UserError]:
        """Have eSpeak NG read ``words``; returns those it cannot read."""
        failed: dict[str, UserError] = {}
        for word, phrases in zip(words, transcribe_ipa(words, "en-us"), strict=True):
            if isinstance(phrases, UserError):
                failed[word] = phrases
            else:
                symbols = [symbol for phrase in phrases for symbol in phrase]
                self._guessed[word] = tuple(to_arpabet_inventory(symbols, f"word {word!r}"))
        return failed

    def _joined(self, phrases: list[list[str]], failed: Mapping[str, UserError]) -> Transcription | UserError:
        words = tuple(word for phrase in phrases for word in phrase)
        symbols: list[list[str]] = []
        fallbacks: dict[str, None] = {}
        for phrase in phrases:
            symbols.append([])
            for word in phrase:
                if word in failed:
                    return failed[word]
                phones = self._phones(word)
                if phones is None:
                    fallbacks[word] = None
                symbols[-1] += self._guessed[word] if phones is None else _to_ipa(phones)
        return Transcription(words, self._with_silences(symbols), tuple(fallbacks))

    # --------------------------------------------------------------------------------------------- other languages

    def _other_texts(self, texts: Sequence[str]) -> list[Transcription | UserError]:
        results: list[Transcription | UserError] = []
        for text, phrases in zip(
            texts, transcribe_ipa(texts, self.language, keep_stress=self.keep_stress), strict=True
        ):
            if isinstance(phrases, UserError):
                results.append(phrases)
                continue
            if self.language.startswith("en-") and not self.keep_stress:
                check_phonemes([symbol for phrase in phrases for symbol in phrase], f"text {text[:60]!r}")
            results.append(Transcription(tuple(self.words(text)), self._with_silences(phrases)))
        return results

    def _with_silences(self, phrases: Iterable[Sequence[str]]) -> tuple[str, ...]:
        if not self.silences:
            return tuple(symbol for phrase in phrases for symbol in phrase)
        return (SILENCE, *(symbol for phrase in phrases for symbol in (*phrase, SILENCE)))


def read_pronunciations(path: str | os.PathLike) -> dict[str, str]:
    """A dictionary file: a word and its ARPAbet phones on each line, ``hello HH AH L OW``.

    Stress digits are dropped, ``#`` begins a comment.

    Raises:
        UserError: not UTF-8, a line without phones or with what is no ARPAbet, a word with two pronunciations.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as a dictionary ({error}); give a UTF-8 text file") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        word, *phones = line.partition("#")[0].lower().split() or [""]
        if not word:
            continue
        said = " ".join(phone.rstrip("012").upper() for phone in phones)
        if not phones or not set(said.split()) <= ARPABET_TO_IPA.keys():
            raise UserError(
                f"{path}:{number}: {line.strip()!r} is not a word and its ARPAbet phones, such as 'hello HH AH L OW'"
            )
        if found.setdefault(word, said) != said:
            raise UserError(f"{path}:{number}: {word!r} has two pronunciations, {found[word]} and {said}; keep one")
    return found


@functools.lru_cache(maxsize=16)
def phonemizer(language: str = "en-us") -> Phonemizer:
    """A phonemizer with the default options, the same one each time: it remembers the words that it had to guess."""
    return Phonemizer(language)


@functools.cache
def cmu_dictionary() -> Mapping[str, str]:
    """First pronunciation (ARPAbet without stress) of 126 000 English words, from the pocketsphinx wheel."""
    try:
        from pocketsphinx import get_model_path
    except ImportError as error:
        raise UserError(
            f"the dictionary of English comes with pocketsphinx, which is not installed ({error}); "
            "run: pip install 'unisono[speech]'"
        ) from error
    path = Path(get_model_path("en-us/cmudict-en-us.dict"))
    if not path.is_file():
        raise UserError(f"{path} is missing; reinstall the package pocketsphinx")
    entries = (line.partition(" ") for line in path.read_text(encoding="utf-8").splitlines())
    return {word: phones.strip() for word, _, phones in entries if phones and not word.endswith(")")}


@functools.lru_cache(maxsize=200_000)
def _to_ipa(phones: str) -> tuple[str, ...]:
    return tuple(ARPABET_TO_IPA[phone] for phone in phones.split())


def _text_error(text: object) -> UserError | None:
    if not isinstance(text, str) or not text.strip():
        return UserError(f"text is {text!r}; give at least one word")
    if len(text) > _MAX_TEXT_CHARACTERS:
        return UserError(f"text {text[:40]!r}… has {len(text)} characters; give at most {_MAX_TEXT_CHARACTERS}")
    return None


def _nothing_to_say(text: str) -> UserError:
    return UserError(f"text {text[:60]!r} holds nothing to pronounce; give at least one word")
