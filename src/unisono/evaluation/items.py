"""What is judged: an item with its files, and the audio of one of its rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soxr

from unisono.evaluation.alignment import check_alignment, common_length
from unisono.evaluation.metric import MetricFailure, NotApplicable
from unisono.media.locations import Location

T = TypeVar("T")

MODEL, CODED, INPUT, REFERENCE = "model", "reference_coded", "input", "reference"
"""Rows of every table: what the model made, the reference through the autoencoder and back, the input as it came.
`REFERENCE` is no row: it is what the rows are compared with."""

ROW_TITLES = {MODEL: "Model", CODED: "Reference coded by the autoencoder", INPUT: "Input itself"}


@dataclass(frozen=True)
class EvaluationItem:
    """One generated test item.

    Attributes:
        audio_id: unique within its task; may hold any character.
        task: name from the task table (`unisono.tasks`).
        instruction: what the model was told.
        content_text: caption, sentence, or name of the noisy file; shown in the report, and read by metrics of text.
        generated: file the model wrote; if it is missing or broken that is a reported failure.
        reference: target recording, where there is one.
        input_audio: the recording the model was given (noisy speech), where there is one.
        predicted_duration_s: length in seconds that the model's duration predictor asked for.
        true_duration_s: length in seconds of the reference.
        details: the item's line of its manifest and anything else worth showing (seed, steps). Metrics read what they
            need from it: `events`, `text`, `phonemes`, `notes`, `tempo_bpm`, `bandwidth_hz`; paths in it do not lead
            anywhere, ``files`` do.
        files: other files of the item by manifest field, such as `score_midi` and `f0_hz`.
    """

    audio_id: str
    task: str
    instruction: str
    content_text: str
    generated: Path | Location
    reference: Path | Location | None = None
    input_audio: Path | Location | None = None
    predicted_duration_s: float | None = None
    true_duration_s: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Location] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One item's audio in one row of the table: mono float32 waveforms ``(S,)``, finite and not silent, all at
    ``sample_rate`` Hz. ``waveform`` is judged; it is the generated one only where ``row`` is `MODEL`.
    ``reference_problem`` says why there is no reference where there should be one."""

    row: str
    waveform: np.ndarray
    reference: np.ndarray | None
    input_audio: np.ndarray | None
    sample_rate: int
    item: EvaluationItem
    reference_problem: str = ""
    _origin: Sample | None = field(default=None, repr=False, compare=False)
    _memory: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    of_reference: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    """What is remembered of the reference; one for all rows of an item."""

    @property
    def against_reference(self) -> tuple[np.ndarray, np.ndarray]:
        """The judged waveform and the reference, of one length and in step, for metrics that compare moment by moment.

        Raises:
            NotApplicable: there is no reference.
            MetricFailure: the lengths differ by too much, or one lags behind the other.
        """
        return self.once("against_reference", self._in_step)

    def _in_step(self) -> tuple[np.ndarray, np.ndarray]:
        if self._origin is not None:
            _ = self._origin.against_reference  # one verdict for all rates
            return common_length(self.waveform, self.needed_reference, self.sample_rate)
        waveform, reference = common_length(self.waveform, self.needed_reference, self.sample_rate)
        check_alignment(waveform, reference, self.sample_rate)
        return waveform, reference

    @property
    def needed_reference(self) -> np.ndarray:
        """The reference waveform ``(S,)``; `NotApplicable` without one, as there is nothing to compare with, and
        `MetricFailure` where it is broken."""
        if self.reference_problem:
            raise MetricFailure(f"reference: {self.reference_problem}")
        if self.reference is None:
            raise NotApplicable("the item has no reference")
        return self.reference

    def resampled(self, sample_rate: int) -> Sample:
        """The same at another rate; resampled once however many metrics ask."""
        if sample_rate == self.sample_rate:
            return self

        def convert(waveform: np.ndarray | None) -> np.ndarray | None:
            return None if waveform is None else soxr.resample(waveform, self.sample_rate, sample_rate, quality="HQ")

        def build() -> Sample:
            waveform = convert(self.waveform)
            assert waveform is not None
            reference, input_audio = convert(self.reference), convert(self.input_audio)
            return Sample(
                self.row,
                waveform,
                reference,
                input_audio,
                sample_rate,
                self.item,
                self.reference_problem,
                self,
                of_reference=self.of_reference,
            )

        return self.once(("resampled", sample_rate), build)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """``make()``, remembered under ``key``: what several metrics of a sample share (F0, spectra).

        What a key that ends in `REFERENCE`, such as ``("f0", "reference")``, stands for depends on the reference and
        its rate alone: it is shared by all rows of the item.
        """
        memory = self._memory
        if isinstance(key, tuple) and key[-1] == REFERENCE:
            memory, key = self.of_reference, (self.sample_rate, key)
        if key not in memory:
            try:
                memory[key] = make()
            except (MetricFailure, NotApplicable) as reason:
                memory[key] = reason
        if isinstance(memory[key], Exception):
            raise memory[key]
        return memory[key]
