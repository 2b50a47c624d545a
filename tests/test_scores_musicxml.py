"""Scores from MusicXML (needs music21)."""

import io
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from unisono.errors import UserError
from unisono.scores import Score, read_score, score_units
from unisono.scores.read import MAX_FILE_BYTES
from unisono.text.phonemize import phonemizer

music21 = pytest.mark.skipif(find_spec("music21") is None, reason="music21 is not installed")


def note(name: str, quarters: float, lyric: str = "", *extra: str) -> str:
    """``C4`` or ``rest``, in divisions of 4 to the quarter; ``lyric`` as ``syllabic text``, verses parted by ``|``."""
    pitch = "<rest/>" if name == "rest" else f"<pitch><step>{name[0]}</step><octave>{name[1]}</octave></pitch>"
    verses = ""
    for number, verse in enumerate(lyric.split("|"), 1):
        syllabic, _, text = verse.partition(" ")
        if text:
            verses += f'<lyric number="{number}"><syllabic>{syllabic}</syllabic><text>{text}</text></lyric>'
    return f"<note>{pitch}<duration>{round(quarters * 4)}</duration>{''.join(extra)}{verses}</note>"


def measure(number: int, *content: str) -> str:
    attributes = (
        "<attributes><divisions>4</divisions><time><beats>4</beats><beat-type>4</beat-type></time></attributes>"
        if number == 1
        else ""
    )
    return f'<measure number="{number}">{attributes}{"".join(content)}</measure>'


def sheet(*parts: str, prolog: str = "", root: str = "score-partwise", **names: str) -> bytes:
    """A score whose parts are ``P1``, ``P2`` …, called Voice, Piano unless ``names`` tell otherwise."""
    labels = [names.get(f"P{i}", ("Voice", "Piano", "Bass")[i - 1]) for i in range(1, len(parts) + 1)]
    listed = "".join(
        f'<score-part id="P{i}"><part-name>{label}</part-name></score-part>' for i, label in enumerate(labels, 1)
    )
    body = "".join(f'<part id="P{i}">{part}</part>' for i, part in enumerate(parts, 1))
    start = f'<?xml version="1.0" encoding="UTF-8"?>{prolog}<{root} version="4.0">'
    return f"{start}<part-list>{listed}</part-list>{body}</{root}>".encode()


def tempo(bpm: int) -> str:
    return f'<direction><direction-type><words>x</words></direction-type><sound tempo="{bpm}"/></direction>'


