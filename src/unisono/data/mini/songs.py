"""Songs of the mini corpus: sentences spoken by eSpeak NG, sung to a tune that is made for them.

A syllable has one note, now and then two of which the second is slurred; the last one is long and ends on the tonic.
A pause in the speech becomes a rest.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from unisono.data.mini.notes import TICKS_PER_BEAT, TICKS_PER_EIGHTH, Key, Note, Part, Tempo, draw_key, semitones
from unisono.data.singing_synthesis.plan import SyllableNotes
from unisono.data.singing_synthesis.synthesis import Style, SungPhrase, sing
from unisono.scores.syllables import is_nucleus, split_syllables
from unisono.text.espeak import phonemize, synthesize
from unisono.text.phonemes import SILENCE

BPM = (88, 112)
BEATS_PER_BAR = 4
RATE_WPM = 120
"""Slow speech has long vowels, and these are what is sung."""
TAIL_S = 0.2
LOWEST_TONIC = {
    "en-us": 45, "en-us+f1": 55, "en-us+m4": 43, "en-gb": 45, "en-gb+belinda": 55, "en-gb+m3": 43,
}  # fmt: skip
"""MIDI number from which the tonic of each voice's songs is chosen."""
_MELISMA = "+"
"""Lyric of a note over which the syllable before it goes on."""
_INSEPARABLE = frozenset(
    ["th", "sh", "ch", "ph", "bl", "cl", "fl", "gl", "pl", "br", "cr", "dr", "fr", "gr", "pr", "tr"]
)
_SLUR_SHARE = 0.25
_CHOIR_PROGRAM = 52
_LOWEST_DEGREE, _HIGHEST_DEGREE = -2, 7


@dataclass(frozen=True)
class Song:
    """A sung sentence, its key and tempo, and its melody with lyrics, whose times are those of the phrase."""

    phrase: SungPhrase
    key: Key
    bpm: int
    tempo: Tempo
    part: Part


def make_song(rng: np.random.Generator, text: str, voice: str, sample_rate: int) -> Song:
    """Sing ``text`` by an eSpeak voice of ``LOWEST_TONIC``."""
    spoken = synthesize(text, voice, rate_wpm=RATE_WPM).resampled(sample_rate)
    key = draw_key(rng, str(rng.choice(["major", "minor"])))
    bpm = int(rng.integers(BPM[0], BPM[1] + 1))
    tempo = Tempo.from_bpm(bpm)
    syllables = split_syllables(spoken.phonemes)
    rests = _rests_after(spoken.phonemes)
    degrees = _draw_degrees(rng, len(syllables))
    notes = _draw_notes(rng, degrees, rests, key, key.tonic_from(LOWEST_TONIC[voice]))
    melody = [
        SyllableNotes(
            tuple(note.midi for note in group),
            tuple(tempo.seconds(note.length) for note in group),
            tempo.seconds(following - group[-1].start - group[-1].length),
        )
        for group, following in zip(notes, [*(group[0].start for group in notes[1:]), _end(notes)], strict=True)
    ]
    phrase = sing(
        spoken.waveform,
        sample_rate,
        spoken.phonemes,
        spoken.durations_s,
        melody,
        start_s=tempo.seconds(notes[0][0].start),
        tail_s=TAIL_S,
        style=Style(vibrato_semitones=float(rng.uniform(0.15, 0.4)), vibrato_hz=float(rng.uniform(5.0, 6.0))),
        robust_f0=False,
    )
    return Song(
        phrase, key, bpm, tempo, Part(voice, _CHOIR_PROGRAM, _with_lyrics(notes, lyrics(text, voice, spoken.phonemes)))
    )


def _end(notes: Sequence[Sequence[Note]]) -> int:
    return notes[-1][-1].start + notes[-1][-1].length


def _rests_after(phonemes: Sequence[str]) -> list[bool]:
    """For every syllable whether a pause follows it within the sentence."""
    nuclei = [index for index, symbol in enumerate(phonemes) if is_nucleus(symbol)]
    return [SILENCE in phonemes[left:right] for left, right in pairwise(nuclei)] + [False]


