"""Pitches: note names, MIDI numbers (A4 = 69 = 440 Hz, C4 = 60) and Hz."""

from __future__ import annotations

import math
import re
from typing import Any, overload

import numpy as np

from unisono.errors import UserError

A4_HZ, A4_NUMBER = 440.0, 69
MAX_NUMBER = 127
REST_NAMES = frozenset({"rest", "r"})

_SEMITONES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_ACCIDENTALS = {"": 0, "#": 1, "♯": 1, "##": 2, "x": 2, "b": -1, "♭": -1, "bb": -2}
_NAMES = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]
_NOTE = re.compile(r"([A-Ga-g])(##|bb|[#♯xb♭])?(-?\d+)")


def note_number(note: str | int | float | None, where: str = "") -> int | float:
    """MIDI number of a note; 0 for a rest.

    Args:
        note: a name (``C4``, ``F#3``, ``Bb5``; ``C#4/Db4`` names one note twice), a number from 1 to 127, also with a
            fraction, or a rest: ``rest``, ``r``, 0 or None. MIDI's own note 0 (8 Hz) is therefore not to be had.
        where: begins the error message, such as ``content.jsonl:3, field 'notes'``.

    Returns:
        A whole number as int, others as float.

    Raises:
        UserError: anything else.
    """
    if note is None:
        return 0
    if isinstance(note, str):
        text = note.strip()
        if text.lower() in REST_NAMES:
            return 0
        numbers = {_named_number(name) for name in text.split("/")}
        if len(numbers) == 1 and (number := numbers.pop()) is not None and 1 <= number <= MAX_NUMBER:
            return number
    try:
        value = math.nan if isinstance(note, bool) else float(note)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not (value == 0 or 1 <= value <= MAX_NUMBER):
        place = f"{where}: " if where else ""
        raise UserError(
            f"{place}{note!r} is no note; write a name such as C4, F#3 or Bb5, a MIDI number from 1 to {MAX_NUMBER}, "
            "or rest"
        )
    return int(value) if value == int(value) else value


def note_name(number: float) -> str:
    """``60`` is ``C4``; fractions add cents (``C4+25c``); 0 is ``rest``."""
    value = note_number(number)
    if value == 0:
        return "rest"
    nearest = math.floor(value + 0.5)
    cents = round(100 * (value - nearest))
    return f"{_NAMES[nearest % 12]}{nearest // 12 - 1}" + (f"{cents:+d}c" if cents else "")


@overload
def hz_to_midi(frequency_hz: float) -> float: ...
@overload
def hz_to_midi(frequency_hz: np.ndarray) -> np.ndarray: ...
def hz_to_midi(frequency_hz: Any) -> Any:
    """MIDI number of a frequency or an array of them; 0 (unvoiced) stays 0."""
    values = np.asarray(frequency_hz, dtype=np.float64)
    if not np.isfinite(values).all() or (values < 0).any():
        raise UserError("a frequency is negative, infinite or NaN; give Hz, 0 for unvoiced")
    voiced = values > 0
    numbers = np.where(voiced, A4_NUMBER + 12 * np.log2(np.where(voiced, values, A4_HZ) / A4_HZ), 0.0)
    return numbers if numbers.ndim else float(numbers)


@overload
def midi_to_hz(number: float) -> float: ...
@overload
def midi_to_hz(number: np.ndarray) -> np.ndarray: ...
def midi_to_hz(number: Any) -> Any:
    """Frequency in Hz of a MIDI number or an array of them; 0 (a rest) stays 0."""
    values = np.asarray(number, dtype=np.float64)
    frequencies_hz = np.where(values == 0, 0.0, A4_HZ * 2.0 ** ((values - A4_NUMBER) / 12))
    return frequencies_hz if frequencies_hz.ndim else float(frequencies_hz)


def _named_number(name: str) -> int | None:
    match = _NOTE.fullmatch(name)
    if match is None or len(match[3]) > 3:
        return None
    return 12 * (int(match[3]) + 1) + _SEMITONES[match[1].lower()] + _ACCIDENTALS[match[2] or ""]
