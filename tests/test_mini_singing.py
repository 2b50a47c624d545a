"""Speech made to sing: plans that add up, a voice that hits its notes, lines that say what is sung."""

import json
import sys
from itertools import pairwise

import mido
import numpy as np
import pytest

from unisono.data.manifest import load_manifest
from unisono.data.mini.corpus import build_mini_corpus
from unisono.data.mini.items import SPEAKERS
from unisono.data.mini.notes import TICKS_PER_BEAT
from unisono.data.mini.songs import LOWEST_TONIC, divide_word, lyrics, make_song
from unisono.data.singing_synthesis.plan import SyllableNotes, plan_phrase
from unisono.data.singing_synthesis.synthesis import F0_RATE_HZ, Style, analyse, pitch_contour, render, sing
from unisono.errors import UserError
from unisono.media.audio import read_audio
from unisono.scores import ScoreNote, midi_to_hz
from unisono.scores.syllables import is_nucleus, onset_length, split_syllables
from unisono.text.espeak import synthesize
from unisono.text.phonemes import PHONEMES, SILENCE, check_phonemes

RATE = 24_000
WORDS = ["_", "s", "t", "ɹ", "ɔː", "ŋ", "ɡ", "ɚ", "_", "b", "ʌ", "t", "n̩", "z", "_"]
LENGTHS_S = [0.1, 0.08, 0.05, 0.04, 0.12, 0.06, 0.05, 0.1, 0.2, 0.05, 0.09, 0.05, 0.1, 0.12, 0.1]
MELODY = [
    SyllableNotes((60,), (0.5,)),
    SyllableNotes((62, 64), (0.25, 0.3), rest_after_s=0.4),
    SyllableNotes((65,), (0.3,)),
    SyllableNotes((67, 65, 60), (0.25, 0.25, 1.0)),
]


def cents(found_hz: np.ndarray, true_hz: np.ndarray) -> np.ndarray:
    return 1200 * np.log2(found_hz / true_hz)


