"""Sound effects without their treble: audio super-resolution from recordings that have some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unisono.data.degrade import BandwidthDegradation, effective_bandwidth_hz
from unisono.data.prepare.debian.effects import EffectJob
from unisono.data.prepare.debian.manifests import audio_line, job_rng, write_manifests
from unisono.data.prepare.jobs import Record
from unisono.media.audio import read_audio, write_audio

SAMPLE_RATE = 24_000
VARIANTS = 2
MIN_NATIVE_RATE = 24_000
MIN_BANDWIDTH_HZ = 8_000.0
CUTOFF_HZ = (1_000.0, 6_000.0)

_LEAST_LOST_DB = -45.0
_ATTEMPTS = 12
_PEAK_LIMIT = 0.99


@dataclass(frozen=True)
class NarrowJob:
    """One clip of ``text_to_audio`` to be narrowed ``VARIANTS`` times."""

    effect: EffectJob
    native_rate: int
    narrow_folder: Path
    seed: int

    @property
    def job_id(self) -> str:
        return self.effect.job_id

    def audio_id(self, variant: int) -> str:
        return f"{self.job_id}_narrow{variant}"


def narrow_jobs(kept: Sequence[tuple[EffectJob, Record]], narrow_folder: Path, seed: int) -> list[NarrowJob]:
    """A job for every clip; which ones have treble turns out when they are read."""
    return [NarrowJob(effect, record["native_sample_rate"], narrow_folder, seed) for effect, record in kept]


def prepare_narrow(job: NarrowJob) -> Record:
    """Write the clip's ``variants``, or give the ``reason`` why it is no target."""
    if job.native_rate < MIN_NATIVE_RATE:
        return {"reason": f"recorded at {job.native_rate} Hz, so it has no treble to be restored"}
    wide = read_audio(job.effect.audio_folder / f"{job.job_id}.flac", SAMPLE_RATE)
    bandwidth_hz = effective_bandwidth_hz(wide, SAMPLE_RATE)
    if bandwidth_hz < MIN_BANDWIDTH_HZ:
        return {"reason": f"reaches only {bandwidth_hz:.0f} Hz, so it has no treble to be restored"}
    variants = [_write_variant(job, wide, number) for number in range(1, VARIANTS + 1)]
    if None in variants:
        return {"reason": f"what lies above {CUTOFF_HZ[0]:.0f} Hz is {-_LEAST_LOST_DB:.0f} dB below the rest"}
    return {"variants": variants, "duration_s": len(wide) / SAMPLE_RATE, "target_bandwidth_hz": round(bandwidth_hz)}


def _write_variant(job: NarrowJob, wide: np.ndarray, number: int) -> Record | None:
    """A filter that takes something audible away, the clip through it; None if no filter does.

    The clips are faint in the treble to very different degrees: the more filters took nothing, the lower the next.
    """
    rng = job_rng(job.seed, job.audio_id(number))
    power = np.abs(np.fft.rfft(wide)) ** 2
    frequency_hz = np.fft.rfftfreq(len(wide), 1 / SAMPLE_RATE)
    for attempt in range(_ATTEMPTS):
        top_hz = CUTOFF_HZ[0] * (CUTOFF_HZ[1] / CUTOFF_HZ[0]) ** (1 - attempt / (_ATTEMPTS - 1))
        narrow, description = BandwidthDegradation(cutoff_hz=(CUTOFF_HZ[0], top_hz))(rng, wide, SAMPLE_RATE)
        lost = power[frequency_hz > description["cutoff_hz"]].sum()
        if lost > power.sum() * 10 ** (_LEAST_LOST_DB / 10):
            break
    else:
        return None
    # A steep filter may overshoot; the target keeps its level, so the gain is recorded.
    gain = min(1.0, _PEAK_LIMIT / float(np.abs(narrow).max()))
    write_audio(job.narrow_folder / f"{job.audio_id(number)}.flac", narrow * np.float32(gain), SAMPLE_RATE)
    return {
        "bandwidth_hz": description["cutoff_hz"],
        "filter": description["filter"],
        "filter_order": description.get("order"),
        "resampled": description.get("resampled", description["filter"] == "resample"),
        "gain_db": round(20 * float(np.log10(gain)), 3),
    }


def write_narrow(
    folder: Path, jobs: Sequence[NarrowJob], records: Sequence[Record], effect_splits: Mapping[str, str]
) -> list[Record]:
    """Write the manifests; returns what is left out. Clips keep the split that they have as sound effects."""
    content, audio, splits, left_out = [], [], {}, []
    for job, record in zip(jobs, records, strict=True):
        effect = job.effect
        if "reason" in record:
            left_out.append(
                {
                    "task": "audio_super_resolution",
                    "source": effect.package,
                    "file": effect.name,
                    "reason": record["reason"],
                }
            )
            continue
        for number, variant in enumerate(record["variants"], 1):
            audio_id = job.audio_id(number)
            splits[audio_id] = effect_splits[job.job_id]
            narrow = f"../narrow/{audio_id}.flac"
            labels = {"license": effect.license, "source": effect.package}
            content.append({"audio_id": audio_id, "narrow_audio": narrow, **variant, **labels})
            line = audio_line(job.job_id, "../../text_to_audio/audio", record["duration_s"], effect.license)
            line |= {"audio_id": audio_id, "target_bandwidth_hz": record["target_bandwidth_hz"]}
            audio.append({**line, "credit": effect.credit.strip()} if effect.credit else line)
    write_manifests(folder, splits, content, audio)
    return left_out
