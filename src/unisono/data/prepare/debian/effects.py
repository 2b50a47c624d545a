"""Captioned sound effects from packages whose recordings are under Creative Commons licences.

The captions come from the tables beside this file; they say what the names of the files and the packages' own
descriptions say, and nothing that would have to be guessed.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import soxr

from unisono.data.prepare.debian.tables import first_match, load_table
from unisono.data.prepare.jobs import Record
from unisono.data.prepare.splits import fill_splits, tied_groups
from unisono.errors import UserError
from unisono.media.audio import write_audio

EFFECT_PACKAGES = ("sonic-pi-samples", "scratch", "minetest-data", "openttd-opensfx")
OPENSFX = "openttd-opensfx"
TARGET_SAMPLE_RATE = 24_000
LONGEST_S, FADE_S, SHORTEST_S = 8.0, 0.25, 0.25
# One caption may not fill the test set: groups with more clips train.
MAX_HELD_OUT_GROUP = 4

_SILENT_PEAK = 1e-3
_TRIM_BELOW_DB = 50.0
_PEAK = 0.9
_AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".mp3")


@dataclass(frozen=True)
class EffectJob:
    """One recording and its caption."""

    job_id: str
    package: str
    name: str
    path: Path
    caption: str
    license: str
    credit: str
    audio_folder: Path


def effect_jobs(package: str, root: Path, audio_folder: Path) -> tuple[list[EffectJob], list[Record]]:
    """Jobs for the recordings of a package that have a caption, and what is left out."""
    table = load_table(package)
    folder = root / table["folder"]
    jobs: list[EffectJob] = []
    left_out: list[Record] = []
    for name, path in package_recordings(folder):
        reason = first_match(table["left_out"], name)
        caption = first_match(table["captions"], name)
        if reason or not caption:
            left_out.append(_left_out(package, name, reason or "not in the table of captions"))
            continue
        credit = path.with_suffix(".txt").read_text(encoding="utf-8") if package == OPENSFX else ""
        license_name = license_in_credit(credit) or first_match(table.get("licenses", {}), name) or table["license"]
        jobs.append(
            EffectJob(_audio_id(package, name), package, name, path, caption, license_name, credit, audio_folder)
        )
    if not jobs:
        raise UserError(f"{folder} holds no recording of the table; this version of {package} is not supported")
    return jobs, left_out


def package_recordings(folder: Path) -> Iterator[tuple[str, Path]]:
    """``(name, path)`` of the audio files below a folder; the name is the path without suffix."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _AUDIO_SUFFIXES and path.is_file():
            yield path.relative_to(folder).as_posix().removesuffix(path.suffix), path


def unpack_opensfx(root: Path) -> None:
    """Write the sounds within ``opensfx.cat`` beside it, each as wav with its description as txt.

    A cat file begins with a table of (offset, length), 8 bytes a sound, lowest 31 bits of the offset; at an offset
    are a byte with the length of the name, the name, then the sound as a wav file.
    """
    cat = root / load_table(OPENSFX)["folder"] / "opensfx.cat"
    if not cat.is_file():
        raise UserError(f"{cat} is missing; this version of {OPENSFX} is not supported")
    data = cat.read_bytes()
    count = (struct.unpack_from("<I", data)[0] & 0x7FFFFFFF) // 8
    for index in range(count):
        offset, length = struct.unpack_from("<II", data, index * 8)
        offset &= 0x7FFFFFFF
        name_end = offset + 1 + data[offset]
        description = data[offset + 1 : name_end].rstrip(b"\0").decode("latin-1")
        stem = cat.with_name(f"opensfx_{index:02d}")
        stem.with_suffix(".txt").write_text(description + "\n", encoding="utf-8")
        stem.with_suffix(".wav").write_bytes(data[name_end : name_end + length])


def license_in_credit(credit: str) -> str:
    """The SPDX name of the licence that a description of OpenSFX ends with; empty if it names none."""
    if "Creative Commons Zero" in credit:
        return "CC0-1.0"
    match = re.search(r"Creative Commons Attribution(-ShareAlike)? (\d\.\d)", credit)
    if match is None:
        return ""
    return f"CC-BY-SA-{match[2]}" if match[1] else f"CC-BY-{match[2]}"


