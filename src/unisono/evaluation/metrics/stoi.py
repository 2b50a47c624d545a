"""STOI and ESTOI: how much of cleaned speech would be understood (pystoi)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unisono.evaluation.alignment import ALIGNMENT, LENGTHS
from unisono.evaluation.items import Sample
from unisono.evaluation.metric import Metric, MetricCard, MetricFailure, library_version

# pystoi works on 30 frames of 256 samples, hop 128, at 10 kHz, and needs more than that in samples to have 30 frames.
_INTERNAL_RATE_HZ = 10_000
_SHORTEST_S = (256 + 30 * 128) / _INTERNAL_RATE_HZ


@dataclass(frozen=True)
class Stoi(Metric):
    """Short-time objective intelligibility, or its extended form."""

    sample_rate: int
    extended: bool

    tasks = frozenset({"speech_enhancement"})
    libraries = ("pystoi",)

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name="estoi" if self.extended else "stoi",
                title="ESTOI" if self.extended else "STOI",
                unit="",
                direction="higher",
                value_range="about 0 (unintelligible) to 1 (as the reference)",
                definition="Mean correlation of the envelopes of third-octave bands with those of the reference, in "
                "stretches of 0.4 s"
                + ("; envelopes normalised over time and frequency." if self.extended else "; envelopes clipped."),
                blind_to="Everything above 5 kHz, level, and how pleasant it sounds. Needs 30 frames (0.4 s) of "
                "speech; shorter items fail, where pystoi would print 0.00001.",
                source="Jensen and Taal 2016" if self.extended else "Taal, Hendriks, Heusdens and Jensen 2011",
                implementation="pystoi.stoi",
                version=library_version("pystoi"),
                parameters={
                    "extended": self.extended,
                    "sample_rate": self.sample_rate,
                    "internal_sample_rate": _INTERNAL_RATE_HZ,
                    "alignment": ALIGNMENT,
                    "lengths": LENGTHS,
                },
                decimals=3,
            ),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        from pystoi import stoi

        waveform, reference = sample.against_reference
        if len(reference) / sample.sample_rate <= _SHORTEST_S:
            raise MetricFailure(
                f"{len(reference) / sample.sample_rate:.2f} s is too short; needs more than {_SHORTEST_S} s"
            )
        # pystoi adds noise of 1e-16 from numpy's global generator: pin it, or the last digits differ from run to run.
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                value = stoi(
                    reference.astype(np.float64), waveform.astype(np.float64), sample.sample_rate, self.extended
                )
        except RuntimeWarning as warning:
            too_short = "Not enough STFT frames" in str(warning)
            reason = (
                "less than 30 frames (0.4 s) of the reference are speech" if too_short else f"pystoi warned: {warning}"
            )
            raise MetricFailure(reason) from None
        finally:
            np.random.set_state(state)  # noqa: NPY002
        return {"estoi" if self.extended else "stoi": float(value)}
