"""Pitches, scores from text, and the units of a singing model."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.errors import UserError
from unisono.scores import (
    Score,
    ScoreNote,
    hz_to_midi,
    midi_to_hz,
    note_name,
    note_number,
    parse_score,
    score_units,
)
from unisono.scores.score import MAX_NOTES
from unisono.scores.syllables import carrier, is_nucleus, share_out
from unisono.text.phonemize import phonemizer

TWINKLE = "C4:0.5:twin- C4:0.5:kle G4:1:star A4:0.5:+ rest:0.25 C4:1:beau- D4:1:ti- E4:0.5:ful rest:0.3"


class Letters:
    """Says a word as its letters: shows what the score does, without a dictionary."""

    language = "it"

    def pronounce(self, words: Sequence[str]) -> list[list[str]]:
        return [list(word) for word in words]


# ------------------------------------------------------------------------------------------------------- pitches


@pytest.mark.parametrize(
    ("note", "number"),
    [("C4", 60), ("a4", 69), ("F#3", 54), ("Bb5", 82), ("B♭5", 82), ("Cb4", 59), ("E##2", 42), ("Fx2", 43), ("C#-1", 1),
     ("C#4/Db4", 61), (60, 60), (60.0, 60), ("60", 60), (60.5, 60.5), ("rest", 0), ("R", 0), (0, 0), (None, 0)],
)  # fmt: skip
def test_note_numbers(note, number) -> None:
    found = note_number(note)
    assert found == number
    assert type(found) is type(number)


@pytest.mark.parametrize(
    "note",
    ["H4", "C", "4C", "", "C44", "C4/D4", "C-1", "-1", 128, -3, 0.5, math.nan, math.inf, True, "nan", [60], 10**400],
)
def test_what_is_no_note_is_named_with_its_place(note) -> None:
    with pytest.raises(UserError, match=r"x\.jsonl:3: .* is no note; write a name such as C4"):
        note_number(note, "x.jsonl:3")


@given(st.integers(1, 127))
def test_names_numbers_and_frequencies_are_inverse(number: int) -> None:
    assert note_number(note_name(number)) == number
    assert hz_to_midi(midi_to_hz(number)) == pytest.approx(number, abs=1e-9)
    assert midi_to_hz(number + 12) == pytest.approx(2 * midi_to_hz(number))


def test_frequencies() -> None:
    assert midi_to_hz(69) == 440.0
    assert hz_to_midi(440.0) == 69.0
    contour = np.array([0.0, 220.0, 880.0])
    assert hz_to_midi(contour).tolist() == [0.0, 57.0, 81.0]
    assert midi_to_hz(hz_to_midi(contour)).tolist() == pytest.approx(contour.tolist())
    assert note_name(60.25) == "C4+25c"
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="0 for unvoiced"):
            hz_to_midi(wrong)


# -------------------------------------------------------------------------------------------------- text and units


def test_text_score() -> None:
    score = parse_score(TWINKLE)
    assert [note.lyric for note in score.notes] == ["twin", "kle", "star", None, "beau", "ti", "ful"]
    assert [note.continues for note in score.notes] == [True, False, False, False, True, True, False]
    assert [note.slur for note in score.notes] == [False, False, False, True, False, False, False]
    assert score.notes[4].start_s == pytest.approx(2.75)
    assert score.duration_s == pytest.approx(5.55)
    assert score.text == "twinkle star beautiful"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "PITCH:SECONDS:LYRIC"),
        ("C4", r"note 1 \('C4'\): the length is ''"),
        ("C4:1:la D4:-1:la", r"note 2 .*'-1'"),
        ("C4:nan:la", "'nan'"),
        ("C4:inf:la", "'inf'"),
        ("H4:1:la", "'H4' is no note"),
        ("rest:1:la C4:1:la", "a rest has no lyric"),
        ("rest:1", "a score needs notes"),
        ("C4:1e39:la", "lasts 1e\\+39 s; a score lasts at most 86400 s"),
        ("C4:1:la " * (MAX_NOTES + 1), f"has {MAX_NOTES + 1} notes, and at most {MAX_NOTES} are read"),
        (f"C4:1:{'la' * 1000}", "a lyric of 2000 characters; a note has one syllable"),
    ],
)
def test_mistakes_in_a_text_score(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_score(text)


@pytest.mark.parametrize(
    ("notes", "duration_s", "message"),
    [
        ([ScoreNote(0, 1, 60), ScoreNote(0.5, 1, 62)], 2, r"D4 at 0\.50 s begins before C4 at 0\.00 s ends"),
        ([ScoreNote(0, 0, 60)], 2, "positive length"),
        ([ScoreNote(math.nan, 1, 60)], 2, "positive length"),
        ([ScoreNote(0, 1, 0)], 2, "pitch 0"),
        ([ScoreNote(0, 3, 60)], 2, "must hold them"),
        ([], 2, "needs notes"),
    ],
)
def test_impossible_scores(notes: list[ScoreNote], duration_s: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Score(tuple(notes), duration_s)


def test_a_word_in_more_syllables_than_words_have_is_refused_before_its_phonemes_are_shared_out() -> None:
    text = " ".join(["C4:1:la-"] * 5000)
    with pytest.raises(UserError, match=r"'lalala.* has 5000 syllables and 10000 letters, at most 30 and 100 are read"):
        score_units(parse_score(text), Letters())


def test_units_of_words_melismas_and_rests() -> None:
    units = score_units(parse_score(TWINKLE), phonemizer("en-us"))
    rows = list(zip(units.phonemes, units.notes, units.note_durations_s, units.slurs, strict=True))
    assert rows == [
        *((symbol, 60, 0.5, 0) for symbol in ("t", "w", "ɪ", "ŋ")),
        *((symbol, 60, 0.5, 0) for symbol in ("k", "ʌ", "l")),
        *((symbol, 67, 1.0, 0) for symbol in ("s", "t", "ɑː")),
        ("ɑː", 69, 0.5, 1),
        ("ɹ", 69, 0.5, 0),
        ("_", 0, 0.25, 0),
        *((symbol, 60, 1.0, 0) for symbol in ("b", "j", "uː")),
        *((symbol, 62, 1.0, 0) for symbol in ("t", "ʌ")),
        *((symbol, 64, 0.5, 0) for symbol in ("f", "ʌ", "l")),
        ("_", 0, 0.3, 0),
    ]
    assert units.remarks == ()
    assert set(units.as_fields()) == {"phonemes", "notes", "note_durations_s", "slurs"}
    assert all(isinstance(note, int) for note in units.notes)


def test_a_melisma_may_be_unmarked_or_go_over_a_rest() -> None:
    plain = score_units(parse_score("C4:1:la D4:1 E4:1:ta"), Letters())
    marked = score_units(parse_score("C4:1:la D4:1:_ E4:1:ta"), Letters())
    assert plain == marked
    assert plain.phonemes == ["l", "a", "a", "t", "a"]
    over_rest = score_units(parse_score("C4:1:la rest:1 D4:1:+"), Letters())
    assert over_rest.phonemes == ["l", "a", "_", "a"]
    assert over_rest.slurs == [0, 0, 0, 1]
    with pytest.raises(UserError, match=r"note 2 \(D4 at 2\.00 s\) has no lyric; give it one, or '\+'"):
        score_units(parse_score("C4:1:la rest:1 D4:1"), Letters())
    with pytest.raises(UserError, match=r"note 1 .* has no lyric"):
        score_units(parse_score("C4:1 D4:1:la"), Letters())


def test_lyrics_are_cleaned_joined_and_elided() -> None:
    assert score_units(parse_score("C4:1:(Twin- D4:1:-kle,) E4:1:star!"), phonemizer()).phonemes == (
        score_units(parse_score("C4:1:twin- D4:1:kle E4:1:star"), phonemizer()).phonemes
    )
    # "dolce e" on one note, the word before going on into it.
    notes = (ScoreNote(0, 1, 60, "dol", True), ScoreNote(1, 1, 62, "ce e"), ScoreNote(2, 1, 64, slur=True))
    units = score_units(Score(notes, 3), Letters())
    assert units.phonemes == ["d", "o", "l", "c", "e", "e", "e"]
    assert units.notes == [60, 60, 60, 62, 62, 62, 64]
    with pytest.raises(UserError, match=r"lyric '\?!', which holds no letter"):
        score_units(parse_score("C4:1:?!"), Letters())
    with pytest.raises(UserError, match=r"cannot be pronounced: .*CYRILLIC"):
        score_units(parse_score("C4:1:Я"), phonemizer())


@pytest.mark.parametrize(
    ("word", "spellings", "expected"),
    [
        ("beautiful", "beau ti ful", "b j uː|t ʌ|f ʌ l"),
        ("extra", "ex tra", "ɛ k|s t ɹ ʌ"),
        ("mistake", "mis take", "m ɪ|s t eɪ k"),
        ("singing", "sing ing", "s ɪ ŋ|ɪ ŋ"),
        ("angry", "an gry", "æ ŋ|ɡ ɹ iː"),
        ("instrument", "in stru ment", "ɪ n|s t ɹ ʌ|m ʌ n t"),
        ("family", "fam' ly", "f æ m ʌ|l iː"),
        ("prayer", "pray er", "p ɹ ɛ ɹ|"),
        ("hmm", "hm m", "h m|"),
    ],
)
def test_english_words_part_by_maximal_onset(word: str, spellings: str, expected: str) -> None:
    (symbols,) = phonemizer().pronounce([word])
    assert [" ".join(part) for part in share_out(symbols, spellings.split())] == expected.split("|")


@pytest.mark.parametrize(
    ("language", "word", "spellings", "expected"),
    [
        ("de", "Wasser", "Was ser", "v a|s ɜ"),
        ("de", "Fenster", "Fens ter", "f ɛ n|s t ɜ"),
        ("de", "Kinder", "Kin der", "k ɪ n|d ɜ"),
        ("it", "bella", "bel la", "b ɛ l|l a"),
        ("es", "guitarra", "gui ta rra", "ɡ i|t a|r a"),
        ("cs", "vlci", "vl ci", "v l̩|ts i"),
    ],
)
def test_words_of_other_languages(language: str, word: str, spellings: str, expected: str) -> None:
    (symbols,) = phonemizer(language).pronounce([word])
    assert [" ".join(part) for part in share_out(symbols, spellings.split(), language)] == expected.split("|")


SYMBOLS = ("p", "t", "s", "k", "l", "ɹ", "m", "n", "a", "iː", "ʌ", "eɪ")


@given(st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=12), st.integers(1, 6))
@settings(max_examples=300, deadline=None)
def test_sharing_out_loses_nothing(symbols: list[str], count: int) -> None:
    spellings = ["ba"] * count
    parts = share_out(symbols, spellings)
    assert len(parts) == count
    assert [symbol for part in parts for symbol in part] == symbols
    assert parts[0]
    vowels = [sum(map(is_nucleus, part)) for part in parts]
    if sum(vowels) == count:
        assert vowels == [1] * count
    if sum(vowels) > count:
        assert min(vowels) >= 1
    assert 0 <= carrier(symbols) < len(symbols)


def test_remarks_tell_where_lyrics_and_words_disagree() -> None:
    units = score_units(parse_score("C4:1:pray- D4:1:er"), phonemizer())
    assert units.phonemes == ["p", "ɹ", "ɛ", "ɛ", "ɹ"]
    assert units.slurs == [0, 0, 0, 1, 0]
    assert units.remarks == ("'pray-er': 2 syllables for 1 vowels (p ɹ ɛ ɹ)",)


SUNG = st.tuples(
    st.integers(40, 80), st.integers(1, 40), st.sampled_from(["la", "ta-", "+", "strand", ""]), st.integers(0, 20)
)


@given(st.lists(SUNG, min_size=1, max_size=15))
@settings(max_examples=200, deadline=None)
def test_units_keep_every_note_and_rest(items: list[tuple[int, int, str, int]]) -> None:
    """Vowels and rests, one per note or gap, tell the score again."""
    text = " ".join(
        f"{pitch}:{length / 10}:{'la' if index == 0 else lyric or 'o'}" + (f" r:{gap / 10}" if gap else "")
        for index, (pitch, length, lyric, gap) in enumerate(items)
    )
    score = parse_score(text)
    units = score_units(score, Letters())
    assert len(units.phonemes) == len(units.notes) == len(units.note_durations_s) == len(units.slurs)
    held = [i for i, symbol in enumerate(units.phonemes) if symbol == "_" or is_nucleus(symbol)]
    assert [units.notes[i] for i in held if units.notes[i]] == [note.pitch for note in score.notes]
    assert sum(units.note_durations_s[i] for i in held) == pytest.approx(score.duration_s, abs=1e-4)
    assert all((symbol == "_") == (note == 0) for symbol, note in zip(units.phonemes, units.notes, strict=True))
    assert sum(units.slurs) == sum(note.slur for note in score.notes)


# -- lyrics that stand apart ----------------------------------------------------------------------------------------


def test_lyrics_are_laid_on_the_notes() -> None:
    from unisono.scores import with_lyrics

    score = parse_score("C4:0.5 C4:0.5 rest:0.5 G4:1 A4:0.5")
    sung = with_lyrics(score, "twin-kle star +")
    assert [note.lyric for note in sung.notes] == ["twin", "kle", "star", None]
    assert [note.continues for note in sung.notes][:2] == [True, False] and sung.notes[3].slur
    assert sung.text == "twinkle star" and sung.duration_s == score.duration_s
    for lyrics, count in (("la la la", 3), ("la " * 5, 5), ("", 0)):
        with pytest.raises(UserError, match=f"4 notes, the lyrics {count} syllables"):
            with_lyrics(score, lyrics)
