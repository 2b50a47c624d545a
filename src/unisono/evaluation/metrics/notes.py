"""Does a voice sing the notes of its score, in the score's tempo?

The notes that are heard come from F0: voiced stretches, cut where the pitch settles on another level or where the sound
dips, as between two syllables on one pitch. A note begins with its vowel, as singers place it on the beat: what is
voiced before that and quieter (m, l, z) leads to it. Those that are meant come from the score file where the
item has one, else from `notes` and `note_durations_s` of its manifest, which have one entry for each phoneme.

A constant delay is taken out: manifests differ in whether a note, or the first rest, holds the consonants that go
before the vowel, and silence before the song is no fault. Beyond that the score's clock holds, whatever the reference
does.

Shapes: T frames, N notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage

from unisono.errors import UserError
from unisono.evaluation.items import EvaluationItem, Sample
from unisono.evaluation.metric import Metric, MetricCard, MetricFailure, NotApplicable, NoValue
from unisono.evaluation.metrics.f0 import SEMITONE_TOLERANCE_CENTS
from unisono.evaluation.metrics.world import (
    F0_PARAMETERS,
    FRAME_RATE_HZ,
    f0_of,
    frame_levels_db,
    versions,
    waveform_of,
)
from unisono.scores.pitch import hz_to_midi, midi_to_hz, note_number
from unisono.scores.syllables import is_nucleus

_SCORE_FILES = ("score", "score_midi")
_SAME_S = 1e-4

# A level is held or left for another at a price, in frames times semitones: a vibrato of a semitone to either side is
# one note (half a period of 5.5 Hz costs 6), a step of a semitone that lasts 0.09 s is another.
_CHANGE_COST = 8.0
_CAP_SEMITONES = 3.0
_GRID_SEMITONES = 0.25
_SHORTEST_NOTE_S = 0.1
_BRIDGED_GAP_S = 0.02
_DIP_DB = 4.0
_SMOOTHING_FRAMES = 2.0
_ATTACK_DB, _LONGEST_ATTACK_S = 6.0, 0.2

_LONGEST_DELAY_S, _DELAY_STEP_S, _DELAY_REACH_S = 0.2, 0.005, 0.1


@dataclass(frozen=True)
class Notes:
    """Notes in order, none overlapping another.

    Attributes:
        intervals_s: beginning and end of each, ``(N, 2)``.
        pitches: MIDI numbers ``(N,)``, with fractions where they were heard.
    """

    intervals_s: np.ndarray
    pitches: np.ndarray

    @classmethod
    def of(cls, notes: Sequence[tuple[float, float, float]]) -> Notes:
        """From ``(start_s, end_s, pitch)``."""
        table = np.array(notes, dtype=np.float64).reshape(-1, 3)
        return cls(table[:, :2], table[:, 2])


# -- what the score means ---------------------------------------------------------------------------------------------


def score_notes(item: EvaluationItem) -> Notes:
    """The notes that the item asks for.

    Raises:
        NotApplicable: it has none, or rests only.
        MetricFailure: its score cannot be read or contradicts itself.
    """
    try:
        notes = _notes_of_file(item) or _notes_of_units(item.details)
    except (UserError, OSError) as error:
        raise MetricFailure(f"the score cannot be used: {error}") from None
    if not len(notes.pitches):
        raise NotApplicable("the score has no notes")
    return notes


def _notes_of_file(item: EvaluationItem) -> Notes | None:
    from unisono.scores.read import read_score

    field = next((name for name in _SCORE_FILES if name in item.files), None)
    if field is None:
        return None
    score = read_score(item.files[field].read_bytes(), f"{item.audio_id}, {field}")
    return Notes.of([(note.start_s, note.end_s, note.pitch) for note in score.notes])


def _notes_of_units(details: Mapping[str, Any]) -> Notes:
    """One note for the phonemes that are sung on it.

    A note ends where pitch or length change, at a slur, and before a second vowel: two syllables on equal notes are two
    notes. What the lists cannot tell is a single note that is sung on two vowels; it becomes two equal ones.
    """
    phonemes, numbers, durations_s = (details.get(name) for name in ("phonemes", "notes", "note_durations_s"))
    if phonemes is None or numbers is None or durations_s is None:
        raise NotApplicable("the item has no score (a score file, or phonemes, notes and note_durations_s)")
    slurs = details.get("slurs") or [0] * len(phonemes)
    lists = (phonemes, numbers, durations_s, slurs)
    if not all(isinstance(values, list) and len(values) == len(phonemes) for values in lists):
        raise MetricFailure("phonemes, notes, note_durations_s and slurs of the score are not lists of one length")
    if not all(isinstance(symbol, str) for symbol in phonemes) or not all(slur in (0, 1) for slur in slurs):
        raise MetricFailure("phonemes of the score are not texts, or slurs not 0 and 1")
    notes: list[tuple[float, float, float]] = []
    now_s, pitch, duration_s, has_nucleus = 0.0, -1.0, -1.0, False
    for symbol, number, length_s, slur in zip(phonemes, numbers, durations_s, slurs, strict=True):
        number, nucleus = float(note_number(number, "notes")), is_nucleus(symbol)
        if not isinstance(length_s, int | float) or not 0 <= length_s < np.inf:
            raise MetricFailure(f"the score has a note of {length_s!r} s")
        another = number != pitch or abs(length_s - duration_s) > _SAME_S or number == 0
        if another or slur or (nucleus and has_nucleus):
            pitch, duration_s, has_nucleus = number, length_s, False
            if number and length_s:
                notes.append((now_s, now_s + length_s, number))
            now_s += length_s
        has_nucleus = has_nucleus or nucleus
    return Notes.of(notes)


# -- what is heard ----------------------------------------------------------------------------------------------------


def heard_notes(f0_hz: np.ndarray, level_db: np.ndarray) -> Notes:
    """Notes of a contour ``(T,)`` (Hz, 0 where unvoiced) with the level of each frame ``(T,)``.

    A note is a stretch of 0.1 s at least on one level of pitch, from where it is within 6 dB of its loudest on; gaps of
    up to 0.02 s are none. Its pitch is the median.
    """
    midi = hz_to_midi(_bridged(np.asarray(f0_hz, dtype=np.float64)))
    level_db = scipy.ndimage.gaussian_filter1d(np.asarray(level_db, dtype=np.float64), _SMOOTHING_FRAMES)
    notes = []
    for first, last in _runs(midi > 0):
        steps = np.flatnonzero(np.diff(_pitch_levels(midi[first:last]))) + 1 + first
        for begin, end in zip([first, *steps], [*steps, last], strict=True):
            for start, stop in _parted_by_dips(level_db, int(begin), int(end)):
                start = _vowel_start(level_db, start, stop)
                if (stop - start) / FRAME_RATE_HZ >= _SHORTEST_NOTE_S:
                    pitch = float(np.median(midi[start:stop]))
                    notes.append((start / FRAME_RATE_HZ, stop / FRAME_RATE_HZ, pitch))
    return Notes.of(notes)


def best_delay_s(meant: Notes, heard: Notes) -> float:
    """By how much the heard notes are late as a whole, within 0.2 s either way, in steps of 5 ms.

    Of all delays the one with which the beginnings fit best: a note of the score counts 1 if one is heard within 0.05 s
    of its beginning and nothing from 0.1 s on, and a tenth of that is by how near it is. 0 where nothing fits; of
    equals the smallest.
    """
    if not len(heard.pitches):
        return 0.0
    steps = np.arange(-round(_LONGEST_DELAY_S / _DELAY_STEP_S), round(_LONGEST_DELAY_S / _DELAY_STEP_S) + 1)
    delays_s = _DELAY_STEP_S * steps[np.argsort(np.abs(steps), kind="stable")]
    heard_s = np.sort(heard.intervals_s[:, 0])
    wanted_s = meant.intervals_s[:, 0] + delays_s[:, None]
    after = np.searchsorted(heard_s, wanted_s).clip(max=len(heard_s) - 1)
    nearest_s = np.minimum(np.abs(heard_s[after] - wanted_s), np.abs(heard_s[np.maximum(after - 1, 0)] - wanted_s))
    near = np.maximum(0.0, 1.0 - nearest_s / _DELAY_REACH_S)
    fit = (0.9 * np.minimum(2.0 * near, 1.0) + 0.1 * near).sum(axis=1)
    return float(delays_s[np.argmax(np.round(fit, 9))])


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Stretches ``[first, last)`` of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _bridged(f0_hz: np.ndarray) -> np.ndarray:
    """Gaps of a frame or two take the pitch before them."""
    filled = f0_hz.copy()
    for first, last in _runs(f0_hz == 0):
        if first > 0 and last < len(f0_hz) and (last - first) / FRAME_RATE_HZ <= _BRIDGED_GAP_S:
            filled[first:last] = f0_hz[first - 1]
    return filled


def _pitch_levels(midi: np.ndarray) -> np.ndarray:
    """The piecewise constant pitch ``(T,)`` nearest to a voiced stretch ``(T,)``, a price paid for each change.

    Of all contours on a grid of a quarter of a semitone, the one with the least sum of absolute deviations (each 3
    semitones at most, so that a single wrong frame does not cut) and `_CHANGE_COST` per change: the best path by
    dynamic programming, exact.
    """
    grid = np.arange(np.floor(midi.min()), np.ceil(midi.max()) + _GRID_SEMITONES, _GRID_SEMITONES)
    cost = np.minimum(np.abs(midi[:, None] - grid), _CAP_SEMITONES)
    came_from = np.zeros(cost.shape, dtype=np.int64)
    total = cost[0]
    for frame in range(1, len(midi)):
        best = int(np.argmin(total))
        changed = total[best] + _CHANGE_COST < total
        came_from[frame] = np.where(changed, best, np.arange(len(grid)))
        total = np.where(changed, total[best] + _CHANGE_COST, total) + cost[frame]
    path = np.empty(len(midi), dtype=np.int64)
    path[-1] = int(np.argmin(total))
    for frame in range(len(midi) - 1, 0, -1):
        path[frame - 1] = came_from[frame, path[frame]]
    return grid[path]


def _parted_by_dips(level_db: np.ndarray, first: int, last: int) -> list[tuple[int, int]]:
    """``[first, last)`` cut at each minimum of the level that is `_DIP_DB` below what is loudest between it and the
    cuts next to it, on either side."""
    stretch = level_db[first:last]
    inside = np.arange(1, len(stretch) - 1)
    minima = inside[(stretch[inside] < stretch[inside - 1]) & (stretch[inside] <= stretch[inside + 1])]
    for place in minima[np.argsort(stretch[minima], kind="stable")]:
        if min(stretch[: place + 1].max(), stretch[place:].max()) - stretch[place] >= _DIP_DB:
            cut = first + int(place)
            return _parted_by_dips(level_db, first, cut) + _parted_by_dips(level_db, cut, last)
    return [(first, last)]


def _vowel_start(level_db: np.ndarray, first: int, last: int) -> int:
    """The first frame that is nearly as loud as the note gets; ``first`` if that is so late that the note swells."""
    loud = first + int(np.argmax(level_db[first:last] >= level_db[first:last].max() - _ATTACK_DB))
    return loud if (loud - first) / FRAME_RATE_HZ < _LONGEST_ATTACK_S else first


# -- the metrics ------------------------------------------------------------------------------------------------------

_PARAMETERS: Mapping[str, Any] = {
    **F0_PARAMETERS,
    "score": "score or score_midi where the item has such a file, else notes and note_durations_s, one note for the "
    "phonemes sung on it",
    "clock": f"the score's, later or earlier by a constant of at most {_LONGEST_DELAY_S} s with which most notes begin "
    "where they should; no warping",
    "pitch_levels": f"dynamic programming on a grid of {_GRID_SEMITONES} semitones, deviations of at most "
    f"{_CAP_SEMITONES:g} semitones, {_CHANGE_COST:g} semitone frames for each change",
    "gaps_bridged_s": _BRIDGED_GAP_S,
    "parted_by": f"dips of {_DIP_DB:g} dB in the level of 30 ms, smoothed by {_SMOOTHING_FRAMES:g} frames",
    "note_begins": f"within {_ATTACK_DB:g} dB of its loudest, if that is within {_LONGEST_ATTACK_S} s",
    "shortest_note_s": _SHORTEST_NOTE_S,
}


def _performed(sample: Sample) -> tuple[Notes, Notes]:
    """The score's notes, moved to where the judged voice as a whole sings them, and those that are heard."""

    def find() -> tuple[Notes, Notes]:
        meant, f0_hz = score_notes(sample.item), f0_of(sample, "judged")
        heard = heard_notes(f0_hz, frame_levels_db(waveform_of(sample, "judged"), sample.sample_rate, len(f0_hz)))
        return Notes(meant.intervals_s + best_delay_s(meant, heard), meant.pitches), heard

    return sample.once("score_notes", find)


