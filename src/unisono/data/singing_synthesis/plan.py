"""When everything happens in a sung phrase: syllables, their notes, and where each phoneme of the speech goes.

A syllable is a nucleus (a vowel or a syllabic consonant) with the consonants around it. Its note starts with its
nucleus; consonants take their time from the note, or the rest, before them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unisono.errors import UserError
from unisono.scores.score import ScoreNote
from unisono.scores.syllables import Syllable, is_nucleus, split_syllables
from unisono.text.phonemes import SILENCE

MIN_NOTE_S = 0.08
MIN_MIDI, MAX_MIDI = 28, 96
_MAX_CONSONANT_S = 0.16
_MAX_STOLEN = 0.5
"""Share of a note or rest that consonants may take."""
_MAX_HEAD = 0.8
"""Share of the time before the first note that its consonants may take."""
_EDGE = 0.3
"""Share of a nucleus that keeps its speed, at each end."""


@dataclass(frozen=True)
class SyllableNotes:
    """What one syllable is sung on: MIDI numbers and seconds of one note or, slurred, of several; then a rest."""

    midi: tuple[float, ...]
    durations_s: tuple[float, ...]
    rest_after_s: float = 0.0

    def from_time(self, start_s: float) -> tuple[ScoreNote, ...]:
        """The notes, one after the other from ``start_s`` on."""
        notes: list[ScoreNote] = []
        for midi, duration_s in zip(self.midi, self.durations_s, strict=True):
            notes.append(ScoreNote(start_s, duration_s, midi, slur=bool(notes)))
            start_s += duration_s
        return tuple(notes)


@dataclass(frozen=True)
class Span:
    """Where one phoneme goes.

    Attributes:
        symbol: the phoneme.
        role: "onset", "nucleus", "coda" or "rest".
        syllable: index of its syllable; of the one before it for a rest, -1 for the first.
        start_s, end_s: in the sung phrase.
        source_start_s, source_end_s: in the speech; both 0 for a rest.
    """

    symbol: str
    role: str
    syllable: int
    start_s: float
    end_s: float
    source_start_s: float = 0.0
    source_end_s: float = 0.0

    def source_s(self, time_s: np.ndarray) -> np.ndarray:
        """Time in the speech that is heard at ``time_s`` of the phrase, both ``(T,)``."""
        length_s, source_length_s = self.end_s - self.start_s, self.source_end_s - self.source_start_s
        since_s = time_s - self.start_s
        if self.role != "nucleus" or length_s <= source_length_s:
            return self.source_start_s + since_s * source_length_s / length_s
        edge_s = _EDGE * source_length_s
        points_s = (0, edge_s, length_s - edge_s, length_s)
        source_points_s = (0, edge_s, source_length_s - edge_s, source_length_s)
        return self.source_start_s + np.interp(since_s, points_s, source_points_s)


@dataclass(frozen=True)
class Unit:
    """One phoneme as a manifest lists it: ``midi`` is 0 for a rest, ``note_duration_s`` its note's in the score."""

    symbol: str
    start_s: float
    midi: float
    note_duration_s: float
    slur: bool


@dataclass(frozen=True)
class PhrasePlan:
    """Spans that cover the phrase without gaps, and the notes that each of its syllables is sung on."""

    spans: tuple[Span, ...]
    notes: tuple[tuple[ScoreNote, ...], ...]

    @property
    def duration_s(self) -> float:
        return self.spans[-1].end_s

    @property
    def melody(self) -> tuple[ScoreNote, ...]:
        """All notes in order."""
        return tuple(note for notes in self.notes for note in notes)

    def units(self) -> list[Unit]:
        """The phonemes in turn. A nucleus over several notes is as many units, all but the first with a slur."""
        units = []
        for span in self.spans:
            sung_on = self.notes[span.syllable]
            if span.role == "rest":
                units.append(Unit(span.symbol, span.start_s, 0, span.end_s - span.start_s, False))
            elif span.role == "nucleus":
                units += [Unit(span.symbol, note.start_s, note.pitch, note.duration_s, note.slur) for note in sung_on]
            else:
                note = sung_on[0] if span.role == "onset" else sung_on[-1]
                units.append(Unit(span.symbol, span.start_s, note.pitch, note.duration_s, False))
        return units


# ---------------------------------------------------------------------------------------------- plan


def plan_phrase(
    phonemes: Sequence[str],
    durations_s: Sequence[float],
    melody: Sequence[SyllableNotes],
    *,
    start_s: float = 0.3,
    tail_s: float = 0.15,
    language: str = "en-us",
) -> PhrasePlan:
    """Where every phoneme goes when the speech is sung.

    Args:
        phonemes: IPA symbols of the speech; silences in it are dropped, rests come from the melody.
        durations_s: seconds of each in the speech.
        melody: notes of every syllable, each from ``MIN_NOTE_S`` and from ``MIN_MIDI`` to ``MAX_MIDI``.
        start_s: where the first note starts; consonants before it take at most 80 % of this time.
        tail_s: silence after the last note.
        language: decides where syllables part.

    Raises:
        UserError: lists that do not fit each other, no nucleus, or a value out of range.
    """
    _check_speech(phonemes, durations_s)
    syllables = split_syllables(phonemes, language)
    _check_melody(melody, len(syllables), start_s, tail_s)
    planner = _Planner(phonemes, durations_s)
    planner.rest(-1, 0.0, start_s - min(planner.length_s(syllables[0].onset), _MAX_HEAD * start_s))
    planner.consonants(syllables[0].onset, "onset", 0, start_s)
    notes = []
    for index, (syllable, sung) in enumerate(zip(syllables, melody, strict=True)):
        notes.append(sung.from_time(planner.now_s))
        following = syllables[index + 1].onset if index + 1 < len(syllables) else ()
        planner.syllable(syllable, index, sung, following)
    if tail_s > 0:
        planner.rest(len(syllables) - 1, planner.now_s, planner.now_s + tail_s)
    return PhrasePlan(tuple(planner.spans), tuple(notes))