def packed(data: bytes, name: str = "score.xml", container: str | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        listed = f'<container><rootfiles><rootfile full-path="{name}"/></rootfiles></container>'
        archive.writestr("META-INF/container.xml", listed if container is None else container)
        archive.writestr(name, data)
    return out.getvalue()


def lyrics(score: Score) -> str:
    return " ".join((n.lyric or ("+" if n.slur else "?")) + ("-" if n.continues else "") for n in score.notes)


def times(score: Score) -> list[tuple[float, float]]:
    return [(round(n.start_s, 6), round(n.end_s, 6)) for n in score.notes]


STAR = "single star"
TIE_START, TIE_STOP = '<tie type="start"/>', '<tie type="stop"/>'


@music21
def test_words_ties_melismas_rests_and_tempo(tmp_path: Path) -> None:
    data = sheet(
        measure(1, tempo(60), note("C4", 1, "begin twin"), note("C4", 1, "end kle"), note("G4", 2, STAR, TIE_START))
        + measure(2, tempo(120), note("G4", 1, "", TIE_STOP), note("A4", 1), note("rest", 2))
    )
    path = tmp_path / "a song.musicxml"
    path.write_bytes(data)
    score = read_score(path)
    assert lyrics(score) == "twin- kle star +"
    assert times(score) == [(0, 1), (1, 2), (2, 4.5), (4.5, 5)]
    assert [n.pitch for n in score.notes] == [60, 60, 67, 69]
    assert score.duration_s == pytest.approx(6)
    assert score.remarks == ()
    units = score_units(score, phonemizer())
    assert units.phonemes[:4] == ["t", "w", "ɪ", "ŋ"]
    assert units.phonemes[-4:] == ["ɑː", "ɑː", "ɹ", "_"]
    for same in (data.decode().replace("UTF-8", "UTF-16").encode("utf-16"), packed(data), b"\xef\xbb\xbf" + data):
        assert read_score(same).notes == score.notes


@music21
def test_a_pickup_begins_at_zero_and_no_tempo_is_told() -> None:
    score = read_score(
        sheet(
            '<measure number="0" implicit="yes"><attributes><divisions>4</divisions><time><beats>4</beats>'
            f"<beat-type>4</beat-type></time></attributes>{note('C4', 1, 'single oh')}</measure>"
            + measure(2, note("D4", 4, "single say"))
        )
    )
    assert times(score) == [(0, 0.5), (0.5, 2.5)]
    assert score.remarks == ("no tempo at the beginning; taken as 120 quarter notes a minute",)


@music21
def test_repeats_take_the_next_verse() -> None:
    forward, backward = (
        f'<barline location="{side}"><repeat direction="{direction}"/></barline>'
        for side, direction in (("left", "forward"), ("right", "backward"))
    )
    data = sheet(
        measure(1, note("C4", 4, "single intro"))
        + measure(2, forward, note("D4", 4, "single one|single two"))
        + measure(3, note("E4", 4, "single both"), backward)
        + measure(4, note("F4", 4, "single end|single fin"))
    )
    assert lyrics(read_score(data)) == "intro one both two both end"
    assert lyrics(read_score(data, expand_repeats=False)) == "intro one both end"
    assert lyrics(read_score(data, expand_repeats=False, verse=2)) == "intro two both fin"
    with pytest.raises(UserError, match="expand_repeats=False"):
        read_score(data.replace(backward.encode(), b""))


@music21
def test_the_voice_with_lyrics_is_sung() -> None:
    voice, piano = measure(1, note("C4", 4, "single la")), measure(1, note("E4", 4))
    assert read_score(sheet(piano, voice, P1="Piano", P2="Tenor")).name.endswith("'Tenor'")
    assert read_score(sheet(piano)).notes[0].lyric is None
    with pytest.raises(UserError, match=r"none has lyrics; choose one with voice=NUMBER or NAME: 1: 'Voice' \(1 notes"):
        read_score(sheet(piano, piano))
    with pytest.raises(UserError, match="several voices with lyrics"):
        read_score(sheet(voice, voice))
    assert read_score(sheet(voice, piano), voice="Piano").notes[0].pitch == 64
    two = measure(
        1,
        note("C5", 4, "single high", "<voice>1</voice>"),
        "<backup><duration>16</duration></backup>",
        note("C4", 4, "single low", "<voice>2</voice>"),
    )
    with pytest.raises(UserError, match=r"1: 'Voice, voice 1'.*2: 'Voice, voice 2'"):
        read_score(sheet(two))
    assert lyrics(read_score(sheet(two), voice="Voice, voice 2")) == "low"
    with pytest.raises(UserError, match="has no notes"):
        read_score(sheet(measure(1, note("rest", 4))))


@music21
def test_staves_of_one_part_are_voices() -> None:
    piano = measure(
        1,
        "<attributes><staves>2</staves></attributes>",
        note("C5", 4, "single sing", "<voice>1</voice>", "<staff>1</staff>"),
        "<backup><duration>16</duration></backup>",
        note("C3", 4, "", "<voice>2</voice>", "<staff>2</staff>"),
    )
    score = read_score(sheet(piano))
    assert lyrics(score) == "sing"
    assert score.notes[0].pitch == 72


@music21
def test_chords_are_refused_and_grace_notes_told() -> None:
    chord = note("C4", 4, "single la") + note("E4", 4).replace("<note>", "<note><chord/>")
    with pytest.raises(UserError, match=r"'Voice', measure 1: a chord \(C4 E4\); a voice sings one note at a time"):
        read_score(sheet(measure(1, chord)))
    grace = note("D4", 1).replace("<note>", "<note><grace/>").replace("<duration>4</duration>", "")
    score = read_score(sheet(measure(1, grace, note("C4", 4, "single la"))))
    assert lyrics(score) == "la"
    assert "1 grace notes left out" in score.remarks
    with pytest.raises(UserError, match="grace notes only"):
        read_score(sheet(measure(1, grace)))


@music21
def test_elisions_and_transposition() -> None:
    elided = (
        '<lyric number="1"><syllabic>end</syllabic><text>ce</text><elision/><syllabic>single</syllabic>'
        "<text>e</text></lyric>"
    )
    transpose = "<attributes><transpose><chromatic>-2</chromatic></transpose></attributes>"
    score = read_score(sheet(measure(1, transpose, note("D4", 2, "begin dol"), note("E4", 2, "", elided))))
    assert lyrics(score) == "dol- ce e"
    assert [n.pitch for n in score.notes] == [60, 62]


GOOD = sheet(measure(1, note("C4", 4, "single la")))
BOMB = (
    '<!DOCTYPE x [<!ENTITY a0 "aaaaaaaaaa">'
    + "".join(f'<!ENTITY a{level + 1} "' + f"&a{level};" * 10 + '">' for level in range(9))
    + "]>"
)


def broken_archive() -> bytes:
    data = bytearray(packed(GOOD * 20))
    data[150:170] = bytes(20)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sheet(prolog=BOMB), "declares XML entities"),
        (sheet(prolog='<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'), "declares XML entities"),
        (sheet(prolog='<!DOCTYPE x [<!ENTITY % a SYSTEM "http://x/y">]>').decode().encode("utf-16"), "XML"),
        (packed(sheet(prolog=BOMB)), "declares XML entities"),
        (packed(GOOD, container=BOMB + "<container/>"), "declares XML entities"),
        (packed(GOOD, container="<container/>"), "names no score"),
        (packed(GOOD, container='<container><rootfile full-path="other.xml"/></container>'), "without other.xml"),
        (packed(b" " * (MAX_FILE_BYTES + 1)), "unpacks to more than"),
        (packed(GOOD)[:-40], "damaged .mxl"),
        (broken_archive(), "damaged"),
        (GOOD[:-20], "not well-formed XML"),
        (b"<html></html>", "of the kind 'html'"),
        (sheet(root="score-timewise"), "score-timewise"),
        (sheet(measure(1, '<barline><repeat direction="backward" times="99999999"/></barline>')), "at most 20"),
        (sheet(measure(1, note("H4", 1))), "not usable MusicXML"),
        (GOOD.replace(b"<beats>4", b"<beats>99999999"), "<beats> is '99999999', no number up to 128"),
        (GOOD.replace(b"<duration>16", b"<duration>1e300"), "<duration> is '1e300'"),
        (GOOD.replace(b"<octave>4", b"<octave>x"), "<octave> is 'x'"),
        (sheet(), "has no notes"),
    ],
)
def test_broken_and_hostile_files_are_explained(data: bytes, message: str, tmp_path: Path) -> None:
    if "entities" not in message:
        pytest.importorskip("music21")
    path = tmp_path / "a song.mxl"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        read_score(path)
    assert str(path) in str(error.value)


def test_an_external_type_declaration_is_not_fetched() -> None:
    pytest.importorskip("music21")
    prolog = '<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD" "http://unreachable.invalid/partwise.dtd">'
    assert read_score(sheet(measure(1, note("C4", 4, "single la")), prolog=prolog)).notes[0].lyric == "la"


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "music21", None)
    monkeypatch.setitem(sys.modules, "music21.musicxml.xmlToM21", None)
    with pytest.raises(UserError, match=r"pip install 'unisono\[singing\]'"):
        read_score(GOOD)


@music21
def test_more_notes_than_anybody_sings_are_refused_before_music21_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.scores.musicxml._MAX_NOTES_OF_ALL", 2)
    bar = [note("C4", 1, "single a") for _ in range(3)]
    assert len(read_score(sheet(measure(1, *bar[:2])), "the song").notes) == 2
    with pytest.raises(UserError, match="the song has 3 notes, and at most 2 are read"):
        read_score(sheet(measure(1, *bar)), "the song")