def estimated_f0(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """By Harvest, in the middle of frames of 10 ms."""
    import pyworld

    f0_hz, _ = pyworld.harvest(waveform.astype(float), sample_rate, f0_floor=60, f0_ceil=900, frame_period=5)
    return f0_hz[1::2]


# ---------------------------------------------------------------------------------------------- syllables and plan


def test_every_symbol_of_the_inventory_is_a_nucleus_or_not():
    nuclei = {symbol for symbol in PHONEMES if is_nucleus(symbol)}
    assert {"a", "iː", "ɔ̃", "ᵻ", "aɪə", "əl", "ɑːɹ", "n̩", "ɚ", "ʌʉ"} <= nuclei
    assert not nuclei & {SILENCE, "b", "dʒ", "j", "w", "ŋ", "ɬ", "ʲ", "ɡʲ", "θ", "ɹ", "ʔ"}


@pytest.mark.parametrize(
    ("consonants", "length"),
    [
        ("", 0),
        ("t", 1),
        ("ŋ", 0),
        ("s t ɹ", 3),
        ("n d", 1),
        ("ŋ ɡ", 1),
        ("l d", 1),
        ("t ɹ", 2),
        ("k w", 2),
        ("k s t", 2),
    ],
)
def test_consonants_between_vowels_are_shared(consonants, length):
    assert onset_length(consonants.split()) == length


def test_syllables_hold_every_sound_once_and_no_silence():
    syllables = split_syllables(WORDS)
    used = [index for part in syllables for index in (*part.onset, part.nucleus, *part.coda)]
    assert used == [index for index, symbol in enumerate(WORDS) if symbol != SILENCE]
    assert [" ".join(WORDS[i] for i in (*part.onset, part.nucleus, *part.coda)) for part in syllables] == [
        "s t ɹ ɔː ŋ", "ɡ ɚ", "b ʌ", "t n̩ z",
    ]  # fmt: skip


def test_plans_are_without_gaps_and_notes_start_with_their_nuclei():
    plan = plan_phrase(WORDS, LENGTHS_S, MELODY, start_s=0.3, tail_s=0.2)
    assert plan.spans[0].start_s == 0 and plan.duration_s == pytest.approx(0.3 + 0.5 + 0.95 + 0.3 + 1.5 + 0.2)
    assert all(a.end_s == pytest.approx(b.start_s, abs=1e-12) for a, b in pairwise(plan.spans))
    assert all(span.end_s > span.start_s for span in plan.spans)
    starts_s = {span.syllable: span.start_s for span in plan.spans if span.role == "nucleus"}
    for syllable in range(4):
        assert starts_s[syllable] == pytest.approx(plan.notes[syllable][0].start_s)
        assert [note.slur for note in plan.notes[syllable]] == [index > 0 for index in range(len(plan.notes[syllable]))]
    assert [note.start_s for note in plan.melody] == pytest.approx([0.3, 0.8, 1.05, 1.75, 2.05, 2.3, 2.55])
    # The pause between the words becomes the rest of the melody, less the consonant that leads to the next note.
    (rest,) = [span for span in plan.spans[1:-1] if span.role == "rest"]
    assert (rest.start_s, rest.end_s) == pytest.approx((1.35, 1.75 - 0.05))


def test_units_repeat_the_nucleus_over_slurred_notes():
    units = plan_phrase(WORDS, LENGTHS_S, MELODY).units()
    assert " ".join(unit.symbol for unit in units) == "_ s t ɹ ɔː ŋ ɡ ɚ ɚ _ b ʌ t n̩ n̩ n̩ z _"
    assert [unit.midi for unit in units] == [0, *[60] * 5, 62, 62, 64, 0, 65, 65, 67, 67, 65, 60, 60, 0]
    assert [unit.symbol for unit in units if unit.slur] == ["ɚ", "n̩", "n̩"]
    assert [unit.note_duration_s for unit in units[1:6]] == [0.5] * 5
    assert all(a.start_s < b.start_s for a, b in pairwise(units))


def test_consonants_never_take_more_than_half_a_note():
    many = ["_", "a", "s", "t", "s", "k", "s", "p", "l", "a", "_"]
    melody = [SyllableNotes((60,), (0.2,)), SyllableNotes((60,), (0.2,))]
    plan = plan_phrase(many, [0.1] * len(many), melody, start_s=0.2)
    for span in plan.spans:
        if span.role == "nucleus":
            assert span.end_s - span.start_s >= 0.1 - 1e-9
    late = plan_phrase(["s", "t", "ɹ", "a"], [0.15] * 4, melody[:1], start_s=0.1)
    assert late.spans[0].end_s == pytest.approx(0.02) and late.melody[0].start_s == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"durations_s": LENGTHS_S[:-1]}, "15 phonemes and 14 durations"),
        ({"durations_s": [*LENGTHS_S[:-1], 0.0]}, "phoneme 14 .* lasts 0.0 s"),
        ({"durations_s": [*LENGTHS_S[:-1], float("nan")]}, "lasts nan s"),
        ({"melody": MELODY[:2]}, "notes for 2 syllables, the speech has 4"),
        ({"melody": [*MELODY[:3], SyllableNotes((), ())]}, "syllable 3 .* 0 notes"),
        ({"melody": [*MELODY[:3], SyllableNotes((200,), (0.4,))]}, "note 200 is out of range"),
        ({"melody": [*MELODY[:3], SyllableNotes((60,), (0.01,))]}, "0.01 s cannot be sung"),
        ({"melody": [*MELODY[:3], SyllableNotes((60,), (0.4,), -1)]}, "rest_after_s is -1"),
        ({"start_s": 0.0}, "start_s is 0.0"),
        ({"phonemes": ["s"] * 15}, "nothing to sing"),
    ],
)
def test_plans_that_cannot_be_are_explained(changes, message):
    arguments = {"phonemes": WORDS, "durations_s": LENGTHS_S, "melody": MELODY} | changes
    with pytest.raises(UserError, match=message):
        plan_phrase(**arguments)


