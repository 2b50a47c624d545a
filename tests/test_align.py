"""The aligner on speech whose phonemes and times are known, because eSpeak NG made it."""

from __future__ import annotations

import builtins
from itertools import pairwise

import numpy as np
import pytest

from unisono.errors import UserError
from unisono.text.align import (
    SAMPLE_RATE,
    AlignedPhone,
    Alignment,
    AlignmentFailure,
    AlignmentLimits,
    ForcedAligner,
    align,
    phones_to_units,
    text_to_words,
)
from unisono.text.espeak import Utterance, synthesize
from unisono.text.phonemes import ARPABET_TO_IPA, PHONEMES

SENTENCES = (
    "Please try again.",
    "Your message has been saved.",
    "The conference will begin when the leader arrives.",
)

pytest.importorskip("pocketsphinx")


@pytest.fixture(scope="module")
def aligner() -> ForcedAligner:
    return ForcedAligner({"unisono": "UW N IH S OW N OW"})


@pytest.fixture(scope="module", params=SENTENCES)
def spoken(request: pytest.FixtureRequest) -> Utterance:
    return synthesize(request.param, "en-us+f3", rate_wpm=150)


def test_right_words_are_placed_where_they_are_spoken(aligner: ForcedAligner, spoken: Utterance) -> None:
    result = aligner.align(spoken.waveform, text_to_words(spoken.text), spoken.sample_rate)
    assert isinstance(result, Alignment)
    spans = result.word_spans()
    assert len(spans) == len(result.words)
    speech_s = (spoken.durations_s[0], sum(spoken.durations_s[:-1]))
    assert spans[0][0] == pytest.approx(speech_s[0], abs=0.05)
    assert spans[-1][1] == pytest.approx(speech_s[1], abs=0.05)
    assert all(end_s > start_s for start_s, end_s in spans)
    for (_, end_s), (start_s, _) in pairwise(spans):
        assert start_s >= end_s - 1e-9


def test_inner_boundaries_are_right_within_tens_of_milliseconds(aligner: ForcedAligner) -> None:
    spoken = synthesize("Please try again.", "en-us+f3", rate_wpm=150)
    result = aligner.align(spoken.waveform, text_to_words(spoken.text), spoken.sample_rate)
    assert isinstance(result, Alignment)
    known_s = np.cumsum(spoken.durations_s)[:-1]
    found_s = [phone.start_s for phone in result.phones if phone.phone] + [result.word_spans()[-1][1]]
    assert len(found_s) == len(known_s)
    assert float(np.median(np.abs(np.array(found_s) - known_s))) < 0.03


