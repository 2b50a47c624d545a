"""Scores from Standard MIDI files."""

import io
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import mido
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.errors import UserError
from unisono.scores import Score, parse_score, read_score, write_midi
from unisono.scores.read import MAX_FILE_BYTES, MAX_MIDI_BYTES
from unisono.scores.score import MAX_NOTES

TWINKLE = "C4:0.5:twin- C4:0.5:kle G4:1:star A4:0.5:+ rest:0.25 C4:1:beau- D4:1:ti- E4:0.5:ful rest:0.3"


def midi_bytes(*tracks: list, ticks_per_beat: int = 480, kind: int = 1, charset: str = "utf-8") -> bytes:
    """Tracks of ``(tick, message)`` with absolute ticks."""
    midi = mido.MidiFile(ticks_per_beat=ticks_per_beat, type=kind, charset=charset)
    for events in tracks:
        track, last = midi.add_track(), 0
        for tick, message in sorted(events, key=lambda event: event[0]):
            track.append(message.copy(time=tick - last))
            last = tick
    out = io.BytesIO()
    midi.save(file=out)
    return out.getvalue()


def note(tick: int, length: int, pitch: int, lyric: str | None = None, channel: int = 0, kind: str = "lyrics") -> list:
    events = [
        (tick, mido.Message("note_on", note=pitch, velocity=64, channel=channel)),
        (tick + length, mido.Message("note_off", note=pitch, channel=channel)),
    ]
    return events if lyric is None else [(tick, mido.MetaMessage(kind, text=lyric)), *events]


def words(tick: int, text: str) -> list:
    return [(tick, mido.MetaMessage("lyrics", text=text))]


def tempo(tick: int, bpm: float) -> list:
    return [(tick, mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm)))]


def name(text: str) -> list:
    return [(0, mido.MetaMessage("track_name", name=text))]


def lyrics(score: Score) -> str:
    return " ".join((n.lyric or ("+" if n.slur else "?")) + ("-" if n.continues else "") for n in score.notes)


def test_midi_round_trip(tmp_path: Path) -> None:
    score = parse_score(TWINKLE.replace("star", "Stärke"))
    path = write_midi(score, tmp_path / "a folder" / "song.mid")
    again = read_score(path)
    assert [(n.pitch, n.lyric, n.continues, n.slur) for n in again.notes] == [
        (n.pitch, n.lyric, n.continues, n.slur) for n in score.notes
    ]
    assert again.duration_s == pytest.approx(score.duration_s, abs=1e-4)
    for mine, theirs in zip(score.notes, again.notes, strict=True):
        assert theirs.start_s == pytest.approx(mine.start_s, abs=1e-4)
        assert theirs.duration_s == pytest.approx(mine.duration_s, abs=1e-4)
    assert read_score(path.read_bytes(), "x").notes == again.notes
    assert [p.name for p in path.parent.iterdir()] == ["song.mid"]
    with pytest.raises(UserError, match="between two keys"):
        write_midi(parse_score("60.5:1:la"), path)


def test_tempo_changes_of_another_track_are_applied() -> None:
    melody = name("Voice") + note(0, 480, 60, "a") + note(480, 960, 62, "b")
    score = read_score(midi_bytes(tempo(0, 60) + tempo(960, 120), melody))
    assert [(n.start_s, n.end_s) for n in score.notes] == [(0.0, 1.0), (1.0, pytest.approx(2.5))]


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(20, 300)), max_size=6), st.integers(1, 6000))
@settings(max_examples=60, deadline=None)
def test_tempo_map_is_that_of_mido(changes: list[tuple[int, int]], tick: int) -> None:
    data = midi_bytes([event for at, bpm in changes for event in tempo(at, bpm)], note(tick, 100, 60, "a"))
    elapsed = 0.0
    for message in mido.MidiFile(file=io.BytesIO(data)):
        elapsed += message.time
        if message.type == "note_on":
            break
    assert read_score(data).notes[0].start_s == pytest.approx(elapsed, abs=1e-6)


def test_the_voice_with_lyrics_is_sung() -> None:
    voice = name("Voice") + note(0, 480, 60, "la")
    piano = name("Piano") + note(0, 480, 48) + note(0, 480, 52)
    drums = note(0, 10, 36, channel=9)
    assert read_score(midi_bytes([], piano, voice, drums)).notes[0].pitch == 60
    assert read_score(midi_bytes(drums, name("Flute") + note(0, 480, 72))).notes[0].pitch == 72
    with pytest.raises(UserError, match=r"none has lyrics; choose one .*1: 'Piano' \(2 notes, 0 lyrics\), 2: 'Flute'"):
        read_score(midi_bytes(piano, name("Flute") + note(0, 480, 72)))
    two = midi_bytes(voice, name("Alto") + note(0, 480, 55, "lo"))
    with pytest.raises(UserError, match="several voices with lyrics"):
        read_score(two)
    assert read_score(two, voice="Alto").notes[0].pitch == 55
    assert read_score(two, voice=1).notes[0].pitch == 60
    for wrong in ("Bass", 3, 0, True):
        with pytest.raises(UserError, match="choose by number one of 1: 'Voice'"):
            read_score(two, voice=wrong)
    # One track, several channels: lyrics belong to the notes they begin with.
    both = note(0, 960, 48, channel=1) + note(480, 480, 60, "la", channel=2)
    assert read_score(midi_bytes(both, kind=0)).notes[0].pitch == 60
    assert read_score(midi_bytes(words(0, "la"), name("Flute") + note(0, 480, 72))).notes[0].lyric == "la"
    with pytest.raises(UserError, match="lyrics are in 1 tracks without notes, the notes in 'Piano', 'Flute'"):
        read_score(midi_bytes(words(0, "la"), piano, name("Flute") + note(0, 480, 72)))
    with pytest.raises(UserError, match="has no notes"):
        read_score(midi_bytes(words(0, "la")))


