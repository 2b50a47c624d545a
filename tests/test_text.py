"""Phoneme inventory and speech by eSpeak NG."""

import hashlib
import subprocess
import sys
import threading

import numpy as np
import pytest

from unisono.errors import UserError
from unisono.text import espeak
from unisono.text.phonemes import ARPABET_TO_IPA, PHONEMES, SILENCE, check_phonemes, nearest_phonemes

SENTENCE = "She sees six ships, and the old bell fell."
VOICES = ("en-us", "en-gb", "en-us+f1", "en-gb+m3", "en-gb-scotland", "en-029", "en-us-nyc")


def digest(utterance: espeak.Utterance) -> str:
    return hashlib.sha256(utterance.waveform.tobytes()).hexdigest()


def test_inventory_begins_with_silence_and_covers_arpabet():
    assert PHONEMES[0] == SILENCE
    assert len(set(PHONEMES)) == len(PHONEMES)
    assert len(ARPABET_TO_IPA) == 39
    assert set(ARPABET_TO_IPA.values()) <= set(PHONEMES)
    assert not any(mark in phoneme for phoneme in PHONEMES for mark in "ˈˌ: ")


@pytest.mark.parametrize(
    ("symbol", "expected"), [("AH0", "ʌ"), ("g", "ɡ"), ("i:", "iː"), ("ˈæ", "æ"), ("ɑ", "ɑː"), ("NG", "ŋ")]
)
def test_unknown_symbol_is_named_with_place_and_nearest(symbol, expected):
    assert expected in nearest_phonemes(symbol)
    with pytest.raises(UserError, match=r"content\.jsonl:3: phoneme 1 is ") as error:
        check_phonemes(["_", symbol, "_"], "content.jsonl:3")
    assert repr(symbol) in str(error.value)
    assert expected in str(error.value)
    check_phonemes(["_", expected, "_"], "content.jsonl:3")


@pytest.mark.parametrize("voice", VOICES)
@pytest.mark.parametrize("rate_wpm", [espeak.MIN_RATE_WPM, 175, espeak.MAX_RATE_WPM])
def test_durations_cover_the_waveform_exactly(voice, rate_wpm):
    utterance = espeak.synthesize(SENTENCE, voice, rate_wpm=rate_wpm)
    for version in (utterance, utterance.resampled(24_000), utterance.resampled(16_000)):
        samples = np.array(version.durations_s) * version.sample_rate
        assert np.abs(samples - np.round(samples)).max() < 1e-6
        assert round(samples.sum()) == len(version.waveform)
        assert samples.min() > 0
        assert len(version.phonemes) == len(version.durations_s)
    check_phonemes(utterance.phonemes, voice)
    assert utterance.waveform.dtype == np.float32
    assert utterance.phonemes[0] == utterance.phonemes[-1] == SILENCE
    assert (SILENCE, SILENCE) not in zip(utterance.phonemes, utterance.phonemes[1:], strict=False)
    assert utterance.durations_s[0] == pytest.approx(espeak.LEAD_S, abs=1e-3)
    assert utterance.durations_s[-1] == pytest.approx(espeak.TAIL_S, abs=1e-3)


@pytest.mark.parametrize("voice", ["en-us", "en-gb+m3"])
def test_units_lie_where_they_sound(voice):
    """Sibilants are the high-pitched part of the spectrum, vowels the low one, silence is silent."""
    utterance = espeak.synthesize(SENTENCE, voice).resampled(24_000)
    ends = np.round(np.cumsum(utterance.durations_s) * 24_000).astype(int)
    centroid_hz = {}
    for phoneme, start, end in zip(utterance.phonemes, [0, *ends[:-1]], ends, strict=True):
        middle = utterance.waveform[start + (end - start) // 4 : end - (end - start) // 4].astype(float)
        if phoneme == SILENCE:
            assert np.sqrt(np.mean(middle**2)) < 1e-3
            continue
        power = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))) ** 2
        centroid_hz.setdefault(phoneme, []).append(
            (np.fft.rfftfreq(len(middle), 1 / 24_000) * power).sum() / power.sum()
        )
    assert SILENCE in utterance.phonemes[1:-1]  # the comma
    assert min(centroid_hz["s"] + centroid_hz["ʃ"]) > 2500
    assert max(centroid_hz["iː"] + centroid_hz["ɪ"]) < 1500