def prepare_effect(job: EffectJob) -> Record:
    """Read, trim, cut or pad, normalise, write. The record says how long it is, or the ``reason`` to leave it out."""
    try:
        data, native_rate = sf.read(str(job.path), dtype="float32", always_2d=True)
    except sf.LibsndfileError as error:
        return {"reason": f"not readable ({error.error_string})"}
    waveform = data.mean(axis=1)
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak < _SILENT_PEAK:
        return {"reason": "silent"}
    waveform = trim_ends(waveform, native_rate)
    longest, shortest = int(LONGEST_S * native_rate), int(SHORTEST_S * native_rate)
    if len(waveform) > longest:
        waveform = waveform[:longest].copy()
        fade = int(FADE_S * native_rate)
        waveform[-fade:] *= 0.5 + 0.5 * np.cos(np.pi * np.arange(fade) / fade)
    # A click of a few milliseconds would be less than a latent frame or two: silence follows it.
    waveform = np.pad(waveform, (0, max(0, shortest - len(waveform))))
    waveform = waveform * (_PEAK / np.abs(waveform).max())
    # Eight bits of the sound: copies that were encoded anew still differ, copies at another level do not.
    digest = hashlib.sha256(np.round(waveform * 100).astype(np.int8).tobytes()).hexdigest()
    if native_rate != TARGET_SAMPLE_RATE:
        waveform = soxr.resample(waveform, native_rate, TARGET_SAMPLE_RATE)
    write_audio(job.audio_folder / f"{job.job_id}.flac", waveform, TARGET_SAMPLE_RATE)
    return {
        "duration_s": len(waveform) / TARGET_SAMPLE_RATE,
        "native_sample_rate": native_rate,
        "digest": digest,
    }


def trim_ends(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """``(S,)``, not silent, without what is 50 dB below its peak at its ends, but for 10 ms before and 50 ms after."""
    loud = np.flatnonzero(np.abs(waveform) > float(np.abs(waveform).max()) * 10 ** (-_TRIM_BELOW_DB / 20))
    return waveform[max(0, loud[0] - sample_rate // 100) : loud[-1] + sample_rate // 20]


def drop_copies(jobs: list[EffectJob], records: list[Record]) -> tuple[list[tuple[EffectJob, Record]], list[Record]]:
    """Keep the first of equal sounds; the files of the others are removed."""
    first: dict[str, str] = {}
    kept: list[tuple[EffectJob, Record]] = []
    left_out: list[Record] = []
    for job, record in zip(jobs, records, strict=True):
        reason = record.get("reason")
        if reason is None:
            original = first.setdefault(record["digest"], job.job_id)
            if original == job.job_id:
                kept.append((job, record))
                continue
            reason = f"the same sound as {original}"
            (job.audio_folder / f"{job.job_id}.flac").unlink(missing_ok=True)
        left_out.append(_left_out(job.package, job.name, reason))
    return kept, left_out


def effect_splits(kept: list[tuple[EffectJob, Record]]) -> dict[str, str]:
    """Clips with the same caption, or cut from one recording, share a split; about 5 % each are val and test."""
    ties: dict[str, list[str]] = {}
    for job, _ in kept:
        recordings = load_table(job.package)["same_recording"]
        ties[job.job_id] = [f"caption {normalise_caption(job.caption)}"] + [
            f"recording {job.package} {number}"
            for number, patterns in enumerate(recordings)
            if first_match(dict.fromkeys(patterns, True), job.name)
        ]
    return fill_splits(tied_groups(ties), MAX_HELD_OUT_GROUP)


def normalise_caption(caption: str) -> str:
    """Captions that differ in case, punctuation or an article alone are the same."""
    words = re.findall(r"[a-z0-9]+", caption.lower())
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def _audio_id(package: str, name: str) -> str:
    short = {"sonic-pi-samples": "sonic-pi_", "scratch": "scratch_", "minetest-data": "minetest_", OPENSFX: ""}[package]
    plain = name.rsplit("/", 1)[-1] if package == "minetest-data" else name
    return short + re.sub(r"[^A-Za-z0-9.-]+", "_", plain)


def _left_out(package: str, name: str, reason: Any) -> Record:
    return {"task": "text_to_audio", "source": package, "file": name, "reason": reason}
