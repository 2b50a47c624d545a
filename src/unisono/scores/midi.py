"""Standard MIDI files through mido: notes of one voice with its lyric events, in seconds."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from unisono.errors import UserError
from unisono.files import replaced_file
from unisono.scores.pitch import note_name
from unisono.scores.read import choose_voice
from unisono.scores.score import Score, WrittenNote, refuse_many, understand_lyrics
from unisono.timing import seconds_to_index

# Players hold a key a little into the next note.
LEGATO_S = 0.05
_DEFAULT_TEMPO_US = 500_000  # per quarter note: 120 bpm
_WRITTEN_TICKS_PER_BEAT = 9600  # about 50 microseconds
_PERCUSSION_CHANNEL = 9


@dataclass
class _Voice:
    """Notes of one channel of one track: ``(first tick, end tick, MIDI number)``; lyrics are ``(tick, text)``."""

    name: str
    channel: int
    notes: list[tuple[int, int, int]]
    lyrics: list[tuple[int, str]] = field(default_factory=list)
    end_tick: int = 0


class _TempoMap:
    """Seconds of ticks. Time is summed in whole microticks, so that long files do not drift."""

    def __init__(self, changes: Iterable[tuple[int, int]], ticks_per_beat: int) -> None:
        self.unit = 1e-6 / ticks_per_beat
        self.ticks, self.tempos_us, self.elapsed = [0], [_DEFAULT_TEMPO_US], [0]
        for tick, tempo_us in sorted(changes, key=lambda change: change[0]):
            elapsed = self.elapsed[-1] + (tick - self.ticks[-1]) * self.tempos_us[-1]
            self.ticks.append(tick)
            self.tempos_us.append(tempo_us)
            self.elapsed.append(elapsed)

    def seconds(self, tick: int) -> float:
        index = bisect_right(self.ticks, tick) - 1
        return (self.elapsed[index] + (tick - self.ticks[index]) * self.tempos_us[index]) * self.unit


def read_midi(data: bytes, place: str, voice: int | str | None, min_rest_s: float) -> Score:
    """One voice of a MIDI file; see :func:`unisono.scores.read.read_score`."""
    midi = _open(data, place)
    tempo = _TempoMap(_tempo_changes(midi), midi.ticks_per_beat)
    voices = _voices(midi, place, tempo)
    pitched = [one for one in voices if one.channel != _PERCUSSION_CHANNEL] or voices
    chosen = pitched[choose_voice([(one.name, len(one.notes), len(one.lyrics)) for one in pitched], voice, place)]
    name = f"{place}, {chosen.name!r}"
    refuse_many(len(chosen.notes), name)
    notes = _one_at_a_time(chosen, name, tempo)
    texts = _syllables(chosen, name, tempo, midi.ticks_per_beat)
    written = []
    for start, end, pitch in notes:
        start_s = tempo.seconds(start)
        written.append(WrittenNote(start_s, tempo.seconds(end) - start_s, pitch, *texts.get(start, (None, False))))
    end_s = max(tempo.seconds(chosen.end_tick), tempo.seconds(notes[-1][1]))
    return Score(understand_lyrics(written, min_rest_s), end_s, name)


def write_midi(score: Score, path: str | os.PathLike) -> Path:
    """Write a score as a MIDI file of one track, whole or not at all; lyrics in UTF-8, times within 0.1 ms.

    Syllables end with a hyphen where the word goes on; a melisma is ``+``. :func:`read_score` reads it back.
    """
    mido = _mido()
    per_second = _WRITTEN_TICKS_PER_BEAT * 1_000_000 / _DEFAULT_TEMPO_US
    events: list[tuple[int, int, Any]] = []
    for note in score.notes:
        if note.pitch != int(note.pitch):
            raise UserError(f"{score.name}: {note} lies between two keys, which MIDI notes cannot; round the pitch")
        start, end = (seconds_to_index(time_s, per_second) for time_s in (note.start_s, note.end_s))
        text = "+" if note.slur else f"{note.lyric}-" if note.continues else note.lyric
        if text is not None:
            events.append((start, 1, mido.MetaMessage("lyrics", text=text)))
        events.append((start, 2, mido.Message("note_on", note=int(note.pitch), velocity=80)))
        events.append((max(end, start + 1), 0, mido.Message("note_off", note=int(note.pitch), velocity=0)))
    events.append((seconds_to_index(score.duration_s, per_second), 3, mido.MetaMessage("end_of_track")))
    events.sort(key=lambda event: event[:2])
    midi = mido.MidiFile(ticks_per_beat=_WRITTEN_TICKS_PER_BEAT, charset="utf-8")
    track = midi.add_track()
    track.append(mido.MetaMessage("set_tempo", tempo=_DEFAULT_TEMPO_US))
    last = 0
    for tick, _, message in events:
        track.append(message.copy(time=max(tick, last) - last))
        last = max(tick, last)
    path = Path(path)
    with replaced_file(path) as temporary:
        midi.save(str(temporary))
    return path


def _mido() -> Any:
    try:
        import mido
    except ImportError as error:
        raise UserError("MIDI scores need mido; run: pip install 'unisono[singing]'") from error
    return mido


def _open(data: bytes, place: str) -> Any:
    mido = _mido()
    try:
        midi = mido.MidiFile(file=io.BytesIO(data))
    except Exception as error:  # mido raises whatever the damage leads to
        reason = str(error) or type(error).__name__
        raise UserError(f"{place}: damaged MIDI file ({reason}); export it again") from error
    if midi.type == 2:
        raise UserError(f"{place} is a MIDI file of type 2 (independent sequences); export it as type 0 or 1")
    if midi.ticks_per_beat <= 0:
        raise UserError(f"{place} counts time in SMPTE frames; export it with ticks per quarter note")
    return midi


def _tempo_changes(midi: Any) -> list[tuple[int, int]]:
    changes = []
    for track in midi.tracks:
        tick = 0
        for message in track:
            tick += message.time
            if message.type == "set_tempo":
                changes.append((tick, message.tempo))
    return changes


def _voices(midi: Any, place: str, tempo: _TempoMap) -> list[_Voice]:
    """Voices with notes; lyrics of a track belong to its only channel with notes, or to the file's only voice."""
    kinds = {message.type for track in midi.tracks for message in track}
    karaoke = any(m.type == "text" and m.text.startswith("@K") for track in midi.tracks for m in track)
    lyric_kind = "text" if karaoke and "lyrics" not in kinds else "lyrics"
    voices: list[_Voice] = []
    homeless: list[list[tuple[int, str]]] = []
    for number, track in enumerate(midi.tracks, 1):
        name = _decoded(track.name).strip("\0 ") or f"track {number}"
        found, lyrics, end_tick = _track_events(track, f"{place}, {name!r}", tempo, lyric_kind)
        several = len(found) > 1
        here = [
            _Voice(f"{name}, channel {channel + 1}" if several else name, channel, notes, [], end_tick)
            for channel, notes in sorted(found.items())
        ]
        singers = [one for one in here if one.channel != _PERCUSSION_CHANNEL] or here
        if lyrics and len(singers) > 1:
            # The channel whose notes the lyrics begin with.
            ticks = {tick for tick, _ in lyrics}
            singers.sort(key=lambda one: -len(ticks & {start for start, _, _ in one.notes}))
        if lyrics and singers:
            singers[0].lyrics = lyrics
        elif lyrics:
            homeless.append(lyrics)
        voices += here
    melodic = [one for one in voices if one.channel != _PERCUSSION_CHANNEL] or voices
    if len(homeless) == 1 and len(melodic) == 1 and not melodic[0].lyrics:
        melodic[0].lyrics = homeless[0]
    elif homeless and melodic and not any(one.lyrics for one in voices):
        names = ", ".join(repr(one.name) for one in melodic)
        raise UserError(
            f"{place}: lyrics are in {len(homeless)} tracks without notes, the notes in {names}; put the lyrics of the "
            "melody into its track"
        )
    return voices


