"""What WORLD tells about a voice, once per recording: F0, spectral envelope as mel cepstra, and where two voices are at
the same place of what they say.

Frame k covers the seconds [k, k + 1) / 100 and holds what is at its middle.

Shapes: S samples, T frames, F frequency bins, Q = order + 1 cepstra.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

import unisono
from unisono.evaluation.alignment import LENGTHS, common_length
from unisono.evaluation.items import Sample
from unisono.evaluation.metric import MetricFailure, library_version
from unisono.evaluation.metrics.warping import DTW_LIMIT_S, WARPING, Warp, check_warpable, time_warp
from unisono.features.f0 import estimate_f0, load_world, num_f0_frames

FRAME_RATE_HZ = 100.0
F0_FLOOR_HZ, F0_CEIL_HZ = 60.0, 1_100.0
ACTIVE_DB = 40.0
"""A frame sounds if its level is at most so far below that of the loudest one."""
CEPSTRAL_ORDER = 24
_ENVELOPE_RANGE_DB = 100.0
# Of what leads a time warp: weak noise must not decide what belongs together. With 100 dB, noise at 20 dB SNR led a
# third of the frames astray; with 40 dB, 4 %.
_WARPED_RANGE_DB = 40.0
_LEVEL_WINDOW_S = 0.03
_LEAST_SWING = 1e-6
_ALLPASS_GRID = 0.001

Which = Literal["judged", "reference"]

F0_PARAMETERS: Mapping[str, Any] = {
    "prepared": "mean removed, peak at full scale",
    "extractor": "WORLD harvest",
    "f0_floor_hz": F0_FLOOR_HZ,
    "f0_ceil_hz": F0_CEIL_HZ,
    "frame_rate_hz": FRAME_RATE_HZ,
}
"""For the cards of all metrics that hear F0."""


FRAMEWISE_PARAMETERS: Mapping[str, Any] = {"alignment": "none", "lengths": LENGTHS}
"""For the cards of all metrics that compare frame by frame."""

WARP_PARAMETERS: Mapping[str, Any] = {
    "alignment": WARPING,
    "warped_by": f"mel cepstra c0 to c{CEPSTRAL_ORDER} of CheapTrick's envelope, {_WARPED_RANGE_DB:g} dB below its "
    "loudest value at least, c0 less its mean over the frames that sound; Euclidean distance",
    "limit_s": DTW_LIMIT_S,
}
"""For the cards of all metrics along `timbre_warp`."""


def waveform_of(sample: Sample, which: Which) -> np.ndarray:
    """The judged waveform or the reference, float64 ``(S,)``, without offset and at full scale: WORLD adds noise of a
    fixed level, and an offset would hide pauses.

    Raises:
        NotApplicable: there is no reference.
        MetricFailure: it is constant.
    """
    waveform = sample.waveform if which == "judged" else sample.needed_reference

    def make() -> np.ndarray:
        centred = waveform.astype(np.float64) - waveform.mean(dtype=np.float64)
        peak = np.abs(centred).max()
        if not peak > _LEAST_SWING * np.abs(waveform).max():
            raise MetricFailure("silent but for a constant" if which == "judged" else "the reference is constant")
        return centred / peak

    return sample.once(("centred", which), make)


def framewise(sample: Sample) -> int:
    """How many frames a judged voice and its reference share; `MetricFailure` where their lengths differ by too much.

    Not `Sample.against_reference`: a sung vowel correlates with itself one period later, and a lag that matters to
    samples is none to frames of 10 ms.
    """
    judged, _ = common_length(sample.waveform, sample.needed_reference, sample.sample_rate)
    return num_f0_frames(len(judged), sample.sample_rate, FRAME_RATE_HZ)


def f0_of(sample: Sample, which: Which) -> np.ndarray:
    """F0 in Hz ``(T,)``, 0 where unvoiced."""
    waveform = waveform_of(sample, which)
    return sample.once(("world_f0", which), lambda: _f0(waveform, sample.sample_rate))


def _f0(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    f0_hz = estimate_f0(
        waveform, sample_rate, FRAME_RATE_HZ, method="harvest", floor_hz=F0_FLOOR_HZ, ceil_hz=F0_CEIL_HZ
    )
    return f0_hz.astype(np.float64)


def active_frames(waveform: np.ndarray, sample_rate: int, num_frames: int) -> np.ndarray:
    """Which frames sound, bool ``(T,)``: level in 30 ms around the middle within `ACTIVE_DB` of the loudest."""
    level_db = frame_levels_db(waveform, sample_rate, num_frames)
    return level_db >= level_db.max() - ACTIVE_DB


def frame_levels_db(waveform: np.ndarray, sample_rate: int, num_frames: int) -> np.ndarray:
    """Level of each frame ``(T,)``: the energy of 30 ms around its middle, in dB."""
    energy = np.concatenate([[0.0], np.cumsum(waveform**2)])
    middles = (np.arange(num_frames) + 0.5) / FRAME_RATE_HZ * sample_rate
    half = _LEVEL_WINDOW_S / 2 * sample_rate
    first = np.clip(np.round(middles - half).astype(int), 0, len(waveform))
    last = np.clip(np.round(middles + half).astype(int), 0, len(waveform))
    return 10.0 * np.log10(np.maximum(energy[last] - energy[first], 1e-20))


def versions(*libraries: str) -> str:
    """For the cards: this project's version, as its code computes the number, and those of what it computes with."""
    return ", ".join([unisono.__version__, *(f"{name} {library_version(name)}" for name in libraries)])


