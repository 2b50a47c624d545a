"""Log-spectral distance: equal to ssr_eval's formula, and what it must do on either side of the input's bandwidth."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile as sf

from unisono.evaluation.items import MODEL, EvaluationItem, Sample
from unisono.evaluation.metric import FRAME_LOCKED_TASKS, MetricFailure, NotApplicable, measure
from unisono.evaluation.metrics.lsd import (
    BandLogSpectralDistance,
    LogSpectralDistance,
    input_bandwidth_hz,
    root_mean_square_over_bins,
    squared_log_ratios,
    window_samples,
)

RATE = 16_000
RNG = np.random.default_rng(0)
NOISE = (0.1 * RNG.normal(size=RATE)).astype(np.float32)


def item(task: str = "audio_super_resolution", input_audio: Path | None = None, **details) -> EvaluationItem:
    return EvaluationItem("a", task, "", "", Path("a.wav"), input_audio=input_audio, details=details)


def values(waveform, reference, bandwidth_hz: float | None = 3000.0) -> dict[str, float]:
    sample = Sample(MODEL, waveform, reference, None, RATE, item(bandwidth_hz=bandwidth_hz))
    outcomes = measure(LogSpectralDistance(RATE), sample) | measure(BandLogSpectralDistance(RATE), sample)
    assert all(outcome.value is not None for outcome in outcomes.values()), outcomes
    return {name: outcome.value for name, outcome in outcomes.items()}


def low_passed(waveform: np.ndarray, cutoff_hz: float) -> np.ndarray:
    sections = scipy.signal.cheby2(8, 40, cutoff_hz, fs=RATE, output="sos")
    return scipy.signal.sosfiltfilt(sections, waveform).astype(np.float32)


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000, 44_100, 48_000])
def test_is_the_formula_of_ssr_eval(rate):
    # Its constants: 2048 samples at 44.1 kHz, 100 frames a second, librosa's transform, 1e-12 in both places.
    librosa = pytest.importorskip("librosa")
    reference = (0.1 * RNG.normal(size=rate)).astype(np.float32)
    waveform = reference + (0.03 * RNG.normal(size=rate)).astype(np.float32)
    spectra = [
        np.abs(librosa.stft(x.astype(np.float64), n_fft=int(2048 / (44100 / rate)), hop_length=int(rate / 100))).T
        for x in (reference, waveform)
    ]
    squares = np.log10(spectra[0] ** 2 / (spectra[1] + 1e-12) ** 2 + 1e-12) ** 2
    expected = np.mean(np.mean(squares, axis=1) ** 0.5)
    found = squared_log_ratios(waveform, reference, rate)
    assert found.shape == squares.shape
    assert root_mean_square_over_bins(found) == pytest.approx(expected, rel=1e-6)


def test_a_factor_of_ten_is_two_everywhere():
    found = values(NOISE, NOISE * 10)
    assert found == pytest.approx({"lsd": 2.0, "lsd_hf": 2.0, "lsd_lf": 2.0}, abs=1e-4)


def test_identical_files_are_at_0_though_they_are_digitally_silent_in_part():
    half_silent = NOISE.copy()
    half_silent[RATE // 2 :] = 0
    assert values(half_silent, half_silent) == pytest.approx({"lsd": 0, "lsd_hf": 0, "lsd_lf": 0}, abs=1e-9)
    # Inaudible noise where the reference is silent changes nothing but the frames at the border.
    with_dither = half_silent.copy()
    with_dither[RATE * 3 // 4 :] += (1e-5 * RNG.normal(size=RATE // 4)).astype(np.float32)
    assert values(with_dither, half_silent)["lsd"] == pytest.approx(0, abs=1e-9)


def test_the_less_treble_the_larger_hf_and_lf_stays():
    found = [values(low_passed(NOISE, cutoff_hz), NOISE) for cutoff_hz in (7000, 6000, 5000, 4000)]
    hf = [numbers["lsd_hf"] for numbers in found]
    assert all(a < b - 0.1 for a, b in itertools.pairwise(hf)), hf
    assert all(numbers["lsd_lf"] < 0.05 for numbers in found)


def test_a_fault_below_the_bandwidth_is_heard_in_lf_only():
    hum = NOISE + low_passed((0.1 * RNG.normal(size=RATE)).astype(np.float32), 1000)
    found = values(hum, NOISE)
    assert found["lsd_lf"] > 0.2
    assert found["lsd_hf"] < 0.02


def test_both_sides_make_up_the_whole():
    squares = squared_log_ratios(low_passed(NOISE, 5000), NOISE, RATE)[10:11]
    bins_hz = np.fft.rfftfreq(window_samples(RATE), 1 / RATE)
    above = bins_hz >= 3000
    whole, high, low = (root_mean_square_over_bins(squares[:, use]) for use in (above >= 0, above, ~above))
    assert whole**2 == pytest.approx(high**2 * above.mean() + low**2 * (~above).mean())


def test_the_bin_at_the_cutoff_belongs_to_hf():
    n_fft = window_samples(RATE)
    bin_hz = RATE / n_fft
    sine = (0.1 * np.sin(2 * np.pi * 100 * bin_hz * np.arange(RATE) / RATE)).astype(np.float32)
    # The window spreads it over bins 99 to 101: with the cutoff at 99 all of it is above.
    assert (
        values(NOISE + sine, NOISE, 99 * bin_hz)["lsd_lf"] < 0.01 < values(NOISE + sine, NOISE, 99 * bin_hz)["lsd_hf"]
    )
    assert values(NOISE + sine, NOISE, 102 * bin_hz)["lsd_hf"] < 0.01


def test_polarity_is_not_heard_and_level_is():
    assert values(-NOISE, NOISE)["lsd"] == pytest.approx(0, abs=1e-9)
    assert values(NOISE / 2, NOISE)["lsd"] == pytest.approx(2 * np.log10(2), abs=1e-4)


def test_louder_noise_is_further_away():
    lsd = [values(NOISE + np.float32(level) * NOISE[::-1], NOISE)["lsd"] for level in (0.01, 0.03, 0.1, 0.3)]
    assert lsd == sorted(lsd)


def test_bandwidth_comes_from_the_manifest_then_from_the_input_file(tmp_path):
    narrow = tmp_path / "narrow.wav"
    sf.write(narrow, NOISE[::2], RATE // 2)
    assert input_bandwidth_hz(item(input_audio=narrow, bandwidth_hz=2500), RATE) == 2500
    assert input_bandwidth_hz(item(input_audio=narrow), RATE) == 4000


@pytest.mark.parametrize(
    ("bandwidth_hz", "reason"),
    [(float("nan"), "nan"), (-1, "-1"), (0, "0"), (True, "True"), ("4 kHz", "4 kHz")],
)
def test_a_bandwidth_that_is_none_is_a_failure(bandwidth_hz, reason):
    with pytest.raises(MetricFailure, match=reason):
        input_bandwidth_hz(item(bandwidth_hz=bandwidth_hz), RATE)


def test_without_a_bandwidth_there_is_no_hf(tmp_path):
    wide = tmp_path / "wide.wav"
    sf.write(wide, NOISE, RATE)
    for given, details in ((None, {}), (wide, {}), (None, {"bandwidth_hz": RATE / 2})):
        with pytest.raises(NotApplicable):
            input_bandwidth_hz(item(input_audio=given, **details), RATE)
    with pytest.raises(MetricFailure, match=r"absent\.wav"):
        input_bandwidth_hz(item(input_audio=tmp_path / "absent.wav"), RATE)


def test_a_reference_below_audibility_is_a_failure():
    sample = Sample(MODEL, NOISE, np.full(RATE, 1e-7, dtype=np.float32), None, RATE, item(bandwidth_hz=3000))
    assert measure(LogSpectralDistance(RATE), sample)["lsd"].status == "failed"


def test_which_tasks_get_it():
    for task in FRAME_LOCKED_TASKS:
        assert LogSpectralDistance(RATE).applies_to(item(task))
        assert BandLogSpectralDistance(RATE).applies_to(item(task)) == (task == "audio_super_resolution")
    assert not LogSpectralDistance(RATE).applies_to(item("text_to_speech"))
