"""MusicXML through music21: notes of one voice with its lyrics, in seconds.

music21 was chosen over partitura (1.9), which is smaller but drops lyrics on import. It is given a tree that was parsed
here: entity declarations, archives that unpack to more than a score can be, and endless repeats are refused first, and
music21's own reader, which caches files as pickles, is not used.
"""

from __future__ import annotations

import io
import warnings
import xml.etree.ElementTree as ElementTree
import zipfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from unisono.errors import UserError
from unisono.scores.read import MAX_FILE_BYTES, choose_voice
from unisono.scores.score import MAX_NOTES, Score, WrittenNote, refuse_many, understand_lyrics

_DEFAULT_TEMPO_BPM = 120.0
_MAX_REPEATS = 20
_MAX_NOTES_OF_ALL = 5 * MAX_NOTES  # voices that are not sung included; music21 takes a second for some 1000
# music21 works through numbers like these one by one: a bar of 99999999 beats takes it for ever.
_LARGEST = {
    "beats": 128, "beat-type": 128, "fifths": 15, "octave": 10, "alter": 6, "chromatic": 60, "diatonic": 60,
    "octave-change": 5, "staves": 32, "actual-notes": 256, "normal-notes": 256, "multiple-rest": 1000,
    "divisions": 10**6, "duration": 10**8,
}  # fmt: skip


@dataclass
class _Event:
    """A note, chord or rest of a voice; times in quarter notes. ``visit`` is how often its measure has been played."""

    element: Any
    start: float
    duration: float
    measure: str
    visit: tuple[int, int]


def read_musicxml(data: bytes, place: str, voice: int | str | None, verse: int, expand_repeats: bool) -> Score:
    """One voice of a MusicXML file; see :func:`unisono.scores.read.read_score`."""
    root = parse_xml(unpacked(data, place) if data[:2] == b"PK" else data, place)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stream = _import(root, place)
        if expand_repeats:
            stream = _expanded(stream, place)
        parts = [(part, _part_name(part, number)) for number, part in enumerate(stream.parts, 1)]
        voices = [(f"{name}{suffix}", events) for part, name in parts for suffix, events in _voices(part)]
        voices = [(name, events) for name, events in voices if any(not e.element.isRest for e in events)]
        seconds, remarks = _tempo(stream)
    labels = [(name, sum(not e.element.isRest for e in events), _num_lyrics(events)) for name, events in voices]
    label, events = voices[choose_voice(labels, voice, place)]
    name = f"{place}, {label!r}"
    refuse_many(sum(not event.element.isRest for event in events), name)
    written, more_remarks = _written(events, name, verse, seconds)
    remarks += more_remarks + sorted({f"music21: {warning.message}" for warning in caught})
    if not written:
        raise UserError(f"{name} holds grace notes only; there is nothing to sing")
    end_s = max(seconds(event.start + event.duration) for event in events)
    return Score(understand_lyrics(written, 1e-6), end_s, name, tuple(remarks))


# ------------------------------------------------------------------------------------------------------ the file


