"""Metrics "by construction": other renderings of a caption pass, permuted, shifted and unrelated sound does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soxr

from unisono.data.mini.compositions import Composition, Group
from unisono.data.mini.scenes import Scene, render_scene
from unisono.evaluation.items import MODEL, EvaluationItem, Sample
from unisono.evaluation.metric import MetricFailure, NotApplicable, Outcome, measure
from unisono.evaluation.metrics.event_order import EventOrderAccuracy, divide
from unisono.evaluation.metrics.event_pitch import EventPitchAccuracy, pitch_profile, pitch_shift_octaves
from unisono.evaluation.metrics.events import EventCountError
from unisono.evaluation.metrics.music import (
    KeyAccuracy,
    TempoError,
    chroma,
    key_correlations,
    names_key,
    parse_key,
    tempo_bpm,
    tempo_errors,
)
from unisono.features.mel import MelFrontEnd

RATE = 24_000
FRONT_END = MelFrontEnd.for_rate(RATE)
ORDER, PITCH = EventOrderAccuracy(FRONT_END), EventPitchAccuracy(FRONT_END)
CHIRPS_BELL_RAIN = (Group("chirp", 2), Group("bell", 1, pitch="low"), Group("rain", 0))


def scene(*groups: Group, seed: int = 0, together: bool = False) -> Scene:
    return render_scene(np.random.default_rng(seed), Composition(groups, together))


def outcome(metric, waveform, truth: Scene, events=None) -> Outcome:
    details = {"events": [dataclasses.asdict(event) for event in truth.events] if events is None else events}
    item = EvaluationItem("a", "text_to_audio", "", truth.caption, Path("a.wav"), details=details)
    sample = Sample(MODEL, waveform, truth.waveform, None, RATE, item)
    return measure(metric, sample)[metric.cards[0].name]


# Order


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_order_of_other_renderings_is_told(seed):
    truth = scene(*CHIRPS_BELL_RAIN)
    chirps, bell, rain = CHIRPS_BELL_RAIN
    assert outcome(ORDER, scene(chirps, bell, rain, seed=seed).waveform, truth).value == 1
    assert outcome(ORDER, scene(rain, bell, chirps, seed=seed).waveform, truth).value == 0
    # One pair of three turned round.
    assert outcome(ORDER, scene(bell, chirps, rain, seed=seed).waveform, truth).value == pytest.approx(2 / 3)


def test_what_is_missing_or_replaced_is_not_in_order():
    truth = scene(*CHIRPS_BELL_RAIN[:2])
    assert outcome(ORDER, scene(CHIRPS_BELL_RAIN[0], seed=1).waveform, truth).value == 0
    assert outcome(ORDER, scene(CHIRPS_BELL_RAIN[0], Group("frog", 2), seed=1).waveform, truth).value == 0
    assert outcome(ORDER, scene(Group("meow", 1), Group("steam", 0), seed=1).waveform, truth).value == 0


def test_order_does_not_hear_level_polarity_or_pauses():
    truth = scene(*CHIRPS_BELL_RAIN)
    waveform = scene(*CHIRPS_BELL_RAIN, seed=1).waveform
    pause = np.zeros(RATE // 2, dtype=np.float32)
    for same in (-waveform, waveform * np.float32(0.1), np.concatenate([pause, waveform, pause])):
        assert outcome(ORDER, same, truth).value == 1


def test_division_by_hand():
    # Two groups; the first two frames fit the second one, the last three the first.
    distances = np.array([[9.0, 1.0], [9.0, 1.0], [1.0, 9.0], [1.0, 9.0], [1.0, 9.0]])
    division = divide(distances, least_frames=2)
    assert (division.order, division.stretches, division.heard) == ((1, 0), ((2, 5), (0, 2)), (True, True))
    assert division.order_accuracy == 0
    assert divide(distances[::-1], 2).order_accuracy == 1
    assert divide(distances[::-1], 3).heard == (True, False)
    assert divide(distances[::-1] + 4, 2).heard == (False, False)


def test_order_is_measured_only_where_there_is_one_that_can_be_heard():
    assert outcome(ORDER, scene(Group("knock", 2)).waveform, scene(Group("knock", 2))).status == "not_applicable"
    at_once = scene(Group("rain", 0), Group("bell", 2), together=True)
    assert "same time" in outcome(ORDER, at_once.waveform, at_once).reason
    twice = scene(Group("knock", 2), Group("knock", 2))
    assert "too alike" in outcome(ORDER, twice.waveform, twice).reason
    beyond = [
        {"kind": "knock", "group": 0, "start_s": 0.1, "end_s": 0.5},
        {"kind": "bell", "group": 1, "start_s": 50.0, "end_s": 51.0},
    ]
    assert "silent" in outcome(ORDER, twice.waveform, twice, beyond).reason


# Pitch


@pytest.mark.parametrize("kind", ["knock", "bell", "owl", "engine", "zap"])
@pytest.mark.parametrize("pitch", ["low", "high"])
def test_pitch_of_other_renderings_is_told(kind, pitch):
    count = 0 if kind == "engine" else 2
    truth = scene(Group(kind, count, pitch=pitch))
    assert outcome(PITCH, scene(Group(kind, count, pitch=pitch), seed=1).waveform, truth).value == 1
    for other in {"low", "middle", "high"} - {pitch}:
        assert outcome(PITCH, scene(Group(kind, count, pitch=other), seed=1).waveform, truth).value == 0


def test_pitch_of_each_group_counts():
    truth = scene(Group("bell", 1, pitch="low"), Group("drip", 2, pitch="high"), Group("rain", 0))
    half = scene(Group("bell", 1, pitch="high"), Group("drip", 2, pitch="high"), Group("rain", 0), seed=1)
    assert outcome(PITCH, half.waveform, truth).value == 0.5
    assert outcome(PITCH, scene(Group("steam", 0), seed=1).waveform, truth).value == 0


@pytest.mark.parametrize("octaves", [-1.0, -0.5, 0.0, 0.25, 1.0])
def test_shift_of_a_resampled_sound_is_found(octaves):
    waveform = scene(Group("horn", 2)).waveform
    moved = soxr.resample(waveform, RATE, RATE / 2**octaves)
    found, agreement = pitch_shift_octaves(pitch_profile(moved, RATE), pitch_profile(waveform, RATE))
    assert found == pytest.approx(octaves, abs=1 / 12)
    assert agreement > 0.8
    assert pitch_shift_octaves(pitch_profile(-moved / 10, RATE), pitch_profile(waveform, RATE))[0] == found


def test_pitch_is_measured_only_where_the_caption_names_one_that_can_be_heard():
    for groups in ((Group("bell", 1),), (Group("bark", 2, pitch="low"),)):
        truth = scene(*groups)
        assert outcome(PITCH, truth.waveform, truth).status == "not_applicable"
    # A click is the same at any pitch, and a hum below 60 Hz is not heard.
    click, hum = np.zeros(RATE), 0.1 * np.sin(2 * np.pi * 30 * np.arange(RATE) / RATE)
    click[RATE // 2] = 0.5
    events = [{"kind": "sound", "group": 0, "start_s": 0.0, "end_s": 1.0, "pitch": "low"}]
    for waveform in (click, hum):
        same = dataclasses.replace(truth, waveform=waveform.astype(np.float32))
        assert "cannot be told" in outcome(PITCH, same.waveform, same, events).reason


@pytest.mark.parametrize("metric", [EventCountError(FRONT_END), ORDER, PITCH])
def test_bad_truth_of_events(metric):
    truth = scene(*CHIRPS_BELL_RAIN[:2])
    good = {"kind": "knock", "group": 0, "start_s": 0.1, "end_s": 0.5, "pitch": "low"}
    for events in ("three knocks", ["knock"]):
        assert outcome(metric, truth.waveform, truth, events).status == "failed"
    assert outcome(metric, truth.waveform, truth, []).status == "not_applicable"
    if metric.cards[0].name != "event_count_error":
        for wrong in ({"start_s": "soon"}, {"end_s": float("inf")}, {"group": "first"}):
            assert outcome(metric, truth.waveform, truth, [good | wrong]).status == "failed"
        for absent in good.keys() - {"pitch"}:
            event = {name: value for name, value in good.items() if name != absent}
            assert outcome(metric, truth.waveform, truth, [event]).status == "not_applicable"


def test_one_sample_of_sound_is_measured_without_a_crash():
    truth = scene(*CHIRPS_BELL_RAIN[:2])
    for metric in (ORDER, PITCH):
        assert outcome(metric, np.array([0.5], dtype=np.float32), truth).value == 0


# Tempo


def ticks(bpm: float, duration_s: float = 6.0, rate: int = RATE) -> np.ndarray:
    """A woodblock on every beat, float32 ``(S,)``."""
    time_s = np.arange(int(duration_s * rate)) / rate
    since_s = np.mod(time_s - 0.1, 60 / bpm)
    noise = 1e-4 * np.random.default_rng(0).normal(size=len(time_s))
    return (0.5 * np.exp(-since_s / 0.02) * np.sin(2 * np.pi * 900 * since_s) + noise).astype(np.float32)


def music_outcomes(metric, waveform, reference, caption: str = "", **details) -> dict[str, Outcome]:
    item = EvaluationItem("a", "text_to_music", "", caption, Path("a.wav"), details=details)
    return measure(metric, Sample(MODEL, waveform, reference, None, RATE, item))


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
@pytest.mark.parametrize("bpm", [72, 100, 131, 160])
def test_tempo_of_a_metronome(bpm, rate):
    assert tempo_bpm(ticks(bpm, rate=rate), rate) == pytest.approx(bpm, rel=0.01)


def test_tempo_error_by_hand():
    assert tempo_errors(110, 100) == pytest.approx((0.1, 0.1))
    assert tempo_errors(200, 100) == pytest.approx((1.0, 0.0))
    assert tempo_errors(52, 100) == pytest.approx((0.48, 0.04))
    assert tempo_errors(33, 100) == pytest.approx((0.67, 0.01))


def test_tempo_error_grows_with_the_speed():
    reference = ticks(100)
    errors = []
    for speed in (1.0, 1.05, 1.1, 1.2):
        faster = soxr.resample(reference, RATE, RATE / speed)
        errors.append(music_outcomes(TempoError(RATE), faster, reference, tempo_bpm=100)["tempo_error_percent"].value)
    assert errors == pytest.approx([0, 5, 10, 20], abs=0.6)


def test_the_double_tempo_is_tolerated_by_one_of_two():
    found = music_outcomes(TempoError(RATE), ticks(160), ticks(80), tempo_bpm=80)
    assert found["tempo_error_percent"].value == pytest.approx(100, abs=1)
    assert found["tempo_error_octave_tolerant_percent"].value == pytest.approx(0, abs=0.6)


def test_tempo_is_measured_only_where_the_reference_has_it():
    assert {o.status for o in music_outcomes(TempoError(RATE), ticks(100), ticks(100), tempo_bpm=125).values()} == {
        "not_applicable"
    }
    found = music_outcomes(TempoError(RATE), ticks(100), ticks(100), tempo_bpm=50)
    assert found["tempo_error_percent"].status == "not_applicable"
    assert found["tempo_error_octave_tolerant_percent"].status == "ok"


@pytest.mark.parametrize("waveform", [ticks(100, 1.0), np.full(3 * RATE, 0.5, dtype=np.float32)])
def test_too_short_or_steady_for_a_tempo(waveform):
    with pytest.raises(MetricFailure):
        tempo_bpm(waveform, RATE)


@pytest.mark.parametrize("bpm", [0, -3, float("nan"), "fast", True])
def test_bad_tempo(bpm):
    found = music_outcomes(TempoError(RATE), ticks(100), ticks(100), tempo_bpm=bpm)
    assert {outcome.status for outcome in found.values()} == {"failed"}


# Key

MAJOR, MINOR = (0, 4, 7, 5, 9, 0, 7, 11, 2, 0, 4, 7), (0, 3, 7, 5, 8, 0, 7, 10, 2, 0, 3, 7)


def tune(tonic: int, steps=MAJOR) -> np.ndarray:
    """Notes with eight harmonics, a quarter of a second each, from MIDI 60 + tonic, float32 ``(S,)``."""
    time_s = np.arange(RATE // 4) / RATE
    notes = []
    for step in steps:
        f0_hz = 440 * 2 ** ((60 + tonic + step - 69) / 12)
        notes.append(sum(np.sin(2 * np.pi * k * f0_hz * time_s) / k for k in range(1, 9)) * np.exp(-time_s / 0.2))
    return (0.2 * np.concatenate(notes)).astype(np.float32)


@pytest.mark.parametrize(("steps", "mode"), [(MAJOR, "major"), (MINOR, "minor")])
@pytest.mark.parametrize("tonic", [0, 3, 6, 10])
def test_key_of_a_tune(tonic, steps, mode):
    correlations = key_correlations(chroma(tune(tonic, steps), RATE))
    assert max(correlations, key=correlations.__getitem__) == (tonic, mode)


def test_key_does_not_hear_level_octave_or_polarity():
    expected = chroma(tune(2), RATE)
    assert np.corrcoef(chroma(-0.01 * tune(2), RATE), expected)[0, 1] > 0.9999
    assert np.corrcoef(chroma(tune(14), RATE), expected)[0, 1] > 0.95
    # A semitone up turns the circle of pitch classes by one.
    assert np.corrcoef(chroma(tune(3), RATE), np.roll(expected, 1))[0, 1] > 0.95


def test_key_metric():
    reference = tune(2)
    right = music_outcomes(KeyAccuracy(RATE), tune(2), reference, "a tune in D major", key="D major")
    wrong = music_outcomes(KeyAccuracy(RATE), tune(3), reference, "a tune in D major", key="D major")
    fifth = music_outcomes(KeyAccuracy(RATE), tune(9), reference, "a tune in D major", key="D major")
    assert (right["key_accuracy"].value, wrong["key_accuracy"].value, fifth["key_accuracy"].value) == (1, 0, 0)
    assert right["key_correlation"].value > fifth["key_correlation"].value > wrong["key_correlation"].value + 0.3
    for caption, key in (("a cheerful tune", "D major"), ("a tune in E flat major", "Eb major")):
        found = music_outcomes(KeyAccuracy(RATE), tune(2), reference, caption, key=key)
        assert found["key_accuracy"].status == "not_applicable"


@pytest.mark.parametrize(
    ("caption", "key", "named"),
    [
        ("a waltz in A minor", "A minor", True),
        ("a minor mishap", "A minor", False),
        ("a tune in E flat major", "Eb major", True),
        ("a tune in E-flat major", "D# major", True),
        ("a tune in Bb minor, slow", "Bb minor", True),
        ("a tune in F♯ minor", "F# minor", True),
        ("a tune in F minor", "F# minor", False),
        ("a tune in F sharp minor", "F# major", False),
        ("solo organ", "C major", False),
    ],
)
def test_a_caption_names_a_key(caption, key, named):
    assert names_key(caption, parse_key(key)) == named


@pytest.mark.parametrize("key", ["H dur", "C", "c major", 7, None, ""])
def test_bad_key(key):
    with pytest.raises(MetricFailure):
        parse_key(key)


def test_a_single_sample_has_every_key_alike_or_is_refused():
    found = music_outcomes(
        KeyAccuracy(RATE), np.array([0.5], dtype=np.float32), tune(2), "a tune in D major", key="D major"
    )
    assert found["key_accuracy"].status == "failed" or found["key_accuracy"].value == 0


@pytest.mark.parametrize("metric", [ORDER, PITCH, TempoError(RATE), KeyAccuracy(RATE), EventCountError(FRONT_END)])
def test_without_a_reference_nothing_is_measured(metric):
    details = {
        "events": [dataclasses.asdict(event) for event in scene(*CHIRPS_BELL_RAIN).events],
        "tempo_bpm": 100,
        "key": "D major",
    }
    item = EvaluationItem("a", "t", "", "a tune in D major", Path("a.wav"), details=details)
    with pytest.raises(NotApplicable):
        metric(Sample(MODEL, tune(2), None, None, RATE, item))
