"""LLR and WSS, and the composite measures CSIG, CBAK and COVL (Hu and Loizou 2008), at 16 kHz.

The definitions are those of the program that came with Loizou's book and that published tables follow, with its
quirks: no limit on the LLR (the paper speaks of 2), the frames with the largest 5 % of either distance left out, and a
local peak one band short where the search goes up. PESQ is wide band MOS-LQO, as in tables of 16 kHz speech; the
regression was fitted with raw narrow-band scores.

Shapes: S samples, F frames, P prediction order, B critical bands, N points of the FFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

import unisono
from unisono.evaluation.alignment import ALIGNMENT, LENGTHS
from unisono.evaluation.items import Sample
from unisono.evaluation.metric import Metric, MetricCard, MetricFailure, library_version
from unisono.evaluation.metrics.audible import audible_pair, check_band
from unisono.evaluation.metrics.pesq import pesq_value
from unisono.evaluation.metrics.segmental_snr import FRAMES, SAMPLE_RATE_HZ, frames, segmental_snr_db, window

LPC_ORDER = 16
N_FFT = 1024
KEPT_SHARE = 0.95
SILENT_BELOW_LOUDEST_DB = 100.0
FLOOR_POWER = 1e-10
"""Of a band, for waveforms of full scale 1."""

# Klatt 1982: how fast weights fall below the global and the local spectral peak, in dB.
_GLOBAL_PEAK_DB, _LOCAL_PEAK_DB = 20.0, 1.0

_CENTRES_HZ = (
    50.0, 120.0, 190.0, 260.0, 330.0, 400.0, 470.0, 540.0, 617.372, 703.378, 798.717, 904.128, 1020.38,
    1148.30, 1288.72, 1442.54, 1610.70, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04, 3276.17, 3597.63,
)  # fmt: skip
_BANDWIDTHS_HZ = (
    70.0, 70.0, 70.0, 70.0, 70.0, 70.0, 70.0, 77.3724, 86.0056, 95.3398, 105.411, 116.256, 127.914,
    140.423, 153.823, 168.154, 183.457, 199.776, 217.153, 235.631, 255.255, 276.072, 298.126, 321.465, 346.136,
)  # fmt: skip

_CHUNK_FRAMES = 4096


def predictors(autocorrelation: np.ndarray) -> np.ndarray:
    """Prediction error filters ``(F, P + 1)``, first coefficient 1, of autocorrelations ``(F, P + 1)`` by the
    Levinson-Durbin recursion; 1, 0, 0, … where there is nothing left to predict."""
    count, order = len(autocorrelation), autocorrelation.shape[1] - 1
    filters = np.zeros((count, order + 1))
    filters[:, 0] = 1.0
    error = autocorrelation[:, 0].copy()
    for step in range(1, order + 1):
        unexplained = np.einsum("fk,fk->f", filters[:, :step], autocorrelation[:, step:0:-1])
        reflection = np.where(error > 0, -unexplained / np.where(error > 0, error, 1.0), 0.0)
        filters[:, 1 : step + 1] += reflection[:, None] * filters[:, step - 1 :: -1]
        error *= 1 - reflection**2
    return filters


def prediction_error(filters: np.ndarray, autocorrelation: np.ndarray) -> np.ndarray:
    """Energy ``(F,)`` that filters ``(F, P + 1)`` leave of signals with these autocorrelations ``(F, P + 1)``."""
    lags = np.arange(filters.shape[1])
    matrices = autocorrelation[:, np.abs(lags[:, None] - lags)]
    return np.einsum("fi,fij,fj->f", filters, matrices, filters, optimize=True)


def log_likelihood_ratios(waveform: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """LLR ``(F,)`` of two sets of autocorrelations ``(F, P + 1)``: by how much, as natural logarithm, the energy grows
    that the waveform's predictor leaves of the reference over what its own leaves. 0 for the same predictor, never
    below; ``reference`` must not be silent."""
    # What rounding leaves of a perfectly predictable frame may be zero or negative.
    least = np.finfo(np.float64).eps * reference[:, 0]
    own = np.maximum(prediction_error(predictors(reference), reference), least)
    other = np.maximum(prediction_error(predictors(waveform), reference), least)
    return np.log(np.maximum(other / own, 1.0))


def critical_bands() -> np.ndarray:
    """Weights ``(B, N / 2)`` of the power spectrum: Gaussians cut at the program's -30 dB."""
    points = N_FFT // 2
    bin_hz = SAMPLE_RATE_HZ / N_FFT
    centres = np.floor(np.array(_CENTRES_HZ) / bin_hz)[:, None]
    widths = np.array(_BANDWIDTHS_HZ)[:, None] / bin_hz
    weights = np.exp(-11 * ((np.arange(points) - centres) / widths) ** 2) * _BANDWIDTHS_HZ[0] / (widths * bin_hz)
    return np.where(weights > np.exp(-30 / (2 * 2.303)), weights, 0.0)


