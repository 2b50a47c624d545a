"""Segmental SNR, LLR, WSS and the composite measures."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.signal

from speech_clips import CLEAN, RATE, noisy, reasons, sample, values
from unisono.evaluation.metrics import composite
from unisono.evaluation.metrics import segmental_snr as segmental
from unisono.evaluation.metrics.pesq import Pesq

BANG = np.zeros(RATE, dtype=np.float32)
BANG[8000:9600] = np.random.default_rng(0).normal(0, 0.2, 1600)  # 0.1 s; PESQ wants 0.2 s


# Segmental SNR


@pytest.mark.parametrize(
    ("gain", "expected_db"),
    [(1.1, 20.0), (0.5, 20 * math.log10(2)), (-1.0, -20 * math.log10(2)), (1.001, 35.0), (-9.0, -10.0), (0.0, 0.0)],
)
def test_a_gain_is_noise_of_known_level(gain: float, expected_db: float) -> None:
    reference = np.random.default_rng(0).normal(0, 0.1, RATE)
    assert segmental.frame_snr_db(gain * reference, reference) == pytest.approx(np.full(129, expected_db), abs=1e-9)


def test_segmental_snr_is_the_mean_over_hann_weighted_frames() -> None:
    reference, waveform = CLEAN.astype(np.float64), noisy(CLEAN, 10).astype(np.float64)
    window = scipy.signal.windows.hann(482)[1:-1]
    expected = []
    for first in range(0, (len(reference) - 480) // 120 * 120, 120):
        part = slice(first, first + 480)
        signal = np.sum((window * reference[part]) ** 2)
        noise = np.sum((window * (reference - waveform)[part]) ** 2)
        expected.append(10 * np.log10(max(signal, 1e-300) / noise))
    measured = values(segmental.SegmentalSnr(), sample(waveform, reference))["segmental_snr_db"]
    assert measured == pytest.approx(np.clip(expected, -10, 35).mean(), abs=1e-5)


def test_digital_silence_that_stays_silent_is_no_fault() -> None:
    reference = np.concatenate([CLEAN, np.zeros(RATE, dtype=np.float32)])
    assert segmental.frame_snr_db(reference, reference).min() == 35
    hissing = reference + np.float32(1e-4)
    assert segmental.frame_snr_db(hissing, reference)[-100:].max() == -10


# LLR and WSS


def test_levinson_recursion_recovers_an_autoregressive_process() -> None:
    """Autocorrelation of x[n] = 0.9 x[n-1] - 0.5 x[n-2] + e[n] from the Yule-Walker equations."""
    correlation = [1.0, 0.9 / 1.5]
    for _ in range(15):
        correlation.append(0.9 * correlation[-1] - 0.5 * correlation[-2])
    filters = composite.predictors(np.array([correlation, np.multiply(7, correlation), np.zeros(17)]))
    expected = np.array([1, -0.9, 0.5] + 14 * [0.0])
    assert filters[:2] == pytest.approx(np.stack([expected, expected]), abs=1e-12)
    assert filters[2] == pytest.approx(np.eye(17)[0])  # nothing to predict in silence


@pytest.mark.parametrize(("true", "other"), [(0.9, 0.2), (0.5, -0.5), (-0.3, 0.95)])
def test_llr_of_two_first_order_processes(true: float, other: float) -> None:
    """The wrong predictor 1 - s z⁻¹ leaves 1 - 2 r s + s² of a process whose own leaves 1 - r²."""
    lags = np.arange(17)
    llr = composite.log_likelihood_ratios(np.array([3 * other**lags]), np.array([0.01 * true**lags]))
    assert llr == pytest.approx([math.log((1 - 2 * true * other + other**2) / (1 - true**2))], abs=1e-9)


def test_llr_of_filtered_noise_is_that_of_the_processes() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 20 * RATE)
    reference = scipy.signal.lfilter([1], [1, -0.9], noise)
    llr = values(composite.SpectralDistances(), sample(noise, reference))["llr"]
    exact = math.log(1 / (1 - 0.9**2))
    assert exact - 0.1 < llr < exact + 0.2  # predictors of 480 samples err by about 16 / 180


def test_llr_and_wss_agree_with_a_slow_computation() -> None:
    waveform, reference = (signal[: 3 * RATE // 2] for signal in (noisy(CLEAN, 12), noisy(CLEAN, 60, seed=3)))
    window = scipy.signal.windows.hann(482)[1:-1]
    llr, wss = [], []
    for first in range(0, (len(reference) - 480) // 120 * 120, 120):
        frames = [signal[first : first + 480].astype(np.float64) * window for signal in (waveform, reference)]
        lags = [np.correlate(frame, frame, "full")[479 : 479 + 17] for frame in frames]
        filters = [np.append(1, scipy.linalg.solve_toeplitz(lag[:-1], -lag[1:])) for lag in lags]
        left = [a @ scipy.linalg.toeplitz(lags[1]) @ a for a in filters]
        llr.append(math.log(left[0] / left[1]))
        wss.append(slow_wss(*(band_levels(frame) for frame in frames)))
    kept = round(0.95 * len(llr))
    measured = values(composite.SpectralDistances(), sample(waveform, reference))
    assert measured["llr"] == pytest.approx(np.mean(sorted(llr)[:kept]), rel=1e-9)
    assert measured["wss"] == pytest.approx(np.mean(sorted(wss)[:kept]), rel=1e-9)


def band_levels(frame: np.ndarray) -> np.ndarray:
    power = np.abs(np.fft.fft(frame, 1024)[:512]) ** 2
    levels, k = [], np.arange(512)
    for centre_hz, width_hz in zip(composite._CENTRES_HZ, composite._BANDWIDTHS_HZ, strict=True):
        weights = np.exp(-11 * ((k - math.floor(centre_hz / 15.625)) / (width_hz / 15.625)) ** 2) * 70 / width_hz
        audible = weights > math.exp(-30 / 4.606)
        levels.append(10 * math.log10(max(float(np.sum(power[audible] * weights[audible])), 1e-10)))
    return np.array(levels)


def slow_weights(level: np.ndarray) -> list[float]:
    slope, weights = np.diff(level), []
    for band in range(len(slope)):
        place = band
        if slope[band] > 0:
            while place < len(slope) and slope[place] > 0:
                place += 1
            peak = level[place - 1]
        else:
            while place >= 0 and slope[place] <= 0:
                place -= 1
            peak = level[place + 1]
        weights.append(20 / (20 + max(level) - level[band]) * 1 / (1 + peak - level[band]))
    return weights


def slow_wss(a: np.ndarray, b: np.ndarray) -> float:
    weights = (np.array(slow_weights(a)) + np.array(slow_weights(b))) / 2
    return float(np.sum(weights * (np.diff(a) - np.diff(b)) ** 2) / np.sum(weights))


def test_weights_of_a_spectrum_by_hand() -> None:
    """Levels 0 10 30 20: the peak is 30; uphill searches stop one band short of it, at 10."""
    weights = composite.slope_weights(np.array([[0.0, 10.0, 30.0, 20.0]]))
    assert weights == pytest.approx(np.array([[20 / 50 * 1 / 11, 20 / 40 * 1 / 1, 20 / 20 * 1 / 1]]))


def test_wss_by_hand_and_its_symmetry() -> None:
    flat, peaked = np.zeros((1, 3)), np.array([[0.0, 10.0, 0.0]])
    # Weights: 1 and 1 of the flat one; of the other 20 / 30 (its local peak is itself) and 1.
    expected = ((1 + 2 / 3) / 2 * 100 + 1 * 100) / ((1 + 2 / 3) / 2 + 1)
    assert composite.weighted_spectral_slopes(flat, peaked) == pytest.approx([expected])
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 10, (2, 50, 25))
    assert composite.weighted_spectral_slopes(a, b) == pytest.approx(composite.weighted_spectral_slopes(b, a))
    assert composite.weighted_spectral_slopes(a, a + 6.0) == pytest.approx(np.zeros(50), abs=1e-20)


def test_weights_agree_with_a_slow_search() -> None:
    levels = np.random.default_rng(0).integers(-3, 4, (200, 25)).astype(float)
    assert composite.slope_weights(levels) == pytest.approx(np.array([slow_weights(level) for level in levels]))


def test_a_band_hears_a_tone_at_its_centre_most() -> None:
    bands = composite.critical_bands()
    assert bands.shape == (25, 512)
    assert (bands.argmax(axis=1) == np.floor(np.array(composite._CENTRES_HZ) / 15.625)).all()


def test_the_worst_twentieth_is_left_out() -> None:
    assert composite.kept_mean(np.arange(20.0)[::-1]) == 9.0
    assert composite.kept_mean(np.array([3.0])) == 3.0


def test_silence_in_the_reference_is_left_out_of_the_llr() -> None:
    """Speech, silence, speech: the noise in the silence has no predictor to be compared with."""
    pause = np.zeros(3 * RATE, dtype=np.float32)
    with_pause = sample(np.concatenate([noisy(CLEAN, 15), pause + 1e-3]), np.concatenate([CLEAN, pause]))
    measured = values(composite.SpectralDistances(), with_pause)["llr"]
    assert measured == pytest.approx(
        values(composite.SpectralDistances(), sample(noisy(CLEAN, 15), CLEAN))["llr"], rel=0.05
    )


def test_sound_in_no_full_frame_fails() -> None:
    tail = np.zeros(RATE, dtype=np.float32)
    tail[-10:] = 0.3
    reason = reasons(composite.SpectralDistances(), sample(tail, tail))["llr"]
    assert reason == "no full frame of the reference holds sound"


def test_a_dropout_costs_llr() -> None:
    damaged = CLEAN.copy()
    damaged[RATE : 2 * RATE] = 0
    assert values(composite.SpectralDistances(), sample(damaged, CLEAN))["llr"] > 0.3


def test_long_recordings_are_analysed_in_parts() -> None:
    waveform = np.random.default_rng(0).normal(0, 0.1, 40 * RATE)
    whole = composite.analyse(waveform)
    assert len(whole[0]) == (len(waveform) - 480) // 120 > composite._CHUNK_FRAMES
    part = composite.analyse(waveform[120 * 4200 :])
    assert whole[0][4200:] == pytest.approx(part[0], abs=1e-12) and whole[1][4200:] == pytest.approx(part[1])


# CSIG, CBAK, COVL


def test_composite_measures_are_the_published_regressions() -> None:
    clip = sample(noisy(CLEAN, 45), CLEAN)
    parts: dict[str, float] = {}
    for metric in (Pesq("wb"), segmental.SegmentalSnr(), composite.SpectralDistances()):
        parts |= values(metric, clip)
    pesq, llr, wss, snr_db = (parts[name] for name in ("pesq_wb", "llr", "wss", "segmental_snr_db"))
    expected = {
        "csig": 3.093 - 1.029 * llr + 0.603 * pesq - 0.009 * wss,
        "cbak": 1.634 + 0.478 * pesq - 0.007 * wss + 0.063 * snr_db,
        "covl": 1.594 + 0.805 * pesq - 0.512 * llr - 0.007 * wss,
    }
    assert all(1 < value < 5 for value in expected.values()), "the limits would hide an error"
    assert values(composite.Composite(), clip) == pytest.approx(expected)


def test_composite_measures_stay_within_the_scale() -> None:
    scores = values(composite.Composite(), sample(noisy(CLEAN, -15), CLEAN))
    assert scores["csig"] == scores["covl"] == 1


def test_without_pesq_llr_and_wss_remain() -> None:
    clip = sample(BANG, BANG)
    assert set(reasons(composite.Composite(), clip).values()) == {"PESQ finds no utterance in the reference"}
    assert values(composite.SpectralDistances(), clip) == {"llr": 0, "wss": 0}
