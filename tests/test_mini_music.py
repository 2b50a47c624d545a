"""Music of the mini corpus: harmony and melody by the rules, captions that are true, MIDI files that agree with it."""

import re
from itertools import chain, pairwise
from pathlib import Path

import mido
import numpy as np
import pytest

from unisono.data.mini import music
from unisono.data.mini.instruments import INSTRUMENTS, Stroke, partials
from unisono.data.mini.music import BPM, MOODS, PACES, Brief, caption, draw_brief, make_music, play
from unisono.data.mini.notes import (
    TICKS_PER_BEAT,
    TONICS,
    Key,
    Note,
    Part,
    Tempo,
    draw_progression,
    semitones,
    triad,
    write_midi,
)
from unisono.data.mini.tunes import bass_part, draw_tune, drum_part, harmony_part, lead_part
from unisono.errors import UserError

SPLITS = ("train", "val", "test")
RATE = 24_000


@pytest.fixture(scope="module")
def pieces() -> dict[str, list[music.Music]]:
    return {
        split: [make_music(np.random.default_rng((7, k, i)), split) for i in range(6)] for k, split in enumerate(SPLITS)
    }


# ---------------------------------------------------------------------------------------------- harmony and melody


def test_progressions_go_from_tonic_through_a_cadence_to_tonic():
    rng = np.random.default_rng(0)
    seen = set()
    for mode in ("major", "minor"):
        for chords in range(3, 9):
            for _ in range(40):
                roots = draw_progression(rng, mode, chords)
                assert len(roots) == chords
                assert roots[0] == roots[-1] == 0
                assert roots[-2] in (3, 4)
                assert all(a != b for a, b in pairwise(roots))
                seen.add((mode, roots))
    assert len(seen) > 100


def test_the_dominant_is_major_in_both_modes_and_keys_are_spelled():
    for mode in ("major", "minor"):
        first, third, fifth = triad(mode, 4)
        assert (third - first, fifth - first) == (4, 7)
    assert triad("minor", 0) == (0, 3, 7)
    assert [semitones("major", degree) for degree in (-1, 7, 9)] == [-1, 12, 16]
    assert Key("Eb", "major").spoken == "E flat major"
    assert Key("F#", "minor").spoken == "F sharp minor"
    assert Key("B", "minor").spoken == "B minor"
    for mode, tonics in TONICS.items():
        for tonic, pitch_class in tonics.items():
            number = Key(tonic, mode).tonic_from(57)
            assert number % 12 == pitch_class and 57 <= number < 69


@pytest.mark.parametrize(("beats", "bars"), [(4, 2), (4, 3), (4, 4), (3, 3), (3, 6), (3, 8)])
@pytest.mark.parametrize("mode", ["major", "minor"])
def test_parts_fill_the_tune_and_stay_in_its_key(beats, bars, mode):
    rng = np.random.default_rng((beats, bars))
    tonic = 60
    for _ in range(5):
        tune = draw_tune(rng, "train", mode, beats, bars)
        assert sum(length for _, length in tune.melody) == bars * beats * 2
        assert tune.melody[-1][0] % 7 == 0
        end = bars * beats * TICKS_PER_BEAT
        pitched = [lead_part(rng, tune, "flute", tonic), bass_part(rng, tune, "bass guitar", 36)]
        pitched += [harmony_part(rng, tune, name, 48) for name in ("organ", "acoustic guitar")]
        allowed = {semitones(mode, degree) % 12 for degree in range(7)} | ({11} if mode == "minor" else set())
        for part in [*pitched, drum_part(rng, tune)]:
            assert part.notes
            assert all(note.start >= 0 and note.length > 0 and note.start + note.length <= end for note in part.notes)
            assert all(1 <= note.velocity <= 127 and 0 <= note.midi <= 127 for note in part.notes)
            same = {}
            for note in sorted(part.notes, key=lambda note: note.start):
                assert note.start >= same.get(note.midi, 0), "a note is struck while it sounds"
                same[note.midi] = note.start + note.length
        assert {note.midi % 12 for part in pitched for note in part.notes} <= allowed
        assert pitched[1].notes[-1].midi % 12 == 0
        # In four time with few bars there are two chords in a bar.
        assert len(tune.roots) == (2 * bars if beats == 4 and bars < 4 else bars)