# ---------------------------------------------------------------------------------------------- voice


@pytest.fixture(scope="module")
def songs():
    """Six sentences by the six voices."""
    texts = (
        "Walter smiled softly.", "The snow turned cold again.", "Paint your kite, Jack!",
        "Hugo was nervous every morning.", "Choose his feather, Leo!", "No doctor remembered the butter.",
    )  # fmt: skip
    return [
        make_song(np.random.default_rng((2, index)), text, voice, RATE)
        for index, (text, voice) in enumerate(zip(texts, SPEAKERS, strict=True))
    ]


def test_the_voice_hits_the_notes_of_the_score(songs):
    errors, recalls, contour_errors, per_note = [], [], [], []
    for song in songs:
        phrase = song.phrase
        found_hz = estimated_f0(phrase.waveform, RATE)[: len(phrase.f0_hz)]
        sung = phrase.f0_hz > 0
        recalls.append((found_hz[sung] > 0).mean())
        both = sung & (found_hz > 0)
        contour_errors.append(np.median(np.abs(cents(found_hz[both], phrase.f0_hz[both]))))
        time_s = (np.arange(len(found_hz)) + 0.5) / F0_RATE_HZ
        for note in phrase.score:
            here = both & (time_s >= note.start_s + 0.05) & (time_s < note.end_s - 0.12)
            if here.any():
                per_note.append(np.median(cents(found_hz[here], np.array(midi_to_hz(note.pitch)))))
                errors += cents(found_hz[here], np.array(midi_to_hz(note.pitch))).tolist()
    assert abs(np.median(errors)) < 3
    assert np.median(np.abs(per_note)) < 8 and np.percentile(np.abs(per_note), 95) < 40
    assert max(contour_errors) < 5
    assert min(recalls) > 0.9


def test_contours_cover_the_recording_and_stand_in_the_middle_of_frames(songs):
    for song in songs:
        phrase = song.phrase
        assert len(phrase.f0_hz) == np.ceil(len(phrase.waveform) / RATE * F0_RATE_HZ - 1e-9)
        assert phrase.f0_hz.dtype == np.float32 and 0.4 < (phrase.f0_hz > 0).mean() < 1
    # A slide from C to G that ends at 0.5 s is half-way 35 ms before it.
    notes = (ScoreNote(0.0, 0.5, 60), ScoreNote(0.5, 0.3, 67))
    pitch = pitch_contour(notes, Style(vibrato_semitones=0), np.array([0.0, 0.43, 0.465, 0.5, 0.9]))
    np.testing.assert_allclose(pitch, [60, 60, 63.5, 67, 67])


def test_vibrato_swings_around_the_note_and_spares_short_ones():
    time_s = np.arange(0, 1, 0.001)
    swinging = pitch_contour((ScoreNote(0.0, 1.0, 60),), Style(vibrato_semitones=0.3), time_s)
    assert abs(np.mean(swinging) - 60) < 0.02 and 0.25 < np.abs(swinging - 60).max() <= 0.3
    assert not (swinging[time_s < 0.2] - 60).any() and abs(swinging[-1] - 60) < 0.01
    assert not (pitch_contour((ScoreNote(0.0, 0.3, 60),), Style(), time_s) - 60).any()


def test_units_lie_where_they_are_heard(songs):
    """Rests are silent, and nuclei are loud and voiced."""
    for song in songs:
        phrase = song.phrase
        edges_s = np.cumsum([0.0, *phrase.durations_s])
        assert edges_s[-1] == pytest.approx(len(phrase.waveform) / RATE, abs=1e-9)
        loud = np.sqrt(np.mean(phrase.waveform**2))
        for symbol, note, start_s, end_s in zip(phrase.phonemes, phrase.notes, edges_s, edges_s[1:], strict=False):
            inside = phrase.waveform[int(start_s * RATE) : int(end_s * RATE)]
            if symbol == SILENCE:
                assert note == 0
                middle = inside[int(0.05 * RATE) : -int(0.03 * RATE)]
                assert not len(middle) or np.sqrt(np.mean(middle**2)) < 0.01 * loud
            else:
                assert note > 0
            if is_nucleus(symbol):
                assert np.sqrt(np.mean(inside**2)) > 0.1 * loud
                frames = phrase.f0_hz[int(np.ceil(start_s * 100)) : int(end_s * 100)]
                assert (frames > 0).all()
        check_phonemes(phrase.phonemes, "song")


