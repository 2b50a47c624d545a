"""PESQ, segmental SNR, LLR, WSS, composite measures, DNSMOS and ViSQOL."""

import importlib.util
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import soxr

from unisono.evaluation.items import MODEL, EvaluationItem, Sample
from unisono.evaluation.metric import Metric, measure
from unisono.evaluation.metrics import composite, dnsmos, visqol
from unisono.evaluation.metrics import pesq as pesq_module
from unisono.evaluation.metrics import segmental_snr as segmental

RATE = 16_000
INTRUSIVE: tuple[Metric, ...] = (
    pesq_module.Pesq("wb"),
    pesq_module.Pesq("nb"),
    segmental.SegmentalSnr(),
    composite.SpectralDistances(),
    composite.Composite(),
    visqol.VisqolSpeech(),
    visqol.VisqolAudio(),
)
METRICS = (*INTRUSIVE, dnsmos.Dnsmos())
QUICK = INTRUSIVE[:5]


def speech(seconds: float, sample_rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Something that speech detectors take for speech: a buzz through moving formants, in syllables and pauses."""
    rng = np.random.default_rng(seed)
    n = round(seconds * sample_rate)
    time_s = np.arange(n) / sample_rate
    buzz = scipy.signal.sawtooth(2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 0.7 * time_s)) / sample_rate)
    voice = buzz + 0.1 * rng.normal(size=n)
    out = np.zeros(n)
    syllable = round(0.22 * sample_rate)
    for first in range(0, n, syllable):
        if (first // syllable) % 5 == 4:
            continue
        part = voice[first : first + syllable]
        for centre_hz in rng.uniform([300, 900, 2200], [800, 2000, 3500]):
            radius = np.exp(-np.pi * 90 / sample_rate)
            poles = [1, -2 * radius * np.cos(2 * np.pi * centre_hz / sample_rate), radius**2]
            part = scipy.signal.lfilter([1 - radius], poles, part) + 0.3 * part
        out[first : first + syllable] = part * np.hanning(syllable)[: len(part)]
    return (0.4 * out / np.abs(out).max()).astype(np.float32)


def noisy(clean: np.ndarray, snr_db: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=len(clean))
    noise *= np.sqrt(np.mean(clean**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    return (clean + noise).astype(np.float32)


def sample(waveform: np.ndarray, reference: np.ndarray | None, sample_rate: int = RATE) -> Sample:
    item = EvaluationItem("clip", "speech_enhancement", "", "", Path("clip.wav"))
    judged = np.asarray(waveform, dtype=np.float32)
    target = None if reference is None else np.asarray(reference, dtype=np.float32)
    return Sample(MODEL, judged, target, None, sample_rate, item)


def values(metric: Metric, clip: Sample) -> dict[str, float]:
    outcomes = measure(metric, clip)
    assert all(outcome.status == "ok" for outcome in outcomes.values()), outcomes
    return {name: outcome.value for name, outcome in outcomes.items() if outcome.value is not None}


def reasons(metric: Metric, clip: Sample, status: str = "failed") -> dict[str, str]:
    outcomes = measure(metric, clip)
    assert all(outcome.status == status for outcome in outcomes.values()), outcomes
    return {name: outcome.reason for name, outcome in outcomes.items()}


CLEAN = speech(3)
BANG = np.zeros(RATE, dtype=np.float32)
BANG[8000:9600] = np.random.default_rng(0).normal(0, 0.2, 1600)  # 0.1 s; PESQ wants 0.2 s


@pytest.fixture(autouse=True)
def _visqol_without_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loops in numpy give the same bits, and compiling them takes longer than all tests here."""
    import visqol.gammatone
    import visqol.nsim
    import visqol.patch_selector

    for module in (visqol.gammatone, visqol.nsim, visqol.patch_selector):
        monkeypatch.setattr(module, "has_numba", lambda: False)


# What all of them promise


def test_cards_name_every_choice() -> None:
    cards = [card for metric in METRICS for card in metric.cards]
    assert len({card.name for card in cards}) == len(cards)
    for card in cards:
        assert json.loads(json.dumps(card.parameters)) == card.parameters
        assert "not installed" not in f"{card.version} {card.parameters}"
        assert card.parameters["sample_rate"] and card.blind_to and card.source
    assert [card.name for metric in METRICS for card in metric.cards] == [
        *("pesq_wb", "pesq_nb", "segmental_snr_db", "llr", "wss", "csig", "cbak", "covl"),
        *("visqol_speech", "visqol_audio", "dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl", "dnsmos_p808"),
    ]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.cards[0].name)