def _track_events(
    track: Any, place: str, tempo: _TempoMap, lyric_kind: str
) -> tuple[dict[int, list[tuple[int, int, int]]], list[tuple[int, str]], int]:
    """``(notes by channel, lyrics, last tick)`` of a track."""
    sounding: dict[tuple[int, int], deque[int]] = defaultdict(deque)
    notes: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    lyrics: list[tuple[int, str]] = []
    tick = 0
    for message in track:
        tick += message.time
        if message.type == lyric_kind and not message.text.startswith("@"):
            lyrics.append((tick, _decoded(message.text)))
        elif message.type == "note_on" and message.velocity > 0:
            sounding[message.channel, message.note].append(tick)
        elif message.type in ("note_on", "note_off") and sounding[message.channel, message.note]:
            start = sounding[message.channel, message.note].popleft()
            if tick == start:
                raise UserError(
                    f"{place}: {note_name(message.note)} at {tempo.seconds(start):.2f} s has no length; remove it"
                )
            notes[message.channel].append((start, tick, message.note))
    for (_, pitch), starts in sounding.items():
        if starts:
            raise UserError(
                f"{place}: {note_name(pitch)} at {tempo.seconds(starts[0]):.2f} s never ends; export the file again"
            )
    return {channel: sorted(found) for channel, found in notes.items()}, lyrics, tick