def slope_weights(level_db: np.ndarray) -> np.ndarray:
    """Klatt's weights ``(F, B - 1)`` of the slopes between bands of levels ``(F, B)``: near 1 at spectral peaks.

    The local peak of a band is found uphill: to the left where the slope falls; to the right where it rises, and there
    the program takes the band before the peak.
    """
    rises = np.diff(level_db, axis=1) > 0
    slopes = np.arange(rises.shape[1])
    falls_from = np.where(np.insert(rises[:, :-1], 0, True, axis=1), slopes, 0)
    rises_to = np.where(np.append(~rises[:, 1:], np.ones((len(rises), 1), dtype=bool), axis=1), slopes, slopes[-1])
    start_of_fall = np.maximum.accumulate(falls_from, axis=1)
    end_of_rise = np.minimum.accumulate(rises_to[:, ::-1], axis=1)[:, ::-1]
    peak = np.where(rises, end_of_rise, start_of_fall)
    below_local = np.take_along_axis(level_db, peak, axis=1) - level_db[:, :-1]
    below_global = level_db.max(axis=1, keepdims=True) - level_db[:, :-1]
    return _GLOBAL_PEAK_DB / (_GLOBAL_PEAK_DB + below_global) * _LOCAL_PEAK_DB / (_LOCAL_PEAK_DB + below_local)


def weighted_spectral_slopes(waveform_db: np.ndarray, reference_db: np.ndarray) -> np.ndarray:
    """WSS distance ``(F,)`` of band levels ``(F, B)``: mean squared difference of the slopes from band to band,
    weighted by the mean of both signals' `slope_weights`; the same either way round."""
    weights = (slope_weights(waveform_db) + slope_weights(reference_db)) / 2
    difference = np.diff(waveform_db, axis=1) - np.diff(reference_db, axis=1)
    return (weights * difference**2).sum(axis=1) / weights.sum(axis=1)


def kept_mean(distances: np.ndarray) -> float:
    """Mean of the smallest 95 %."""
    kept = max(1, int(np.floor(KEPT_SHARE * len(distances) + 0.5)))
    return float(np.sort(distances)[:kept].mean())


