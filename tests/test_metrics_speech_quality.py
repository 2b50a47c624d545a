"""What all metrics of speech quality promise; PESQ, DNSMOS and ViSQOL."""

import importlib.util
import json
import pickle

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import soxr

from speech_clips import CLEAN, RATE, noisy, reasons, sample, speech, values
from unisono.evaluation.metric import Metric
from unisono.evaluation.metrics import composite, dnsmos, visqol
from unisono.evaluation.metrics import pesq as pesq_module
from unisono.evaluation.metrics import segmental_snr as segmental

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


@pytest.mark.parametrize(
    "metric",
    [
        pesq_module.Pesq("wb"),
        composite.SpectralDistances(),
        composite.Composite(),
        visqol.VisqolSpeech(),
        dnsmos.Dnsmos(),
    ],
    ids=lambda metric: metric.cards[0].name,
)
def test_a_rate_below_the_band_is_not_applicable(metric: Metric) -> None:
    """Brought to 16 kHz again the upper half of the band would be empty, whatever the model did."""
    clip = soxr.resample(CLEAN, RATE, 8_000)
    for reason in reasons(metric, sample(clip, clip, 8_000), "not_applicable").values():
        assert "hears up to 8000 Hz" in reason and "compared at 8000 Hz; give --sample-rate 16000 or more" in reason


def test_metrics_of_narrow_bands_take_narrow_recordings() -> None:
    clip = soxr.resample(CLEAN, RATE, 8_000)
    for metric in (pesq_module.Pesq("nb"), segmental.SegmentalSnr()):
        (score,) = values(metric, sample(clip, clip, 8_000)).values()
        assert score > 4


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
