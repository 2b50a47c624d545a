"""From a score to the units of a singing model: phonemes with the notes they are sung on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from unisono.errors import UserError
from unisono.scores.score import Score, ScoreNote
from unisono.scores.syllables import carrier, is_nucleus, share_out
from unisono.text.phonemes import SILENCE

_EDGES = re.compile(r"^[^\w']+|[^\w']+$|^'+(?=\W)|_")
# Rests shorter than this are rounding of note times.
_SHORTEST_REST_S = 1e-3
# Of a word in several syllables: sharing its phonemes out takes time with their fourth power.
_MOST_SYLLABLES, _LONGEST_WORD = 30, 100


class Pronouncer(Protocol):
    """Says single words; :class:`unisono.text.phonemize.Phonemizer` does."""

    @property
    def language(self) -> str: ...

    def pronounce(self, words: Sequence[str]) -> Sequence[Sequence[str]]: ...


@dataclass(frozen=True)
class ScoreUnits:
    """What docs/data_format.md asks for in singing; the four lists are equally long.

    Attributes:
        phonemes: symbols; ``_`` for rests.
        notes: MIDI number of the note each is sung on; 0 for rests.
        note_durations_s: seconds of that note in the score, the same for all phonemes on it.
        slurs: 1 where a vowel goes on over a further note.
        remarks: where lyrics and pronunciation did not fit together, and what was done.
        text: the lyrics.
    """

    phonemes: list[str]
    notes: list[int | float]
    note_durations_s: list[float]
    slurs: list[int]
    remarks: tuple[str, ...] = ()
    text: str = ""

    def as_fields(self) -> dict[str, list]:
        """The fields of a line of ``content.jsonl``."""
        return {
            "phonemes": self.phonemes,
            "notes": self.notes,
            "note_durations_s": self.note_durations_s,
            "slurs": self.slurs,
        }


@dataclass
class _Syllable:
    """A lyric with the notes it is sung on and, once its words are pronounced, its phonemes."""

    notes: list[ScoreNote]
    phonemes: list[str] = field(default_factory=list)


@dataclass
class _Word:
    """Syllables (by index) that make one word, and how each is spelled."""

    syllables: list[int] = field(default_factory=list)
    spellings: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.spellings)


def score_units(score: Score, phonemizer: Pronouncer) -> ScoreUnits:
    """Phonemes of a score's lyrics, each with its note.

    The consonants of a syllable go with its note and its vowel carries it; over the further notes of a melisma the
    vowel is repeated with slur 1, and the consonants after it go with the last note. The phonemes of a word of several
    syllables are shared out by :func:`unisono.scores.syllables.share_out`.

    Args:
        score: every note has a lyric or is a slur.
        phonemizer: gives the phonemes of each word, the same wherever it stands; its language decides where syllables
            part.

    Raises:
        UserError: a note without a lyric after a rest or at the beginning, a word that cannot be pronounced, or one in
            more syllables than words have.
    """
    syllables, words = _syllables(score)
    _refuse_long(score, words)
    remarks: list[str] = []
    texts = [word.text for word in words]
    try:
        pronunciations = phonemizer.pronounce(texts)
    except UserError as error:
        raise UserError(f"{score.name}: lyrics cannot be pronounced: {error}") from error
    for word, symbols in zip(words, pronunciations, strict=True):
        spoken = [symbol for symbol in symbols if symbol != SILENCE]
        if not spoken:
            raise UserError(f"{score.name}: the word {word.text!r} has no phonemes; correct the lyric")
        for index, part in zip(word.syllables, share_out(spoken, word.spellings, phonemizer.language), strict=True):
            syllables[index].phonemes += part
        vowels, sung_on = sum(map(is_nucleus, spoken)), len(word.syllables)
        if vowels != sung_on and sung_on > 1:
            remarks.append(
                f"{'-'.join(word.spellings)!r}: {sung_on} syllables for {vowels} vowels ({' '.join(spoken)})"
            )
    return _units(score, _without_empty(syllables), tuple(dict.fromkeys(remarks)))


def _syllables(score: Score) -> tuple[list[_Syllable], list[_Word]]:
    syllables: list[_Syllable] = []
    words: list[_Word] = []
    open_word: _Word | None = None
    for number, note in enumerate(score.notes, 1):
        if note.slur and syllables:
            syllables[-1].notes.append(note)
            continue
        if note.lyric is None:
            raise UserError(
                f"{score.name}: note {number} ({note}) has no lyric; give it one, or '+' to carry on the vowel before"
            )
        pieces = [piece for piece in (_EDGES.sub("", piece) for piece in note.lyric.split()) if piece]
        if not pieces:
            raise UserError(f"{score.name}: note {number} ({note}) has the lyric {note.lyric!r}, which holds no letter")
        syllables.append(_Syllable([note]))
        for piece in pieces:
            if open_word is None:
                open_word = _Word()
                words.append(open_word)
            open_word.syllables.append(len(syllables) - 1)
            open_word.spellings.append(piece)
            if piece is not pieces[-1]:
                open_word = None
        if not note.continues:
            open_word = None
    return syllables, words


def _refuse_long(score: Score, words: Sequence[_Word]) -> None:
    for word in words:
        count, length = len(word.syllables), len(word.text)
        if count > 1 and (count > _MOST_SYLLABLES or length > _LONGEST_WORD):
            raise UserError(
                f"{score.name}: the word {word.text[:40]!r}... has {count} syllables and {length} letters, at most "
                f"{_MOST_SYLLABLES} and {_LONGEST_WORD} are read; leave out the hyphens between words"
            )


def _without_empty(syllables: list[_Syllable]) -> list[_Syllable]:
    """Syllables with phonemes; the notes of others go to the one before."""
    kept: list[_Syllable] = []
    for syllable in syllables:
        if syllable.phonemes:
            kept.append(syllable)
        else:
            kept[-1].notes += syllable.notes
    return kept


def _units(score: Score, syllables: list[_Syllable], remarks: tuple[str, ...]) -> ScoreUnits:
    units = ScoreUnits([], [], [], [], remarks, score.text)
    end_s = 0.0

    def add(symbol: str, pitch: float, duration_s: float, slur: int) -> None:
        units.phonemes.append(symbol)
        units.notes.append(int(pitch) if pitch == int(pitch) else pitch)
        units.note_durations_s.append(round(duration_s, 6))
        units.slurs.append(slur)

    def rest_until(time_s: float) -> None:
        if time_s - end_s > _SHORTEST_REST_S:
            add(SILENCE, 0, time_s - end_s, 0)

    for syllable in syllables:
        held = carrier(syllable.phonemes)
        for index, note in enumerate(syllable.notes):
            rest_until(note.start_s)
            if index == 0:
                for symbol in syllable.phonemes[: held + 1]:
                    add(symbol, note.pitch, note.duration_s, 0)
            else:
                add(syllable.phonemes[held], note.pitch, note.duration_s, 1)
            end_s = note.end_s
        for symbol in syllable.phonemes[held + 1 :]:
            add(symbol, syllable.notes[-1].pitch, syllable.notes[-1].duration_s, 0)
    rest_until(score.duration_s)
    return units
