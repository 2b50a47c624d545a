"""Pitch, speed and pauses of speech, and whether the phonemes of its text are found in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unisono.evaluation.items import MODEL, EvaluationItem, Sample
from unisono.evaluation.metric import NotApplicable, measure
from unisono.evaluation.metrics.phoneme_alignment import PhonemeAlignment, spoken_by
from unisono.evaluation.metrics.speaking import SpeakingManner, manner_of

RATE = 16_000
TEXT = "Please leave the old boat near the river."


def sample(waveform, reference=None, rate: int = RATE, **details) -> Sample:
    item = EvaluationItem("a", "text_to_speech", "", "", Path("a.wav"), details=details)
    return Sample(MODEL, np.asarray(waveform, dtype=np.float32), reference, None, rate, item)


# -- manner -----------------------------------------------------------------------------------------------------------


def test_manner_by_hand():
    # 0.1 s of silence, 1 s of a fifth's two tones, a closure of 0.05 s, 0.2 s unvoiced, a pause of 0.5 s, 0.25 s more.
    f0_hz = np.concatenate([np.zeros(10), [220] * 50, [330] * 50, np.zeros(75), [220.0] * 25])
    active = np.concatenate([[False] * 10, [True] * 100, [False] * 5, [True] * 20, [False] * 50, [True] * 25])
    found = manner_of(f0_hz, active)
    assert found.spoken_s == pytest.approx(1.5)
    assert found.pause_share == pytest.approx(0.5 / 2.0)
    assert found.voiced_share == pytest.approx(1.25 / 1.5)
    assert found.pitch_semitones == pytest.approx(57)
    assert found.spread_semitones == pytest.approx(12 * np.log2(1.5) / 2)
    assert manner_of(np.zeros(210), active).pitch_semitones is None


def hum(midi: np.ndarray, rate: int = RATE) -> np.ndarray:
    """Harmonics of the pitch ``(S,)``, 0 is silence."""
    phase = 2 * np.pi * np.cumsum(440 * 2 ** ((midi - 69) / 12)) / rate
    return (0.05 * sum(np.sin(k * phase) / k for k in range(1, 12)) * (midi > 0)).astype(np.float32)


def intonation(around: float, swing: float, seconds: float = 1.5, pause_s: float = 0.3) -> np.ndarray:
    """Two phrases whose pitch goes up and down, a pause between."""
    time_s = np.arange(round(seconds / 2 * RATE)) / RATE
    phrase = around + swing * np.sin(2 * np.pi * 2 * time_s / time_s[-1])
    return np.concatenate([phrase, np.zeros(round(pause_s * RATE)), phrase])


def distances(judged: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    pytest.importorskip("pyworld")
    outcomes = measure(SpeakingManner(RATE), sample(judged, reference))
    assert all(outcome.value is not None for outcome in outcomes.values()), outcomes
    return {name: outcome.value for name, outcome in outcomes.items()}


def test_each_distance_hears_its_own_change():
    plain = hum(intonation(50, 2))
    assert distances(plain, plain) == dict.fromkeys(distances(plain, plain), 0.0)
    higher = distances(hum(intonation(53, 2)), plain)
    assert higher["f0_median_difference_cents"] == pytest.approx(300, abs=15)
    assert higher["f0_spread_difference_semitones"] < 0.15
    flat = distances(hum(intonation(50, 0)), plain)
    # 34 % to either side of a sine's median are at 0.876 of its height.
    assert flat["f0_spread_difference_semitones"] == pytest.approx(2 * 0.876, abs=0.2)
    assert flat["f0_median_difference_cents"] < 20
    slower = distances(hum(intonation(50, 2, seconds=1.875)), plain)
    assert slower["speaking_time_difference_percent"] == pytest.approx(25, abs=2)
    paused = distances(hum(intonation(50, 2, pause_s=0.8)), plain)
    assert paused["pause_share_difference"] == pytest.approx(0.8 / 2.3 - 0.3 / 1.8, abs=0.02)
    assert paused["speaking_time_difference_percent"] < 1.5


def test_level_and_polarity_change_no_manner():
    judged, reference = hum(intonation(53, 1)), hum(intonation(50, 2))
    assert distances(-0.1 * judged, reference) == pytest.approx(distances(judged, reference), abs=1e-3)


def test_whispering_has_no_pitch_but_a_speed():
    pytest.importorskip("pyworld")
    plain = hum(intonation(50, 2))
    click = np.zeros(RATE, dtype=np.float32)
    click[8000] = 1
    outcomes = measure(SpeakingManner(RATE), sample(click, plain))
    assert outcomes["f0_median_difference_cents"].reason == "less than 0.1 s is voiced"
    assert outcomes["voiced_share_difference"].value > 0.9
    swapped = measure(SpeakingManner(RATE), sample(plain, click))
    assert swapped["f0_median_difference_cents"].status == "not_applicable"
    assert {o.status for o in measure(SpeakingManner(RATE), sample(plain)).values()} == {"not_applicable"}


# -- phonemes found ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech() -> tuple[np.ndarray, int]:
    pytest.importorskip("pocketsphinx")
    synthesize = pytest.importorskip("unisono.text.espeak").synthesize
    spoken = synthesize(TEXT)
    return spoken.waveform, spoken.sample_rate


def found(waveform: np.ndarray, rate: int, reference=None, **details) -> dict[str, float | None]:
    outcomes = measure(PhonemeAlignment(), sample(waveform, reference, rate, **details))
    return {name: outcome.value for name, outcome in outcomes.items()}


def test_phonemes_are_found_where_the_text_is_said(speech):
    waveform, rate = speech
    right = found(waveform, rate, waveform, text=TEXT)
    assert right["phoneme_alignment_score"] > 0.6 and right["phoneme_alignment_drop"] == 0
    other = found(waveform, rate, text="Nobody has ever counted these green apples.")
    assert other["phoneme_alignment_score"] < 0.35 and other["phoneme_alignment_drop"] is None
    shuffled = found(waveform, rate, text="River boat please the leave near old the.")
    assert shuffled["phoneme_alignment_score"] < right["phoneme_alignment_score"] - 0.2


def test_fewer_phonemes_are_found_in_more_noise(speech):
    waveform, rate = speech
    noise = np.random.default_rng(0).standard_normal(len(waveform)) * waveform.std()
    scores, drops = zip(
        *(
            found(waveform + noise * 10 ** (-snr_db / 20), rate, waveform, text=TEXT).values()
            for snr_db in (20, 8, 0, -10)
        ),
        strict=True,
    )
    assert list(scores) == sorted(scores, reverse=True) and scores[0] > scores[2] + 0.2
    np.testing.assert_allclose(np.add(scores, drops), scores[0] + drops[0], atol=1e-9)


def test_phonemes_serve_where_there_is_no_text(speech):
    waveform, rate = speech
    from unisono.text.phonemize import phonemizer

    phonemes = phonemizer("en-us").phonemes(TEXT)
    assert found(waveform, rate, phonemes=phonemes)["phoneme_alignment_score"] > 0.6
    assert found(waveform, rate, phonemes=phonemes[::-1])["phoneme_alignment_score"] < 0.35


def test_level_does_not_count_and_the_order_of_items_neither(speech):
    waveform, rate = speech
    first = found(waveform, rate, text=TEXT)
    found(waveform, rate, text="Zyxquat unisonox says please.")  # words that no dictionary has
    found(waveform[rate // 2 : rate // 2 + 400], rate, text=TEXT)
    assert found(0.01 * waveform, rate, text=TEXT) == first


def test_what_cannot_hold_the_text_has_none_of_it(speech):
    waveform, rate = speech
    assert found(waveform[rate // 2 : rate // 2 + rate // 20], rate, text=TEXT)["phoneme_alignment_score"] == 0


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({}, "neither text nor phonemes"),
        ({"text": "Guten Tag", "language": "de"}, "English"),
        ({"text": "…"}, "text"),
        ({"phonemes": "abc"}, "no list"),
        ({"phonemes": ["ø"]}, "cannot be aligned"),
        ({"phonemes": ["_"]}, "no words"),
    ],
)
def test_items_without_an_english_text(details, reason):
    pytest.importorskip("pocketsphinx")
    with pytest.raises(NotApplicable, match=reason):
        spoken_by(sample(np.ones(RATE), **details).item)


def test_cards_say_which_way_is_better():
    cards = [*SpeakingManner(RATE).cards, *PhonemeAlignment().cards]
    assert [card.name for card in cards if card.direction == "higher"] == ["phoneme_alignment_score"]
    for card in cards:
        assert card.blind_to.endswith((".", "listeners.")) and card.parameters and card.version[0].isdigit()