def unpacked(data: bytes, place: str) -> bytes:
    """The score inside a compressed file (.mxl)."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            container = parse_xml(_member(archive, "META-INF/container.xml", place), place)
            paths = [node.get("full-path", "") for node in container.iter() if node.tag.endswith("rootfile")]
            if not paths:
                raise UserError(f"{place}: its META-INF/container.xml names no score; export the score again")
            return _member(archive, str(PurePosixPath(paths[0])), place)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{place}: damaged .mxl archive ({error}); export the score again") from error


def _member(archive: zipfile.ZipFile, name: str, place: str) -> bytes:
    try:
        with archive.open(name) as member:
            data = member.read(MAX_FILE_BYTES + 1)
    except KeyError:
        raise UserError(f"{place} is a zip archive without {name}; export the score as .mxl or .musicxml") from None
    except Exception as error:  # zlib.error and others of a damaged member
        raise UserError(f"{place}: {name} in the archive is damaged ({error}); export the score again") from error
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"{place}: {name} unpacks to more than {MAX_FILE_BYTES} bytes; no score is that long")
    return data


def parse_xml(data: bytes, place: str) -> ElementTree.Element:
    """The tree of an XML file that declares no entities (they can grow without bound, or name other files)."""
    parser = ElementTree.XMLParser()

    def refuse(*_: Any) -> None:
        raise UserError(f"{place} declares XML entities, which no MusicXML needs; export it again")

    try:
        # The parser written in C gives no access to expat, whose handlers see declarations: read the prolog first.
        from xml.parsers import expat

        guard = expat.ParserCreate()
        guard.EntityDeclHandler = refuse
        guard.Parse(data, True)
        return ElementTree.fromstring(data, parser)
    except (ElementTree.ParseError, expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{place}: not well-formed XML ({error}); export the score again") from error


def _import(root: ElementTree.Element, place: str) -> Any:
    try:
        from music21.musicxml.xmlToM21 import MusicXMLImporter
    except ImportError as error:
        raise UserError("MusicXML scores need music21; run: pip install 'unisono[singing]'") from error
    if root.tag == "score-timewise":
        raise UserError(f"{place} is ordered by time (score-timewise); export it as score-partwise")
    if root.tag != "score-partwise":
        raise UserError(f"{place} is XML of the kind {root.tag!r}, not MusicXML (score-partwise)")
    _check_numbers(root, place)
    refuse_many(sum(1 for _ in root.iter("note")), place, _MAX_NOTES_OF_ALL)
    importer = MusicXMLImporter()
    stream = importer.stream
    try:
        # Into the importer's own stream: that is where parts of several staves go, whatever is returned.
        importer.xmlRootToScore(root, stream)
        stream.toSoundingPitch(inPlace=True)
    except Exception as error:  # music21 raises whatever the damage leads to
        raise UserError(f"{place}: not usable MusicXML ({type(error).__name__}: {error}); export it again") from error
    # Tags that copies of a measure keep when repeats are written out.
    for part in stream.parts:
        for index, measure in enumerate(part.getElementsByClass("Measure")):
            measure.editorial.unisono_measure = index
    return stream


def _check_numbers(root: ElementTree.Element, place: str) -> None:
    for element in root.iter():
        if element.tag == "repeat":
            times = element.get("times", "2")
            if not times.isdigit() or int(times[:6]) > _MAX_REPEATS:
                raise UserError(f"{place}: a repeat of {times[:20]!r} times; at most {_MAX_REPEATS} are sung")
        if element.tag in _LARGEST:
            for number in (element.text or "").split("+"):
                try:
                    fits = abs(float(number)) <= _LARGEST[element.tag]
                except ValueError:
                    fits = False
                if not fits:
                    raise UserError(
                        f"{place}: <{element.tag}> is {number.strip()[:20]!r}, no number up to "
                        f"{_LARGEST[element.tag]}; export the score again"
                    )


def _expanded(stream: Any, place: str) -> Any:
    """The score with repeats written out."""
    from music21.exceptions21 import Music21Exception

    try:
        return stream.expandRepeats()
    except Music21Exception as error:
        raise UserError(
            f"{place}: its repeats cannot be followed ({error}); write them out in the score, or read it once through "
            "with expand_repeats=False"
        ) from error


# ---------------------------------------------------------------------------------------------------- the voices


def _part_name(part: Any, number: int) -> str:
    return (part.partName or "").strip() or f"part {number}"


def _voices(part: Any) -> list[tuple[str, list[_Event]]]:
    """``[(suffix of the name, events)]`` of the voices of a part, in order of time."""
    from music21.harmony import Harmony

    voices: dict[str, list[_Event]] = {}
    visits: Counter[int] = Counter()
    for measure in part.getElementsByClass("Measure"):
        index = measure.editorial.get("unisono_measure", -1)
        visits[index] += 1
        # Elements stand in the measure itself where it has a single voice.
        containers = [(str(one.id), one.offset, one) for one in measure.voices]
        first = next(iter(voices), containers[0][0] if containers else "1")
        for label, offset, container in [(first, 0.0, measure), *containers]:
            for element in container.notesAndRests:
                if isinstance(element, Harmony):
                    continue
                start = float(measure.offset + offset + element.offset)
                event = _Event(
                    element, start, float(element.quarterLength), str(measure.number), (index, visits[index])
                )
                voices.setdefault(label, []).append(event)
    several = len(voices) > 1
    return [
        (f", voice {label}" if several else "", sorted(events, key=lambda event: event.start))
        for label, events in voices.items()
    ]


def _num_lyrics(events: Sequence[_Event]) -> int:
    return sum(bool(event.element.lyrics) for event in events)


def _tempo(stream: Any) -> tuple[Any, list[str]]:
    """``(seconds of a time in quarter notes, remarks)`` by all metronome marks of all parts."""
    remarks: list[str] = []
    changes = {0.0: 60.0 / _DEFAULT_TEMPO_BPM}
    marks = sorted(stream.flatten().getElementsByClass("MetronomeMark"), key=lambda mark: mark.offset)
    for mark in marks:
        bpm = mark.getQuarterBPM()
        if not bpm or bpm <= 0:
            continue
        changes[float(mark.offset)] = 60.0 / float(bpm)
        if mark.number is not None and mark.numberImplicit:
            remarks.append(f"tempo {mark.text!r} taken as {bpm:g} quarter notes a minute")
    if not any(mark.getQuarterBPM() and mark.offset == 0 for mark in marks):
        remarks.append(f"no tempo at the beginning; taken as {_DEFAULT_TEMPO_BPM:g} quarter notes a minute")
    starts = sorted(changes)
    elapsed_s = [0.0]
    for start, end in pairwise(starts):
        elapsed_s.append(elapsed_s[-1] + (end - start) * changes[start])

    def seconds(quarters: float) -> float:
        index = max(bisect_right(starts, quarters) - 1, 0)
        return elapsed_s[index] + (quarters - starts[index]) * changes[starts[index]]

    return seconds, list(dict.fromkeys(remarks))


def _written(events: Sequence[_Event], name: str, verse: int, seconds: Any) -> tuple[list[WrittenNote], list[str]]:
    """Notes with the lyric of their verse; tied notes are one."""
    verses_of: dict[tuple[int, int], set[int]] = {}
    for event in events:
        verses_of.setdefault(event.visit, set()).update(lyric.number for lyric in event.element.lyrics)
    written: list[WrittenNote] = []
    grace_notes, tied = 0, False
    end = 0.0
    for event in events:
        element = event.element
        if element.isRest:
            tied = False
            continue
        if element.duration.isGrace or event.duration == 0:
            grace_notes += 1
            continue
        if not element.isNote:
            pitches = " ".join(pitch.nameWithOctave for pitch in getattr(element, "pitches", ()))
            raise UserError(
                f"{name}, measure {event.measure}: {f'a chord ({pitches})' if pitches else 'a note without pitch'}; a "
                "voice sings one note at a time, so choose or export the melody alone"
            )
        start_s, end_s = seconds(event.start), seconds(event.start + event.duration)
        pitch = element.pitch.ps
        if tied and written[-1].pitch == pitch and abs(event.start - end) < 1e-6:
            last = written[-1]
            written[-1] = WrittenNote(last.start_s, end_s - last.start_s, pitch, last.text, last.continues)
        else:
            sung_verse = _verse_to_sing(verses_of[event.visit], verse, event.visit[1])
            number = int(pitch) if pitch == int(pitch) else pitch
            written.append(WrittenNote(start_s, end_s - start_s, number, *_lyric(element, sung_verse)))
        tied = element.tie is not None and element.tie.type in ("start", "continue")
        end = event.start + event.duration
    return written, [f"{grace_notes} grace notes left out"] if grace_notes else []


def _verse_to_sing(available: set[int], verse: int, visit: int) -> int:
    """The next verse in each pass; where a measure lacks it, the one asked for; in a refrain, the only one."""
    for wanted in (verse + visit - 1, verse):
        if wanted in available:
            return wanted
    return min(available, default=verse)


def _lyric(element: Any, verse: int) -> tuple[str | None, bool]:
    """``(text, does its word continue?)``; several syllables on a note (an elision) are joined by spaces."""
    lyric = next((one for one in element.lyrics if one.number == verse), None)
    if lyric is None:
        return None, False
    pieces = list(lyric.components) if lyric.isComposite else [lyric]
    text = " ".join(part for piece in pieces for part in (piece.text or "").replace("~", " ").split())
    # Verses are often numbered in their first syllable.
    number, dot, rest = text.partition(".")
    text = rest.strip() if dot and number.isdigit() and rest.strip() else text
    return text, pieces[-1].syllabic in ("begin", "middle")