def test_travels_to_workers_and_is_available(metric: Metric) -> None:
    assert pickle.loads(pickle.dumps(metric)) == metric
    assert metric.unavailable() is None


@pytest.mark.parametrize("metric", INTRUSIVE, ids=lambda metric: metric.cards[0].name)
def test_intrusive_metrics_need_a_reference_in_step(metric: Metric) -> None:
    assert "no reference" in " ".join(reasons(metric, sample(CLEAN, None), "not_applicable").values())
    assert "lengths differ" in " ".join(reasons(metric, sample(CLEAN[: 2 * RATE], CLEAN)).values())
    late = np.concatenate([np.zeros(400, dtype=np.float32), CLEAN[:-400]])
    assert "25.0 ms late" in " ".join(reasons(metric, sample(late, CLEAN)).values())


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.cards[0].name)
def test_too_short_clips_fail_with_a_reason(metric: Metric) -> None:
    for length in (1, 400):
        clip = CLEAN[1000 : 1000 + length]
        assert all("too short" in reason for reason in reasons(metric, sample(clip, clip)).values())


@pytest.mark.parametrize("metric", [*QUICK, visqol.VisqolSpeech(), dnsmos.Dnsmos()], ids=lambda m: m.cards[0].name)
def test_sound_outside_the_band_is_silence(metric: Metric) -> None:
    time_s = np.arange(3 * 44_100) / 44_100
    whistle = 0.3 * np.sin(2 * np.pi * 15_000 * time_s) * scipy.signal.windows.tukey(len(time_s), 0.2)
    clip = sample(whistle, speech(3, 44_100), 44_100)
    assert all("the clip is silent below" in reason for reason in reasons(metric, clip).values())


def test_noise_lowers_every_score() -> None:
    lower_is_better = {"llr", "wss"}
    by_snr = [sample(noisy(CLEAN, snr_db), CLEAN) for snr_db in (50, 40, 30, 20)]
    lines: dict[str, list[float]] = {}
    for metric in QUICK:
        scores = [values(metric, clip) for clip in by_snr]
        for card in metric.cards:
            lines[card.name] = [score[card.name] for score in scores]
            assert card.direction == ("lower" if card.name in lower_is_better else "higher")
    for name, line in lines.items():
        assert line == sorted(line, reverse=name not in lower_is_better) and len(set(line)) == 4, (name, lines)


def test_a_copy_has_the_best_score() -> None:
    best = {
        "pesq_wb": 4.644,
        "pesq_nb": 4.549,
        "segmental_snr_db": 35,
        "llr": 0,
        "wss": 0,
        "csig": 5,
        "cbak": 5,
        "covl": 5,
    }
    scores: dict[str, float] = {}
    for metric in QUICK:
        scores |= values(metric, sample(CLEAN, CLEAN))
    assert scores == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("factor", [-1.0, 0.25])
def test_level_and_polarity_of_the_clip(factor: float) -> None:
    """PESQ, LLR and WSS hear neither; segmental SNR takes both for noise."""
    clip, changed = sample(noisy(CLEAN, 20), CLEAN), sample(factor * noisy(CLEAN, 20), CLEAN)
    for metric in (*QUICK[:2], QUICK[3]):
        assert values(metric, changed) == pytest.approx(values(metric, clip), abs=2e-3)
    assert values(QUICK[2], changed)["segmental_snr_db"] < values(QUICK[2], clip)["segmental_snr_db"] - 3


