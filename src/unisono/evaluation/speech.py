"""Cleaned speech against the clean reference, sample by sample: SI-SDR (torchmetrics), STOI and ESTOI (pystoi)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from unisono.evaluation.metric import (
    EvaluationItem,
    MetricCard,
    MetricFailure,
    Sample,
    common_length,
    library_version,
    missing,
    reference_of,
)

_TASKS = frozenset({"speech_enhancement"})
_LENGTHS = "cut to the shorter; fails beyond 0.05 s or 2 % of the reference, whichever is larger"
# pystoi works on 30 frames of 256 samples, hop 128, at 10 kHz, and needs more than that in samples to have 30 frames.
_STOI_RATE_HZ = 10_000
_STOI_MIN_S = (256 + 30 * 128) / _STOI_RATE_HZ


@dataclass(frozen=True)
class SiSdr:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019) in dB, in float64."""

    sample_rate: int
    needs_waveform: bool = True

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            name="si_sdr_db",
            title="SI-SDR",
            unit="dB",
            direction="higher",
            value_range="unbounded; an exact copy prints 100 dB and more, where float64 ends",
            implementation="torchmetrics.functional.audio.scale_invariant_signal_distortion_ratio",
            version=library_version("torchmetrics"),
            parameters={
                "sample_rate": self.sample_rate,
                "zero_mean": False,
                "dtype": "float64",
                "alignment": "none",
                "lengths": _LENGTHS,
            },
            note="Compares samples, phase included: a vocoder that makes its own phase (Griffin-Lim above all) gets "
            "low or negative values for speech that sounds right. The row of the coded reference is the ceiling.",
        )

    def applies_to(self, item: EvaluationItem) -> bool:
        return item.task in _TASKS

    def missing_library(self) -> str | None:
        return missing("torchmetrics")

    def __call__(self, sample: Sample) -> float:
        import torch
        from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

        waveform, reference = common_length(sample.waveform, reference_of(sample), sample.sample_rate)
        # One thread, so that the order of the sums and with it the last digit does not depend on the machine's load.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            ratio_db = scale_invariant_signal_distortion_ratio(
                torch.from_numpy(np.array(waveform, dtype=np.float64)),
                torch.from_numpy(np.array(reference, dtype=np.float64)),
            )
        finally:
            torch.set_num_threads(threads)
        return float(ratio_db)


@dataclass(frozen=True)
class Stoi:
    """Short-time objective intelligibility (Taal et al. 2011), or ESTOI (Jensen and Taal 2016)."""

    sample_rate: int
    extended: bool
    needs_waveform: bool = True

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            name="estoi" if self.extended else "stoi",
            title="ESTOI" if self.extended else "STOI",
            unit="",
            direction="higher",
            value_range="about 0 (unintelligible) to 1 (as the reference)",
            implementation="pystoi.stoi",
            version=library_version("pystoi"),
            parameters={
                "extended": self.extended,
                "sample_rate": self.sample_rate,
                "internal_sample_rate": _STOI_RATE_HZ,
                "lengths": _LENGTHS,
            },
            note="Hears nothing above 5 kHz. Needs 30 frames (0.4 s) of speech; shorter items fail, where pystoi would "
            "print 0.00001.",
            decimals=3,
        )

    def applies_to(self, item: EvaluationItem) -> bool:
        return item.task in _TASKS

    def missing_library(self) -> str | None:
        return missing("pystoi")

    def __call__(self, sample: Sample) -> float:
        from pystoi import stoi

        waveform, reference = common_length(sample.waveform, reference_of(sample), sample.sample_rate)
        if len(reference) / sample.sample_rate <= _STOI_MIN_S:
            raise MetricFailure(
                f"{len(reference) / sample.sample_rate:.2f} s is too short; needs more than {_STOI_MIN_S} s"
            )
        # pystoi adds noise of 1e-16 from numpy's global generator: pin it, or the last digits differ from run to run.
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                return float(
                    stoi(reference.astype(np.float64), waveform.astype(np.float64), sample.sample_rate, self.extended)
                )
        except RuntimeWarning as warning:
            too_short = "Not enough STFT frames" in str(warning)
            reason = (
                "less than 30 frames (0.4 s) of the reference are speech" if too_short else f"pystoi warned: {warning}"
            )
            raise MetricFailure(reason) from None
        finally:
            np.random.set_state(state)  # noqa: NPY002