def test_final_l_has_a_fair_share():
    """eSpeak reports the l of "bell" when it is over; the model needs frames for it."""
    utterance = espeak.synthesize("The old bell fell, and shells.", "en-us")
    lengths = [d for p, d in zip(utterance.phonemes, utterance.durations_s, strict=True) if p == "l"]
    assert len(lengths) == 4
    assert min(lengths) > 0.03


def test_phonemize_is_what_is_spoken():
    assert espeak.phonemize("Hello.", "en-us") == ["_", "h", "ə", "l", "oʊ", "_"]
    assert espeak.phonemize("Hello.", "en-gb") == ["_", "h", "ə", "l", "əʊ", "_"]
    assert espeak.phonemize("Yes, yes.") == ["_", "j", "ɛ", "s", "_", "j", "ɛ", "s", "_"]


@pytest.mark.parametrize("voice", ["en-us", "en-us+f3", "en-us+whisper", "en-gb+m4"])
def test_speech_does_not_depend_on_what_was_said_before(voice):
    first = digest(espeak.synthesize("A first sentence.", voice))
    espeak.synthesize("Something else, much longer than that.", "en-gb+f5", rate_wpm=220, pitch=80)
    assert digest(espeak.synthesize("A first sentence.", voice)) == first


def test_speech_is_the_same_in_another_process():
    code = (
        "import hashlib; from unisono.text.espeak import synthesize;"
        "print(hashlib.sha256(synthesize('Hello there.', 'en-us+f3').waveform.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == digest(espeak.synthesize("Hello there.", "en-us+f3"))


def test_threads_do_not_disturb_each_other():
    texts = [f"Sentence number {number}." for number in range(6)]
    expected = {text: digest(espeak.synthesize(text)) for text in texts}
    found = {}
    threads = [
        threading.Thread(target=lambda t=text: found.update({t: digest(espeak.synthesize(t))})) for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_rate_and_pitch_are_obeyed():
    slow, fast = (len(espeak.synthesize(SENTENCE, rate_wpm=rate).waveform) for rate in (120, 240))
    assert 1.5 < slow / fast < 2.5
    assert digest(espeak.synthesize(SENTENCE, pitch=20)) != digest(espeak.synthesize(SENTENCE, pitch=80))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ""}, "at least one word"),
        ({"text": " \n"}, "at least one word"),
        ({"text": "..."}, "nothing to pronounce"),
        ({"text": "a\0b"}, "control characters"),
        ({"text": "안녕하세요"}, "another language"),
        ({"text": "word " * 3000}, "at most 10000"),
        ({"text": "hello", "voice": "xx"}, "choose one of en-"),
        ({"text": "hello", "voice": "de"}, "not an English voice"),
        ({"text": "hello", "voice": "en-us+f33"}, "near it are f3"),
        ({"text": "hello", "voice": "en-us+"}, "no variant is called ''"),
        ({"text": "hello", "rate_wpm": 500}, "rate_wpm is 500"),
        ({"text": "hello", "rate_wpm": 99.5}, "rate_wpm is 99.5"),
        ({"text": "hello", "pitch": -1}, "pitch is -1"),
    ],
)
def test_mistakes_are_explained(arguments, message):
    with pytest.raises(UserError, match=message):
        espeak.synthesize(**arguments)


def test_missing_wheel_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    espeak._voice_table.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'unisono\[speech\]'"):
        espeak.synthesize("hello")


def test_long_text_keeps_its_timing():
    utterance = espeak.synthesize("The captain waited near the harbor all night. " * 40)
    assert len(utterance.waveform) / utterance.sample_rate > 60
    assert sum(utterance.durations_s) * utterance.sample_rate == pytest.approx(len(utterance.waveform), abs=0.01)
