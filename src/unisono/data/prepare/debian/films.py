"""Drawn films whose strikes sound with real recordings: video to audio with event times that are known exactly.

The pictures are those of the mini corpus (``unisono.data.mini.actors``); what strikes sounds like a drum, a footstep, a
cymbal … that somebody recorded. ``tables/films.json`` says which recording fits which actor, and at what size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unisono.data.mini.actors import ACTORS, COLOURS
from unisono.data.mini.captions import NUMBERS, TIMES
from unisono.data.mini.films import (
    AFTER_LAST_S,
    FIRST_S,
    FRAME_RATE_HZ,
    INTERVAL_S,
    LONGEST_S,
    MAX_STRIKES,
    SHORTEST_S,
    Part,
    draw_frames,
    write_video,
)
from unisono.data.prepare.debian.effects import EffectJob
from unisono.data.prepare.debian.manifests import audio_line, job_rng, write_manifests
from unisono.data.prepare.debian.tables import first_match, load_table
from unisono.data.prepare.jobs import Record
from unisono.data.prepare.splits import SPLITS, hash_splits
from unisono.media.audio import read_audio, write_audio
from unisono.timing import seconds_to_samples

SAMPLE_RATE = 24_000
FILMS = {"train": 120, "val": 12, "test": 12}
HELD_OUT = ("test", "val")
LICENSES = ("CC0-1.0", "CC-BY-3.0", "CC-BY-SA-3.0")
"""From the freest: what is made of several recordings carries the last of their licences."""

_TOGETHER_SHARE = 0.3
_LONGEST_SOUND_S, _SOUND_FADE_S, _FILM_FADE_S = 1.5, 0.3, 0.1
_ONSET_WINDOW_S, _ONSET_LEVEL = 0.002, 0.2
_GAIN, _PEAK = (0.7, 1.0), 0.9


@dataclass(frozen=True)
class FilmSound:
    """What an actor can sound like: takes of one sound, that is, recordings with one caption."""

    actor: str
    size: str
    caption: str
    takes: tuple[EffectJob, ...]


@dataclass(frozen=True)
class FilmJob:
    """One film; ``sounds`` are those that its split may use."""

    job_id: str
    folder: Path
    sounds: tuple[FilmSound, ...]
    seed: int


def film_sounds(effects: Sequence[EffectJob], effect_splits: Mapping[str, str]) -> dict[str, list[FilmSound]]:
    """The sounds of each split; no caption, and so no recording, is in two.

    What is held out as a sound effect is held out here; of the others of an actor some are held out by hash if it has
    enough.
    """
    found: dict[str, list[FilmSound]] = {split: [] for split in SPLITS}
    for actor, table in load_table("films").items():
        takes: dict[tuple[str, str], list[EffectJob]] = {}
        for effect in effects:
            size = first_match(table, f"{effect.package}/{effect.name}")
            if size is not None:
                takes.setdefault((effect.caption, size), []).append(effect)
        given = {caption: effect_splits[jobs[0].job_id] for (caption, _), jobs in takes.items()}
        drawn = hash_splits(
            (caption for caption, split in given.items() if split == "train"),
            [split for split in HELD_OUT if split not in given.values()],
        )
        for (caption, size), jobs in takes.items():
            found[drawn.get(caption, given[caption])].append(FilmSound(actor, size, caption, tuple(jobs)))
    return found


def film_jobs(sounds: Mapping[str, Sequence[FilmSound]], folder: Path, seed: int) -> list[FilmJob]:
    """As many films as ``FILMS`` says; none of a split that has no sound."""
    return [
        FilmJob(f"film_{split}_{number:03d}", folder, tuple(sounds[split]), seed)
        for split, count in FILMS.items()
        if sounds[split]
        for number in range(count)
    ]


def prepare_film(job: FilmJob) -> Record:
    """Draw a film from ``(seed, job_id)``, write its sound and its pictures. The video file has no sound track."""
    rng = job_rng(job.seed, job.job_id)
    parts, sounds = _draw_cast(rng, job.sounds)
    while True:
        times_s = [ACTORS[part.actor].draw_times(rng, part.strikes, FIRST_S, INTERVAL_S) for part in parts]
        end_s = max(strikes[-1] for strikes in times_s) + AFTER_LAST_S
        if end_s <= LONGEST_S:
            break
    frames = int(rng.uniform(max(end_s, SHORTEST_S), LONGEST_S) * FRAME_RATE_HZ)
    events: list[Record] = [
        {
            "kind": ACTORS[part.actor].kind,
            "start_s": time_s,
            "sound": sound.caption,
            "recording": sound.takes[int(rng.integers(len(sound.takes)))].job_id,
        }
        for part, sound, strikes in zip(parts, sounds, times_s, strict=True)
        for time_s in strikes
    ]
    events.sort(key=lambda event: event["start_s"])
    takes = {take.job_id: take for sound in sounds for take in sound.takes}
    waveform = mix_strikes(
        rng, [(event["start_s"], takes[event["recording"]]) for event in events], frames / FRAME_RATE_HZ
    )
    write_audio(job.folder / "audio" / f"{job.job_id}.flac", waveform, SAMPLE_RATE)
    write_video(job.folder / "video" / f"{job.job_id}.mp4", draw_frames(rng, parts, times_s, frames), FRAME_RATE_HZ)
    used = [takes[event["recording"]] for event in events]
    return {
        "caption": film_caption(parts, sounds),
        "events": events,
        "duration_s": len(waveform) / SAMPLE_RATE,
        "license": max((take.license for take in used), key=LICENSES.index),
        "source": sorted({take.package for take in used}),
    }


def _draw_cast(rng: np.random.Generator, sounds: Sequence[FilmSound]) -> tuple[list[Part], list[FilmSound]]:
    """One actor, or two different ones in different colours; every actor is as likely, then each of its sounds."""
    actors = sorted({sound.actor for sound in sounds})
    count = 2 if len(actors) > 1 and rng.random() < _TOGETHER_SHARE else 1
    parts, chosen = [], []
    for actor, colour in zip(rng.permutation(actors)[:count], rng.permutation(list(COLOURS))[:count], strict=True):
        fit = [sound for sound in sounds if sound.actor == actor]
        sound = fit[int(rng.integers(len(fit)))]
        parts.append(Part(str(actor), str(colour), sound.size, int(rng.integers(1, MAX_STRIKES + 1))))
        chosen.append(sound)
    return parts, chosen


def film_caption(parts: Sequence[Part], sounds: Sequence[FilmSound]) -> str:
    """What is seen, and what each of it sounds like."""
    clauses = [_clause(part, sound) for part, sound in zip(parts, sounds, strict=True)]
    return clauses[0] if len(clauses) == 1 else "on the left {}, on the right {}".format(*clauses)


def _clause(part: Part, sound: FilmSound) -> str:
    actor = ACTORS[part.actor]
    several = actor.several if part.strikes > 1 else ""
    seen = (several or actor.clause).format(
        colour=part.colour, size=f"{part.size} " if part.size else "", number=NUMBERS.get(part.strikes, "")
    )
    times = "" if actor.several else f" {TIMES[part.strikes]}"
    return f"{seen}{times} with the sound of {sound.caption}"


def mix_strikes(rng: np.random.Generator, strikes: Sequence[tuple[float, EffectJob]], duration_s: float) -> np.ndarray:
    """float32 ``(S,)``: every recording starts to sound at its time; what its onset needs before that is kept."""
    waveform = np.zeros(seconds_to_samples(duration_s, SAMPLE_RATE), np.float32)
    for time_s, take in strikes:
        sound = read_audio(take.audio_folder / f"{take.job_id}.flac", SAMPLE_RATE)
        onset = onset_sample(sound)
        longest = onset + seconds_to_samples(_LONGEST_SOUND_S, SAMPLE_RATE)
        if len(sound) > longest:
            sound = _faded(sound[:longest], _SOUND_FADE_S)
        start = seconds_to_samples(time_s, SAMPLE_RATE) - onset
        sound, start = sound[max(0, -start) :], max(0, start)
        sound = sound[: len(waveform) - start]
        waveform[start : start + len(sound)] += sound * np.float32(rng.uniform(*_GAIN))
    waveform = _faded(waveform, _FILM_FADE_S)
    return waveform * np.float32(_PEAK / np.abs(waveform).max())


def onset_sample(waveform: np.ndarray) -> int:
    """Where a recording of one sound starts: its level over 2 ms first reaches a fifth of its highest."""
    window = seconds_to_samples(_ONSET_WINDOW_S, SAMPLE_RATE)
    power = np.convolve(waveform.astype(np.float64) ** 2, np.ones(window), "same")
    return int(np.argmax(power >= _ONSET_LEVEL**2 * power.max()))


def _faded(waveform: np.ndarray, fade_s: float) -> np.ndarray:
    fade = seconds_to_samples(fade_s, SAMPLE_RATE)
    faded = waveform.copy()
    faded[-fade:] *= (0.5 + 0.5 * np.cos(np.pi * np.arange(1, fade + 1) / fade)).astype(np.float32)
    return faded


def write_films(folder: Path, jobs: Sequence[FilmJob], records: Sequence[Record]) -> None:
    """Write the manifests."""
    content, audio, splits = [], [], {}
    for job, record in zip(jobs, records, strict=True):
        splits[job.job_id] = job.job_id.split("_")[1]
        content.append(
            {
                "audio_id": job.job_id,
                "video": f"../video/{job.job_id}.mp4",
                "caption": record["caption"],
                "events": record["events"],
                "license": record["license"],
                "source": record["source"],
            }
        )
        audio.append(audio_line(job.job_id, "../audio", record["duration_s"], record["license"]))
    write_manifests(folder, splits, content, audio)