@pytest.mark.parametrize("metric", QUICK, ids=lambda metric: metric.cards[0].name)
def test_level_of_both_together_does_not_matter(metric: Metric) -> None:
    loud, quiet = sample(noisy(CLEAN, 15), CLEAN), sample(noisy(CLEAN, 15) / 8, CLEAN / 8)
    assert values(metric, quiet) == pytest.approx(values(metric, loud), rel=0.02)  # the floor of WSS is absolute


# PESQ


@pytest.mark.parametrize(("band", "rate"), [("wb", 16_000), ("nb", 8_000)])
def test_pesq_is_the_librarys(band: pesq_module.Band, rate: int) -> None:
    from pesq import pesq

    clean = speech(3, 44_100)
    degraded = noisy(clean, 20)
    expected = pesq(
        rate,
        soxr.resample(clean, 44_100, rate, quality="HQ"),
        soxr.resample(degraded, 44_100, rate, quality="HQ"),
        band,
    )
    assert values(pesq_module.Pesq(band), sample(degraded, clean, 44_100)) == {f"pesq_{band}": float(expected)}


def test_pesq_without_an_utterance_fails() -> None:
    reason = reasons(pesq_module.Pesq("wb"), sample(BANG, BANG))["pesq_wb"]
    assert reason == "PESQ finds no utterance in the reference"


def test_other_errors_of_the_library_become_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    import pesq

    def fail(*_: object) -> float:
        raise pesq.OutOfMemoryError(b"Unable to allocate memory")

    monkeypatch.setattr(pesq, "pesq", fail)
    reason = reasons(pesq_module.Pesq("wb"), sample(CLEAN, CLEAN))["pesq_wb"]
    assert reason == "pesq failed: Unable to allocate memory"


def bursts(count: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.1, round(0.26 * RATE))
    return np.tile(np.concatenate([np.zeros(round(0.30 * RATE)), noise]), count).astype(np.float32)


@pytest.mark.parametrize("hiss", [0.0, 1e-4])
def test_utterances_are_counted_as_many_as_there_are(hiss: float) -> None:
    waveform = bursts(12) + hiss * np.random.default_rng(1).normal(size=len(bursts(12)))
    assert pesq_module.most_utterances(waveform, RATE) == 12
    # Pauses of 0.2 s and less do not part utterances.
    joined = np.delete(waveform, np.arange(len(waveform)).reshape(12, -1)[:, : round(0.11 * RATE)].ravel())
    assert pesq_module.most_utterances(joined, RATE) == 1


def test_what_would_overrun_the_librarys_buffers_is_refused() -> None:
    """With 70 utterances the library kills the process; with 52 it answers from overwritten memory."""
    for count in (52, 70):
        waveform = bursts(count)
        assert f"may hold {count} utterances" in reasons(pesq_module.Pesq("wb"), sample(waveform, waveform))["pesq_wb"]
    assert values(pesq_module.Pesq("nb"), sample(bursts(38), bursts(38)))["pesq_nb"] == pytest.approx(4.549, abs=1e-3)
    long = speech(61)
    assert "61 s of audio" in reasons(pesq_module.Pesq("nb"), sample(long, long))["pesq_nb"]


def test_pesq_is_computed_once_for_all_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    import pesq

    calls: list[str] = []
    original = pesq.pesq
    monkeypatch.setattr(pesq, "pesq", lambda *arguments: calls.append(arguments[3]) or original(*arguments))
    clip = sample(noisy(CLEAN, 10), CLEAN)
    for metric in QUICK:
        values(metric, clip)
    assert calls == ["wb", "nb"]


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
    for metric in (QUICK[0], QUICK[2], QUICK[3]):
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


# DNSMOS


@pytest.mark.parametrize("seconds", [4.6, 10.0])
def test_dnsmos_is_speechmos(seconds: float) -> None:
    """4.6 s are doubled to 9.2 s; of 10 s the first 9.01 s are heard."""
    from speechmos import dnsmos as library

    clip = noisy(speech(seconds), 20)
    expected = library.run(clip, RATE)
    measured = values(dnsmos.Dnsmos(), sample(clip, None))
    for name, key in dnsmos._KEYS.items():
        assert measured[name] == pytest.approx(float(expected[key]), abs=1e-5)
    if seconds == 10:
        cut = values(dnsmos.Dnsmos(), sample(clip[: round(9.01 * RATE)], None))
        assert cut == pytest.approx(measured, abs=1e-9)


