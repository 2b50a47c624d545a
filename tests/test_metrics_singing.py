"""F0 error, mel-cepstral distortion and notes of singing: known shifts give exactly their error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unisono.evaluation.items import MODEL, EvaluationItem, Sample
from unisono.evaluation.metric import BUG, MetricFailure, NotApplicable, measure
from unisono.evaluation.metrics.f0 import F0Error, F0ErrorDtw, compare_f0
from unisono.evaluation.metrics.mcd import Mcd, McdDtw
from unisono.evaluation.metrics.notes import (
    Notes,
    ScoreNotes,
    ScoreSemitoneAccuracy,
    best_delay_s,
    heard_notes,
    score_notes,
)
from unisono.evaluation.metrics.warping import time_warp
from unisono.evaluation.metrics.world import FRAME_RATE_HZ, allpass_constant, f0_of, mel_cepstra
from unisono.media.locations import Location
from unisono.scores.pitch import midi_to_hz

pytest.importorskip("pyworld")

RATE = 16_000
SAM, SVS = "singing_acoustic_modeling", "singing_voice_synthesis"
MELODY = ((57, 0.4), (60, 0.4), (59, 0.4), (64, 0.6))
METRICS = {
    SAM: (F0Error(RATE), Mcd(RATE)),
    SVS: (F0ErrorDtw(RATE), McdDtw(RATE), ScoreNotes(RATE), ScoreSemitoneAccuracy(RATE)),
}
SCORE = {
    "phonemes": ["_", *"lalalala", "_"],
    "notes": [0, *(note for note, _ in MELODY for _ in range(2)), 0],
    "note_durations_s": [0.2, *(s for _, s in MELODY for _ in range(2)), 0.2],
}


def voice(midi: np.ndarray, noise_db: float = -60.0, tilt: float = 1.0, tempo: float = 1.0) -> np.ndarray:
    """Harmonics up to half the rate under three formants that move with the song; pitch ``(S,)``, 0 is silence."""
    f0_hz = midi_to_hz(midi)
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE
    time_s = tempo * np.arange(len(midi)) / RATE
    waveform = np.zeros(len(midi))
    for harmonic in range(1, int(RATE / 2 / max(f0_hz.max(), 1.0)) + 1):
        at_hz = harmonic * f0_hz
        gain = np.full(len(midi), 0.02)
        for number, formant_hz in enumerate((600, 1400, 2600)):
            centre_hz = formant_hz * (1 + 0.25 * np.sin(2 * np.pi * 1.3 * time_s + number))
            gain += np.exp(-(((at_hz - centre_hz) / 250) ** 2))
        waveform += gain * harmonic**-tilt * np.sin(harmonic * phase) * (midi > 0)
    waveform += 10 ** (noise_db / 20) * np.random.default_rng(0).standard_normal(len(midi))
    return (0.2 * waveform).astype(np.float32)


def melody(notes=MELODY, before_s: float = 0.2, gap_s: float = 0.06) -> np.ndarray:
    """Pitch of each sample; a short silence before each note."""
    parts = [np.zeros(round((before_s - gap_s) * RATE))]
    for note, duration_s in notes:
        parts += [np.zeros(round(gap_s * RATE)), np.full(round((duration_s - gap_s) * RATE), float(note))]
    return np.concatenate([*parts, np.zeros(round(0.2 * RATE))])


SUNG = voice(melody())


def sample(waveform: np.ndarray, reference: np.ndarray | None = SUNG, task: str = SAM) -> Sample:
    item = EvaluationItem("a", task, "", "", Path("a.wav"), details=SCORE)
    return Sample(MODEL, np.asarray(waveform, dtype=np.float32), reference, None, RATE, item)


def values(waveform: np.ndarray, reference: np.ndarray = SUNG, task: str = SAM, metrics=None) -> dict[str, float]:
    judged = sample(waveform, reference, task)
    outcomes = {
        name: outcome for metric in metrics or METRICS[task] for name, outcome in measure(metric, judged).items()
    }
    assert all(outcome.value is not None for outcome in outcomes.values()), outcomes
    return {name: outcome.value for name, outcome in outcomes.items()}


# -- F0 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cents", [-70, 20, 49, 100, 1200])
def test_a_shift_by_known_cents_is_that_error(cents):
    pitch = np.full(RATE, 57.0)
    judged = sample(voice(pitch + cents / 100), voice(pitch))
    found = values(judged.waveform, judged.reference, metrics=[F0Error(RATE)])
    assert found["f0_median_error_cents"] == pytest.approx(abs(cents), abs=0.5)
    assert found["semitone_accuracy"] == pytest.approx(float(abs(cents) < 50), abs=0.04)
    assert found["octave_errors"] == pytest.approx(float(abs(cents) == 1200), abs=0.04)
    # Away from both ends, where the extractor has half a window.
    inner = compare_f0(f0_of(judged, "judged")[5:-5], f0_of(judged, "reference")[5:-5], np.ones(90))
    assert inner.rmse_cents == pytest.approx(abs(cents), abs=1)
    assert (inner.semitone_accuracy, inner.octave_errors, inner.voicing_error) == (abs(cents) < 50, cents == 1200, 0)


def test_comparison_by_hand():
    reference_hz = np.array([100.0, 100, 100, 100, 0, 0])
    judged_hz = np.array([100.0, 100 * 2 ** (30 / 1200), 200, 0, 0, 100])
    found = compare_f0(judged_hz, reference_hz, np.ones(6))
    assert found.rmse_cents == pytest.approx(np.sqrt((30**2 + 1200**2) / 3))
    assert found.median_cents == pytest.approx(30)
    assert found.octave_errors == pytest.approx(1 / 3)
    assert found.voicing_error == pytest.approx(2 / 6)
    assert found.semitone_accuracy == pytest.approx(2 / 4)


def test_weights_count_as_repetitions():
    rng = np.random.default_rng(1)
    judged_hz, reference_hz = (np.where(rng.random(40) < 0.3, 0, rng.uniform(90, 200, 40)) for _ in range(2))
    weights = rng.integers(1, 3, 40)
    repeated = compare_f0(np.repeat(judged_hz, weights), np.repeat(reference_hz, weights), np.ones(weights.sum()))
    weighted = compare_f0(judged_hz, reference_hz, weights.astype(float))
    assert vars(weighted) == pytest.approx(vars(repeated))


def test_accuracy_is_raw_pitch_accuracy_of_mir_eval():
    mir_melody = pytest.importorskip("mir_eval.melody")
    rng = np.random.default_rng(2)
    reference_hz = np.where(rng.random(500) < 0.3, 0, rng.uniform(90, 200, 500))
    judged_hz = np.where(rng.random(500) < 0.3, 0, reference_hz * 2 ** (rng.normal(0, 0.06, 500)))
    times_s = np.arange(500) / FRAME_RATE_HZ
    scores = mir_melody.evaluate(times_s, reference_hz, times_s, judged_hz)
    found = compare_f0(judged_hz, reference_hz, np.ones(500))
    assert found.semitone_accuracy == pytest.approx(scores["Raw Pitch Accuracy"], abs=1e-9)


def test_vibrato_on_one_note_moves_the_rmse_and_not_the_accuracy():
    pitch = melody(((60, 1.5),))
    time_s = np.arange(len(pitch)) / RATE
    shaken = np.where(pitch > 0, pitch + 0.3 * np.sin(2 * np.pi * 5.5 * time_s), 0)
    found = values(voice(shaken), voice(pitch))
    assert found["f0_rmse_cents"] == pytest.approx(30 / np.sqrt(2), abs=4)
    assert found["semitone_accuracy"] > 0.97


def test_level_polarity_and_offset_change_nothing():
    lower = voice(melody(), noise_db=-30, tilt=1.2)
    for task in METRICS:
        plain, changed = values(lower, task=task), values(1e-5 - 1e-4 * lower, task=task)
        assert changed == pytest.approx(plain, rel=5e-3, abs=1e-3)


def test_an_unvoiced_voice_has_no_pitch_error_but_a_voicing_error():
    hiss = 0.1 * np.random.default_rng(3).standard_normal(len(SUNG))
    outcomes = measure(F0Error(RATE), sample(hiss))
    assert outcomes["voicing_error"].value > 0.4 and outcomes["semitone_accuracy"].value < 0.05
    assert outcomes["f0_rmse_cents"].reason == "no frame is voiced in both"
    nothing = compare_f0(np.zeros(4), np.array([0.0, 100, 100, 0]), np.ones(4))
    assert isinstance(nothing.rmse_cents, MetricFailure) and nothing.semitone_accuracy == 0
    assert nothing.voicing_error == 0.5
    assert isinstance(compare_f0(np.ones(4), np.zeros(4), np.ones(4)).semitone_accuracy, NotApplicable)


def test_a_period_more_is_no_delay_and_half_a_second_less_no_recording():
    # The general check of alignment takes a vowel for a copy of itself that is a period late.
    values(np.roll(SUNG, 60))
    outcomes = measure(F0Error(RATE), sample(SUNG[: -RATE // 2]))
    assert {outcome.status for outcome in outcomes.values()} == {"failed"}
    assert "lengths differ" in outcomes["f0_rmse_cents"].reason


def test_the_warp_makes_good_the_timing_but_not_the_pitch():
    pitch = melody()[np.linspace(0, len(SUNG) - 1, round(1.3 * len(SUNG))).round().astype(int)]
    right, wrong = (
        values(voice(np.where(pitch > 0, pitch + up, 0), tempo=1 / 1.3), task=SVS, metrics=[F0ErrorDtw(RATE)])
        for up in (0.0, 1.0)
    )
    assert right["f0_median_error_dtw_cents"] < 5 and right["semitone_accuracy_dtw"] > 0.85
    assert wrong["f0_median_error_dtw_cents"] == pytest.approx(100, abs=8) and wrong["semitone_accuracy_dtw"] < 0.1


# -- mel-cepstral distortion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "expected"), [(8000, 0.312), (16_000, 0.41), (24_000, 0.466), (44_100, 0.544)])
def test_allpass_constant_is_that_of_sptk(rate, expected):
    assert allpass_constant(rate) == expected  # pysptk.util.mcepalpha


def test_mel_cepstra_are_the_integral_they_are_defined_by():
    omega = np.linspace(0, np.pi, 1025)

    def log_amplitude(at: np.ndarray) -> np.ndarray:
        return 1.5 * np.cos(at) + 0.3 * np.cos(5 * at) + 0.2 * np.cos(11 * at)

    found = mel_cepstra(np.exp(2 * log_amplitude(omega))[None], 24, 0.466)[0]
    warped = np.linspace(0, np.pi, 20_001)
    linear = warped - 2 * np.arctan2(0.466 * np.sin(warped), 1 + 0.466 * np.cos(warped))
    factors = np.where(np.arange(25) == 0, 1, 2) / np.pi
    expected = [
        factor * np.trapezoid(log_amplitude(linear) * np.cos(m * warped), warped) for m, factor in enumerate(factors)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_distortion_of_a_known_filter():
    # A filter 1 + a z^-1 adds -(-a)^n / n to cepstrum n of the linear axis; measured over the warped one.
    a = 0.5
    filtered = np.convolve(SUNG, [1, a])[: len(SUNG)]
    omega = np.linspace(0, np.pi, 1025)
    cepstra = mel_cepstra(np.abs(1 + a * np.exp(-1j * omega))[None] ** 2, 24, allpass_constant(RATE))[0, 1:]
    expected_db = 10 / np.log(10) * np.sqrt(2 * (cepstra**2).sum())
    assert values(filtered)["mcd_db"] == pytest.approx(expected_db, rel=0.03)


def test_distortion_grows_with_noise_and_is_nothing_for_a_copy():
    rng = np.random.default_rng(5)
    noise = rng.standard_normal(len(SUNG)).astype(np.float32)
    found_by_name: dict[str, list[float]] = {"mcd_db": [], "mcd_dtw_db": []}
    for level in (0, 0.001, 0.01, 0.1):
        for name, value in values(SUNG + level * noise, metrics=[Mcd(RATE), McdDtw(RATE)]).items():
            found_by_name[name].append(value)
    for found in found_by_name.values():
        assert found[0] == 0 and found == sorted(found) and found[-1] > found[1] + 3


def test_dtw_is_the_slow_recursion_and_its_path_costs_what_it_says():
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((7, 3)), rng.standard_normal((11, 3))
    cost = np.abs(a[:, None] - b).mean(axis=2)
    total = np.full((8, 12), np.inf)
    total[0, 0] = 0
    for i in range(7):
        for j in range(11):
            total[i + 1, j + 1] = min(
                total[i, j] + 2 * cost[i, j], total[i, j + 1] + cost[i, j], total[i + 1, j] + cost[i, j]
            )
    warp = time_warp(a, b)
    assert warp.mean_cost == pytest.approx(total[-1, -1] / 18)
    assert warp.mean_cost == pytest.approx(np.average(cost[warp.first, warp.second], weights=warp.weights))
    assert warp.weights.sum() == 18
    assert (warp.first[0], warp.second[0], warp.first[-1], warp.second[-1]) == (0, 0, 6, 10)
    assert (np.diff(warp.first) + np.diff(warp.second)).tolist() == warp.weights[1:].tolist()


# -- notes ------------------------------------------------------------------------------------------------------------


def test_score_sung_as_written_higher_later_and_in_another_rhythm():
    notes = [ScoreNotes(RATE), ScoreSemitoneAccuracy(RATE)]
    right = values(SUNG, metrics=notes)
    assert right["note_f1"] == right["note_onset_f1"] == 1
    # The extractor draws each voiced stretch out over its edges, into the note before.
    assert right["semitone_accuracy_score"] > 0.85
    pitch = melody()
    higher = values(voice(np.where(pitch > 0, pitch + 0.7, 0)), metrics=notes)
    assert (higher["note_f1"], higher["note_onset_f1"]) == (0, 1)
    assert higher["semitone_accuracy_score"] < 0.03
    late = values(np.concatenate([np.zeros(1600, dtype=np.float32), SUNG]), metrics=notes)
    assert late == pytest.approx(right, abs=0.02)
    swung = voice(melody(((57, 0.6), (60, 0.2), (59, 0.6), (64, 0.4))))
    assert values(swung, metrics=notes)["note_onset_f1"] < 0.7


def test_transcription_of_legato_repetition_and_vibrato():
    steady, time_s = np.full(60, 220.0), np.arange(60) / FRAME_RATE_HZ
    level_db = np.zeros(120)
    legato = heard_notes(np.concatenate([steady, steady * 2 ** (1 / 12)]), level_db)
    assert legato.intervals_s.ravel() == pytest.approx([0, 0.6, 0.6, 1.2], abs=0.02)
    dipped = level_db - 12 * np.exp(-(((np.arange(120) - 60) / 4) ** 2))
    assert len(heard_notes(np.concatenate([steady, steady]), dipped).pitches) == 2
    assert len(heard_notes(np.concatenate([steady, steady]), level_db).pitches) == 1
    vibrato = heard_notes(220 * 2 ** (np.sin(2 * np.pi * 5.5 * time_s) / 12), level_db[:60])
    assert vibrato.pitches == pytest.approx([57], abs=0.3)
    assert not len(heard_notes(np.zeros(50), np.zeros(50)).pitches)


def test_a_note_begins_with_its_vowel():
    consonant = np.where(np.arange(60) < 10, -15.0, 0.0)
    assert heard_notes(np.full(60, 220.0), consonant).intervals_s[0, 0] == pytest.approx(0.1, abs=0.03)


def units_notes(**fields) -> list[list[float]]:
    item = EvaluationItem("a", SVS, "", "", Path("a"), details=fields)
    found = score_notes(item)
    return np.column_stack([found.intervals_s, found.pitches]).round(6).tolist()


def test_notes_of_a_manifest_are_those_of_its_score():
    # "la la" on two equal notes, "ah" slurred over a third, whose "s" is sung on it, a rest, and one more.
    found = units_notes(
        phonemes=["l", "a", "l", "a", "a", "s", "_", "a"],
        notes=["C4", "C4", "C4", 60, "E4", "E4", "rest", 62.5],
        note_durations_s=[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 1],
        slurs=[0, 0, 0, 0, 1, 0, 0, 0],
    )
    assert found == [[0, 0.5, 60], [0.5, 1, 60], [1, 1.5, 64], [1.75, 2.75, 62.5]]


def test_scores_that_cannot_be_used(tmp_path):
    lists = {"phonemes": ["a"], "notes": ["C4"], "note_durations_s": [1.0]}
    assert units_notes(**lists) == [[0, 1, 60]]
    with pytest.raises(NotApplicable, match="no score"):
        units_notes(phonemes=["a"])
    with pytest.raises(NotApplicable, match="no notes"):
        units_notes(**lists | {"notes": ["rest"]})
    for wrong in ({"notes": ["H9"]}, {"note_durations_s": ["long"]}, {"notes": [60, 62]}, {"notes": 60}):
        with pytest.raises(MetricFailure, match="score"):
            units_notes(**lists | wrong)
    item = EvaluationItem("a", "", "", "", Path("a"), files={"score": Location.of(tmp_path / "none.mid")})
    with pytest.raises(MetricFailure, match="score"):
        score_notes(item)


def test_the_delay_is_found_in_either_direction():
    meant = Notes.of([(0.5, 1, 60), (1, 1.3, 62), (1.3, 2, 64)])
    for delay_s in (-0.15, 0.0, 0.05, 0.2):
        late = Notes(meant.intervals_s + delay_s, meant.pitches)
        assert best_delay_s(meant, late) == pytest.approx(delay_s, abs=1e-9)
    assert best_delay_s(meant, Notes.of([])) == 0
    assert best_delay_s(meant, Notes(meant.intervals_s + 5, meant.pitches)) == 0


# -- bad input --------------------------------------------------------------------------------------------------------


def test_whatever_comes_has_a_number_or_a_reason():
    rng = np.random.default_rng(7)
    hiss = (0.1 * rng.standard_normal(RATE)).astype(np.float32)
    click = np.zeros(RATE, dtype=np.float32)
    click[8000] = 1
    for waveform in (hiss, click, np.ones(RATE, dtype=np.float32), SUNG[:40], SUNG[:1]):
        for reference in (waveform, SUNG[: RATE // 2], None):
            judged = sample(waveform, reference)
            for metric in (*METRICS[SAM], *METRICS[SVS]):
                for name, outcome in measure(metric, judged).items():
                    assert outcome.value is not None or outcome.reason, name
                    assert not outcome.reason.startswith(BUG), outcome.reason
    assert {o.status for o in measure(Mcd(RATE), sample(SUNG, None)).values()} == {"not_applicable"}


def test_cards_have_every_choice():
    metrics = [metric for metrics in METRICS.values() for metric in metrics]
    cards = [card for metric in metrics for card in metric.cards]
    assert len({card.name for card in cards}) == len(cards)
    for card in cards:
        assert card.parameters["sample_rate"] == RATE and card.parameters["extractor"] == "WORLD harvest"
        assert ("dtw" in card.name) == ("warped_by" in card.parameters)
        assert card.version[0].isdigit() and card.blind_to and card.definition.endswith(".")
