"""Mandarin singing with labels made by hand: phonemes, notes, slurs, and F0 estimated from the recordings."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unisono.data.prepare.corpora.engine import Corpus, Step
from unisono.data.prepare.corpora.items import Found, Item, LeaveOut
from unisono.data.prepare.jobs import Record
from unisono.errors import UserError
from unisono.features.f0 import METHODS, estimate_f0
from unisono.files import write_array
from unisono.media import tolerances
from unisono.media.audio import audio_info, read_audio
from unisono.scores.pitch import note_number
from unisono.text.phonemes import SILENCE
from unisono.timing import seconds_to_samples

SVS, SAM = "singing_voice_synthesis", "singing_acoustic_modeling"
LANGUAGE = "cmn"
BREATH = "AP"
F0_RATE_HZ = 100
F0_FLOOR_HZ, F0_CEIL_HZ = 55.0, 1_300.0  # A1 to E6
_SAMPLE_RATE = 24_000
_SYMBOLS = {"<SP>": SILENCE, "SP": SILENCE, "<AP>": BREATH, "AP": BREATH}
_LONGEST_TAIL_S = 1.0
_QUIET_DB = 30.0

Labels = dict[str, list[Any]]


def singing_corpus(
    name: str, version: int, license_name: str, find: Callable[[Path], Found], out: Path, f0: bool, f0_method: str
) -> Corpus:
    """Two data sets over the same recordings; without F0 only ``singing_voice_synthesis``.

    Items carry their labels in ``data``: a dictionary of ``phonemes``, ``durations_s``, ``notes``,
    ``note_durations_s`` and ``slurs``, one value per phoneme each.
    """
    if f0 and importlib.util.find_spec("pyworld") is None:
        raise UserError(
            "F0 is estimated by pyworld, which is not installed; run pip install 'unisono[singing]', or leave F0 away "
            "with --no-f0"
        )
    if f0_method not in METHODS:
        raise UserError(f"f0_method is {f0_method!r}; choose one of {', '.join(METHODS)}")
    folder = Path(os.path.abspath(out)) / SAM / "f0"
    steps = [Step("labels", "checking labels", fit_labels, chunk_items=256)]
    if f0:
        steps.append(
            Step("f0", "estimating F0", partial(write_f0, folder=str(folder), method=f0_method), chunk_items=8)
        )
    return Corpus(
        name=name,
        version=version,
        license=license_name,
        tasks=(SVS, SAM) if f0 else (SVS,),
        groups="song",
        find=find,
        steps=tuple(steps),
        lines=partial(singing_lines, f0_folder=folder if f0 else None),
        options={"f0": f0, "f0_method": f0_method if f0 else None},
    )


def singing_lines(item: Item, record: Record, f0_folder: Path | None) -> dict[str, Record]:
    sung = {name: record[name] for name in ("phonemes", "durations_s")}
    score = {name: record[name] for name in ("notes", "note_durations_s", "slurs")}
    common = {**item.fields, "language": LANGUAGE}
    lines = {SVS: {**sung, **score, **common}}
    if f0_folder is not None:
        contour = {"f0_hz": f0_folder / f"{item.audio_id}.npy", "f0_rate_hz": F0_RATE_HZ}
        lines[SAM] = {**sung, **contour, **common}
    return lines


# -- labels -----------------------------------------------------------------------------------------------------------


def fit_labels(item: Item) -> Record:
    """Labels in the project's symbols, as long as the recording.

    Raises:
        LeaveOut: lists of different length, values that are none, labels that do not fit the recording.
    """
    duration_s = audio_info(item.audio)[1]
    if duration_s == 0:
        raise UserError(f"{item.audio} is empty (0 samples)")
    labels = checked_labels(item.data)
    difference_s = duration_s - math.fsum(labels["durations_s"])
    if difference_s > tolerances.LENGTH_S:
        _add_silence(labels, item.audio, duration_s, difference_s)
    elif difference_s < -tolerances.LENGTH_S:
        _shorten_silence(labels, difference_s)
    return {"duration_s": duration_s, **labels}


def checked_labels(labels: Labels) -> Labels:
    counts = {name: len(values) for name, values in labels.items()}
    if len(set(counts.values())) != 1 or not counts["phonemes"]:
        raise LeaveOut("bad_labels", f"lists of different lengths: {counts}")
    try:
        durations_s = [float(value) for value in labels["durations_s"]]
        note_durations_s = [float(value) for value in labels["note_durations_s"]]
        slurs = [int(value) for value in labels["slurs"]]
    except (TypeError, ValueError) as error:
        raise LeaveOut("bad_labels", f"not a number: {error}") from None
    if not all(math.isfinite(value) and value >= 0 for value in (*durations_s, *note_durations_s)):
        raise LeaveOut("bad_labels", "a duration is negative or no number")
    if not set(slurs) <= {0, 1}:
        raise LeaveOut("bad_labels", f"slurs hold {sorted(set(slurs) - {0, 1})}; they are 0 or 1")
    phonemes = [_SYMBOLS.get(symbol, symbol) for symbol in labels["phonemes"]]
    if not all(isinstance(symbol, str) and symbol for symbol in phonemes):
        raise LeaveOut("bad_labels", "a phoneme is empty")
    notes = [_note(value) for value in labels["notes"]]
    return {
        "phonemes": phonemes,
        "durations_s": durations_s,
        "notes": notes,
        "note_durations_s": note_durations_s,
        "slurs": slurs,
    }


def _note(value: Any) -> int | float:
    """MIDI number of a number or a name; 0 for ``rest``."""
    try:
        if value is not None:  # note_number would take it for a rest
            return note_number(value)
    except UserError:
        pass
    raise LeaveOut("bad_labels", f"{value!r} is no note")


def _add_silence(labels: Labels, audio: str, duration_s: float, difference_s: float) -> None:
    """A recording that goes on after its labels ends in silence, or something is not labelled."""
    waveform = read_audio(audio, _SAMPLE_RATE)
    tail = waveform[-seconds_to_samples(difference_s, _SAMPLE_RATE) :]
    level_db = 20 * math.log10(float(np.sqrt(np.mean(tail**2))) + 1e-9)
    loudest_db = 20 * math.log10(float(np.abs(waveform).max()) + 1e-9)
    if difference_s > _LONGEST_TAIL_S or level_db > loudest_db - _QUIET_DB:
        raise _misfit(difference_s, duration_s)
    if labels["phonemes"][-1] == SILENCE:
        labels["durations_s"][-1] += difference_s
        return
    unit = {"phonemes": SILENCE, "durations_s": difference_s, "notes": 0, "slurs": 0}
    for name, value in {**unit, "note_durations_s": difference_s}.items():
        labels[name].append(value)


def _shorten_silence(labels: Labels, difference_s: float) -> None:
    """Labels that go on after the recording may end in a silence that is long enough."""
    last_s = labels["durations_s"][-1] + difference_s
    if labels["phonemes"][-1] not in (SILENCE, BREATH) or last_s <= 0:
        raise _misfit(difference_s, math.fsum(labels["durations_s"]) + difference_s)
    labels["durations_s"][-1] = last_s


def _misfit(difference_s: float, duration_s: float) -> LeaveOut:
    return LeaveOut(
        "lengths_differ", f"the recording lasts {duration_s:.3f} s, its labels {duration_s - difference_s:.3f} s"
    )


# -- F0 ---------------------------------------------------------------------------------------------------------------


def write_f0(item: Item, folder: str, method: str) -> Record:
    """Write the F0 contour of ``unisono.features.f0``, float32 ``(T,)`` at ``F0_RATE_HZ``, 0 where unvoiced."""
    waveform = read_audio(item.audio, _SAMPLE_RATE)
    f0_hz = estimate_f0(waveform, _SAMPLE_RATE, F0_RATE_HZ, method=method, floor_hz=F0_FLOOR_HZ, ceil_hz=F0_CEIL_HZ)
    path = Path(folder) / f"{item.audio_id}.npy"
    write_array(path, f0_hz)
    return {"f0_frames": len(f0_hz)}
