"""Units of score files are found once: kept in a process and on disk, and never those of another score."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from test_scores_musicxml import measure, note, sheet
from unisono.data.datasets import SingingVoiceSynthesisDataset
from unisono.data.manifest import write_jsonl
from unisono.errors import UserError
from unisono.files import cache_dir
from unisono.scores import cache, parse_score, read_score, score_file_units, score_units, write_midi
from unisono.scores.units import ScoreUnits
from unisono.text.phonemize import phonemizer

SHEET = sheet(measure(1, note("C4", 1, "begin twin"), note("C4", 1, "end kle"), note("G4", 2, "single star")))
READ = """
import json, sys
from pathlib import Path
from unisono.scores import score_file_units
units = score_file_units(Path(sys.argv[1]).read_bytes(), sys.argv[1], "en-us")
print(json.dumps([units.as_fields(), units.text, sorted(m for m in ("music21", "mido") if m in sys.modules)]))
"""


@pytest.fixture(autouse=True)
def parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty cache, and the names of the scores that were parsed."""
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "my cache"))
    monkeypatch.setattr(cache, "_memory", {})
    cache._tell_once.cache_clear()
    names: list[str] = []
    real = cache._found
    monkeypatch.setattr(cache, "_found", lambda data, name, *more: names.append(name) or real(data, name, *more))
    return names


def midi(path: Path, text: str = "C4:0.5:twin- C4:0.5:kle G4:0.6:star rest:0.4") -> bytes:
    return write_midi(parse_score(text), path).read_bytes()


def forget() -> None:
    """As another process, which has the files only."""
    cache._memory.clear()


def entries() -> list[Path]:
    return [path for path in (cache_dir() / "scores").rglob("*") if path.is_file()]


def test_a_score_is_parsed_once_whoever_asks(tmp_path: Path, parsed: list[str]) -> None:
    data = midi(tmp_path / "a.mid")
    truth = score_units(read_score(data, "a"), phonemizer("en-us"))
    assert truth.text == "twinkle star"
    for _ in range(3):
        assert score_file_units(data, "a", "en-us") == truth
    forget()
    # What decides is the content, not the name.
    assert score_file_units(data, "b", "en-us") == truth
    assert parsed == ["a"]
    assert len(entries()) == 1


def test_what_is_kept_is_what_is_found_to_the_last_bit(tmp_path: Path, parsed: list[str]) -> None:
    text = " ".join(f"{60 + k}.0:{0.1 + k / 7:.9f}:{'o' if k % 3 else 'beau-'}" for k in range(9)) + " C5:1/3:la"
    data = midi(tmp_path / "a.mid", text.replace("1/3", "0.333333333"))
    found = score_file_units(data, "a", "en-us")
    forget()
    kept = score_file_units(data, "a", "en-us")
    assert kept == found and kept is not found
    assert [type(value) for value in kept.notes] == [type(value) for value in found.notes]
    assert len(parsed) == 1


@pytest.mark.skipif(find_spec("music21") is None, reason="music21 is not installed")
def test_the_next_process_needs_no_music21_and_is_fast(tmp_path: Path) -> None:
    path = tmp_path / "a score.musicxml"
    path.write_bytes(SHEET)
    first, second = (
        json.loads(subprocess.run([sys.executable, "-c", READ, path], capture_output=True, check=True).stdout)
        for _ in range(2)
    )
    assert first[:2] == second[:2] and first[1] == "twinkle star"
    assert "music21" in first[2] and second[2] == []
    start_s = time.perf_counter()
    for _ in range(20):
        forget()
        score_file_units(SHEET, "a", "en-us")
    assert (time.perf_counter() - start_s) / 20 < 0.003  # parsing even this one takes four times as long


def test_two_processes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.mid"
    midi(path)
    running = [subprocess.Popen([sys.executable, "-c", READ, path], stdout=subprocess.PIPE) for _ in range(2)]
    first, second = (json.loads(process.communicate()[0]) for process in running)
    assert first[:2] == second[:2]
    assert [path.suffix for path in entries()] == [".json"]


