"""The voice prompts made to sing: the vocoder WORLD imposes seeded melodies on real, phoneme-aligned speech.

It is the voice of the prompts and the words of the prompts, but nobody sang: melody, rhythm and vibrato are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from unisono.data.mini.notes import TICKS_PER_EIGHTH, Tempo, draw_key, semitones
from unisono.data.prepare.debian.manifests import audio_line, job_rng, write_manifests
from unisono.data.prepare.debian.speech import LICENSE, SOUND_PACKAGE, SPEAKER
from unisono.data.prepare.jobs import Record
from unisono.data.prepare.splits import hash_order
from unisono.data.singing_synthesis.plan import SyllableNotes
from unisono.data.singing_synthesis.synthesis import F0_RATE_HZ, Style, sing
from unisono.files import write_array
from unisono.media.audio import read_audio, write_audio
from unisono.scores.syllables import is_nucleus, split_syllables
from unisono.text.phonemes import SILENCE

SAMPLE_RATE = 24_000
MAX_PHRASES = 300
SYLLABLES = (3, 14)
LONGEST_SPEECH_S = 4.0
BPM = (84, 108)
LOWEST_TONIC = 55
"""MIDI number from which the tonic is chosen: the voice speaks at about G3."""
HOW_MADE = "speech that the vocoder WORLD was made to sing; nobody sang it"

_LOWEST_DEGREE, _HIGHEST_DEGREE = -2, 6
_STEPS, _STEP_SHARES = (-2, -1, 0, 1, 2), (0.12, 0.3, 0.16, 0.3, 0.12)
_TRIAD = (0, 2, 4)
_SLUR_SHARE = 0.15
_SHORTEST_PAUSE_S = 0.08


@dataclass(frozen=True)
class SungJob:
    """One utterance to be sung."""

    job_id: str
    clean: Path
    phonemes: tuple[str, ...]
    durations_s: tuple[float, ...]
    audio_folder: Path
    f0_folder: Path
    seed: int


def sung_jobs(
    utterances: Sequence[Record],
    splits: Mapping[str, str],
    speech: Path,
    audio_folder: Path,
    f0_folder: Path,
    seed: int,
) -> list[SungJob]:
    """Jobs for at most ``MAX_PHRASES`` short utterances, the held-out ones first; ``speech`` holds the recordings."""
    fit = {u["audio_id"]: u for u in utterances if _is_short(u)}
    held_out = [audio_id for audio_id in fit if splits[audio_id] != "train"]
    # Which ones are sung does not depend on the seed.
    trained = hash_order((audio_id for audio_id in fit if splits[audio_id] == "train"), seed=0)
    return [
        SungJob(
            job_id=f"{audio_id}_sung",
            clean=speech / f"{audio_id}.flac",
            phonemes=tuple(fit[audio_id]["phonemes"]),
            durations_s=tuple(fit[audio_id]["durations_s"]),
            audio_folder=audio_folder,
            f0_folder=f0_folder,
            seed=seed,
        )
        for audio_id in sorted([*held_out, *trained][:MAX_PHRASES])
    ]


def _is_short(utterance: Record) -> bool:
    syllables = sum(map(is_nucleus, utterance["phonemes"]))
    return SYLLABLES[0] <= syllables <= SYLLABLES[1] and utterance["duration_s"] <= LONGEST_SPEECH_S


def prepare_sung(job: SungJob) -> Record:
    """Draw a tune from ``(seed, job_id)``, sing it, write the recording and its F0 contour."""
    rng = job_rng(job.seed, job.job_id)
    key = draw_key(rng, str(rng.choice(["major", "minor"])))
    tempo = Tempo.from_bpm(int(rng.integers(BPM[0], BPM[1] + 1)))
    tonic, eighth_s = key.tonic_from(LOWEST_TONIC), tempo.seconds(TICKS_PER_EIGHTH)
    tune = draw_tune(rng, pauses_after(job.phonemes, job.durations_s))
    melody = [
        SyllableNotes(
            tuple(tonic + semitones(key.mode, degree) for degree in sung.degrees),
            tuple(eighths * eighth_s for eighths in sung.eighths),
            sung.rest_eighths * eighth_s,
        )
        for sung in tune
    ]
    style = Style(vibrato_semitones=float(rng.uniform(0.15, 0.4)), vibrato_hz=float(rng.uniform(5.0, 6.0)))
    speech = read_audio(job.clean, SAMPLE_RATE)
    phrase = sing(speech, SAMPLE_RATE, job.phonemes, job.durations_s, melody, style=style)
    write_audio(job.audio_folder / f"{job.job_id}.flac", phrase.waveform, SAMPLE_RATE)
    write_array(job.f0_folder / f"{job.job_id}.npy", phrase.f0_hz)
    return {
        "phonemes": phrase.phonemes,
        "durations_s": [round(duration_s, 6) for duration_s in phrase.durations_s],
        "notes": [int(midi) for midi in phrase.notes],
        "note_durations_s": [round(duration_s, 6) for duration_s in phrase.note_durations_s],
        "slurs": phrase.slurs,
        "key": key.name,
        "tempo_bpm": round(tempo.bpm, 2),
        "duration_s": len(phrase.waveform) / SAMPLE_RATE,
    }


@dataclass(frozen=True)
class TuneSyllable:
    """Degrees of the scale (0 is the tonic) that a syllable is sung on, their lengths, and the rest after them."""

    degrees: tuple[int, ...]
    eighths: tuple[int, ...]
    rest_eighths: int


def pauses_after(phonemes: Sequence[str], durations_s: Sequence[float]) -> list[bool]:
    """For every syllable whether the speaker pauses between it and the next; False for the last."""
    nuclei = [syllable.nucleus for syllable in split_syllables(phonemes)]
    silence = [
        symbol == SILENCE and duration_s >= _SHORTEST_PAUSE_S
        for symbol, duration_s in zip(phonemes, durations_s, strict=True)
    ]
    return [any(silence[left:right]) for left, right in pairwise(nuclei)] + [False]


def draw_tune(rng: np.random.Generator, pauses: Sequence[bool]) -> list[TuneSyllable]:
    """A tune for as many syllables as ``pauses`` has entries: small steps from a note of the triad, down to the tonic.

    Syllables before a pause, and the last, are long; now and then a long one has a second, slurred note.
    """
    degrees = [int(rng.choice(_TRIAD))]
    while len(degrees) < len(pauses):
        step = int(rng.choice(_STEPS, p=_STEP_SHARES))
        inside = _LOWEST_DEGREE <= degrees[-1] + step <= _HIGHEST_DEGREE
        degrees.append(degrees[-1] + (step if inside else -step))
    degrees[-1] = 0
    if len(degrees) > 2:
        degrees[-2] = int(rng.choice((-1, 1)))
    tune = []
    for index, (degree, pause) in enumerate(zip(degrees, pauses, strict=True)):
        last = index == len(degrees) - 1
        eighths = int(rng.integers(3, 5)) if pause or last else int(rng.choice((1, 2, 3), p=(0.5, 0.4, 0.1)))
        if eighths >= 2 and not last and rng.random() < _SLUR_SHARE:
            tune.append(TuneSyllable((degree, degree + int(rng.choice((-1, 1)))), (1, eighths - 1), int(pause)))
        else:
            tune.append(TuneSyllable((degree,), (eighths,), int(pause)))
    return tune


def write_sung(
    out: Path,
    jobs: Sequence[SungJob],
    records: Sequence[Record],
    utterances: Sequence[Record],
    speech_splits: Mapping[str, str],
) -> None:
    """Write the manifests of both singing tasks; phrases keep the split of the speech that they are made of."""
    texts = {utterance["audio_id"]: utterance["text"] for utterance in utterances}
    svs: tuple[list[Record], list[Record]] = ([], [])
    sam: tuple[list[Record], list[Record]] = ([], [])
    svs_splits, sam_splits = {}, {}
    for job, record in zip(jobs, records, strict=True):
        spoken_id, contour_id = job.clean.stem, f"{job.clean.stem}_contour"
        labels: dict[str, Any] = {
            "speaker": SPEAKER,
            "text": texts[spoken_id],
            "made": HOW_MADE,
            "license": LICENSE,
            "source": SOUND_PACKAGE,
        }
        units = {name: record[name] for name in ("phonemes", "durations_s")}
        score = {name: record[name] for name in ("notes", "note_durations_s", "slurs", "key", "tempo_bpm")}
        svs[0].append({"audio_id": job.job_id, **units, **score, **labels})
        svs[1].append(audio_line(job.job_id, "../audio", record["duration_s"], LICENSE))
        contour = {"f0_hz": f"../f0/{job.job_id}.npy", "f0_rate_hz": F0_RATE_HZ}
        sam[0].append({"audio_id": contour_id, **units, **contour, **labels})
        line = audio_line(job.job_id, "../../singing_voice_synthesis/audio", record["duration_s"], LICENSE)
        sam[1].append({**line, "audio_id": contour_id})
        svs_splits[job.job_id] = sam_splits[contour_id] = speech_splits[spoken_id]
    write_manifests(out / "singing_voice_synthesis", svs_splits, *svs)
    write_manifests(out / "singing_acoustic_modeling", sam_splits, *sam)
