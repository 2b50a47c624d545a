"""M4Singer and Opencpop in miniature: tones whose pitch is known, with labels in the corpora's own form."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from test_recipes_engine import assert_whole, left_out, lines, report
from test_recipes_speech import assert_readable, prepare
from unisono.data.prepare.corpora.items import LeaveOut
from unisono.data.prepare.corpora.singing import F0_RATE_HZ, checked_labels
from unisono.errors import UserError
from unisono.media.audio import write_audio
from unisono.scores import midi_to_hz

SVS, SAM = "singing_voice_synthesis", "singing_acoustic_modeling"
SAMPLE_RATE = 24_000

# A breath, then "ni hao" with the last vowel going on over a second note, then silence.
PHONEMES = ["<AP>", "n", "i", "h", "ao", "ao", "<SP>"]
DURATIONS_S = [0.2, 0.1, 0.3, 0.1, 0.3, 0.3, 0.2]
NOTES = [0, 60, 60, 62, 62, 64, 0]
NOTE_DURATIONS_S = [0.2, 0.4, 0.4, 0.4, 0.4, 0.3, 0.2]
SLURS = [0, 0, 0, 0, 0, 1, 0]


def sing(path: Path, extra_s: float = 0.0, level: float = 0.0) -> Path:
    """Harmonic tones on the notes, silence for rests, and ``extra_s`` of noise of a level at the end."""
    hz = np.repeat(midi_to_hz(np.array(NOTES)), samples())
    phase = 2 * np.pi * np.cumsum(hz) / SAMPLE_RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 9)) * 0.2 * (hz > 0)
    noise = np.random.default_rng(0).standard_normal(round(extra_s * SAMPLE_RATE)) * level
    return write_audio(path, np.concatenate([voice, noise]).astype(np.float32), SAMPLE_RATE)


def samples() -> list[int]:
    return [round(seconds * SAMPLE_RATE) for seconds in DURATIONS_S]


def entry(name: str, **changes: Any) -> dict[str, Any]:
    lists = {"phs": PHONEMES, "ph_dur": DURATIONS_S, "notes": NOTES, "notes_dur": NOTE_DURATIONS_S, "is_slur": SLURS}
    return {"item_name": name, "txt": "<AP>你好<SP>".strip("<AP>"), **lists, **changes}


@pytest.fixture(scope="module")
def m4singer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("m4 singer")
    meta = []
    for singer in ("Alto-1", "Tenor-2"):
        for song in ("newboy", "童话", "一荤一素", "song four"):
            name = f"{singer}#{song}#0000"
            meta.append(entry(name))
            sing(root / f"{singer}#{song}" / "0000.wav")
    # As unzip programs without UTF-8 and as macOS unpack them.
    (root / "Alto-1#童话").rename(root / "Alto-1##U7ae5#U8bdd")
    meta.append(entry("Bass-1#Caf\u00e9#0001"))
    sing(root / unicodedata.normalize("NFD", "Bass-1#Caf\u00e9") / "0001.wav")
    meta.append(entry("Bass-1#quiet end#0001"))
    sing(root / "Bass-1#quiet end" / "0001.wav", extra_s=0.4, level=1e-4)
    meta.append(entry("Bass-1#loud end#0001"))
    sing(root / "Bass-1#loud end" / "0001.wav", extra_s=0.4, level=0.1)
    meta.append(entry("Bass-1#long labels#0001", ph_dur=[*DURATIONS_S[:-1], 0.35]))
    sing(root / "Bass-1#long labels" / "0001.wav")
    meta.append(entry("Bass-1#far too long#0001", ph_dur=[9.0, *DURATIONS_S[1:]]))
    sing(root / "Bass-1#far too long" / "0001.wav")
    meta += [entry("Bass-1#gone#0001"), entry("no hashes"), {"item_name": 3}, entry("A#b#1", phs=None)]
    meta.append(entry("Bass-1#newboy#0002", notes=[*NOTES[:-1], 400]))
    sing(root / "Bass-1#newboy" / "0002.wav")
    meta.append(entry("Bass-1#newboy#0003", is_slur=SLURS[:-1]))
    sing(root / "Bass-1#newboy" / "0003.wav")
    (root / "meta.json").write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def m4singer_out(m4singer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pyworld")
    return prepare("m4singer", m4singer, tmp_path_factory.mktemp("made") / "out put")


def test_m4singer_keeps_score_and_symbols(m4singer_out: Path) -> None:
    assert_whole(m4singer_out)
    content = lines(m4singer_out, SVS)
    line = content["Alto-1#童话#0000"]
    assert line["phonemes"] == ["AP", "n", "i", "h", "ao", "ao", "_"]
    assert line["durations_s"] == DURATIONS_S
    assert line["notes"] == NOTES
    assert line["note_durations_s"] == NOTE_DURATIONS_S
    assert line["slurs"] == SLURS
    assert line["speaker"] == "m4singer_Alto-1"
    assert line["language"] == "cmn"
    assert line["license"] == "CC-BY-NC-SA-4.0"
    assert "Bass-1#Caf\u00e9#0001" in content
    assert report(m4singer_out)["speakers"] == ["m4singer_Alto-1", "m4singer_Bass-1", "m4singer_Tenor-2"]
    assert report(m4singer_out)["phonemes"] == ["AP", "_", "ao", "h", "i", "n"]


def test_a_song_is_not_sung_on_two_sides_of_a_split(m4singer_out: Path) -> None:
    by_song: dict[str, set[str]] = {}
    for audio_id, line in lines(m4singer_out, SVS).items():
        by_song.setdefault(audio_id.split("#")[1], set()).add(line["split"])
    assert all(len(splits) == 1 for splits in by_song.values())
    assert len(set.union(*by_song.values())) > 1


def test_labels_are_fitted_to_the_recording_or_left_out(m4singer_out: Path) -> None:
    content, audio = lines(m4singer_out, SVS), lines(m4singer_out, SVS, "audio")
    for audio_id, line in content.items():
        assert sum(line["durations_s"]) == pytest.approx(audio[audio_id]["duration_s"], abs=0.05)
        assert len({len(line[name]) for name in ("phonemes", "durations_s", "notes", "note_durations_s", "slurs")}) == 1
    assert content["Bass-1#quiet end#0001"]["durations_s"][-1] == pytest.approx(0.6)
    assert content["Bass-1#long labels#0001"]["durations_s"][-1] == pytest.approx(0.2)
    assert {name: kind for name, (kind, _) in left_out(m4singer_out).items()} == {
        "Bass-1#loud end#0001": "lengths_differ",
        "Bass-1#far too long#0001": "lengths_differ",
        "Bass-1#gone#0001": "missing_audio",
        "Bass-1#newboy#0002": "bad_labels",
        "Bass-1#newboy#0003": "bad_labels",
        "no hashes": "broken_line",
        "meta.json, entry 15": "broken_line",
        "A#b#1": "broken_line",
    }


def test_f0_is_that_of_the_notes_in_the_middle_of_frames(m4singer_out: Path) -> None:
    content = lines(m4singer_out, SAM)
    assert content.keys() == lines(m4singer_out, SVS).keys()
    line = content["Tenor-2#newboy#0000"]
    assert "notes" not in line
    f0_hz = np.load(m4singer_out / SAM / line["split"] / line["f0_hz"], allow_pickle=False)
    assert f0_hz.dtype == np.float32
    assert len(f0_hz) == line["f0_rate_hz"] * 1.5
    middles_s = (np.arange(len(f0_hz)) + 0.5) / F0_RATE_HZ
    note = np.array(NOTES)[np.searchsorted(np.cumsum(DURATIONS_S), middles_s)]
    inside = np.abs(middles_s[:, None] - np.cumsum([0, *DURATIONS_S])).min(axis=1) > 0.03
    sung = (note > 0) & inside
    cents = 1200 * np.log2(f0_hz[sung] / midi_to_hz(note[sung]))
    assert np.abs(np.median(cents)) < 5
    assert (np.abs(cents) < 50).mean() > 0.95
    assert (f0_hz[(note == 0) & inside] == 0).mean() > 0.9
    assert_readable(m4singer_out, SVS)
    assert_readable(m4singer_out, SAM)


def test_without_f0_there_is_one_data_set(m4singer: Path, tmp_path: Path) -> None:
    out = prepare("m4singer", m4singer, tmp_path / "out", f0=False)
    assert not (out / SAM).exists()
    assert list(report(out)["datasets"]) == [SVS]
    with pytest.raises(UserError, match="f0_method is 'crepe'; choose one of harvest, dio"):
        prepare("m4singer", m4singer, tmp_path / "other", f0_method="crepe")


def test_f0_by_dio(m4singer: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyworld")
    out = prepare("m4singer", m4singer, tmp_path / "out", f0_method="dio", max_items=1)
    for line in lines(out, SAM).values():
        f0_hz = np.load(out / SAM / line["split"] / line["f0_hz"], allow_pickle=False)
        assert np.median(f0_hz[f0_hz > 0]) == pytest.approx(midi_to_hz(62), rel=0.05)


def test_an_interrupted_f0_step_goes_on(
    m4singer: Path, m4singer_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unisono.data.prepare.corpora import singing

    real, done = singing.estimate_f0, []

    def counted(limit: int) -> Any:
        def estimate(waveform: np.ndarray, *args: Any, **options: Any) -> np.ndarray:
            if len(done) == limit:
                raise KeyboardInterrupt
            done.append(len(waveform))
            return real(waveform, *args, **options)

        return estimate

    monkeypatch.setattr(singing, "estimate_f0", counted(9))  # the first chunk has 8
    with pytest.raises(KeyboardInterrupt):
        prepare("m4singer", m4singer, tmp_path / "out")
    (tmp_path / "out" / SAM / "f0" / ".half.npy.1.tmp").write_bytes(b"half")
    monkeypatch.setattr(singing, "estimate_f0", counted(1000))
    out = prepare("m4singer", m4singer, tmp_path / "out")
    assert len(done) == len(lines(out, SVS)) + 1
    assert_whole(out)
    for path in m4singer_out.rglob("*.npy"):
        assert (out / path.relative_to(m4singer_out)).read_bytes() == path.read_bytes()


def test_wrong_and_broken_m4singer_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not look like M4Singer: looked for meta.json"):
        prepare("m4singer", tmp_path, tmp_path / "out")
    (tmp_path / "meta.json").write_text('[{"item_name": ')
    with pytest.raises(UserError, match=r"meta.json cannot be read \(Expecting value.*unpack the corpus again"):
        prepare("m4singer", tmp_path, tmp_path / "out")
    (tmp_path / "meta.json").write_text("{}")
    with pytest.raises(UserError, match="holds a dict, not the list"):
        prepare("m4singer", tmp_path, tmp_path / "out")


# -- Opencpop ---------------------------------------------------------------------------------------------------------


def opencpop_row(name: str, **changes: str) -> str:
    fields = {
        "text": "你好",
        "phonemes": " ".join(symbol.strip("<>") for symbol in PHONEMES),
        "notes": "rest C4 C4 D4 D4 E4 rest",
        "note_durations_s": " ".join(map(str, NOTE_DURATIONS_S)),
        "durations_s": " ".join(map(str, DURATIONS_S)),
        "slurs": " ".join(map(str, SLURS)),
    } | changes
    return "|".join([name, *fields.values()])


def opencpop(root: Path) -> Path:
    names = [f"{song}000001" for song in range(2001, 2008)] + ["2001000002"]
    for name in [*names, "2009000001", "2009000002"]:
        sing(root / "wavs" / f"{name}.wav")
    rows = [opencpop_row(name) for name in names]
    rows += [opencpop_row("2009000001", notes="rest C4 C#4/Db4 D4 D4 F#3/Gb3 rest")]
    rows += [opencpop_row("2009000002", durations_s="0.2 0.1 x 0.1 0.3 0.3 0.2"), opencpop_row("2010000001")]
    rows += ["2011000001|too|few|fields"]
    (root / "transcriptions.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (root / "test.txt").write_text("\n".join(rows[:1]) + "\n", encoding="utf-8")
    (root / "train.txt").write_text("\n".join(rows[1:7]) + "\n", encoding="utf-8")
    return root


def test_opencpop_keeps_official_splits_and_reads_note_names(tmp_path: Path) -> None:
    pytest.importorskip("pyworld")
    opencpop(tmp_path / "Open cpop" / "segments")
    out = prepare("opencpop", tmp_path / "Open cpop", tmp_path / "out")
    assert_whole(out)
    content = lines(out, SVS)
    line = content["2009000001"]
    assert line["notes"] == [0, 60, 61, 62, 62, 54, 0]
    assert line["phonemes"] == ["AP", "n", "i", "h", "ao", "ao", "_"]
    assert line["slurs"] == SLURS
    assert line["text"] == "你好"
    assert line["speaker"] == "opencpop"
    # 2001000002 is in neither list, but it is of the song that is tested on.
    assert {name for name, line in content.items() if line["split"] == "test"} == {"2001000001", "2001000002"}
    assert sum(line["split"] == "val" for line in content.values()) >= 1
    assert {name: kind for name, (kind, _) in left_out(out).items()} == {
        "2009000002": "bad_labels",
        "2010000001": "missing_audio",
        "transcriptions.txt:12": "broken_line",
    }
    assert_readable(out, SVS)
    assert_readable(out, SAM)


def test_a_wrong_opencpop_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"looked for transcriptions.txt and wavs"):
        prepare("opencpop", tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"notes": ["H4"]}, "'H4' is no note"),
        ({"notes": [True]}, "no note"),
        ({"notes": [None]}, "None is no note"),
        ({"notes": ["C#4/Eb4"]}, "'C#4/Eb4' is no note"),
        ({"durations_s": [-0.1]}, "negative"),
        ({"durations_s": ["nan"]}, "no number"),
        ({"slurs": [2]}, "0 or 1"),
        ({"phonemes": [""]}, "empty"),
        ({"phonemes": [], "durations_s": [], "notes": [], "note_durations_s": [], "slurs": []}, "different lengths"),
    ],
)
def test_faulty_labels_are_named(changes: dict[str, Any], message: str) -> None:
    good = {"phonemes": ["a"], "durations_s": [0.1], "notes": [60], "note_durations_s": [0.1], "slurs": [0]}
    assert checked_labels(good) == good
    with pytest.raises(LeaveOut, match=message):
        checked_labels(good | changes)
