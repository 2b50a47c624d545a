"""Recordings and scores as a user gives them: files, or what is in memory already."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from unisono.errors import UserError
from unisono.files import exists
from unisono.media.audio import audio_info, check_sample_rate, check_waveform, read_audio
from unisono.models.generation import LONGEST_S
from unisono.scores import Score, parse_score, read_score

_LOUDEST = 100.0  # more is another scale, such as that of integers
_SCORE_FILE = re.compile(r"\.(midi?|musicxml|xml|mxl)$", re.IGNORECASE)


def expanded(path: str | os.PathLike) -> Path:
    """A path as it was typed, ``~`` being somebody's home; its name must be one that all libraries take."""
    try:
        found = Path(path).expanduser() if os.fspath(path).startswith("~") else Path(path)
        os.fspath(found).encode()
    except (RuntimeError, UnicodeEncodeError) as error:
        raise UserError(f"{os.fsencode(path)!r} is no usable path ({error}); rename it, or write it out") from error
    return found


def existing(path: Any, what: str) -> Path:
    """A file that is there."""
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{what} is {type(path).__name__}; give the path of a file")
    found = expanded(path)
    if not exists(found) or not found.is_file():
        kind = "is no file" if exists(found) else "does not exist"
        raise UserError(f"{what} {str(path)[:200]!r} {kind}; give the path of a file")
    return found


def waveform(given: Any, sample_rate: int, what: str = "audio") -> np.ndarray:
    """Mono float32 ``(S,)`` at ``sample_rate`` Hz.

    Args:
        given: a path; ``(waveform, sample_rate)``, the waveform ``(S,)`` or ``(S, channels)``; or anything that has
            these two as attributes.

    Raises:
        UserError: missing, damaged, empty, not finite, longer than an hour; samples without their rate.
    """
    if isinstance(given, str | os.PathLike):
        path = existing(given, what)
        refuse_long(audio_info(path).duration_s, f"{what} {path}")
        return read_audio(path, sample_rate)
    if isinstance(given, tuple) and len(given) == 2:
        samples, rate = given
    elif hasattr(given, "waveform") and hasattr(given, "sample_rate"):
        samples, rate = given.waveform, given.sample_rate
    else:
        raise UserError(f"{what} is {type(given).__name__}; give a path, or (waveform, sample_rate)")
    rate = int(rate) if isinstance(rate, float) and rate.is_integer() else rate
    check_sample_rate(rate, what)
    if hasattr(samples, "detach"):  # a tensor
        samples = samples.detach().float().cpu()
    samples = np.asarray(samples)
    if samples.ndim == 2 and 0 < samples.shape[1] <= 64:
        samples = samples.mean(axis=1)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise UserError(
            f"{what} has samples of {samples.dtype} in shape {samples.shape}; they must be floats from -1 to 1, "
            "(samples,) or (samples, channels): divide int16 by 32768, transpose (channels, samples)"
        )
    if samples.size and float(np.abs(np.nan_to_num(samples)).max()) > _LOUDEST:
        raise UserError(f"{what} has samples up to {np.abs(samples).max():g}; full scale is 1: scale it down")
    check_waveform(samples, what)
    refuse_long(len(samples) / rate, what)
    samples = samples.astype(np.float32)
    if rate == sample_rate:
        return samples
    import soxr

    return soxr.resample(samples, rate, sample_rate)


def refuse_long(duration_s: float, what: str) -> None:
    if duration_s > LONGEST_S:
        raise UserError(f"{what} lasts {duration_s:.0f} s; at most {LONGEST_S:g} s are taken at once: cut it in parts")


def score(given: Any) -> Score:
    """A score from a MIDI or MusicXML file, or from a line of notes."""
    if isinstance(given, Score):
        return given
    if isinstance(given, os.PathLike) or (isinstance(given, str) and _looks_like_file(given)):
        return read_score(existing(given, "score"))
    return parse_score(given, "score")


def _looks_like_file(text: str) -> bool:
    return bool(_SCORE_FILE.search(text)) or exists(Path(text))
