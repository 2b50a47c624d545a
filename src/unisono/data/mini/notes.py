"""Notes, keys and chords of the mini corpus's music and songs, and the MIDI files that state them.

Time is counted in ticks, ``TICKS_PER_BEAT`` to a beat, and the tempo in whole microseconds per beat as MIDI does: what
a file says and what is played are the same to the sample.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unisono.errors import UserError

TICKS_PER_BEAT = 480
TICKS_PER_EIGHTH = TICKS_PER_BEAT // 2
DRUM_CHANNEL = 9

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
TONICS = {
    "major": {"C": 0, "D": 2, "Eb": 3, "E": 4, "F": 5, "G": 7, "A": 9, "Bb": 10},
    "minor": {"A": 9, "B": 11, "C": 0, "D": 2, "E": 4, "F#": 6, "G": 7},
}
"""Pitch classes of the keys in use, by mode and spelling."""

# Roots of chords as degrees of the scale (0 is the tonic), and where each may lead.
_NEXT = {
    "major": {0: (3, 4, 5, 1), 1: (4, 4, 3), 3: (4, 0, 1), 4: (0, 5, 3), 5: (3, 1, 4)},
    "minor": {0: (3, 5, 6, 4), 2: (5, 3, 6), 3: (4, 0, 6), 4: (0, 5, 3), 5: (3, 6, 2), 6: (2, 5, 0)},
}
_CADENCES = (4, 3)
"""What may lead to the last tonic: the dominant (authentic) or the subdominant (plagal)."""


@dataclass(frozen=True)
class Key:
    """A tonic and a mode, such as ``Key("Eb", "major")``."""

    tonic: str
    mode: str

    @property
    def name(self) -> str:
        return f"{self.tonic} {self.mode}"

    @property
    def spoken(self) -> str:
        """Such as "E flat major"."""
        return self.name.replace("b ", " flat ").replace("# ", " sharp ")

    @property
    def midi_name(self) -> str:
        """As a MIDI key signature is spelled: ``Eb``, ``F#m``."""
        return self.tonic + ("m" if self.mode == "minor" else "")

    def tonic_from(self, lowest: int) -> int:
        """MIDI number of the lowest tonic from ``lowest`` on."""
        return lowest + (TONICS[self.mode][self.tonic] - lowest) % 12


@dataclass(frozen=True)
class Tempo:
    """Microseconds per beat, a whole number."""

    us_per_beat: int

    @classmethod
    def from_bpm(cls, bpm: float) -> Tempo:
        return cls(round(60e6 / bpm))

    @property
    def bpm(self) -> float:
        return 60e6 / self.us_per_beat

    def seconds(self, ticks: int) -> float:
        return ticks * self.us_per_beat / (TICKS_PER_BEAT * 1e6)


@dataclass(frozen=True)
class Note:
    """A note from ``start`` for ``length`` ticks; ``velocity`` is 1 to 127, ``lyric`` what is sung on it."""

    start: int
    length: int
    midi: int
    velocity: int = 90
    lyric: str = ""


@dataclass(frozen=True)
class Part:
    """The notes of one instrument; ``program`` is its number in General MIDI from 0, None for drums."""

    name: str
    program: int | None
    notes: tuple[Note, ...] = field(repr=False)


def draw_key(rng: np.random.Generator, mode: str) -> Key:
    return Key(str(rng.choice(list(TONICS[mode]))), mode)


def draw_progression(rng: np.random.Generator, mode: str, chords: int) -> tuple[int, ...]:
    """Roots of ``chords`` (at least 3) chords: from the tonic, by allowed steps, through a cadence to the tonic."""
    assert chords >= 3, f"a progression has at least 3 chords, not {chords}"
    while True:
        roots = [0]
        for _ in range(chords - 2):
            roots.append(int(rng.choice(_NEXT[mode][roots[-1]])))
        if roots[-1] in _CADENCES and 0 in _NEXT[mode][roots[-1]]:
            return (*roots, 0)


def semitones(mode: str, degree: int, root: int | None = None) -> int:
    """Semitones of a scale degree (any octave) above the tonic.

    Over the dominant of a minor key (``root`` 4) the seventh degree is raised, as its chord is major.
    """
    octave, step = divmod(degree, 7)
    raised = mode == "minor" and root == 4 and step == 6
    return 12 * octave + SCALES[mode][step] + raised


def triad(mode: str, root: int) -> tuple[int, int, int]:
    """Semitones above the tonic of a chord's root, third and fifth, within two octaves."""
    first, third, fifth = (semitones(mode, degree, root) for degree in (root, root + 2, root + 4))
    return first, third, fifth


def write_midi(path: str | os.PathLike, parts: Sequence[Part], tempo: Tempo, beats_per_bar: int, key: Key) -> Path:
    """Write a Standard MIDI file of type 1: a track with tempo, metre and key, then one per part."""
    try:
        import mido
    except ImportError as error:
        raise UserError(f"writing MIDI needs mido ({error}); run pip install 'unisono[singing]'") from error

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    conductor = mido.MidiTrack()
    conductor.append(mido.MetaMessage("set_tempo", tempo=tempo.us_per_beat))
    conductor.append(mido.MetaMessage("time_signature", numerator=beats_per_bar, denominator=4))
    conductor.append(mido.MetaMessage("key_signature", key=key.midi_name))
    file = mido.MidiFile(type=1, ticks_per_beat=TICKS_PER_BEAT, charset="utf-8", tracks=[conductor])
    melodic = [channel for channel in range(16) if channel != DRUM_CHANNEL]
    for index, part in enumerate(parts):
        channel = DRUM_CHANNEL if part.program is None else melodic[index]
        track = mido.MidiTrack([mido.MetaMessage("track_name", name=part.name)])
        if part.program is not None:
            track.append(mido.Message("program_change", channel=channel, program=part.program))
        file.tracks.append(track)
        # At one time notes end before others begin, and a lyric stands before its note.
        events = []
        for note in part.notes:
            pitch = {"channel": channel, "note": note.midi}
            if note.lyric:
                events.append((note.start, 1, mido.MetaMessage("lyrics", text=note.lyric)))
            events.append((note.start, 2, mido.Message("note_on", velocity=note.velocity, **pitch)))
            events.append((note.start + note.length, 0, mido.Message("note_off", velocity=0, **pitch)))
        now = 0
        for ticks, _, message in sorted(events, key=lambda event: event[:2]):
            track.append(message.copy(time=ticks - now))
            now = ticks
    file.save(str(path))
    return path