def _decoded(text: str) -> str:
    """mido gives one character per byte; files of today are UTF-8, older ones Latin-1."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _one_at_a_time(voice: _Voice, name: str, tempo: _TempoMap) -> list[tuple[int, int, int]]:
    """The notes with short overlaps cut at the next onset."""
    notes = list(voice.notes)
    for index, ((start, end, pitch), (next_start, _, next_pitch)) in enumerate(pairwise(notes)):
        overlap_s = tempo.seconds(end) - tempo.seconds(next_start)
        if overlap_s <= 0:
            continue
        if overlap_s > LEGATO_S or next_start <= start:
            raise UserError(
                f"{name}: {note_name(pitch)} (from {tempo.seconds(start):.2f} s) and {note_name(next_pitch)} (from "
                f"{tempo.seconds(next_start):.2f} s) sound together for {overlap_s:.2f} s; a voice sings one note at a "
                "time, so export the melody alone"
            )
        notes[index] = (start, next_start, pitch)
    return notes


def _syllables(voice: _Voice, name: str, tempo: _TempoMap, ticks_per_beat: int) -> dict[int, tuple[str, bool]]:
    """``(text, does its word continue?)`` by the tick of the note it belongs to.

    Words are joined by hyphens, or in the manner of karaoke files: syllables without a space between them.
    """
    blank = "\r\n\t /\\\0"
    spaces = any(text != text.strip() or text.startswith(("/", "\\")) for _, text in voice.lyrics)
    hyphens = any(len(text.strip()) > 1 and text.strip().endswith("-") for _, text in voice.lyrics)
    onsets = sorted(start for start, _, _ in voice.notes)
    found: dict[int, tuple[str, bool]] = {}
    # The text after each event; an event without text is a line break.
    following = [text for _, text in voice.lyrics[1:]] + [" "] * bool(voice.lyrics)
    for (tick, text), after in zip(voice.lyrics, following, strict=True):
        if not text.strip(blank):
            continue
        right = bisect_right(onsets, tick)
        _, near = min((abs(onset - tick), onset) for onset in onsets[max(0, right - 1) : right + 1])
        if abs(near - tick) > ticks_per_beat // 8:
            raise UserError(
                f"{name}: lyric {text!r} at {tempo.seconds(tick):.2f} s begins with no note (the nearest one is at "
                f"{tempo.seconds(near):.2f} s); move it to its note"
            )
        if near in found:
            raise UserError(
                f"{name}: lyrics {found[near][0]!r} and {text!r} are both on the note at {tempo.seconds(near):.2f} s; "
                "a note has one"
            )
        open_word = spaces and not hyphens and text == text.rstrip() and bool(after.strip(blank))
        found[near] = (text.strip(blank), open_word and not after.startswith((" ", "/", "\\")))
    return found
