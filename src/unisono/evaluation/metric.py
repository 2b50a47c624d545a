"""What a metric is: a card that says how the number is made, and one function from a sample to a number.

A metric that cannot give an honest number for an item raises `MetricFailure` (the item is at fault: silent, too short,
missing) or `NotApplicable` (there is nothing to measure). Neither ever enters a mean; both are counted and shown.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from unisono.media.locations import Location

MODEL, CODED, INPUT = "model", "reference_coded", "input"
"""Rows of every table: what the model made, the reference through the autoencoder and back, the input as it came."""

ROW_TITLES = {MODEL: "Model", CODED: "Reference coded by the autoencoder", INPUT: "Input itself"}

FRAME_LOCKED_TASKS = frozenset(
    {"speech_enhancement", "audio_super_resolution", "singing_acoustic_modeling", "video_to_audio"}
)
"""Tasks whose input fixes when everything happens, so that frames may be compared one to one. Elsewhere the model
chooses the timing, and spectra are compared after dynamic time warping."""


@dataclass(frozen=True)
class EvaluationItem:
    """One generated test item.

    Attributes:
        audio_id: unique within its task; may hold any character.
        task: name from the task table (`unisono.tasks`); an unknown one gets the metrics that fit every task.
        instruction: what the model was told.
        content_text: caption, sentence, or name of the noisy file; shown in the report.
        generated: file the model wrote; if it is missing or broken that is a reported failure.
        reference: target recording, where there is one.
        input_audio: the recording the model was given (noisy speech), where there is one.
        predicted_duration_s: length in seconds that the model's duration predictor asked for.
        true_duration_s: length in seconds of the reference.
        details: anything else worth showing (seed, steps, phonemes, snr_db); `events`, a list with one object per
            sound event, switches on the event count.
    """

    audio_id: str
    task: str
    instruction: str
    content_text: str
    generated: Path
    reference: Path | Location | None = None
    input_audio: Path | Location | None = None
    predicted_duration_s: float | None = None
    true_duration_s: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One item's audio in one row of the table: mono float waveforms ``(S,)``, finite and not silent, all at
    ``sample_rate`` Hz. ``waveform`` is judged; it is the generated one only where ``row`` is `MODEL`."""

    row: str
    waveform: np.ndarray
    reference: np.ndarray | None
    input_audio: np.ndarray | None
    sample_rate: int
    item: EvaluationItem


@dataclass(frozen=True)
class MetricCard:
    """How a number was made. Numbers may be compared only where the whole card is the same.

    Attributes:
        name: key in metrics.json.
        title: column heading.
        unit: "dB", "s", "%" or "" for pure numbers.
        direction: which end is good.
        value_range: in words, such as "0 to 100 dB, 0 for identical signals".
        implementation: library or module that computes it.
        version: version of that library.
        parameters: every choice that moves the number.
        note: what it does not hear, and how to read it.
        decimals: digits after the point in the report.
    """

    name: str
    title: str
    unit: str
    direction: Literal["lower", "higher"]
    value_range: str
    implementation: str
    version: str
    parameters: dict[str, Any]
    note: str = ""
    decimals: int = 2


class MetricFailure(Exception):
    """This item has no valid number, for the reason given; counted as failed."""


class NotApplicable(Exception):
    """There is nothing to measure here (no reference, no predicted duration); counted apart from failures."""


class Metric(Protocol):
    """A per-item metric. Instances are picklable: they travel to worker processes."""

    @property
    def card(self) -> MetricCard: ...

    @property
    def needs_waveform(self) -> bool:
        """False if the number comes from the item's other fields, so that it exists without any audio."""
        ...

    def applies_to(self, item: EvaluationItem) -> bool:
        """Whether the item gets this metric at all, by its task and what is known about it."""
        ...

    def missing_library(self) -> str | None:
        """Name of the optional library that is not installed, or None."""
        ...

    def __call__(self, sample: Sample) -> float:
        """The number for one sample. Raises `MetricFailure` or `NotApplicable`."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What one metric gave for one row of one item: a finite value, or the reason why there is none."""

    status: Literal["ok", "failed", "not_applicable"]
    value: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        assert (self.status == "ok") == (self.value is not None)


def library_version(name: str) -> str:
    """Version of an installed distribution, or "not installed"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def missing(module: str) -> str | None:
    """``module`` if it cannot be imported, else None; nothing is imported to find out."""
    return None if importlib.util.find_spec(module) else module


def reference_of(sample: Sample) -> np.ndarray:
    """The reference waveform ``(S,)``; without one there is nothing to compare with."""
    if sample.reference is None:
        raise NotApplicable("the item has no reference")
    return sample.reference


ALIGNMENT_TOLERANCE_S = 0.05
ALIGNMENT_TOLERANCE_SHARE = 0.02


def common_length(waveform: np.ndarray, reference: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Both cut to the shorter one's length, for metrics that compare sample by sample or frame by frame.

    A latent frame more or less is no fault; beyond 0.05 s or 2 % of the reference, whichever is larger, the two are not
    the same recording any more and a comparison of what they share would hide what is missing: `MetricFailure`.
    """
    tolerance = max(ALIGNMENT_TOLERANCE_S * sample_rate, ALIGNMENT_TOLERANCE_SHARE * len(reference))
    if abs(len(waveform) - len(reference)) > tolerance:
        raise MetricFailure(
            f"{len(waveform) / sample_rate:.2f} s against {len(reference) / sample_rate:.2f} s of reference: "
            f"lengths differ by more than {tolerance / sample_rate:.2f} s"
        )
    length = min(len(waveform), len(reference))
    return waveform[:length], reference[:length]
