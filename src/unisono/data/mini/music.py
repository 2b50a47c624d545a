"""Music of the mini corpus for text_to_music: a caption, and a piece that it describes exactly.

A caption names every instrument, says "waltz" exactly where there are three beats to a bar, and may name mood, pace and
key. The words have a meaning: paces are ranges of tempo (``BPM``), moods a mode and a pace together (``MOODS``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import signal

from unisono.data.mini.compositions import held_out_split
from unisono.data.mini.instruments import DRUMS, INSTRUMENTS, Stroke, drum_stroke
from unisono.data.mini.notes import TICKS_PER_BEAT, Key, Part, Tempo, draw_key
from unisono.data.mini.synthesis import SAMPLE_RATE, fade, noise, peak_normalised
from unisono.data.mini.tunes import Tune, bass_part, draw_tune, drum_part, harmony_part, lead_part
from unisono.scores.pitch import midi_to_hz
from unisono.timing import seconds_to_samples

BPM = {"slow": (66, 80), "moderate": (96, 116), "fast": (138, 168)}
"""Whole beats per minute of each pace, both ends included; nothing lies between the paces."""

MOODS = {
    ("major", "slow"): ("peaceful", "calm"),
    ("major", "moderate"): ("warm", "friendly"),
    ("major", "fast"): ("cheerful", "joyful"),
    ("minor", "slow"): ("sad", "mournful"),
    ("minor", "moderate"): ("wistful", "pensive"),
    ("minor", "fast"): ("tense", "restless"),
}
PACES = {"slow": ("slow", "unhurried"), "moderate": ("moderately paced", "mid-tempo"), "fast": ("fast", "quick")}
LONGEST_BODY_S = 7.4
TAIL_S = 0.6
"""In which the last notes and the room die away."""

BASS = "bass guitar"
_SOLOISTS = ("acoustic guitar", "electric piano", "organ", "marimba")
_LEADS = ("flute", "acoustic guitar", "electric piano", "marimba", "music box")
_HARMONIES = ("acoustic guitar", "electric piano", "organ", "strings")
_HARMONY_LOWEST, _BASS_LOWEST = 48, 33
_LEVELS = {"lead": 1.0, "harmony": 0.6, "bass": 0.7, "drums": 0.6}
"""RMS of each part relative to the lead's."""
_ROOM_S, _ROOM_LEVEL = 0.45, 0.25
_PEAK = (0.60, 0.90)


@dataclass(frozen=True)
class Brief:
    """What a piece is to be, and how much of it the caption says.

    Attributes:
        lead: instrument of the melody.
        harmony: instrument of the chords; the lead itself where it plays solo.
        has_bass, has_drums: further players.
        beats_per_bar: 3 or 4.
        pace: a key of ``BPM``.
        key: tonic and mode.
        says_mood, says_pace, says_key: what the caption names.
    """

    lead: str
    harmony: str
    has_bass: bool
    has_drums: bool
    beats_per_bar: int
    pace: str
    key: Key
    says_mood: bool
    says_pace: bool
    says_key: bool

    @property
    def instruments(self) -> list[str]:
        """Every player once, the lead first."""
        others = [self.harmony] if self.harmony != self.lead else []
        return [self.lead, *others, *([BASS] if self.has_bass else []), *([DRUMS] if self.has_drums else [])]

    @property
    def split(self) -> str:
        """The split it belongs to, a fixed function of what the caption says, so splits share no caption."""
        mood = (self.key.mode, self.pace) if self.says_mood else None
        pace, key = self.pace if self.says_pace else None, self.key.name if self.says_key else None
        return held_out_split(repr((self.instruments, self.beats_per_bar, mood, pace, key)))


@dataclass(frozen=True)
class Music:
    """A piece: its caption, its waveform ``(S,)`` float32 at ``SAMPLE_RATE``, and the notes that were played."""

    caption: str
    waveform: np.ndarray
    brief: Brief
    tempo: Tempo
    bpm: int
    parts: tuple[Part, ...]


def make_music(rng: np.random.Generator, split: str) -> Music:
    """A random piece of 4 to 8 s; the splits ("train", "val", "test") share no tune and no caption."""
    while True:
        brief = draw_brief(rng)
        if brief.split == split:
            break
    bpm, bars = _draw_length(rng, brief)
    tempo = Tempo.from_bpm(bpm)
    tune = draw_tune(rng, split, brief.key.mode, brief.beats_per_bar, bars)
    parts = _arrange(rng, brief, tune)
    duration_s = tempo.seconds(bars * brief.beats_per_bar * TICKS_PER_BEAT) + TAIL_S
    return Music(caption(rng, brief), _render(rng, parts, tempo, duration_s), brief, tempo, bpm, tuple(parts.values()))


def draw_brief(rng: np.random.Generator) -> Brief:
    """Players, metre, pace and key of a piece, and what the caption names beside the players: one thing at least."""
    key = draw_key(rng, str(rng.choice(["major", "minor"])))
    if rng.random() < 0.2:
        lead = harmony = str(rng.choice(_SOLOISTS))
        bass, drums = False, False
    else:
        lead = str(rng.choice(_LEADS))
        harmony = str(rng.choice([name for name in _HARMONIES if name != lead]))
        bass, drums = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    says = rng.random(3) < (0.7, 0.5, 0.4)
    return Brief(
        lead,
        harmony,
        bass,
        drums,
        beats_per_bar=int(rng.choice([4, 3], p=[0.65, 0.35])),
        pace=str(rng.choice(list(BPM))),
        key=key,
        says_mood=bool(says[0] or not says.any()),
        says_pace=bool(says[1]),
        says_key=bool(says[2]),
    )


