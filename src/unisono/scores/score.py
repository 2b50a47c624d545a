"""The score: one voice as a list of notes in seconds, and its compact form as a line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unisono.errors import UserError
from unisono.scores.pitch import note_name, note_number

# A lyric that is one of these carries the vowel before it on.
MELISMA_SIGNS = frozenset({"+", "-", "_", "~", "ー"})
# Notes of a voice that touch within this are rounded in their files, not apart.
_ROUNDING_S = 1e-6
MAX_NOTES = 20_000
"""Of a voice: that of a whole opera has fewer."""
_LONGEST_S = 86_400.0
_LONGEST_LYRIC = 1000


@dataclass(frozen=True)
class ScoreNote:
    """One note of a voice.

    Attributes:
        start_s, duration_s: seconds from the beginning of the score.
        pitch: MIDI number.
        lyric: the syllable that begins on this note; None if none does.
        continues: the word of ``lyric`` goes on in the next syllable.
        slur: this is a further note of the syllable before (a melisma); ``lyric`` is None then.
    """

    start_s: float
    duration_s: float
    pitch: float
    lyric: str | None = None
    continues: bool = False
    slur: bool = False

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s

    def __str__(self) -> str:
        return f"{note_name(self.pitch)} at {self.start_s:.2f} s"


@dataclass(frozen=True)
class Score:
    """One voice. Rests are where no note is.

    Attributes:
        notes: in order, none overlapping another.
        duration_s: end of the score, rests at the end included.
        name: of file and voice; begins error messages.
        remarks: what was decided in reading that a musician might have decided otherwise.
    """

    notes: tuple[ScoreNote, ...]
    duration_s: float
    name: str = "score"
    remarks: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The lyrics, syllables joined to words."""
        return "".join(f"{n.lyric}{'' if n.continues else ' '}" for n in self.notes if n.lyric is not None).strip()

    def __post_init__(self) -> None:
        refuse_many(len(self.notes), self.name)
        if not self.duration_s <= _LONGEST_S:
            raise UserError(f"{self.name} lasts {self.duration_s:g} s; a score lasts at most {_LONGEST_S:g} s")
        end_s, before = 0.0, "the beginning"
        for note in self.notes:
            if not (math.isfinite(note.start_s) and math.isfinite(note.duration_s) and note.duration_s > 0):
                raise UserError(f"{self.name}: note {note} lasts {note.duration_s} s; notes need a positive length")
            if note.start_s < end_s - _ROUNDING_S:
                raise UserError(
                    f"{self.name}: note {note} begins before {before} ends at {end_s:.2f} s; a voice sings one note at "
                    "a time"
                )
            if note.lyric is not None and len(note.lyric) > _LONGEST_LYRIC:
                raise UserError(
                    f"{self.name}: note {note} has a lyric of {len(note.lyric)} characters; a note has one syllable"
                )
            if note_number(note.pitch, self.name) == 0:
                raise UserError(f"{self.name}: the note at {note.start_s:.2f} s has pitch 0; leave rests out")
            end_s, before = note.end_s, str(note)
        if not self.notes or not math.isfinite(self.duration_s) or self.duration_s < end_s - _ROUNDING_S:
            raise UserError(
                f"{self.name}: {len(self.notes)} notes up to {end_s:.2f} s in a score of {self.duration_s:.2f} s; a "
                "score needs notes and must hold them"
            )


def refuse_many(notes: int, name: str, limit: int = MAX_NOTES) -> None:
    """Raise for more notes than anybody sings; to be asked before anything slow is done with them."""
    if notes > limit:
        raise UserError(f"{name} has {notes} notes, and at most {limit} are read; split the score into parts")


@dataclass(frozen=True)
class WrittenNote:
    """A note as a file has it, before lyrics are understood: ``text`` None where there is no lyric at all."""

    start_s: float
    duration_s: float
    pitch: float
    text: str | None = None
    continues: bool = False


def understand_lyrics(written: Sequence[WrittenNote], min_rest_s: float) -> tuple[ScoreNote, ...]:
    """Notes with their syllables.

    A lyric ``+``, ``-``, ``_``, ``~`` or ``ー`` goes on with the vowel before it, and so does a note without a lyric
    that follows another without a rest. A hyphen at the end of a lyric, or at the start of the next, joins two
    syllables of a word. A gap shorter than ``min_rest_s`` is no rest: the note before is made longer.
    """
    notes: list[ScoreNote] = []
    sung: int | None = None  # the last note with a lyric
    for item in written:
        if notes and 0 < item.start_s - notes[-1].end_s < min_rest_s:
            notes[-1] = replace(notes[-1], duration_s=item.start_s - notes[-1].start_s)
        follows = bool(notes) and item.start_s - notes[-1].end_s < _ROUNDING_S
        text = (item.text or "").strip()
        note = ScoreNote(item.start_s, item.duration_s, item.pitch)
        if text in MELISMA_SIGNS:
            note = replace(note, slur=True)
        elif text:
            if text.startswith("-") and sung is not None:
                notes[sung] = replace(notes[sung], continues=True)
            lyric = text.strip("-_ ")
            note = replace(note, lyric=lyric or None, continues=item.continues or text.rstrip("_").endswith("-"))
        elif follows and (notes[-1].lyric is not None or notes[-1].slur):
            note = replace(note, slur=True)
        if note.lyric is not None:
            sung = len(notes)
        notes.append(note)
    return tuple(notes)


def parse_score(text: str, name: str = "score") -> Score:
    """A score written as one line, as on a command line.

    Notes are separated by spaces: ``PITCH:SECONDS`` or ``PITCH:SECONDS:LYRIC``.

    - PITCH is a note name (``C4``, ``F#3``, ``Bb5``), a MIDI number, or ``rest`` (``r``), which has no lyric.
    - LYRIC is a syllable; with a hyphen at its end the word goes on (``twin-`` ``kle``). ``+`` (or ``-``, ``_``), or no
      lyric directly after a sung note, carries the vowel on.

    ``C4:0.5:twin- C4:0.5:kle G4:1:star A4:0.5:+ rest:0.5`` is a word of two notes, one of two notes, and a rest.
    """
    if not isinstance(text, str) or not text.split():
        raise UserError(f"{name} is {text!r}; write notes as PITCH:SECONDS:LYRIC, such as C4:0.5:la")
    written: list[WrittenNote] = []
    end_s = 0.0
    for index, item in enumerate(text.split(), 1):
        where = f"{name}, note {index} ({item!r})"
        pitch, *rest = item.split(":", 2)
        duration_s = _seconds(rest[0] if rest else "", where)
        number = note_number(pitch, where)
        lyric = rest[1] if len(rest) > 1 else None
        if number:
            written.append(WrittenNote(end_s, duration_s, number, lyric))
        elif lyric:
            raise UserError(f"{where}: a rest has no lyric; write rest:{rest[0]}")
        end_s += duration_s
    return Score(understand_lyrics(written, 0.0), end_s, name)


def _seconds(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"{where}: the length is {text!r}; write PITCH:SECONDS:LYRIC with a positive number of seconds")
    return value
