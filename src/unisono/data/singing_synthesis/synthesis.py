"""Speech made to sing: the WORLD vocoder imposes a melody on speech whose phonemes are known.

Of each nucleus (a sound that can carry a note) only the voiced core is kept, or breath would be stretched; its
edges keep their speed and its middle is stretched to the length of the note. Three steps, each of use alone:
``analyse`` the voice, ``plan_phrase`` what happens when, ``render`` it; ``sing`` does all three.

Shapes: S samples, T frames at ``FRAME_RATE_HZ``, K frequency bins. Frame k stands at ``k / FRAME_RATE_HZ``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from unisono.data.singing_synthesis.plan import PhrasePlan, Span, SyllableNotes, plan_phrase
from unisono.errors import UserError
from unisono.features.f0 import load_world, world_f0
from unisono.media import tolerances
from unisono.scores.pitch import midi_to_hz
from unisono.scores.score import ScoreNote
from unisono.timing import frames_covering, seconds_to_index, seconds_to_samples

FRAME_RATE_HZ = 200
F0_RATE_HZ = 100
"""Rate of the contour that comes with a phrase. Its values stand in the middle of their frames."""
_MIN_SPEECH_S = 0.1
_MIN_CORE_FRAMES = 4
_F0_FLOOR_HZ, _F0_CEILING_HZ = 71.0, 700.0
_SILENT_POWER = 1e-14
_BREATH_OF_NUCLEI = (0.02, 0.6)
"""Most aperiodicity of a sung nucleus at 0 Hz and at half the sample rate."""
_ATTACK_S, _RELEASE_S = 0.015, 0.06
"""In which a nucleus rises from a rest, and any sound dies away into one."""
_VIBRATO_RISE_S, _VIBRATO_FALL_S, _SHORTEST_WITH_VIBRATO_S = 0.25, 0.08, 0.35


@dataclass(frozen=True)
class Voice:
    """What WORLD finds in speech.

    Attributes:
        sample_rate: Hz.
        f0_hz: ``(T,)``, 0 where unvoiced.
        envelope: spectral power ``(T, K)``.
        aperiodicity: ``(T, K)``, 0 to 1.
    """

    sample_rate: int
    f0_hz: np.ndarray
    envelope: np.ndarray
    aperiodicity: np.ndarray


@dataclass(frozen=True)
class Style:
    """How notes are joined and held.

    Attributes:
        slide_s: a change of pitch takes so long and is over when the note starts.
        vibrato_semitones, vibrato_hz: depth to either side, and rate; notes under 0.35 s have none.
        vibrato_after_s: how long a note is plain first.
    """

    slide_s: float = 0.07
    vibrato_semitones: float = 0.3
    vibrato_hz: float = 5.5
    vibrato_after_s: float = 0.2


@dataclass(frozen=True)
class SungPhrase:
    """A sung phrase and all that is known about it.

    Attributes:
        waveform: float32 ``(S,)`` with the peak of the speech.
        sample_rate: Hz.
        phonemes: one per unit; a nucleus that goes on over a further note is one unit more.
        durations_s: seconds per unit, whole samples; they sum to the waveform's length.
        notes: MIDI number per unit, 0 for a rest; consonants have a note of their syllable.
        note_durations_s: seconds per unit that its note has in the score.
        slurs: 1 where the nucleus goes on over a further note, else 0.
        f0_hz: float32, ``F0_RATE_HZ`` values a second, as it was sung; 0 where unvoiced.
        score: the melody.
    """

    waveform: np.ndarray
    sample_rate: int
    phonemes: list[str]
    durations_s: list[float]
    notes: list[float]
    note_durations_s: list[float]
    slurs: list[int]
    f0_hz: np.ndarray
    score: tuple[ScoreNote, ...]


def sing(
    waveform: np.ndarray,
    sample_rate: int,
    phonemes: Sequence[str],
    durations_s: Sequence[float],
    melody: Sequence[SyllableNotes],
    *,
    start_s: float = 0.3,
    tail_s: float = 0.15,
    style: Style | None = None,
    robust_f0: bool = True,
    language: str = "en-us",
) -> SungPhrase:
    """Sing speech ``(S,)`` to a melody.

    Args:
        waveform, sample_rate, robust_f0: as ``analyse`` takes them.
        phonemes, durations_s, melody, start_s, tail_s, language: as ``plan_phrase`` takes them; the durations sum to
            the length of the speech within 0.05 s.
        style: how to sing; None for the default.

    Raises:
        UserError: what either refuses, or durations that do not fit the speech.
    """
    spoken_s = len(waveform) / sample_rate
    if abs(sum(durations_s) - spoken_s) > tolerances.LENGTH_S:
        raise UserError(
            f"the durations sum to {sum(durations_s):.3f} s, the speech lasts {spoken_s:.3f} s; align it anew"
        )
    plan = plan_phrase(phonemes, durations_s, melody, start_s=start_s, tail_s=tail_s, language=language)
    sung, f0_hz = render(analyse(waveform, sample_rate, robust_f0=robust_f0), plan, style or Style())
    sung *= np.abs(waveform).max() / np.abs(sung).max()
    units = plan.units()
    edges = [seconds_to_samples(unit.start_s, sample_rate) for unit in units] + [len(sung)]
    return SungPhrase(
        waveform=sung.astype(np.float32),
        sample_rate=sample_rate,
        phonemes=[unit.symbol for unit in units],
        durations_s=(np.diff(edges) / sample_rate).tolist(),
        notes=[unit.midi for unit in units],
        note_durations_s=[unit.note_duration_s for unit in units],
        slurs=[int(unit.slur) for unit in units],
        # Frames are 5 ms apart: every other one stands in the middle of 10 ms.
        f0_hz=f0_hz[1::2].astype(np.float32),
        score=plan.melody,
    )


def analyse(waveform: np.ndarray, sample_rate: int, *, robust_f0: bool = True) -> Voice:
    """Take speech ``(S,)`` apart into pitch, spectral envelope and aperiodicity.

    Args:
        waveform: mono speech.
        sample_rate: Hz.
        robust_f0: find the pitch by Harvest, for recordings; False takes DIO, some 15 times faster, for clean
            synthetic speech.

    Raises:
        UserError: a waveform that is not mono, under 0.1 s, silent or not finite; pyworld missing.
    """
    world = load_world()
    samples = np.ascontiguousarray(waveform, dtype=np.float64)
    if samples.ndim != 1 or len(samples) < _MIN_SPEECH_S * sample_rate:
        raise UserError(
            f"speech to be sung has the shape {samples.shape} at {sample_rate} Hz; "
            f"give mono of at least {_MIN_SPEECH_S} s"
        )
    if not np.isfinite(samples).all() or not samples.any():
        raise UserError("speech to be sung is silent or holds NaN or infinite samples; give speech")
    method = "harvest" if robust_f0 else "dio"
    f0_hz, times_s = world_f0(samples, sample_rate, FRAME_RATE_HZ, method, _F0_FLOOR_HZ, _F0_CEILING_HZ)
    envelope = world.cheaptrick(samples, f0_hz, times_s, sample_rate)
    return Voice(sample_rate, f0_hz, envelope, world.d4c(samples, f0_hz, times_s, sample_rate))


def render(voice: Voice, plan: PhrasePlan, style: Style) -> tuple[np.ndarray, np.ndarray]:
    """``(waveform (S,), f0_hz (T,))`` of the phrase, both float64; T is even, and S spans T frames."""
    frames = frames_covering(plan.duration_s, FRAME_RATE_HZ)
    frames += frames % 2
    time_s = np.arange(frames) / FRAME_RATE_HZ
    envelope = np.full((frames, voice.envelope.shape[1]), _SILENT_POWER)
    aperiodicity = np.ones_like(envelope)
    voiced = np.zeros(frames, bool)
    log_envelope = np.log(np.maximum(voice.envelope, _SILENT_POWER))
    most_breath = np.linspace(*_BREATH_OF_NUCLEI, envelope.shape[1])
    last = len(voice.f0_hz) - 1
    for span in plan.spans:
        here = np.flatnonzero((time_s >= span.start_s) & (time_s < span.end_s))
        if span.role == "rest" or not len(here):
            continue
        source = np.clip(_only_voiced(voice, span).source_s(time_s[here]) * FRAME_RATE_HZ, 0, last)
        left = source.astype(int)
        right, weight = np.minimum(left + 1, last), (source - left)[:, None]
        envelope[here] = np.exp((1 - weight) * log_envelope[left] + weight * log_envelope[right])
        breath = (1 - weight) * voice.aperiodicity[left] + weight * voice.aperiodicity[right]
        if span.role == "nucleus":
            breath = np.minimum(breath, most_breath)
        aperiodicity[here] = breath
        voiced[here] = (span.role == "nucleus") | (voice.f0_hz[left] > 0)
    envelope *= _loudness(plan, time_s)[:, None] ** 2
    midi = pitch_contour(plan.melody, style, time_s)
    f0_hz = np.where(voiced, midi_to_hz(midi), 0.0)
    sung = load_world().synthesize(f0_hz, envelope, aperiodicity, voice.sample_rate, 1000 / FRAME_RATE_HZ)
    samples = seconds_to_samples(frames / FRAME_RATE_HZ, voice.sample_rate)
    return np.pad(sung, (0, max(0, samples - len(sung))))[:samples], f0_hz


def _loudness(plan: PhrasePlan, time_s: np.ndarray) -> np.ndarray:
    """Factor on the amplitude at ``time_s`` ``(T,)``, so that stretched sounds neither start nor stop at once."""
    loudness = np.ones(len(time_s))
    for before, after in pairwise(plan.spans):
        if after.role == "rest":
            fall = np.clip((before.end_s - time_s) / _RELEASE_S, 0.01, 1)
            loudness = np.where((time_s >= before.start_s) & (time_s < before.end_s), loudness * fall, loudness)
        elif before.role == "rest" and after.role == "nucleus":
            rise = np.clip((time_s - after.start_s) / _ATTACK_S, 0.01, 1)
            loudness = np.where((time_s >= after.start_s) & (time_s < after.end_s), loudness * rise, loudness)
    return loudness


def pitch_contour(notes: Sequence[ScoreNote], style: Style, time_s: np.ndarray) -> np.ndarray:
    """MIDI pitch at ``time_s`` ``(T,)``: notes held through rests, joined by slides, with vibrato if they are long."""
    pitch = np.full(len(time_s), float(notes[0].pitch))
    before = notes[0].pitch
    for note in notes:
        blend = (
            np.clip((time_s - note.start_s) / style.slide_s + 1, 0, 1) if style.slide_s > 0 else time_s >= note.start_s
        )
        pitch += (note.pitch - before) * (0.5 - 0.5 * np.cos(np.pi * blend))
        before = note.pitch
        if note.duration_s >= _SHORTEST_WITH_VIBRATO_S:
            since_s = time_s - note.start_s - style.vibrato_after_s
            rise = np.clip(since_s / _VIBRATO_RISE_S, 0, 1)
            fall = np.clip((note.end_s - time_s) / _VIBRATO_FALL_S, 0, 1)
            pitch += style.vibrato_semitones * rise * fall * np.sin(2 * np.pi * style.vibrato_hz * since_s)
    return pitch


def _only_voiced(voice: Voice, span: Span) -> Span:
    """A nucleus with its longest voiced stretch as its source; as it is where that is too short to be of use."""
    if span.role != "nucleus":
        return span
    first = seconds_to_index(span.source_start_s, FRAME_RATE_HZ)
    voiced = voice.f0_hz[first : seconds_to_index(span.source_end_s, FRAME_RATE_HZ)] > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], voiced, [False]]).astype(int)))
    runs = edges.reshape(-1, 2)
    lengths = runs[:, 1] - runs[:, 0]
    if not len(runs) or lengths.max() < _MIN_CORE_FRAMES:
        return span
    begin, end = (first + runs[np.argmax(lengths)]) / FRAME_RATE_HZ
    return replace(span, source_start_s=max(span.source_start_s, begin), source_end_s=min(span.source_end_s, end))