def test_lyric_conventions() -> None:
    def sung(*texts: str, kind: str = "lyrics", first: Sequence = ()) -> str:
        events = [event for i, text in enumerate(texts) for event in note(i * 480, 480, 60 + i, text, kind=kind)]
        return lyrics(read_score(midi_bytes([*first, *events])))

    assert sung("twin-", "kle", "star", "+", "_") == "twin- kle star + +"
    assert sung("twin", "-kle", "star") == "twin- kle star"
    # Karaoke: a space parts words, slashes begin lines and paragraphs.
    assert sung("\\Twin", "kle ", "lit", "tle ", "/star") == "Twin- kle lit- tle star"
    assert sung("你", "好") == "你 好"
    header = [(0, mido.MetaMessage("text", text="@KMIDI KARAOKE FILE"))]
    assert sung("/Twin", "kle", " star", kind="text", first=header) == "Twin- kle star"
    line_break = words(480, "\r")
    assert lyrics(read_score(midi_bytes(note(0, 480, 60, "la") + line_break + note(480, 480, 60, "ti ")))) == "la ti"
    latin = midi_bytes(note(0, 480, 60, "Stärke"), charset="latin1")
    assert lyrics(read_score(latin)) == "Stärke"
    # A lyric a little off its note, and a note without one.
    shifted = [*note(470, 480, 60), *words(480, "la"), *note(950, 480, 62)]
    assert lyrics(read_score(midi_bytes(shifted))) == "la +"


def test_short_gaps_and_overlaps_are_mended_longer_ones_not() -> None:
    def notes(gap_ticks: int, **options) -> list[tuple[float, float]]:
        data = midi_bytes(note(0, 480 - gap_ticks, 60, "a") + note(480, 480, 62, "b"))
        return [(round(n.start_s, 4), round(n.end_s, 4)) for n in read_score(data, **options).notes]

    whole = [(0.0, 0.5), (0.5, 1.0)]
    assert notes(0) == notes(20) == notes(-20) == whole
    assert notes(96) == [(0.0, 0.4), (0.5, 1.0)]
    assert notes(20, min_rest_s=0.0)[0][1] < 0.5
    with pytest.raises(UserError, match=r"C4 \(from 0\.00 s\) and D4 \(from 0\.50 s\) sound together for 0\.10 s"):
        notes(-96)
    with pytest.raises(UserError, match="sound together"):
        read_score(midi_bytes(note(0, 480, 60, "a") + note(0, 20, 64)))


def smpte() -> bytes:
    data = bytearray(midi_bytes(note(0, 480, 60, "a")))
    data[12:14] = struct.pack(">h", -25 * 256 + 40)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"MThd", "damaged MIDI"),
        (b"RIFF....", "neither a Standard MIDI file nor MusicXML"),
        (midi_bytes(note(0, 480, 60, "a"))[:-9], "damaged MIDI"),
        (smpte(), "SMPTE"),
        (midi_bytes(note(0, 480, 60, "a"), kind=2), "type 2"),
        (midi_bytes(note(0, 480, 60)[:1]), r"C4 at 0\.00 s never ends"),
        (midi_bytes(note(0, 0, 60)), r"C4 at 0\.00 s has no length"),
        (midi_bytes(note(0, 480, 60, "a") + words(300, "b")), "'b' at 0.31 s begins with no note"),
        (midi_bytes(note(0, 480, 60, "a") + words(1, "b")), "'a' and 'b' are both on"),
    ],
)
def test_broken_midi_is_explained(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "the song.mid"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        read_score(path)
    assert str(path) in str(error.value)


def test_files_of_more_notes_than_anybody_sings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    many = midi_bytes(*[[one for i in range(MAX_NOTES + 1) for one in note(10 * i, 10, 60)]])
    with pytest.raises(UserError, match=f"has {MAX_NOTES + 1} notes, and at most {MAX_NOTES} are read"):
        read_score(many, "the song")
    # Before mido, which takes seconds for each MB, sees them.
    monkeypatch.setitem(sys.modules, "mido", None)
    for start, limit in ((many[:20], MAX_MIDI_BYTES), (b"<x>", MAX_FILE_BYTES)):
        with pytest.raises(UserError, match=f"the song .* {limit}"):
            read_score(start + bytes(limit), "the song")


def test_missing_files_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"none\.mid: the score cannot be read \(No such file"):
        read_score(tmp_path / "none.mid")
    with pytest.raises(UserError, match="cannot be read"):
        read_score(tmp_path)
    data = midi_bytes(note(0, 480, 60, "a"))
    monkeypatch.setitem(sys.modules, "mido", None)
    with pytest.raises(UserError, match=r"pip install 'unisono\[singing\]'"):
        read_score(data)


@given(st.binary(max_size=200), st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_damage_gives_a_score_or_an_explanation(noise: bytes, at: int) -> None:
    data = midi_bytes(tempo(0, 90), name("Voice") + note(0, 480, 60, "la") + note(480, 480, 62, "lo"))
    at = min(at, len(data))
    try:
        score = read_score(data[:at] + noise + data[at + len(noise) :], "x")
    except UserError:
        return
    assert score.notes