@pytest.mark.parametrize("sample_rate", [16_000, 22_050, 44_100])
def test_any_rate_and_recordings_can_be_sung(sample_rate):
    spoken = synthesize("Good morning.", "en-gb").resampled(sample_rate)
    melody = [SyllableNotes((57 + 2 * index,), (0.4,)) for index in range(len(split_syllables(spoken.phonemes)))]
    noisy = spoken.waveform + 1e-3 * np.random.default_rng(0).standard_normal(len(spoken.waveform)).astype(np.float32)
    phrase = sing(noisy, sample_rate, spoken.phonemes, spoken.durations_s, melody)
    assert phrase.sample_rate == sample_rate and phrase.waveform.dtype == np.float32
    assert np.abs(phrase.waveform).max() == pytest.approx(np.abs(noisy).max(), rel=1e-5)
    assert sum(phrase.durations_s) * sample_rate == pytest.approx(len(phrase.waveform))
    found_hz = estimated_f0(phrase.waveform, sample_rate)[: len(phrase.f0_hz)]
    both = (found_hz > 0) & (phrase.f0_hz[: len(found_hz)] > 0)
    assert np.median(np.abs(cents(found_hz[both], phrase.f0_hz[: len(found_hz)][both]))) < 5


def test_what_cannot_be_sung_is_explained(monkeypatch):
    spoken = synthesize("Go.")
    melody = [SyllableNotes((60,), (0.5,))]
    with pytest.raises(UserError, match="align it anew"):
        sing(spoken.waveform[:-4_000], spoken.sample_rate, spoken.phonemes, spoken.durations_s, melody)
    for waveform, message in (
        (np.zeros(8_000), "silent"),
        (np.full(8_000, np.nan), "silent or holds NaN"),
        (np.ones(100), "at least 0.1 s"),
        (np.ones((2, 8_000)), "give mono"),
    ):
        with pytest.raises(UserError, match=message):
            analyse(waveform, 16_000)
    monkeypatch.setitem(sys.modules, "pyworld", None)
    with pytest.raises(UserError, match=r"pip install 'unisono\[singing\]'"):
        analyse(spoken.waveform, spoken.sample_rate)


def test_the_last_note_dies_away(songs):
    for song in songs:
        phrase = song.phrase
        end = round(phrase.score[-1].end_s * RATE)
        rms = [np.sqrt(np.mean(phrase.waveform[end - ms * 24 : end - (ms - 10) * 24] ** 2)) for ms in (80, 40, 20)]
        assert rms[0] > rms[1] > rms[2]


def test_singing_twice_gives_the_same_samples(songs):
    again = make_song(np.random.default_rng((2, 1)), "The snow turned cold again.", SPEAKERS[1], RATE)
    np.testing.assert_array_equal(again.phrase.waveform, songs[1].phrase.waveform)
    assert again.part == songs[1].part


def test_a_whispered_nucleus_is_sung_all_the_same():
    voice = analyse(0.1 * np.random.default_rng(0).standard_normal(RATE), RATE)
    plan = plan_phrase(["h", "a", "_"], [0.3, 0.5, 0.2], [SyllableNotes((57,), (1.0,))])
    waveform, f0_hz = render(voice, plan, Style(vibrato_semitones=0))
    assert np.isfinite(waveform).all()
    time_s = np.arange(len(f0_hz)) * 0.005
    assert (f0_hz[(time_s > 0.31) & (time_s < 1.29)] == pytest.approx(220.0)) and not f0_hz[time_s > 1.31].any()


# ---------------------------------------------------------------------------------------------- songs