def analyse(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Autocorrelations ``(F, P + 1)`` and levels of the critical bands in dB ``(F, B)`` of ``(S,)`` at 16 kHz."""
    weights, bands = window(), critical_bands().T
    framed = frames(waveform.astype(np.float64))
    autocorrelations, levels_db = [], []
    for first in range(0, len(framed), _CHUNK_FRAMES):
        power = np.abs(np.fft.rfft(framed[first : first + _CHUNK_FRAMES] * weights, N_FFT)) ** 2
        autocorrelations.append(np.fft.irfft(power, N_FFT)[:, : LPC_ORDER + 1])
        levels_db.append(10 * np.log10(np.maximum(power[:, :-1] @ bands, FLOOR_POWER)))
    return np.concatenate(autocorrelations), np.concatenate(levels_db)


def spectral_distances(sample: Sample) -> tuple[float, float]:
    """LLR and WSS at 16 kHz; computed once however many metrics ask.

    Raises:
        NotApplicable: there is no reference, or the sample's rate does not hold the band of the LLR.
        MetricFailure: as `audible_pair`, or too short.
    """
    return sample.once("llr_and_wss", lambda: _compute(sample))


def _compute(sample: Sample) -> tuple[float, float]:
    check_band(sample, SAMPLE_RATE_HZ, "the LLR")
    waveform, reference = audible_pair(sample, SAMPLE_RATE_HZ)
    waveform_lags, waveform_db = analyse(waveform)
    reference_lags, reference_db = analyse(reference)
    energy = reference_lags[:, 0]
    if not energy.any():
        raise MetricFailure("no full frame of the reference holds sound")
    # Digital silence has no predictor to be like.
    heard = energy > energy.max() * 10 ** (-SILENT_BELOW_LOUDEST_DB / 10)
    llr = log_likelihood_ratios(waveform_lags[heard], reference_lags[heard])
    return kept_mean(llr), kept_mean(weighted_spectral_slopes(waveform_db, reference_db))


_LLR_PARAMETERS = {
    "lpc_order": LPC_ORDER,
    "lpc": "autocorrelation method",
    "llr_limit": "none",
    "llr_pauses": f"frames of the reference more than {SILENT_BELOW_LOUDEST_DB:.0f} dB below its loudest are left out",
}
_WSS_PARAMETERS = {
    "n_fft": N_FFT,
    "critical_bands": f"{len(_CENTRES_HZ)}, 50 to {_CENTRES_HZ[-1]:.0f} Hz",
    "band_floor_power": FLOOR_POWER,
    "global_peak_db": _GLOBAL_PEAK_DB,
    "local_peak_db": _LOCAL_PEAK_DB,
    "local_peak": "the band before it where the search goes up",
}
_SHARED_PARAMETERS = FRAMES | {
    "kept_share": KEPT_SHARE,
    "dtype": "float64",
    "alignment": ALIGNMENT,
    "lengths": LENGTHS,
}


@dataclass(frozen=True)
class SpectralDistances(Metric):
    """Log-likelihood ratio of linear predictors, and weighted spectral slope distance."""

    tasks = frozenset({"speech_enhancement"})

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name="llr",
                title="LLR",
                unit="",
                direction="lower",
                value_range="0 (same spectral envelope) upwards, seldom above 3",
                definition="By how much, as natural logarithm, the energy grows that linear prediction leaves of a "
                "frame of the reference if the clip's predictor is used for it; mean of the smallest 95 %.",
                blind_to="Level, phase and pitch: it compares spectral envelopes. Weighs formants more than valleys. "
                "The worst 5 % of frames do not count. No limit per frame, as CSIG and COVL take it; programs that "
                "report LLR alone limit it to 2 (1.38 for 2.20 on one noisy clip).",
                source="Hu and Loizou 2008; limits as in the program of Loizou's book",
                implementation="unisono.evaluation.metrics.composite.SpectralDistances",
                version=unisono.__version__,
                parameters=_SHARED_PARAMETERS | _LLR_PARAMETERS,
            ),
            MetricCard(
                name="wss",
                title="WSS",
                unit="",
                direction="lower",
                value_range="0 (same slopes) upwards, seldom above 150",
                definition="Weighted squared difference of the level steps from critical band to critical band, in "
                "dB²; spectral peaks weigh most; mean of the smallest 95 % of frames.",
                blind_to="Level, phase, and everything above 3.8 kHz. The worst 5 % of frames do not count.",
                source="Klatt 1982; Hu and Loizou 2008",
                implementation="unisono.evaluation.metrics.composite.SpectralDistances",
                version=unisono.__version__,
                parameters=_SHARED_PARAMETERS | _WSS_PARAMETERS,
                decimals=1,
            ),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        llr, wss = spectral_distances(sample)
        return {"llr": llr, "wss": wss}


@dataclass(frozen=True)
class Composite(Metric):
    """CSIG, CBAK and COVL: opinion scores regressed on PESQ, LLR, WSS and segmental SNR."""

    tasks = frozenset({"speech_enhancement"})
    libraries = ("pesq",)

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            _composite_card("csig", "CSIG", "of the speech", "3.093 - 1.029 LLR + 0.603 PESQ - 0.009 WSS"),
            _composite_card("cbak", "CBAK", "of the background", "1.634 + 0.478 PESQ - 0.007 WSS + 0.063 SegSNR"),
            _composite_card("covl", "COVL", "of the whole", "1.594 + 0.805 PESQ - 0.512 LLR - 0.007 WSS"),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        llr, wss = spectral_distances(sample)
        snr_db = segmental_snr_db(sample)
        pesq = pesq_value(sample, "wb")
        scores = {
            "csig": 3.093 - 1.029 * llr + 0.603 * pesq - 0.009 * wss,
            "cbak": 1.634 + 0.478 * pesq - 0.007 * wss + 0.063 * snr_db,
            "covl": 1.594 + 0.805 * pesq - 0.512 * llr - 0.007 * wss,
        }
        return {name: min(5.0, max(1.0, score)) for name, score in scores.items()}


def _composite_card(name: str, title: str, what: str, formula: str) -> MetricCard:
    used = {"LLR": _LLR_PARAMETERS, "WSS": _WSS_PARAMETERS}
    parameters: dict[str, object] = {}
    for part, choices in used.items():
        parameters |= choices if part in formula else {}
    return MetricCard(
        name=name,
        title=title,
        unit="",
        direction="higher",
        value_range="1 to 5",
        definition=f"Predicted opinion {what} on the scale of ITU-T P.835: {formula}.",
        blind_to="What its parts are blind to; everything above 8 kHz. Limited to 1 to 5, so that bad systems look "
        "alike at 1. Compare only with tables that use wide-band PESQ and an LLR without limit: a limit of 2 per frame "
        "raises CSIG of clips in white noise by 0.2 to 0.4.",
        source="Hu and Loizou 2008; regression as in the program of Loizou's book",
        implementation="unisono.evaluation.metrics.composite.Composite",
        version=unisono.__version__,
        parameters=_SHARED_PARAMETERS
        | parameters
        | {"formula": formula, "pesq": f"wb, MOS-LQO, pesq {library_version('pesq')}"}
        | ({"segmental_snr": "limited to -10 to 35 dB"} if "SegSNR" in formula else {}),
    )
