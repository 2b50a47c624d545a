"""Reading a score from a file: which format it is, and which of its voices is sung."""

from __future__ import annotations

import os
from pathlib import Path

from unisono.errors import UserError
from unisono.scores.score import Score

MAX_FILE_BYTES = 32 * 2**20
MAX_MIDI_BYTES = 2**20
"""MIDI has a few bytes for a note, and mido takes two seconds for so many."""


def read_score(
    source: str | os.PathLike | bytes,
    name: str | None = None,
    *,
    voice: int | str | None = None,
    verse: int = 1,
    expand_repeats: bool = True,
    min_rest_s: float = 0.05,
) -> Score:
    """Read one voice of a Standard MIDI or MusicXML file (.musicxml, .xml, .mxl); the content tells which.

    Args:
        source: a path, or the bytes of the file.
        name: begins error messages; default: the path.
        voice: which voice: its number from 1, or its name, as the error for several lists them. By default the one
            with lyrics, else the only one with notes.
        verse: number of the lyric line (MusicXML). Where a passage is repeated, each pass takes the next verse, if it
            has one.
        expand_repeats: sing repeats, voltas, da capo and dal segno (MusicXML); False reads the page once.
        min_rest_s: shorter gaps between notes of a MIDI file are not rests; the note before is made longer.

    Returns:
        Notes in seconds, all tempo changes applied. Fermatas, ritardandi and ornaments have no effect on time; grace
        notes are left out and counted in ``remarks``.

    Raises:
        UserError: unreadable file, one longer than any score, several voices to choose from, two notes at once in a
            voice.
    """
    data, place = _bytes(source, name)
    if data[:4] == b"MThd":
        from unisono.scores.midi import read_midi

        if len(data) > MAX_MIDI_BYTES:
            raise UserError(
                f"{place} is a MIDI file of {len(data)} bytes; a score has at most {MAX_MIDI_BYTES}: export the melody "
                "alone, or in parts"
            )
        return read_midi(data, place, voice, min_rest_s)
    if data[:4] == b"PK\x03\x04" or data[:256].lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n").startswith(b"<"):
        from unisono.scores.musicxml import read_musicxml

        return read_musicxml(data, place, voice, verse, expand_repeats)
    raise UserError(f"{place} is neither a Standard MIDI file nor MusicXML (.musicxml, .xml, .mxl); export it as one")


def choose_voice(labels: list[tuple[str, int, int]], wanted: int | str | None, place: str) -> int:
    """Index of the voice to sing among ``(name, notes, lyrics)``."""
    named = ", ".join(f"{i}: {n!r} ({notes} notes, {lyrics} lyrics)" for i, (n, notes, lyrics) in enumerate(labels, 1))
    if not labels:
        raise UserError(f"{place} has no notes; export the staff or track that holds the melody")
    if wanted is not None:
        by_number = isinstance(wanted, int) and not isinstance(wanted, bool)
        matches = [i for i, (n, _, _) in enumerate(labels) if (i + 1 == wanted if by_number else n == wanted)]
        if len(matches) != 1:
            raise UserError(f"{place} has {len(matches)} voices {wanted!r}; choose by number one of {named}")
        return matches[0]
    sung = [index for index, (_, _, lyrics) in enumerate(labels) if lyrics]
    candidates = sung or list(range(len(labels)))
    if len(candidates) > 1:
        what = "several voices with lyrics" if sung else "several voices and none has lyrics"
        raise UserError(f"{place} has {what}; choose one with voice=NUMBER or NAME: {named}")
    return candidates[0]


def _bytes(source: str | os.PathLike | bytes, name: str | None) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        data, place = source, name or "score"
    else:
        path = Path(source)
        place = name or str(path)
        try:
            size = path.stat().st_size
            data = path.read_bytes() if size <= MAX_FILE_BYTES else b""
        except OSError as error:
            raise UserError(f"{place}: the score cannot be read ({error.strerror}); check the path") from error
        if size > MAX_FILE_BYTES:
            raise _too_long(place)
    if len(data) > MAX_FILE_BYTES:
        raise _too_long(place)
    if not data:
        raise UserError(f"{place} is empty; export the score again")
    return data, place


def _too_long(place: str) -> UserError:
    return UserError(
        f"{place} has more than {MAX_FILE_BYTES} bytes, and no score is that long; export the melody alone"
    )