def _draw_length(rng: np.random.Generator, brief: Brief) -> tuple[int, int]:
    """Beats per minute within the pace, and as many bars as there is time for; three at least in three time."""
    low, high = BPM[brief.pace]
    while True:
        bpm = int(rng.integers(low, high + 1))
        for bars in (8, 6, 4, 3, 2):
            fits = bars * brief.beats_per_bar * 60 / bpm <= LONGEST_BODY_S
            if fits and (bars > 2 or brief.beats_per_bar == 4):
                return bpm, bars


# ---------------------------------------------------------------------------------------------- words


def caption(rng: np.random.Generator, brief: Brief) -> str:
    """A caption of the piece in one of several wordings."""
    adjectives = [str(rng.choice(PACES[brief.pace]))] if brief.says_pace else []
    adjectives += [str(rng.choice(MOODS[brief.key.mode, brief.pace]))] if brief.says_mood else []
    form = "waltz" if brief.beats_per_bar == 3 else str(rng.choice(["tune", "piece of music", "instrumental"]))
    piece = " ".join([", ".join(adjectives), form]).strip()
    key = f" in {brief.key.spoken}" if brief.says_key else ""
    players = brief.instruments
    if len(players) == 1:
        wordings = [
            f"{_with_article(piece)}{key} for solo {players[0]}",
            f"solo {players[0]} playing {_with_article(piece)}{key}",
            f"{_with_article(players[0])} alone plays {_with_article(piece)}{key}",
        ]
        return str(rng.choice(wordings))
    named = _listed([_with_article(player) for player in players])
    rhythm = players[2:]
    backed = f", with {_listed(rhythm)}" if rhythm else ""
    wordings = [
        f"{_with_article(piece)}{key} for {_listed(players)}",
        f"{named} play {_with_article(piece)}{key}",
        f"{_with_article(piece)}{key}: {players[0]} melody over {players[1].removesuffix('s')} chords{backed}",
        f"{_with_article(players[0])} leads {_with_article(piece)}{key}, accompanied by {_listed(players[1:])}",
    ]
    return str(rng.choice(wordings))


def _with_article(words: str) -> str:
    if words in (DRUMS, "strings"):
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# ---------------------------------------------------------------------------------------------- sound


def _arrange(rng: np.random.Generator, brief: Brief, tune: Tune) -> dict[str, Part]:
    """Parts by role."""
    tonic = brief.key.tonic_from
    parts = {"lead": lead_part(rng, tune, brief.lead, tonic(INSTRUMENTS[brief.lead].lowest))}
    parts["harmony"] = harmony_part(rng, tune, brief.harmony, tonic(_HARMONY_LOWEST))
    if brief.has_bass:
        parts["bass"] = bass_part(rng, tune, BASS, tonic(_BASS_LOWEST))
    if brief.has_drums:
        parts["drums"] = drum_part(rng, tune)
    return parts


def _render(rng: np.random.Generator, parts: dict[str, Part], tempo: Tempo, duration_s: float) -> np.ndarray:
    mix = np.zeros(seconds_to_samples(duration_s, SAMPLE_RATE))
    for role, part in parts.items():
        sound = play(rng, part, tempo, len(mix))
        level = _LEVELS[role] * rng.uniform(0.85, 1.15)
        mix += sound * level / np.sqrt(np.mean(sound**2))
    mix = fade(_in_room(rng, mix), out_s=TAIL_S / 2)
    return peak_normalised(mix, rng.uniform(*_PEAK)).astype(np.float32)


def play(rng: np.random.Generator, part: Part, tempo: Tempo, samples: int) -> np.ndarray:
    """All notes of a part ``(samples,)``."""
    out = np.zeros(samples)
    for note in part.notes:
        force = note.velocity / 127
        if part.program is None:
            sound = drum_stroke(rng, note.midi, force)
        else:
            stroke = Stroke(midi_to_hz(note.midi), tempo.seconds(note.length), force)
            sound = force * INSTRUMENTS[part.name].play(rng, stroke)
        start = seconds_to_samples(tempo.seconds(note.start), SAMPLE_RATE)
        out[start : start + len(sound)] += sound[: samples - start]
    return out


def _in_room(rng: np.random.Generator, mix: np.ndarray) -> np.ndarray:
    """``mix`` with the diffuse, dull tail of a small hall; the same length."""
    time_s = np.arange(seconds_to_samples(_ROOM_S, SAMPLE_RATE)) / SAMPLE_RATE
    tail = noise(rng, len(time_s), lambda f: 1 / (1 + (f / 3_000) ** 2))
    tail *= np.exp(-time_s / (_ROOM_S / 5)) * np.minimum(time_s / 0.01, 1)
    tail *= _ROOM_LEVEL / np.sqrt(np.sum(tail**2))
    return mix + signal.fftconvolve(mix, tail)[: len(mix)]