def test_a_changed_file_is_parsed_anew(tmp_path: Path, parsed: list[str]) -> None:
    path = tmp_path / "a.mid"
    before, stat = midi(path), path.stat()
    assert score_file_units(before, "a", "en-us").notes[0] == 60
    after = midi(path, "D4:0.5:twin- C4:0.5:kle G4:0.6:star rest:0.4")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len(after) == len(before)
    assert score_file_units(path.read_bytes(), "a", "en-us").notes[0] == 62
    assert len(parsed) == 2


def test_all_that_decides_the_units_decides_the_entry(
    tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = midi(tmp_path / "a.mid")
    american, british = (score_file_units(data, "a", language).phonemes for language in ("en-us", "en-gb"))
    assert american != british
    monkeypatch.setattr(cache, "_package_versions", lambda: {"mido": "99"})
    score_file_units(data, "a", "en-us")
    monkeypatch.setattr(cache, "_VERSION", 99)
    score_file_units(data, "a", "en-us")
    assert len(parsed) == 4 and len(entries()) == 4


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[1, 2",
        b"[]",
        b'{"phonemes": []}',
        b'{"phonemes": ["a"], "notes": [], "note_durations_s": [], "slurs": [], "text": "a", "remarks": []}',
        b'{"phonemes": 3, "notes": 3, "note_durations_s": 3, "slurs": 3, "text": "a", "remarks": []}',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_entry_is_made_again(tmp_path: Path, parsed: list[str], damage: bytes) -> None:
    data = midi(tmp_path / "a.mid")
    truth = score_file_units(data, "a", "en-us")
    (entry,) = entries()
    whole = entry.read_bytes()
    entry.write_bytes(damage)
    forget()
    assert score_file_units(data, "a", "en-us") == truth
    assert len(parsed) == 2 and entry.read_bytes() == whole


def test_without_a_cache_folder_scores_are_parsed_by_each_process(
    tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a file").write_text("in the way")
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "a file"))
    with caplog.at_level(logging.WARNING):
        for name in "aabb":
            units = score_file_units(midi(tmp_path / f"{name}.mid", f"{name}4:0.5:la"), name, "en-us")
            assert units.text == "la"
    assert parsed == ["a", "b"]  # within the process they are kept all the same
    assert caplog.text.count("units of scores are not kept") == 1


def test_a_data_set_parses_a_score_once_in_all_epochs_and_runs(tmp_path: Path, parsed: list[str]) -> None:
    path = tmp_path / "my songs" / "a.mid"
    midi(path)
    manifest = tmp_path / "my songs" / "content.jsonl"
    write_jsonl(manifest, [{"audio_id": f"item {i}", "score": "a.mid"} for i in range(3)])
    for _ in range(2):
        dataset = SingingVoiceSynthesisDataset(manifest)
        contents = [dataset[i].content[0] for i in (0, 1, 2, 0)]
        assert {content.text for content in contents} == {"twinkle star"}
        assert contents[0].notes.tolist()[0] == 60 and contents[0].notes.tolist()[-1] == 0
        contents[0].notes.add_(12)  # whoever changes an item does not change what is kept
        assert dataset[0].content[0].notes.tolist()[0] == 60
        forget()
    assert len(parsed) == 1
    midi(path, "D4:0.5:twin- C4:0.5:kle G4:0.6:star rest:0.4")
    assert dataset[0].content[0].notes.tolist()[0] == 62


def test_an_error_is_not_kept_and_names_the_file(parsed: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(UserError, match=r"songs/a\.mid: damaged MIDI file"):
            score_file_units(b"MThd no score", "songs/a.mid", "en-us")
    assert len(parsed) == 2 and not entries()


def test_a_process_keeps_a_bounded_number(tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_IN_MEMORY", 2)
    for pitch in ("C4", "D4", "E4", "C4"):
        score_file_units(midi(tmp_path / "a.mid", f"{pitch}:0.5:la"), pitch, "en-us")
    assert len(cache._memory) == 2
    assert parsed == ["C4", "D4", "E4"]
    assert all(isinstance(units, ScoreUnits) for units in cache._memory.values())