class _Planner:
    """Puts span after span; ``now_s`` is where the last one ends."""

    def __init__(self, phonemes: Sequence[str], durations_s: Sequence[float]) -> None:
        self.phonemes = phonemes
        self.ends_s = np.cumsum(durations_s).tolist()
        self.starts_s = [end_s - duration_s for end_s, duration_s in zip(self.ends_s, durations_s, strict=True)]
        self.lengths_s = [min(float(duration_s), _MAX_CONSONANT_S) for duration_s in durations_s]
        self.spans: list[Span] = []
        self.now_s = 0.0

    def length_s(self, indices: Sequence[int]) -> float:
        """What consonants would take if they had their way."""
        return sum(self.lengths_s[index] for index in indices)

    def rest(self, syllable: int, start_s: float, end_s: float) -> None:
        self.spans.append(Span(SILENCE, "rest", syllable, start_s, end_s))
        self.now_s = end_s

    def consonants(self, indices: Sequence[int], role: str, syllable: int, end_s: float) -> None:
        """From now until ``end_s``, in proportion to their lengths in the speech."""
        from_s, wanted_s, done_s = self.now_s, self.length_s(indices), 0.0
        for index in indices:
            done_s += self.lengths_s[index]
            self._add(index, role, syllable, from_s + (end_s - from_s) * done_s / wanted_s)

    def syllable(self, syllable: Syllable, number: int, sung: SyllableNotes, following: Sequence[int]) -> None:
        """Nucleus and coda, the rest after them, and the consonants of the next syllable, up to its note."""
        end_s = self.now_s + sum(sung.durations_s)
        coda_s, onset_s = self.length_s(syllable.coda), self.length_s(following)
        coda_end_s = end_s
        if sung.rest_after_s > 0:
            coda_s = min(coda_s, _MAX_STOLEN * sung.durations_s[-1])
            onset_s = min(onset_s, _MAX_STOLEN * sung.rest_after_s)
        else:
            wanted_s, most_s = coda_s + onset_s, _MAX_STOLEN * sung.durations_s[-1]
            scale = most_s / wanted_s if wanted_s > most_s else 1.0
            coda_s, onset_s = coda_s * scale, onset_s * scale
            coda_end_s = end_s - onset_s
        self._add(syllable.nucleus, "nucleus", number, coda_end_s - coda_s)
        self.consonants(syllable.coda, "coda", number, coda_end_s)
        if sung.rest_after_s > 0:
            self.rest(number, end_s, end_s + sung.rest_after_s - onset_s)
        self.consonants(following, "onset", number + 1, end_s + sung.rest_after_s)
        self.now_s = end_s + sung.rest_after_s

    def _add(self, index: int, role: str, syllable: int, end_s: float) -> None:
        source_s = (self.starts_s[index], self.ends_s[index])
        self.spans.append(Span(self.phonemes[index], role, syllable, self.now_s, end_s, *source_s))
        self.now_s = end_s


def _check_speech(phonemes: Sequence[str], durations_s: Sequence[float]) -> None:
    if len(phonemes) != len(durations_s):
        raise UserError(f"there are {len(phonemes)} phonemes and {len(durations_s)} durations; give one for each")
    for index, (symbol, duration_s) in enumerate(zip(phonemes, durations_s, strict=True)):
        if not (math.isfinite(duration_s) and duration_s > 0):
            raise UserError(f"phoneme {index} ({symbol!r}) lasts {duration_s} s; give a positive number of seconds")
    if not any(map(is_nucleus, phonemes)):
        raise UserError(f"no vowel among the phonemes {' '.join(phonemes)!r}: there is nothing to sing")


def _check_melody(melody: Sequence[SyllableNotes], syllables: int, start_s: float, tail_s: float) -> None:
    if len(melody) != syllables:
        raise UserError(f"the melody has notes for {len(melody)} syllables, the speech has {syllables}; give as many")
    if not (math.isfinite(start_s) and start_s > 0 and math.isfinite(tail_s) and tail_s >= 0):
        raise UserError(f"start_s is {start_s} and tail_s {tail_s}; give a positive time and one from 0")
    for index, sung in enumerate(melody):
        where = f"syllable {index} of the melody"
        if not sung.midi or len(sung.midi) != len(sung.durations_s):
            raise UserError(f"{where} has {len(sung.midi)} notes and {len(sung.durations_s)} durations; give one each")
        for midi, duration_s in zip(sung.midi, sung.durations_s, strict=True):
            if not MIN_MIDI <= midi <= MAX_MIDI:
                raise UserError(
                    f"{where}: note {midi} is out of range; give MIDI numbers from {MIN_MIDI} to {MAX_MIDI}"
                )
            if not (math.isfinite(duration_s) and duration_s >= MIN_NOTE_S):
                raise UserError(f"{where}: a note of {duration_s} s cannot be sung; give at least {MIN_NOTE_S} s")
        if not (math.isfinite(sung.rest_after_s) and sung.rest_after_s >= 0):
            raise UserError(f"{where}: rest_after_s is {sung.rest_after_s}; give seconds from 0")