def test_a_tune_is_the_same_in_every_key():
    tune = draw_tune(np.random.default_rng(3), "val", "minor", 4, 4)
    low, high = (lead_part(np.random.default_rng(0), tune, "flute", tonic) for tonic in (60, 67))
    assert [note.midi + 7 for note in low.notes] == [note.midi for note in high.notes]
    assert tune.split == "val"


# ---------------------------------------------------------------------------------------------- words


def test_captions_say_only_what_is_true_and_name_every_instrument():
    rng = np.random.default_rng(1)
    mood_of = {word: meaning for meaning, words in MOODS.items() for word in words}
    pace_of = {word: pace for pace, words in PACES.items() for word in words}
    assert len(mood_of) == sum(map(len, MOODS.values())) and len(pace_of) == sum(map(len, PACES.values()))
    said = {"mood": 0, "pace": 0, "key": 0}
    for _ in range(300):
        brief = draw_brief(rng)
        words = caption(rng, brief)
        named = [name for name in [*INSTRUMENTS, "drums"] if re.search(rf"\b{name.removesuffix('s')}", words)]
        assert sorted(named) == sorted(brief.instruments)
        assert ("waltz" in words) == (brief.beats_per_bar == 3)
        moods = [meaning for word, meaning in mood_of.items() if re.search(rf"\b{word}\b", words)]
        paces = [pace for word, pace in pace_of.items() if re.search(rf"\b{word}\b", words)]
        keys = re.findall(r"in ([A-G](?: flat| sharp)?) (major|minor)", words)
        assert moods == ([(brief.key.mode, brief.pace)] if brief.says_mood else [])
        assert paces == ([brief.pace] if brief.says_pace else [])
        assert [" ".join(key) for key in keys] == ([brief.key.spoken] if brief.says_key else [])
        assert moods or paces or keys
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  | ,|\{", words), words
        for kind, found in (("mood", moods), ("pace", paces), ("key", keys)):
            said[kind] += bool(found)
    assert all(50 < count < 280 for count in said.values())


def test_paces_do_not_meet_and_pieces_keep_to_them(pieces):
    ranges = sorted(BPM.values())
    assert all(below[1] < above[0] for below, above in pairwise(ranges))
    for piece in chain(*pieces.values()):
        low, high = BPM[piece.brief.pace]
        assert low <= piece.bpm <= high
        assert piece.tempo.bpm == pytest.approx(piece.bpm, rel=1e-5)
        assert 4.0 <= len(piece.waveform) / RATE <= 8.0
        assert piece.waveform.dtype == np.float32 and 0.5 < np.abs(piece.waveform).max() <= 0.9
        assert np.sqrt(np.mean(piece.waveform**2)) > 0.03


def test_splits_share_neither_tune_nor_caption():
    """What a caption says and what a tune is decide the split, whatever the seed."""
    captions = {split: set() for split in SPLITS}
    rng = np.random.default_rng(11)
    for _ in range(3000):
        brief = draw_brief(rng)
        captions[brief.split].add(caption(rng, brief))
    assert min(map(len, captions.values())) > 100
    assert not captions["train"] & (captions["val"] | captions["test"])
    assert not captions["val"] & captions["test"]
    tunes = {split: {draw_tune(rng, split, "major", 3, 4) for _ in range(100)} for split in SPLITS}
    assert not tunes["train"] & (tunes["val"] | tunes["test"]) and not tunes["val"] & tunes["test"]


def test_unsaid_keys_do_not_part_captions_between_splits():
    """Two briefs whose captions are the same are in the same split."""
    common = {"lead": "flute", "harmony": "organ", "has_bass": False, "has_drums": False, "beats_per_bar": 4}
    common |= {"pace": "fast", "says_mood": True, "says_pace": False, "says_key": False}
    splits = {Brief(key=Key(tonic, "major"), **common).split for tonic in TONICS["major"]}
    assert len(splits) == 1


# ---------------------------------------------------------------------------------------------- sound


def read_notes(path: Path) -> tuple[dict[str, list[tuple]], mido.MidiFile]:
    """Notes ``(start, length, midi, velocity)`` of every track in ticks, by mido alone."""
    file = mido.MidiFile(path)
    tracks: dict[str, list[tuple]] = {}
    for index, track in enumerate(file.tracks[1:]):
        now, open_notes, notes = 0, {}, []
        for message in track:
            now += message.time
            if message.type == "note_on" and message.velocity:
                assert message.note not in open_notes
                open_notes[message.note] = (now, message.velocity)
            elif message.type in ("note_off", "note_on"):
                start, velocity = open_notes.pop(message.note)
                notes.append((start, now - start, message.note, velocity))
        assert not open_notes
        tracks[f"{index} {track.name}"] = sorted(notes)
    return tracks, file


def test_midi_files_state_the_notes_that_are_played(pieces, tmp_path):
    for index, piece in enumerate(chain(*pieces.values())):
        brief = piece.brief
        path = write_midi(tmp_path / f"{index}.mid", piece.parts, piece.tempo, brief.beats_per_bar, brief.key)
        tracks, file = read_notes(path)
        played = {
            f"{i} {part.name}": sorted((n.start, n.length, n.midi, n.velocity) for n in part.notes)
            for i, part in enumerate(piece.parts)
        }
        assert tracks == played
        assert {part.name for part in piece.parts} == set(brief.instruments)
        meta = {message.type: message for message in file.tracks[0]}
        assert file.ticks_per_beat == TICKS_PER_BEAT and meta["set_tempo"].tempo == piece.tempo.us_per_beat
        assert (
            meta["time_signature"].numerator == brief.beats_per_bar and meta["key_signature"].key == brief.key.midi_name
        )
        assert file.length <= len(piece.waveform) / RATE
        for part, track in zip(piece.parts, file.tracks[1:], strict=True):
            channels = {message.channel for message in track if not message.is_meta}
            assert channels == {9} if part.program is None else 9 not in channels


def test_partials_are_the_sum_that_they_stand_for():
    phase, amplitudes = np.linspace(0, 50, 400), np.array([1.0, 0.5, 0.0, 0.25])
    damping = np.linspace(1, 0.3, 400)
    direct = sum(a * damping**k * np.sin(k * phase) for k, a in enumerate(amplitudes, 1))
    np.testing.assert_allclose(partials(phase, amplitudes, damping), direct, atol=1e-12)


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_instruments_sound_at_their_time_and_pitch(name):
    """A note starts where it stands, is gone after its release, and has the pitch of its number."""
    tempo, rng = Tempo.from_bpm(120), np.random.default_rng(5)
    midi = max(INSTRUMENTS[name].lowest, 40) + 5
    part = Part(name, INSTRUMENTS[name].program, (Note(TICKS_PER_BEAT, 2 * TICKS_PER_BEAT, midi),))
    sound = play(rng, part, tempo, 3 * RATE)
    assert not sound[: RATE // 2].any()
    assert np.abs(sound[RATE // 2 : RATE // 2 + RATE // 20]).max() > 0.1 * np.abs(sound).max()
    assert np.abs(sound[int(2.1 * RATE) :]).max() < 1e-3 * np.abs(sound).max()
    f0_hz = 440 * 2 ** ((midi - 69) / 12)
    window = sound[int(0.6 * RATE) : int(1.4 * RATE)]
    spectrum = np.abs(np.fft.rfft(window * np.hanning(len(window)), 1 << 19))
    frequencies_hz = np.fft.rfftfreq(1 << 19, 1 / RATE)
    near = (frequencies_hz > f0_hz / 1.03) & (frequencies_hz < f0_hz * 1.03)
    peak_hz = frequencies_hz[near][spectrum[near].argmax()]
    assert abs(1200 * np.log2(peak_hz / f0_hz)) < 8
    assert spectrum[near].max() > 0.2 * spectrum.max()


def test_the_highest_notes_do_not_alias():
    for instrument in INSTRUMENTS.values():
        tone = instrument.play(np.random.default_rng(0), Stroke(3_500.0, 0.5, 0.9))
        assert np.isfinite(tone).all() and np.abs(tone).max() > 0


def test_the_same_key_gives_the_same_piece(pieces):
    again = make_music(np.random.default_rng((7, 1, 2)), "val")
    assert again.caption == pieces["val"][2].caption
    np.testing.assert_array_equal(again.waveform, pieces["val"][2].waveform)


def test_writing_midi_without_mido_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mido", None)
    with pytest.raises(UserError, match=r"pip install 'unisono\[singing\]'"):
        write_midi(tmp_path / "a.mid", [], Tempo.from_bpm(100), 4, Key("C", "major"))
