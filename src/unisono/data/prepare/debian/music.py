"""Real music: the pieces of asterisk-moh-opsound-g722 (16 kHz), and loops and instruments among the sound effects.

The pieces' captions name title and artist, the others are those of the sound effects, with the tempo where it is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from unisono.data.prepare.debian.effects import TARGET_SAMPLE_RATE, EffectJob, trim_ends
from unisono.data.prepare.debian.manifests import audio_line, write_manifests
from unisono.data.prepare.debian.speech import decode_g722
from unisono.data.prepare.debian.tables import first_match, load_table
from unisono.data.prepare.jobs import Record
from unisono.data.prepare.splits import hash_splits
from unisono.errors import UserError
from unisono.media.audio import write_audio

MUSIC_PACKAGE = "asterisk-moh-opsound-g722"
LICENSE = "CC-BY-SA-3.0"
LONGEST_S = 8.0
"""Longer recordings are cut into equal parts of at most so much."""
LOOPED_S = 4.0
"""Loops shorter than this are repeated until they reach it."""

_PIECES = "usr/share/asterisk/moh"
_G722_RATE = 16_000
_CUT_FADE_S = 0.02
_PEAK = 0.9
_SILENT_PEAK = 1e-3


@dataclass(frozen=True)
class MusicJob(EffectJob):
    """One recording of music.

    Attributes:
        job_id: what its clips are called; parts have a number behind it.
        package, name, path, caption, license, credit: as of ``EffectJob``.
        audio_folder: where its clips go.
        is_piece: a raw G.722 file; its first and last part are called so in their captions.
        loop: made to be repeated.
        beats: how many beats it has, 0 if unknown.
    """

    is_piece: bool = False
    loop: bool = False
    beats: int = 0


def piece_jobs(root: Path, audio_folder: Path) -> tuple[list[MusicJob], list[Record]]:
    """Jobs for the pieces of the package, and what the table does not know."""
    captions = load_table("music")["pieces"]
    jobs: list[MusicJob] = []
    left_out: list[Record] = []
    for path in sorted((root / _PIECES).glob("*.g722")):
        caption = captions.get(path.stem)
        if caption is None:
            left_out.append(_left_out(MUSIC_PACKAGE, path.stem, "not in the table of pieces"))
            continue
        job_id = f"moh_{path.stem}"
        jobs.append(MusicJob(job_id, MUSIC_PACKAGE, path.stem, path, caption, LICENSE, "", audio_folder, is_piece=True))
    if not jobs:
        raise UserError(
            f"{root / _PIECES} holds no piece of the table; this version of {MUSIC_PACKAGE} is not supported"
        )
    return jobs, left_out


def effect_music_jobs(effects: Sequence[EffectJob], audio_folder: Path) -> list[MusicJob]:
    """Jobs for the sound effects that are music, from their original files."""
    table = load_table("music")["recordings"]
    jobs = []
    for effect in effects:
        facts = first_match(table, f"{effect.package}/{effect.name}")
        if facts is not None:
            labels = (effect.caption, effect.license, effect.credit)
            jobs.append(
                MusicJob(effect.job_id, effect.package, effect.name, effect.path, *labels, audio_folder, **facts)
            )
    return jobs


def prepare_music(job: MusicJob) -> Record:
    """Read, normalise, repeat or cut, write. The record lists the ``clips``, or has the ``reason`` to leave it out."""
    if job.is_piece:
        waveform, native_rate = decode_g722(job.path).astype(np.float32) / 32768, _G722_RATE
    else:
        try:
            data, native_rate = sf.read(str(job.path), dtype="float32", always_2d=True)
        except sf.LibsndfileError as error:
            return {"reason": f"not readable ({error.error_string})"}
        waveform = data.mean(axis=1)
    # Some old instrument samples lie far off zero.
    waveform = waveform - waveform.mean() if len(waveform) else waveform
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak < _SILENT_PEAK:
        return {"reason": "silent"}
    # The whole, not each part: a quiet passage stays quiet.
    waveform = waveform * (_PEAK / peak)
    # A loop has its rhythm from its exact length.
    waveform = waveform if job.loop else trim_ends(waveform, native_rate)
    tempo_bpm = round(60 * job.beats * native_rate / len(waveform), 1) if job.beats else None
    repeats = -(-round(LOOPED_S * native_rate) // len(waveform)) if job.loop else 1
    caption = f"{job.caption}, {tempo_bpm:.0f} bpm" if tempo_bpm else job.caption
    parts = cut_evenly(np.tile(waveform, repeats), native_rate)
    clips: list[Record] = []
    for number, part in enumerate(parts, 1):
        if np.abs(part).max() < _SILENT_PEAK:
            continue
        audio_id = job.job_id if len(parts) == 1 else f"{job.job_id}_{number:02d}"
        part = soxr.resample(part, native_rate, TARGET_SAMPLE_RATE)
        write_audio(job.audio_folder / f"{audio_id}.flac", part, TARGET_SAMPLE_RATE)
        place = _place(number, len(parts)) if job.is_piece else ""
        clips.append(
            {
                "audio_id": audio_id,
                "caption": f"{place}{caption}",
                "duration_s": len(part) / TARGET_SAMPLE_RATE,
            }
        )
    return {"clips": clips, "tempo_bpm": tempo_bpm, "repeats": repeats, "native_sample_rate": native_rate}


def cut_evenly(waveform: np.ndarray, sample_rate: int) -> list[np.ndarray]:
    """Equal parts of at most ``LONGEST_S``, with short fades where music is cut."""
    count = -(-len(waveform) // round(LONGEST_S * sample_rate))
    edges = np.linspace(0, len(waveform), count + 1).round().astype(int)
    parts = [waveform[left:right].copy() for left, right in pairwise(edges)]
    fade = round(_CUT_FADE_S * sample_rate)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    for before, after in pairwise(parts):
        before[-fade:] *= ramp[::-1]
        after[:fade] *= ramp
    return parts


def _place(number: int, parts: int) -> str:
    if number == 1:
        return "the beginning of "
    return "the end of " if number == parts else "a part of "


def write_music(
    folder: Path, jobs: Sequence[MusicJob], records: Sequence[Record], effect_splits: Mapping[str, str]
) -> list[Record]:
    """Write the manifests; returns what is left out.

    What is a sound effect too keeps its split; the parts of a piece share one.
    """
    piece_splits = hash_splits(job.job_id for job in jobs if job.is_piece)
    content, audio, splits, left_out = [], [], {}, []
    for job, record in zip(jobs, records, strict=True):
        if "reason" in record:
            left_out.append(_left_out(job.package, job.name, record["reason"]))
            continue
        for clip in record["clips"]:
            audio_id = clip["audio_id"]
            splits[audio_id] = piece_splits[job.job_id] if job.is_piece else effect_splits[job.job_id]
            labels = {"license": job.license, "source": job.package}
            tempo = {"tempo_bpm": record["tempo_bpm"]} if record["tempo_bpm"] else {}
            content.append({"audio_id": audio_id, "caption": clip["caption"], **tempo, **labels})
            line = audio_line(audio_id, "../audio", clip["duration_s"], job.license)
            line |= {"native_sample_rate": record["native_sample_rate"], "repeats": record["repeats"]}
            audio.append({**line, "credit": job.credit.strip()} if job.credit else line)
    write_manifests(folder, splits, content, audio)
    return left_out


def _left_out(package: str, name: str, reason: str) -> Record:
    return {"task": "text_to_music", "source": package, "file": name, "reason": reason}