@dataclass(frozen=True)
class MelCepstra:
    """Spectral envelope of a recording.

    Attributes:
        values: ``(T, Q)``, of the natural logarithm of the amplitude; c0 first.
        warped: ``(T, Q)``, the same with all that is 40 dB below the loudest raised to that, and c0 less its mean over
            the frames that sound: what leads a time warp.
        active: which frames sound, bool ``(T,)``.
    """

    values: np.ndarray
    warped: np.ndarray
    active: np.ndarray


def mel_cepstra_of(sample: Sample, which: Which) -> MelCepstra:
    """Mel cepstra of CheapTrick's envelope, order `CEPSTRAL_ORDER`."""
    waveform, f0_hz = waveform_of(sample, which), f0_of(sample, which)
    return sample.once(("world_mel_cepstra", which), lambda: _mel_cepstra(waveform, f0_hz, sample.sample_rate))


def _mel_cepstra(waveform: np.ndarray, f0_hz: np.ndarray, sample_rate: int) -> MelCepstra:
    world = load_world()
    times_s = (np.arange(len(f0_hz)) + 0.5) / FRAME_RATE_HZ
    power = world.cheaptrick(
        waveform,
        f0_hz,
        times_s,
        sample_rate,
        f0_floor=F0_FLOOR_HZ,
        fft_size=world.get_cheaptrick_fft_size(sample_rate, F0_FLOOR_HZ),
    )
    alpha = allpass_constant(sample_rate)
    active = active_frames(waveform, sample_rate, len(f0_hz))
    # Far below the loudest there is rounding, and what WORLD adds against logarithms of zero.
    values = mel_cepstra(_raised(power, _ENVELOPE_RANGE_DB), CEPSTRAL_ORDER, alpha)
    warped = mel_cepstra(_raised(power, _WARPED_RANGE_DB), CEPSTRAL_ORDER, alpha)
    warped[:, 0] -= warped[active, 0].mean()
    return MelCepstra(values, warped, active)


def _raised(power: np.ndarray, range_db: float) -> np.ndarray:
    return np.maximum(power, power.max() * 10 ** (-range_db / 10))


def mel_cepstra(power: np.ndarray, order: int, alpha: float) -> np.ndarray:
    """Power spectra ``(T, F)``, 0 Hz to half the sample rate, as mel cepstra ``(T, order + 1)``.

    ``log|H(ω)| = Σ c_m cos(m β(ω))`` with the phase β of a first-order all-pass of constant ``alpha`` (Tokuda et al.
    1994; what SPTK computes as sp2mc).
    """
    log_amplitude = 0.5 * np.log(power)
    cepstra = np.fft.irfft(log_amplitude, axis=1)[:, : power.shape[1]]
    cepstra[:, 1:-1] *= 2
    return cepstra @ _frequency_transform(power.shape[1], order, alpha).T


@lru_cache(maxsize=8)
def _frequency_transform(num_cepstra: int, order: int, alpha: float) -> np.ndarray:
    """What makes cepstra ``(num_cepstra,)`` of a linear frequency axis those of a warped one (Oppenheim and Johnson
    1972), ``(order + 1, num_cepstra)``: their recursion, applied to a unit in each place."""
    before = np.zeros((order + 1, num_cepstra))
    for place in range(num_cepstra - 1, -1, -1):
        after = np.empty_like(before)
        after[0] = alpha * before[0]
        after[0, place] += 1.0
        if order:
            after[1] = (1 - alpha**2) * before[0] + alpha * before[1]
        for m in range(2, order + 1):
            after[m] = before[m - 1] + alpha * (before[m] - after[m - 1])
        before = after
    return before


@lru_cache(maxsize=8)
def allpass_constant(sample_rate: int) -> float:
    """The constant whose warped axis is nearest to the mel scale ``log(1 + f / 1 kHz)`` (Fant 1968), both
    scaled to end at 1, by least squares: 0.41 at 16 kHz, 0.466 at 24 kHz, 0.554 at 48 kHz."""
    omega = np.linspace(0, np.pi, 1000)
    mel = np.log1p(omega / np.pi * sample_rate / 2 / 1000.0)
    mel /= mel[-1]
    candidates = np.arange(0.0, 1.0, _ALLPASS_GRID)
    warped = omega + 2 * np.arctan2(candidates[:, None] * np.sin(omega), 1 - candidates[:, None] * np.cos(omega))
    errors = ((warped / np.pi - mel) ** 2).mean(axis=1)
    return float(round(candidates[np.argmin(errors)], 3))


def timbre_warp(sample: Sample) -> Warp:
    """The path through the judged voice (``first``) and the reference (``second``) along which they say the same.

    Mel cepstra lead it, and neither level nor pitch: a wrong note is not made good by calling it another one.
    """
    judged, reference = mel_cepstra_of(sample, "judged"), mel_cepstra_of(sample, "reference")
    check_warpable(max(len(judged.values), len(reference.values)) / FRAME_RATE_HZ)
    return sample.once("world_timbre_warp", lambda: time_warp(judged.warped, reference.warped, cost="euclidean"))
