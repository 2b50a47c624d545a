"""Onset alignment: matched one to one, in time with what is known, and never above 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unisono.evaluation.items import MODEL, EvaluationItem, Sample
from unisono.evaluation.metric import MetricFailure, NotApplicable, measure
from unisono.evaluation.metrics.onset_alignment import (
    OnsetAlignment,
    matched_offsets_s,
    merge,
    onset_f1,
    onset_times_s,
)

RATE = 24_000
TIMES_S = [0.5, 1.1, 1.9, 2.4]


def strikes(times_s, duration_s: float = 3.0, rate: int = RATE) -> np.ndarray:
    """Bursts of noise that start at once and die away, float32 ``(S,)``."""
    waveform = np.zeros(int(duration_s * rate))
    burst = np.random.default_rng(0).normal(size=int(0.15 * rate)) * np.exp(
        -np.arange(int(0.15 * rate)) / (0.03 * rate)
    )
    for time_s in times_s:
        start = round(time_s * rate)
        waveform[start : start + len(burst)] += 0.3 * burst[: len(waveform) - start]
    return waveform.astype(np.float32)


def outcomes(waveform, reference=None, times_s=TIMES_S, rate: int = RATE):
    events = None if times_s is None else [{"kind": "clap", "start_s": time_s} for time_s in times_s]
    item = EvaluationItem("a", "video_to_audio", "", "", Path("a.wav"), details={"events": events})
    return measure(OnsetAlignment(rate), Sample(MODEL, waveform, reference, None, rate, item))


def numbers(*args, **kwargs) -> tuple[float | None, ...]:
    return tuple(outcome.value for outcome in outcomes(*args, **kwargs).values())


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100, 48_000])
def test_onsets_are_where_the_strikes_are(rate):
    assert onset_times_s(strikes(TIMES_S, rate=rate), rate) == pytest.approx(TIMES_S, abs=0.008)


@pytest.mark.parametrize(
    ("late_s", "f1_50ms", "f1_100ms"), [(0.0, 1, 1), (0.03, 1, 1), (-0.03, 1, 1), (0.06, 0, 1), (0.12, 0, 0)]
)
def test_all_onsets_late(late_s, f1_50ms, f1_100ms):
    found = numbers(strikes([time_s + late_s for time_s in TIMES_S]), strikes(TIMES_S))
    assert found[:2] == (f1_50ms, f1_100ms)
    if f1_100ms:
        assert found[2] == pytest.approx(abs(late_s) * 1000, abs=6)
    else:
        assert found[2] is None


def test_missing_and_additional_onsets():
    assert numbers(strikes(TIMES_S[:3]))[0] == pytest.approx(2 * 3 / (3 + 4))
    assert numbers(strikes([*TIMES_S, 0.8, 1.5]))[0] == pytest.approx(2 * 4 / (6 + 4))


def test_one_onset_cannot_stand_for_two():
    # One-sided counts of hits, as in a published score, would find both true onsets near the single one.
    assert onset_f1(np.array([1.0]), np.array([0.96, 1.04]), 0.05) == pytest.approx(2 / 3)
    assert onset_f1(np.array([0.96, 1.04]), np.array([1.0]), 0.05) == pytest.approx(2 / 3)


def test_matching_has_the_most_pairs_and_then_the_smallest_offsets():
    # Nearest first would pair 1.04 with 1.05 and leave 1.10 without a partner.
    offsets_s = matched_offsets_s(np.array([1.04, 1.10]), np.array([1.0, 1.05]), 0.06)
    assert sorted(offsets_s) == pytest.approx([0.04, 0.05])
    both = matched_offsets_s(np.array([1.0, 1.03]), np.array([1.0]), 0.05)
    assert both == pytest.approx([0.0])
    assert matched_offsets_s(np.array([1.05]), np.array([1.0]), 0.05) == pytest.approx([0.05])


def test_as_many_pairs_as_mir_eval():
    mir_eval = pytest.importorskip("mir_eval")
    rng = np.random.default_rng(3)
    for _ in range(50):
        found, true = (np.sort(rng.uniform(0, 3, rng.integers(1, 30))) for _ in range(2))
        expected, _, _ = mir_eval.onset.f_measure(true, found, window=0.05)
        assert onset_f1(found, true, 0.05) == pytest.approx(expected)


def test_what_strikes_within_150_ms_is_one():
    assert merge([0.2, 0.0, 0.1, 0.26]) == pytest.approx([0.0, 0.2])
    # Heel and sole, and two things at once, on either side.
    assert numbers(strikes([*TIMES_S, *(time_s + 0.09 for time_s in TIMES_S)]))[0] == 1
    assert numbers(strikes(TIMES_S), times_s=[*TIMES_S, 0.56, 1.13])[0] == 1


def test_level_polarity_and_steady_noise_change_nothing():
    waveform = strikes(TIMES_S)
    expected = numbers(waveform)
    assert numbers(waveform * np.float32(1e-3)) == pytest.approx(expected, abs=1e-6)
    assert numbers(-waveform) == pytest.approx(expected, abs=1e-6)
    hiss = np.random.default_rng(1).normal(size=len(waveform)).astype(np.float32) * np.float32(0.001)
    assert numbers(waveform + hiss)[0] == 1


def test_more_jitter_is_less_f1_and_more_offset():
    rng = np.random.default_rng(0)
    times_s = np.arange(0.4, 7.5, 0.5)
    jitter = rng.normal(size=len(times_s))
    found = [numbers(strikes(times_s + jitter * s, 8.0), times_s=list(times_s)) for s in (0.0, 0.02, 0.05, 0.1)]
    f1, offsets_ms = [row[0] for row in found], [row[2] for row in found]
    assert f1 == sorted(f1, reverse=True)
    assert f1[0] == 1 > f1[-2] > f1[-1]
    assert offsets_ms == sorted(offsets_ms)


def test_without_events_the_reference_tells():
    assert numbers(strikes([time_s + 0.02 for time_s in TIMES_S]), strikes(TIMES_S), times_s=None) == pytest.approx(
        (1, 1, 20), abs=1
    )
    assert {o.status for o in outcomes(strikes(TIMES_S), None, times_s=None).values()} == {"not_applicable"}


def test_where_the_reference_does_not_bear_out_its_events_nothing_is_measured():
    found = outcomes(strikes(TIMES_S), strikes([0.8, 1.5]))
    assert {outcome.status for outcome in found.values()} == {"not_applicable"}
    assert "0.00" in found["onset_f1_50ms"].reason


def test_sound_without_onsets_has_f1_0_and_no_offset():
    drone = (0.1 * np.sin(2 * np.pi * 200 * np.arange(3 * RATE) / RATE)).astype(np.float32)
    found = outcomes(drone)
    assert (found["onset_f1_50ms"].value, found["onset_f1_100ms"].value) == (0, 0)
    assert found["onset_offset_ms"].status == "not_applicable"


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ("three claps", MetricFailure),
        (["clap"], MetricFailure),
        ([{"start_s": float("nan")}], MetricFailure),
        ([{"start_s": "0.5"}], MetricFailure),
        ([{"kind": "clap"}], NotApplicable),
        ([], NotApplicable),
    ],
)
def test_bad_events(events, error):
    item = EvaluationItem("a", "video_to_audio", "", "", Path("a.wav"), details={"events": events})
    with pytest.raises(error):
        OnsetAlignment(RATE)(Sample(MODEL, strikes(TIMES_S), None, None, RATE, item))


def test_one_sample_of_sound_is_measured_without_a_crash():
    assert numbers(np.array([0.5], dtype=np.float32))[:2] == (0, 0)