@dataclass(frozen=True)
class ScoreNotes(Metric):
    """F1 of the notes' onsets, and of the notes, against the score (mir_eval).

    Attributes:
        sample_rate: Hz at which F0 is extracted.
        onset_tolerance_s: how early or late a note may begin.
    """

    sample_rate: int
    onset_tolerance_s: float = 0.05

    tasks = frozenset({"singing_voice_synthesis"})
    libraries = ("pyworld", "mir_eval")

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        parameters = {
            **_PARAMETERS,
            "sample_rate": self.sample_rate,
            "onset_tolerance_s": self.onset_tolerance_s,
            "offsets": "not compared",
        }
        onset_ms = f"{1000 * self.onset_tolerance_s:g} ms"
        both = (
            "A constant delay, timing within the tolerance, how notes end, words. The notes are transcribed by rules "
            "from F0 and level, so neither is 1 for a flawless voice: the row of the coded reference is the ceiling."
        )
        return (
            _card(
                "note_f1",
                "Note F1",
                f"F1 of the notes that begin within {onset_ms} of one in the score, on a pitch within 50 cents of it, "
                "matched one to one.",
                both,
                parameters | {"pitch_tolerance_cents": SEMITONE_TOLERANCE_CENTS},
                "mir_eval.transcription.precision_recall_f1_overlap",
            ),
            _card(
                "note_onset_f1",
                "Note onset F1",
                f"F1 of the notes that begin within {onset_ms} of one in the score, matched one to one.",
                f"Pitch. {both}",
                parameters,
                "mir_eval.transcription.onset_precision_recall_f1",
            ),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        from mir_eval import transcription

        meant, heard = _performed(sample.resampled(self.sample_rate))
        if not len(heard.pitches):
            # What was made is sound without a single note: all of the score's are missing.
            return {"note_f1": 0.0, "note_onset_f1": 0.0}
        # mir_eval takes no negative times, and a score may begin before the voice does.
        meant_s, heard_s = meant.intervals_s + _LONGEST_DELAY_S, heard.intervals_s + _LONGEST_DELAY_S
        *_, note_f1, _ = transcription.precision_recall_f1_overlap(
            meant_s,
            midi_to_hz(meant.pitches),
            heard_s,
            midi_to_hz(heard.pitches),
            onset_tolerance=self.onset_tolerance_s,
            pitch_tolerance=SEMITONE_TOLERANCE_CENTS,
            offset_ratio=None,
        )
        *_, onset_f1 = transcription.onset_precision_recall_f1(meant_s, heard_s, onset_tolerance=self.onset_tolerance_s)
        return {"note_f1": float(note_f1), "note_onset_f1": float(onset_f1)}


@dataclass(frozen=True)
class ScoreSemitoneAccuracy(Metric):
    """Share of what is sung during the score's notes that is on their pitch.

    Attributes:
        sample_rate: Hz at which F0 is extracted.
    """

    sample_rate: int

    tasks = frozenset({"singing_voice_synthesis"})
    libraries = ("pyworld",)

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            _card(
                "semitone_accuracy_score",
                "Semitone accuracy (score)",
                "Share of the voiced frames during the score's notes that are less than 50 cents away from the note of "
                "that moment.",
                "A constant delay, notes that are not sung at all (read it beside note_f1), and voice during rests. "
                "Slides between notes and vibrato beyond 50 cents count as wrong, as does the right note at the wrong "
                "time: the row of the coded reference is the ceiling.",
                {
                    **_PARAMETERS,
                    "sample_rate": self.sample_rate,
                    "tolerance_cents": SEMITONE_TOLERANCE_CENTS,
                },
                "unisono.evaluation.metrics.notes on pyworld.harvest",
            ),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float | NoValue]:
        sample = sample.resampled(self.sample_rate)
        meant, _ = _performed(sample)
        midi = hz_to_midi(f0_of(sample, "judged"))
        times_s = (np.arange(len(midi)) + 0.5) / FRAME_RATE_HZ
        note = np.searchsorted(meant.intervals_s[:, 0], times_s, side="right") - 1
        during = (note >= 0) & (times_s < meant.intervals_s[note, 1]) & (midi > 0)
        if not during.any():
            raise MetricFailure("nothing is voiced during the score's notes")
        off_cents = 100.0 * np.abs(midi[during] - meant.pitches[note[during]])
        return {"semitone_accuracy_score": float((off_cents < SEMITONE_TOLERANCE_CENTS).mean())}


def _card(
    name: str, title: str, definition: str, blind_to: str, parameters: dict[str, Any], implementation: str
) -> MetricCard:
    libraries = ("mir_eval",) if implementation.startswith("mir_eval") else ()
    return MetricCard(
        name=name,
        title=title,
        unit="",
        direction="higher",
        value_range="0 to 1",
        definition=definition,
        blind_to=blind_to,
        source="Raffel et al. 2014 (mir_eval); tolerances: Molina et al. 2014; F0: Harvest, Morise 2017",
        implementation=implementation,
        version=versions(*libraries, "pyworld-prebuilt"),
        parameters=parameters,
        decimals=3,
    )
