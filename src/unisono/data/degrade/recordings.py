"""Recordings to mix with speech: noise from a folder, a manifest or single files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unisono.data.manifest import load_manifest
from unisono.errors import UserError
from unisono.media.audio import audio_info, read_audio
from unisono.media.locations import Location

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aif", ".aiff")
_TRIES = 16
_SILENT_RMS = 1e-5  # -100 dB: what is left is dither, and to raise it to a mixture's level would make it hiss
_JOIN_S = 0.02


class Recordings:
    """Recordings of which stretches are drawn.

    Args:
        sources: folders (every audio file below them), manifests (the field ``audio`` of every line) and audio files.

    Raises:
        UserError: a source that does not exist or holds no audio.
    """

    def __init__(self, sources: str | os.PathLike | Sequence[str | os.PathLike]) -> None:
        listed = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
        self.locations: list[Location] = [place for source in listed for place in _locations(source)]
        if not self.locations:
            raise UserError("the list of recordings is empty; name a folder, a manifest or an audio file")

    def stretch(self, rng: np.random.Generator, samples: int, sample_rate: int) -> tuple[np.ndarray, str]:
        """A stretch of a recording drawn at random, float32 ``(samples,)``, and the recording's name.

        Each recording is as likely as any other, whatever its length; one shorter than wanted goes round, joined by a
        20 ms cross-fade. Where a stretch is silent (below -100 dB), recording and place are drawn again.

        Raises:
            UserError: a file that cannot be read; 16 silent stretches in a row.
        """
        for _ in range(_TRIES):
            location = self.locations[int(rng.integers(len(self.locations)))]
            found = _stretch(rng, location, samples, sample_rate)
            if np.sqrt(np.mean(found.astype(np.float64) ** 2)) > _SILENT_RMS:
                return found, str(location)
        raise UserError(
            f"{location}: silent, as were {_TRIES - 1} stretches before it; remove silent recordings from the "
            f"{len(self.locations)} that noise is drawn from"
        )


def _locations(source: str | os.PathLike) -> list[Location]:
    path = Path(source)
    if path.suffix == ".jsonl":
        return [fields.file("audio") for fields in load_manifest(path).values()]
    if not path.is_dir():
        location = Location.of(source)
        if not location.exists():
            raise UserError(f"{location}: no such folder, manifest or audio file; correct the path of the recordings")
        return [location]
    # By name, so that the same seed draws the same recording wherever the folder lies.
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
    if not found:
        raise UserError(f"{path}: no audio file below this folder ({', '.join(AUDIO_SUFFIXES)}); correct the path")
    return [Location(p) for p in found]


def _stretch(rng: np.random.Generator, location: Location, samples: int, sample_rate: int) -> np.ndarray:
    duration_s, wanted_s = audio_info(location).duration_s, samples / sample_rate
    if duration_s > wanted_s:
        start_s = float(rng.uniform(0, duration_s - wanted_s))
        return read_audio(location, sample_rate, start_s, wanted_s)
    whole = read_audio(location, sample_rate)
    return np.resize(np.roll(_closed(whole, round(_JOIN_S * sample_rate)), -int(rng.integers(len(whole)))), samples)


def _closed(waveform: np.ndarray, join: int) -> np.ndarray:
    """The recording as a ring: its last ``join`` samples fade into its first ones, and it is shorter by them."""
    join = min(join, len(waveform) // 2)
    if join == 0:
        return waveform
    fade = np.sin(np.linspace(0, np.pi / 2, join, dtype=np.float32)) ** 2
    ring = waveform[: len(waveform) - join].copy()
    ring[:join] = waveform[:join] * fade + waveform[-join:] * (1 - fade)
    return ring
