"""The composer of the mini corpus: chords, melody and accompaniment, a function of what is asked for and a generator.

A tune is written in degrees of a scale and knows no key, so a transposed tune is the same tune; which split it belongs
to is a hash of its melody and chords.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unisono.data.mini.compositions import held_out_split
from unisono.data.mini.instruments import CRASH, DRUMS, HAT, INSTRUMENTS, KICK, SNARE
from unisono.data.mini.notes import TICKS_PER_EIGHTH, Note, Part, draw_progression, semitones, triad

# Lengths of a bar's notes in eighths, by beats per bar.
_RHYTHMS: dict[int, tuple[tuple[int, ...], ...]] = {
    4: (
        (2, 2, 2, 2), (4, 2, 2), (2, 2, 4), (3, 1, 2, 2), (2, 1, 1, 4), (1, 1, 2, 2, 2), (3, 1, 4), (2, 2, 1, 1, 2),
        (4, 1, 1, 2), (1, 1, 1, 1, 2, 2), (6, 2),
    ),
    3: ((2, 2, 2), (4, 2), (2, 1, 1, 2), (3, 1, 2), (2, 4), (1, 1, 2, 2), (2, 2, 1, 1)),
}  # fmt: skip
_LOWEST_DEGREE, _HIGHEST_DEGREE = -2, 9
_GAP_TICKS = round(0.04 * TICKS_PER_EIGHTH)
"""By which notes are shortened, so that one that is repeated is struck anew."""


@dataclass(frozen=True)
class Tune:
    """Chords and melody without key, tempo or instruments.

    Attributes:
        mode: "major" or "minor".
        beats_per_bar: 3 or 4.
        bars: their number.
        roots: degree of each chord's root; the chords share the bars evenly.
        melody: ``(degree, length in eighths)`` of every note; the lengths fill the bars.
    """

    mode: str
    beats_per_bar: int
    bars: int
    roots: tuple[int, ...]
    melody: tuple[tuple[int, int], ...]

    @property
    def eighths_per_chord(self) -> int:
        return self.bars * self.beats_per_bar * 2 // len(self.roots)

    @property
    def split(self) -> str:
        """The split it belongs to, a fixed function of chords and melody."""
        return held_out_split(repr((self.mode, self.beats_per_bar, self.roots, self.melody)))

    def root_at(self, eighth: int) -> int:
        return self.roots[eighth // self.eighths_per_chord]


def draw_tune(rng: np.random.Generator, split: str, mode: str, beats_per_bar: int, bars: int) -> Tune:
    """A tune that belongs to ``split``: one chord per bar, or two where bars of four beats are few."""
    chords = 2 * bars if beats_per_bar == 4 and bars < 4 else bars
    while True:
        roots = draw_progression(rng, mode, chords)
        melody = _draw_melody(rng, mode, beats_per_bar, bars, roots)
        tune = Tune(mode, beats_per_bar, bars, roots, melody)
        if tune.split == split:
            return tune


def _draw_melody(
    rng: np.random.Generator, mode: str, beats_per_bar: int, bars: int, roots: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """Two rhythms take turns; chord tones fall on strong beats, steps lie between, the tonic ends it."""
    rhythms = _RHYTHMS[beats_per_bar]
    first, second = (rhythms[index] for index in rng.permutation(len(rhythms))[:2])
    eighths_per_bar = 2 * beats_per_bar
    eighths_per_chord = bars * eighths_per_bar // len(roots)
    melody: list[tuple[int, int]] = []
    degree, now = int(rng.choice([0, 2, 4])), 0
    for bar in range(bars - 1):
        for length in (first, second)[bar % 2]:
            chord = [roots[now // eighths_per_chord] + third for third in (0, 2, 4)]
            strong = now % eighths_per_bar == 0 or (beats_per_bar == 4 and now % eighths_per_bar == 4)
            degree = _next_degree(rng, degree, chord if strong else None)
            melody.append((degree, length))
            now += length
    # The last bar: the tonic that is nearest, alone or led to from beside it.
    final = min((0, 7), key=lambda tonic: abs(tonic - degree))
    ends = ((eighths_per_bar,), (2, eighths_per_bar - 2))
    lengths = ends[int(rng.integers(2))] if len(roots) == bars else (4, 4)
    if len(lengths) == 2:
        root = roots[now // eighths_per_chord]
        chord = [root + third for third in (0, 2, 4)]
        melody.append((_next_degree(rng, degree, chord), lengths[0]))
    melody.append((final, lengths[-1]))
    return tuple(melody)


def _next_degree(rng: np.random.Generator, degree: int, chord: Sequence[int] | None) -> int:
    """A chord tone near ``degree``, or without a chord a step (seldom a leap of a third) from it, within range."""
    if chord is not None:
        tones = [tone + 7 * octave for tone in chord for octave in (-2, -1, 0, 1)]
        tones = [tone for tone in tones if _LOWEST_DEGREE <= tone <= _HIGHEST_DEGREE]
        nearness = np.exp(-0.6 * np.abs(np.array(tones) - degree)) * np.where(np.array(tones) == degree, 0.4, 1.0)
        return int(rng.choice(tones, p=nearness / nearness.sum()))
    step = int(rng.choice([-2, -1, 1, 2], p=[0.12, 0.4, 0.36, 0.12]))
    if not _LOWEST_DEGREE <= degree + step <= _HIGHEST_DEGREE:
        step = -step
    return degree + step


# ---------------------------------------------------------------------------------------------- parts


def lead_part(rng: np.random.Generator, tune: Tune, name: str, tonic: int) -> Part:
    """The melody, upwards from the MIDI number ``tonic``."""
    notes, now = [], 0
    for degree, eighths in tune.melody:
        midi = tonic + semitones(tune.mode, degree, tune.root_at(now))
        accent = 8 if now % (2 * tune.beats_per_bar) == 0 else 0
        notes.append(_note(now, eighths, midi, 88 + accent + int(rng.integers(-5, 6))))
        now += eighths
    return Part(name, INSTRUMENTS[name].program, tuple(notes))


def harmony_part(rng: np.random.Generator, tune: Tune, name: str, tonic: int) -> Part:
    """Chords: held by an instrument that sustains, else struck on the beats, broken, or as a waltz has them."""
    styles = ["held"] if INSTRUMENTS[name].sustains else ["struck", "broken"]
    if tune.beats_per_bar == 3 and not INSTRUMENTS[name].sustains:
        styles.append("waltz")
    style = styles[int(rng.integers(len(styles)))]
    notes: list[Note] = []
    voicing = tuple(tonic + tone for tone in triad(tune.mode, 0))
    length = tune.eighths_per_chord
    for index, root in enumerate(tune.roots):
        voicing = _nearest_voicing([tonic + tone for tone in triad(tune.mode, root)], voicing)
        start = index * length
        velocity = 68 + int(rng.integers(-4, 5))
        if style == "held" or index == len(tune.roots) - 1:
            notes += [_note(start, length, midi, velocity) for midi in voicing]
        elif style == "struck":
            notes += [_note(start + at, 2, midi, velocity) for at in range(0, length, 2) for midi in voicing]
        elif style == "broken":
            cycle = (voicing[0], voicing[1], voicing[2], voicing[1])
            notes += [_note(start + at, 1, cycle[at % 4], velocity) for at in range(length)]
        else:
            notes.append(_note(start, 2, voicing[0], velocity + 6))
            notes += [_note(start + at, 2, midi, velocity) for at in (2, 4) for midi in voicing[1:]]
    return Part(name, INSTRUMENTS[name].program, tuple(notes))


def bass_part(rng: np.random.Generator, tune: Tune, name: str, tonic: int) -> Part:
    """Roots, in four time also fifths; the last one is held."""
    walking = bool(rng.random() < 0.4)
    notes = []
    length = tune.eighths_per_chord
    for index, root in enumerate(tune.roots):
        first, _, fifth = (tonic + tone for tone in triad(tune.mode, root))
        low, start = first - 12 * (first - tonic > 7), index * length
        velocity = 84 + int(rng.integers(-4, 5))
        if index == len(tune.roots) - 1:
            notes.append(_note(start, length, tonic, velocity))
        elif walking:
            notes += [_note(start + at, 1, low, velocity - 6 * (at % 2)) for at in range(length)]
        elif tune.beats_per_bar == 4 and length == 8:
            notes += [_note(start, 4, low, velocity), _note(start + 4, 4, fifth - 12 * (fifth - tonic > 7), velocity)]
        else:
            notes.append(_note(start, length, low, velocity))
    return Part(name, INSTRUMENTS[name].program, tuple(notes))


def drum_part(rng: np.random.Generator, tune: Tune) -> Part:
    """Bass drum on the strong beats, snare on the others, hi-hat throughout; the last bar has one crash."""
    eighths_per_bar = 2 * tune.beats_per_bar
    hats = range(0, eighths_per_bar, int(rng.choice([1, 2])))
    kicks = ((0, 4), (0, 3, 4), (0, 4, 7))[int(rng.integers(3))] if tune.beats_per_bar == 4 else (0,)
    snares = (2, 6) if tune.beats_per_bar == 4 else (2, 4)
    notes = []
    for bar in range(tune.bars - 1):
        for at in range(eighths_per_bar):
            struck = [midi for midi, places in ((KICK, kicks), (SNARE, snares), (HAT, hats)) if at in places]
            velocity = 92 - 14 * (at % 2) + int(rng.integers(-4, 5))
            notes += [_note(bar * eighths_per_bar + at, 1, midi, velocity) for midi in struck]
    last = (tune.bars - 1) * eighths_per_bar
    notes += [_note(last, 2, KICK, 100), _note(last, 4, CRASH, 90)]
    return Part(DRUMS, None, tuple(notes))


def _note(start_eighth: int, eighths: int, midi: int, velocity: int) -> Note:
    return Note(start_eighth * TICKS_PER_EIGHTH, eighths * TICKS_PER_EIGHTH - _GAP_TICKS, midi, velocity)


def _nearest_voicing(chord: Sequence[int], before: Sequence[int]) -> tuple[int, int, int]:
    """The inversion of ``chord`` whose notes lie nearest to those of the chord before it, low to high."""
    classes = sorted(tone % 12 for tone in chord)
    voicings = [
        tuple(sorted(classes[i] + 12 * (o + (i < first)) for i in range(3))) for o in range(1, 8) for first in range(3)
    ]
    low, middle, high = min(voicings, key=lambda voicing: sum(abs(a - b) for a, b in zip(voicing, before, strict=True)))
    return low, middle, high