def test_songs_are_in_range_end_on_the_tonic_and_know_their_lyrics(songs):
    for song, voice in zip(songs, SPEAKERS, strict=True):
        lowest = song.key.tonic_from(LOWEST_TONIC[voice])
        assert all(lowest - 5 <= note.midi <= lowest + 16 for note in song.part.notes)
        assert song.part.notes[-1].midi == lowest
        assert [note.midi for note in song.part.notes] == [note.pitch for note in song.phrase.score]
        for note, sung in zip(song.part.notes, song.phrase.score, strict=True):
            assert song.tempo.seconds(note.start) == pytest.approx(sung.start_s, abs=1e-9)
            assert song.tempo.seconds(note.length) == pytest.approx(sung.duration_s, abs=1e-9)
    assert any(note.lyric == "+" for song in songs for note in song.part.notes)


def test_lyrics_make_up_the_words():
    for word, count in (("gentle", 2), ("cake", 1), ("newspaper", 3), ("mm", 2), ("Emma", 2), ("o", 1), ("every", 2)):
        pieces = divide_word(word, count)
        assert len(pieces) == count and "".join(pieces) == word and all(pieces)
    spoken = synthesize("Anna rested gently, twice.", "en-us+f1")
    assert lyrics("Anna rested gently, twice.", "en-us+f1", spoken.phonemes) == [
        "An-", "na", "res-", "ted", "gent-", "ly", "twice",
    ]  # fmt: skip
    # Words that do not fit the sounds: the sounds are the lyrics.
    assert lyrics("Anna", "en-us", ["_", "s", "t", "ɑː", "p", "_"]) == ["stɑːp"]


def test_lines_of_both_singing_tasks_agree_with_their_files(tmp_path):
    counts = dict.fromkeys(("singing_voice_synthesis", "singing_acoustic_modeling"), (4, 0, 0))
    root = build_mini_corpus(tmp_path / "a corpus", counts=counts, workers=1, progress=False)
    sung, modelled = (root / task / "train" for task in ("singing_voice_synthesis", "singing_acoustic_modeling"))
    audio, targets = load_manifest(sung / "audio.jsonl"), load_manifest(modelled / "audio.jsonl")
    lines = [fields.record for fields in load_manifest(sung / "content.jsonl").values()]
    others = [fields.record for fields in load_manifest(modelled / "content.jsonl").values()]
    assert json.dumps(others) != json.dumps(lines)
    for line, other in zip(lines, others, strict=True):
        target = sung / audio[line["audio_id"]].record["audio"]
        assert (modelled / targets[other["audio_id"]].record["audio"]).samefile(target)
        seconds = len(read_audio(target, RATE)) / RATE
        length = len(line["phonemes"])
        assert all(len(line[name]) == length for name in ("durations_s", "notes", "note_durations_s", "slurs"))
        assert sum(line["durations_s"]) == pytest.approx(seconds, abs=1e-4)
        assert set(line["slurs"]) <= {0, 1} and all(
            (n == 0) == (p == SILENCE) for n, p in zip(line["notes"], line["phonemes"], strict=True)
        )
        for index, slur in enumerate(line["slurs"]):
            assert not slur or line["phonemes"][index] == line["phonemes"][index - 1]
        assert other["phonemes"] == line["phonemes"] and other["durations_s"] == line["durations_s"]
        assert "notes" not in other
        f0_hz = np.load(modelled / other["f0_hz"], allow_pickle=False)
        assert f0_hz.ndim == 1 and len(f0_hz) / other["f0_rate_hz"] == pytest.approx(seconds, abs=0.01)
        file = mido.MidiFile(sung / line["score_midi"])
        assert file.ticks_per_beat == TICKS_PER_BEAT
        assert sum(message.type == "lyrics" for message in file.tracks[1]) == sum(
            m.type == "note_on" for m in file.tracks[1]
        )
        words = "".join(m.text for m in file.tracks[1] if m.type == "lyrics" and m.text != "+").replace("-", "")
        assert words == "".join(filter(str.isalpha, line["text"]))