def test_dnsmos_falls_with_noise_and_uses_one_thread() -> None:
    quiet, loud = (values(dnsmos.Dnsmos(), sample(noisy(speech(4.6), snr_db), None)) for snr_db in (30, 0))
    for name in ("dnsmos_bak", "dnsmos_ovrl", "dnsmos_p808"):
        assert loud[name] < quiet[name] - 0.1
    listener = dnsmos._listener()
    assert listener is dnsmos._listener()
    for session in (listener.onnx_sess, listener.p808_onnx_sess):
        options = session.get_session_options()
        assert options.intra_op_num_threads == options.inter_op_num_threads == 1


def test_dnsmos_cuts_off_what_is_above_full_scale() -> None:
    loud = 5 * speech(4.6)
    assert values(dnsmos.Dnsmos(), sample(loud, None)) == values(dnsmos.Dnsmos(), sample(np.clip(loud, -1, 1), None))


# ViSQOL


def test_visqol_is_the_librarys_with_the_lattice_network() -> None:
    from visqol import VisqolApi

    clean = speech(1.5)
    degraded = noisy(clean, 30)
    gain = 10 ** (-23 / 20) / np.sqrt(np.mean(clean.astype(np.float64) ** 2))
    by_lattice: dict[bool, float] = {}
    for lattice in (True, False):
        library = VisqolApi()
        library.create(mode="speech", use_lattice_model=lattice)
        by_lattice[lattice] = library.measure_from_arrays(gain * clean, gain * degraded, RATE).moslqo
    measured = values(visqol.VisqolSpeech(), sample(degraded, clean))["visqol_speech"]
    assert measured == pytest.approx(by_lattice[True], abs=1e-6)
    assert abs(measured - by_lattice[False]) > 0.1, "the fallback would go unnoticed"


def test_visqol_falls_with_noise_at_any_level() -> None:
    clean = speech(1.5)
    scores = [
        values(visqol.VisqolSpeech(), sample(noisy(clean, snr_db), clean))["visqol_speech"] for snr_db in (45, 30, 18)
    ]
    assert scores[0] > scores[1] + 0.2 and scores[1] > scores[2] + 0.2
    quiet = sample(noisy(clean, 30) / 100, clean / 100)  # of which the library alone would say 4.7
    assert values(visqol.VisqolSpeech(), quiet)["visqol_speech"] == pytest.approx(scores[1], abs=1e-3)


def test_visqol_audio_falls_with_bandwidth() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, round(1.2 * 48_000))
    clean = scipy.signal.lfilter([1], [1, -0.97], noise).astype(np.float32)
    scores = []
    for cutoff_hz in (13_000, 10_000, 7_000):
        low_pass = scipy.signal.butter(10, cutoff_hz, fs=48_000, output="sos")
        muffled = scipy.signal.sosfiltfilt(low_pass, clean)
        scores.append(values(visqol.VisqolAudio(), sample(muffled, clean, 48_000))["visqol_audio"])
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1] + 0.5
    assert values(visqol.VisqolAudio(), sample(clean, clean, 48_000))["visqol_audio"] == pytest.approx(4.732, abs=2e-3)


def test_visqol_without_the_lattice_runtime_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ai_edge_litert" else found(name))
    assert "ai_edge_litert not installed" in (visqol.VisqolSpeech().unavailable() or "")
    assert visqol.VisqolAudio().unavailable() is None


def test_visqol_refusing_a_pair_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("Degraded file was too short")

    monkeypatch.setattr(visqol._listener("speech"), "measure_from_arrays", refuse)
    reason = reasons(visqol.VisqolSpeech(), sample(CLEAN, CLEAN))["visqol_speech"]
    assert reason == "ViSQOL cannot compare the two: Degraded file was too short"