def _draw_degrees(rng: np.random.Generator, count: int) -> list[int]:
    """A walk over the scale in small steps that ends on the tonic, drawn backwards so that it arrives there."""
    degrees = [0]
    while len(degrees) < count:
        step = int(rng.choice([-3, -2, -1, 0, 1, 2, 3], p=[0.04, 0.12, 0.27, 0.1, 0.3, 0.13, 0.04]))
        # The nearer an end of the range, the more it is turned back.
        if not _LOWEST_DEGREE <= degrees[-1] + step <= _HIGHEST_DEGREE:
            step = -step
        degrees.append(degrees[-1] + step)
    return degrees[::-1]


def _draw_notes(
    rng: np.random.Generator, degrees: Sequence[int], rests: Sequence[bool], key: Key, tonic: int
) -> list[list[Note]]:
    """The notes of each syllable, from the second beat on, with an eighth or a beat of rest where one is due."""
    notes, now = [], TICKS_PER_BEAT
    for index, (degree, rest) in enumerate(zip(degrees, rests, strict=True)):
        final = index == len(degrees) - 1
        eighths = int(rng.choice([3, 4]) if final or rest else rng.choice([1, 2, 3], p=[0.45, 0.45, 0.1]))
        lengths, steps = [eighths], [0]
        if eighths >= 2 and rng.random() < _SLUR_SHARE:
            # The further note leads on; the last syllable falls to the tonic from above it.
            lengths = [1, eighths - 1]
            steps = [1, 0] if final else [0, int(rng.choice([-1, 1]))]
        group = []
        for length, step in zip(lengths, steps, strict=True):
            midi = tonic + semitones(key.mode, degree + step)
            group.append(Note(now, length * TICKS_PER_EIGHTH, midi, 90))
            now += length * TICKS_PER_EIGHTH
        notes.append(group)
        now += TICKS_PER_EIGHTH * int(rest) * int(rng.choice([1, 2]))
    return notes


# ---------------------------------------------------------------------------------------------- lyrics


def _with_lyrics(notes: Sequence[Sequence[Note]], texts: Sequence[str]) -> tuple[Note, ...]:
    sung = []
    for group, text in zip(notes, texts, strict=True):
        for index, note in enumerate(group):
            lyric = text if index == 0 else _MELISMA
            sung.append(Note(note.start, note.length, note.midi, note.velocity, lyric))
    return tuple(sung)


def lyrics(text: str, voice: str, phonemes: Sequence[str]) -> list[str]:
    """One lyric per syllable: the text's words, those of several syllables divided with a hyphen ("gar-", "den").

    Words have as many syllables as eSpeak NG gives them alone. Where these do not add up to those of the sentence, the
    lyrics are the phonemes of each syllable.
    """
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text)
    counts = [_word_syllables(word, voice.partition("+")[0]) for word in words]
    syllables = split_syllables(phonemes)
    if sum(counts) != len(syllables) or 0 in counts:
        spans = [(*part.onset, part.nucleus, *part.coda) for part in syllables]
        return ["".join(phonemes[index] for index in span) for span in spans]
    texts: list[str] = []
    for word, count in zip(words, counts, strict=True):
        pieces = divide_word(word, count)
        texts += [f"{piece}-" for piece in pieces[:-1]] + pieces[-1:]
    return texts


@functools.lru_cache(maxsize=4096)
def _word_syllables(word: str, voice: str) -> int:
    return sum(map(is_nucleus, phonemize(word, voice)))


def divide_word(word: str, count: int) -> list[str]:
    """``count`` pieces of a word's spelling, cut where a consonant (or two that belong together) leads to a vowel.

    The rule is of the spelling alone and sometimes wrong ("o-pened"); the pieces always make up the word.
    """
    letters = word.lower()
    groups = [match.start() for match in re.finditer(r"[aeiouy]+", letters)]
    if letters.endswith("e") and len(groups) > count:
        # At the end it is silent.
        groups = [start for start in groups if start < len(word) - 1]
    cuts = []
    for before, start in pairwise(groups):
        width = 2 if letters[start - 2 : start] in _INSEPARABLE and start - 2 > before else 1
        cuts.append(start - width)
    cuts = cuts[: count - 1]
    if len(cuts) < count - 1:
        cuts = [round(len(word) * part / count) for part in range(1, count)]
    edges = [0, *cuts, len(word)]
    return [word[left:right] for left, right in pairwise(edges)]