def test_wrong_short_and_long_texts_are_rejected(aligner: ForcedAligner, spoken: Utterance) -> None:
    words = text_to_words(spoken.text)
    other = text_to_words(SENTENCES[(SENTENCES.index(spoken.text) + 1) % len(SENTENCES)])
    for wrong in (other, words[: len(words) // 2], words[-1:], [*words, "and", "thank", "you", "all"]):
        result = aligner.align(spoken.waveform, wrong, spoken.sample_rate)
        assert isinstance(result, AlignmentFailure), wrong
        assert result.kind
        assert result.detail


def test_a_result_does_not_depend_on_what_was_aligned_before(spoken: Utterance) -> None:
    words = text_to_words(spoken.text)
    used = ForcedAligner()
    noise = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)
    used.align(noise, ["hello", "world"])
    used.align(spoken.waveform, words[::-1], spoken.sample_rate)
    assert used.align(spoken.waveform, words, spoken.sample_rate) == align(
        spoken.waveform, words, sample_rate=spoken.sample_rate
    )


def test_int16_and_float_agree(aligner: ForcedAligner) -> None:
    spoken = synthesize("Please try again.", "en-us").resampled(SAMPLE_RATE)
    pcm = np.clip(np.round(spoken.waveform * 32767), -32768, 32767).astype(np.int16)
    words = ["please", "try", "again"]
    assert aligner.align(pcm, words) == aligner.align(spoken.waveform, words)


def test_silence_noise_and_short_clips_fail_without_a_crash(aligner: ForcedAligner) -> None:
    rng = np.random.default_rng(1)
    for waveform in (
        np.zeros(SAMPLE_RATE, np.int16),
        rng.normal(0, 0.2, SAMPLE_RATE).astype(np.float32),
        np.zeros(1, np.int16),
        rng.normal(0, 0.2, 1500).astype(np.float32),
    ):
        assert isinstance(aligner.align(waveform, ["please", "try", "again"]), AlignmentFailure)


def test_unknown_words_are_named_and_can_be_taught(aligner: ForcedAligner) -> None:
    spoken = synthesize("Please try unisono again.", "en-us")
    words = text_to_words(spoken.text)
    failure = ForcedAligner().align(spoken.waveform, words, spoken.sample_rate)
    assert isinstance(failure, AlignmentFailure)
    assert failure.kind == "unknown_words"
    assert "unisono" in failure.detail
    loose = ForcedAligner({"unisono": "UW N IH S OW N OW"}, AlignmentLimits(min_score_per_frame=-60))
    assert loose.unknown_words(["unisono", "xqzzt", "xqzzt"]) == ["xqzzt"]
    assert isinstance(loose.align(spoken.waveform, words, spoken.sample_rate), Alignment)


@pytest.mark.parametrize("limits", [AlignmentLimits(max_silence_s=0.001), AlignmentLimits(max_phone_s=0.02)])
def test_limits_are_obeyed(limits: AlignmentLimits) -> None:
    spoken = synthesize("Please try again.", "en-us")
    result = align(spoken.waveform, ["please", "try", "again"], sample_rate=spoken.sample_rate, limits=limits)
    assert isinstance(result, AlignmentFailure)
    assert result.kind in ("long_silence", "long_phone")


def test_user_mistakes_are_named(aligner: ForcedAligner) -> None:
    with pytest.raises(UserError, match=r"shape \(2, 100\)"):
        aligner.align(np.zeros((2, 100), np.float32), ["hello"])
    with pytest.raises(UserError, match="NaN"):
        aligner.align(np.full(16_000, np.nan, np.float32), ["hello"])
    with pytest.raises(UserError, match="no words"):
        aligner.align(np.zeros(16_000, np.float32), [])
    with pytest.raises(UserError, match="ARPAbet"):
        ForcedAligner({"hello": "HH AH0 L OW1"})


def test_missing_pocketsphinx_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *args, **kwargs):
        if name == "pocketsphinx":
            raise ImportError("No module named 'pocketsphinx'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'unisono\[speech\]'"):
        ForcedAligner()


def test_units_cover_the_recording(aligner: ForcedAligner, spoken: Utterance) -> None:
    result = aligner.align(spoken.waveform, text_to_words(spoken.text), spoken.sample_rate)
    assert isinstance(result, Alignment)
    phonemes, durations_s = phones_to_units(result.phones, result.duration_s)
    assert len(phonemes) == len(durations_s)
    assert set(phonemes) <= set(PHONEMES)
    assert min(durations_s) > 0
    assert sum(durations_s) == pytest.approx(result.duration_s, abs=1e-5)
    assert [p for p in phonemes if p != "_"] == [ARPABET_TO_IPA[p.phone] for p in result.phones if p.phone]
    assert not any(a == b == "_" for a, b in pairwise(phonemes))


def test_units_fill_gaps_with_silence() -> None:
    def phone(name: str, start_s: float, duration_s: float) -> AlignedPhone:
        return AlignedPhone(name, 0 if name else -1, start_s, duration_s, -10.0)

    phones = [phone("HH", 0.1, 0.05), phone("AW", 0.15, 0.15), phone("", 0.3, 0.1), phone("", 0.4, 0.1)]
    phones.append(phone("T", 0.5, 0.1))
    phonemes, durations_s = phones_to_units(phones, 0.604)
    assert phonemes == ["_", "h", "aʊ", "_", "t"]
    # The 4 ms at the end are less than half a frame and belong to the last phone.
    assert durations_s == pytest.approx([0.1, 0.05, 0.15, 0.2, 0.104])
    assert phones_to_units([], 0.5) == (["_"], [0.5])


def test_words_of_a_text() -> None:
    assert text_to_words("I'm sorry — re-enter it, “please”!") == ["i'm", "sorry", "re", "enter", "it", "please"]
    assert text_to_words("'quoted' the user's rock ’n’ roll") == ["quoted", "the", "user's", "rock", "n", "roll"]
    assert text_to_words(" ... 42 ") == []
