"""Log-spectral distance by the formula of ssr_eval, over all frequencies and on either side of the input's bandwidth.

Shapes: S samples, T frames that are compared, F frequency bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import unisono
from unisono.errors import UserError
from unisono.evaluation.alignment import ALIGNMENT, LENGTHS
from unisono.evaluation.items import EvaluationItem, Sample
from unisono.evaluation.metric import (
    FRAME_LOCKED_TASKS,
    Metric,
    MetricCard,
    MetricFailure,
    NotApplicable,
    NoValue,
)
from unisono.media.audio import audio_info

_EPS = 1e-12
_SILENT_PEAK = 1e-5
_FRAMES_AT_ONCE = 1024


def window_samples(sample_rate: int) -> int:
    """Length of the window: that of 2048 samples at 44.1 kHz (46 ms), rounded down."""
    return int(2048 / (44100 / sample_rate))


def squared_log_ratios(waveform: np.ndarray, reference: np.ndarray, sample_rate: int) -> np.ndarray:
    """``log10(R² / (W + eps)² + eps)²`` of the magnitudes R and W of two waveforms ``(S,)``, float32 ``(T, F)``.

    Only of frames whose reference peaks at 1e-5 (-100 dB re full scale) or more. In digital silence the formula would
    compare eps with eps: 12 for two silent files, which are as alike as can be, and about as much for inaudible noise.

    Raises:
        MetricFailure: all frames of the reference are that quiet.
    """
    n_fft, hop = window_samples(sample_rate), int(sample_rate / 100)
    # The periodic Hann window; scipy.signal would take half a second to import.
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)

    def frames(signal: np.ndarray) -> np.ndarray:
        padded = np.pad(np.asarray(signal, dtype=np.float64), n_fft // 2)
        return np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]

    judged, true = frames(waveform), frames(reference)
    sounding = np.flatnonzero(np.maximum(true.max(axis=1), -true.min(axis=1)) >= _SILENT_PEAK)
    if not len(sounding):
        raise MetricFailure("the reference is silent")
    squares = np.empty((len(sounding), n_fft // 2 + 1), dtype=np.float32)
    for first in range(0, len(sounding), _FRAMES_AT_ONCE):
        some = sounding[first : first + _FRAMES_AT_ONCE]
        there = np.abs(np.fft.rfft(true[some] * window, axis=1))
        here = np.abs(np.fft.rfft(judged[some] * window, axis=1))
        squares[first : first + len(some)] = np.log10(there**2 / (here + _EPS) ** 2 + _EPS) ** 2
    return squares


def root_mean_square_over_bins(squares: np.ndarray) -> float:
    """Root of the mean over bins of ``(T, F)``, then the mean over frames."""
    return float(np.sqrt(squares.mean(axis=1, dtype=np.float64)).mean())


def _squares_of(sample: Sample) -> np.ndarray:
    def compute() -> np.ndarray:
        return squared_log_ratios(*sample.against_reference, sample.sample_rate)

    return sample.once("squared_log_ratios", compute)


def input_bandwidth_hz(item: EvaluationItem, sample_rate: int) -> float:
    """Up to which frequency the input of super-resolution goes: `bandwidth_hz` of the manifest, else half the sample
    rate of the input file where that is below the evaluation's.

    Raises:
        NotApplicable: neither is known, or the input reaches half of ``sample_rate``.
        MetricFailure: what is given is no frequency, or the input file cannot be read.
    """
    stated = item.details.get("bandwidth_hz")
    if stated is not None:
        number = isinstance(stated, int | float) and not isinstance(stated, bool)
        if not number or not math.isfinite(stated) or stated <= 0:
            raise MetricFailure(f"bandwidth_hz is {stated!r}, not a frequency in Hz")
        bandwidth_hz = float(stated)
    elif item.input_audio is None:
        raise NotApplicable("the input's bandwidth is unknown: neither bandwidth_hz nor an input file is given")
    else:
        try:
            bandwidth_hz = audio_info(item.input_audio).sample_rate / 2
        except UserError as error:
            raise MetricFailure(f"the input's bandwidth is unknown: {error}") from None
        if bandwidth_hz >= sample_rate / 2:
            raise NotApplicable(
                "the input's bandwidth is unknown: no bandwidth_hz, and the input file's sample rate is not below "
                f"the evaluation's ({sample_rate} Hz)"
            )
    if bandwidth_hz >= sample_rate / 2:
        raise NotApplicable(f"the input reaches {bandwidth_hz:g} Hz: nothing above it at {sample_rate} Hz")
    return bandwidth_hz


@dataclass(frozen=True)
class LogSpectralDistance(Metric):
    """LSD over all frequencies, for every task whose input fixes the timing."""

    sample_rate: int

    tasks = FRAME_LOCKED_TASKS

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (_card("lsd", "LSD", "all frequencies", self.sample_rate, {}),)

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        return {"lsd": root_mean_square_over_bins(_squares_of(sample))}


@dataclass(frozen=True)
class BandLogSpectralDistance(Metric):
    """LSD above and below the bandwidth of the input of super-resolution: what was added, and what was kept."""

    sample_rate: int

    tasks = frozenset({"audio_super_resolution"})

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        split = {"split": "at the item's bandwidth_hz, else at half the sample rate of its input file"}
        return (
            _card("lsd_hf", "LSD-HF", "bins at and above the input's bandwidth", self.sample_rate, split),
            _card("lsd_lf", "LSD-LF", "bins below the input's bandwidth", self.sample_rate, split),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float | NoValue]:
        bandwidth_hz = input_bandwidth_hz(sample.item, sample.sample_rate)
        bins_hz = np.fft.rfftfreq(window_samples(sample.sample_rate), 1 / sample.sample_rate)
        above = int(np.searchsorted(bins_hz, bandwidth_hz))
        squares = _squares_of(sample)
        nothing = NotApplicable(f"no frequency bin between {bandwidth_hz:g} Hz and half the sample rate")
        return {
            "lsd_hf": root_mean_square_over_bins(squares[:, above:]) if above < len(bins_hz) else nothing,
            "lsd_lf": root_mean_square_over_bins(squares[:, :above]),
        }


def _card(name: str, title: str, bins: str, sample_rate: int, further: dict[str, Any]) -> MetricCard:
    return MetricCard(
        name=name,
        title=title,
        unit="",
        direction="lower",
        value_range="0 (identical spectra) upwards, in powers of ten of power: 1 is 10 dB; seldom above 6",
        definition=f"Difference of log power spectra: root of the mean square over {bins}, then the mean over frames.",
        blind_to="Phase. Frames in which the reference is digital silence are left out, so noise there is not heard. "
        "Hears level. Counts a difference in an inaudible bin as much as one in a loud bin: missing treble costs "
        "several units, and a reference resampled from a lower rate has bins that hold nothing but the resampler's "
        "residue.",
        source="Liu et al. 2022 (NVSR), code of ssr_eval; split by bandwidth as in Han and Lee 2022 (NU-Wave 2)",
        implementation="unisono.evaluation.metrics.lsd",
        version=unisono.__version__,
        parameters={
            "sample_rate": sample_rate,
            "n_fft": window_samples(sample_rate),
            "hop_samples": int(sample_rate / 100),
            "window": "hann, periodic; frames centred, zeros beyond both ends",
            "formula": "sqrt(mean over bins of log10(R^2 / (W + eps)^2 + eps)^2), magnitudes not normalised",
            "eps": _EPS,
            "log_base": 10,
            "bins": bins,
            "frames": f"those whose reference peaks at {_SILENT_PEAK:g} or more",
            "level_normalisation": "none",
            "alignment": ALIGNMENT,
            "lengths": LENGTHS,
        }
        | further,
    )
