"""Clean prompts made noisy: synthetic noises and recordings at 0 to 15 dB, a third of them in a simulated room.

Everything is mixed at the 16 kHz of the recordings, so that the stated ratio holds in the band that speech occupies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from unisono.data.degrade import make_noise, mix_at_snr, reverberate
from unisono.data.prepare.debian.effects import package_recordings
from unisono.data.prepare.debian.manifests import job_rng
from unisono.data.prepare.debian.tables import first_match, load_table
from unisono.data.prepare.jobs import Record
from unisono.data.prepare.splits import SPLITS
from unisono.media.audio import read_audio, write_audio

SAMPLE_RATE = 16_000
TARGET_SAMPLE_RATE = 24_000
SYNTHETIC_NOISES = ("white", "pink", "brown", "hum", "engine", "rain", "modulated")
VARIANTS = {"train": 3, "val": 2, "test": 2}
MIN_SNR_DB, MAX_SNR_DB = 0.0, 15.0
MIN_RT60_S, MAX_RT60_S = 0.2, 0.8
REVERBERANT_SHARE = 1 / 3
RECORDED_SHARE = 1 / 2

_FADE_SAMPLES = 800
_CLIPPING_STEP_DB = 1.5
_LOUDEST_REVERBERANT = 0.7


@dataclass(frozen=True)
class NoisyJob:
    """One clean utterance to be degraded once; ``recordings`` are the noises its split may use."""

    job_id: str
    clean: Path
    noisy_folder: Path
    recordings: tuple[tuple[str, Path], ...]
    seed: int


def noise_recordings(roots: Mapping[str, Path]) -> dict[str, list[tuple[str, Path]]]:
    """``(package/name, path)`` of the recordings fit as background noise, by split; no recording is in two."""
    found: dict[str, list[tuple[str, Path]]] = {split: [] for split in SPLITS}
    for package, root in roots.items():
        table = load_table(package)
        for name, path in package_recordings(root / table["folder"]):
            split = first_match(table["noises"], name)
            if split is not None:
                found[split].append((f"{package}/{name}", path))
    return found


def noisy_jobs(
    utterances: Sequence[Record],
    splits: Mapping[str, str],
    recordings: Mapping[str, Sequence[tuple[str, Path]]],
    clean_folder: Path,
    noisy_folder: Path,
    seed: int,
) -> list[NoisyJob]:
    """Several jobs per utterance, as many as ``VARIANTS`` says for its split."""
    return [
        NoisyJob(
            job_id=f"{utterance['audio_id']}_noisy{variant}",
            clean=clean_folder / f"{utterance['audio_id']}.flac",
            noisy_folder=noisy_folder,
            recordings=tuple(recordings[splits[utterance["audio_id"]]]),
            seed=seed,
        )
        for utterance in utterances
        for variant in range(1, VARIANTS[splits[utterance["audio_id"]]] + 1)
    ]


def prepare_noisy(job: NoisyJob) -> Record:
    """Draw room, noise and ratio from ``(seed, job_id)``, mix, write."""
    rng = job_rng(job.seed, job.job_id)
    clean = read_audio(job.clean, SAMPLE_RATE)
    reverberant, recorded = rng.random() < REVERBERANT_SHARE, rng.random() < RECORDED_SHARE
    snr_db = round(float(rng.uniform(MIN_SNR_DB, MAX_SNR_DB)), 1)
    rt60_s = round(float(rng.uniform(MIN_RT60_S, MAX_RT60_S)), 2) if reverberant else None
    speech = clean if rt60_s is None else _in_a_room(rng, clean, rt60_s)
    if recorded and job.recordings:
        name, path = job.recordings[int(rng.integers(len(job.recordings)))]
        noise = recorded_noise(rng, _read_noise(path), len(speech))
    else:
        name = str(rng.choice(SYNTHETIC_NOISES))
        noise = make_noise(rng, name, len(speech), SAMPLE_RATE)
    noisy = mix_at_snr(speech, noise, snr_db)
    # A noisy file that had to be turned down would no longer fit its clean one: use less noise instead.
    while np.abs(noisy).max() >= 0.99:
        snr_db = round(snr_db + _CLIPPING_STEP_DB, 1)
        assert snr_db < 100, f"{job.clean} is too loud to be mixed with anything"
        noisy = mix_at_snr(speech, noise, snr_db)
    noisy = _to_length(soxr.resample(noisy, SAMPLE_RATE, TARGET_SAMPLE_RATE), sf.info(str(job.clean)).frames)
    write_audio(job.noisy_folder / f"{job.job_id}.flac", noisy, TARGET_SAMPLE_RATE)
    return {"snr_db": snr_db, "noise": name, "rt60_s": rt60_s, "duration_s": len(noisy) / TARGET_SAMPLE_RATE}


def _in_a_room(rng: np.random.Generator, clean: np.ndarray, rt60_s: float) -> np.ndarray:
    """Reverberant speech that stays within [-1, 1]: a room that amplifies more is drawn again."""
    for _ in range(100):
        speech = reverberate(rng, clean, SAMPLE_RATE, rt60_s)
        if np.abs(speech).max() < _LOUDEST_REVERBERANT:
            return speech
    raise AssertionError(f"no room keeps speech with a peak of {np.abs(clean).max()} within bounds")


def recorded_noise(rng: np.random.Generator, recording: np.ndarray, samples: int) -> np.ndarray:
    """A stretch of a recording, repeated with a cross-fade where it is too short; quiet stretches are avoided."""
    looped = _loopable(recording)
    level = np.sqrt(np.mean(looped**2))
    loudest, loudest_level = looped, -1.0
    for _ in range(8):
        stretch = np.resize(np.roll(looped, -int(rng.integers(len(looped)))), samples)
        stretch_level = float(np.sqrt(np.mean(stretch**2)))
        if stretch_level >= 0.5 * level:
            return stretch
        if stretch_level > loudest_level:
            loudest, loudest_level = stretch, stretch_level
    return loudest


def _loopable(recording: np.ndarray) -> np.ndarray:
    """The end is faded into the beginning, so that a repetition makes no click."""
    fade = min(_FADE_SAMPLES, len(recording) // 4)
    ramp = np.sqrt(np.linspace(0.0, 1.0, fade, dtype=np.float32))
    looped = recording[:-fade].copy() if fade else recording.copy()
    looped[:fade] = recording[:fade] * ramp + recording[len(recording) - fade :] * ramp[::-1]
    return looped


def _read_noise(path: Path) -> np.ndarray:
    waveform = read_audio(path, SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(waveform) > np.abs(waveform).max() * 0.01)
    return waveform[loud[0] : loud[-1] + 1]


def _to_length(waveform: np.ndarray, samples: int) -> np.ndarray:
    assert abs(len(waveform) - samples) <= 2, f"{len(waveform)} samples after resampling, {samples} expected"
    return np.pad(waveform, (0, max(0, samples - len(waveform))))[:samples]
