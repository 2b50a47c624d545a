"""The doctor at work on much, together with others, and interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from test_validate import RATE, corpus, edit, errors_of, examine, only, sound
from unisono.data.manifest import write_jsonl
from unisono.data.validate import Finding, write_report
from unisono.data.validate.corpora import Manifests
from unisono.data.validate.findings import Findings
from unisono.data.validate.lines import Corpus, SplitNames
from unisono.data.validate.spool import RowFile, Spool, group_numbers, repeated
from unisono.data.validate.store import FactStore
from unisono.errors import UserError

# Examines a folder with a store; each recording takes a while, and its name is printed.
SLOW = """
import sys, time
from pathlib import Path
from unisono.data.validate import runner, store, validate
real = runner.measure_job
def slow(location):
    time.sleep(0.05)
    print(location.stem, flush=True)
    return real(location)
runner.measure_job, store._WRITE_EVERY_S = slow, 0.2
found = validate([Path(sys.argv[1])], workers=1, store=sys.argv[2], progress=False)
print("findings", len(found.findings), flush=True)
"""


def run_slowly(folder: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(folder), str(store)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def names_read(output: str) -> list[str]:
    return [line for line in output.splitlines() if not line.startswith("findings")]


def test_a_killed_run_is_gone_on_with_and_two_runs_share_what_they_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = corpus(tmp_path, splits=("train",), items=40)
    store = tmp_path / "cache" / "facts.sqlite"
    killed = run_slowly(folder, store)
    assert killed.stdout is not None
    first = [killed.stdout.readline().strip() for _ in range(25)]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    both = [run_slowly(folder, store) for _ in range(2)]
    outputs = [run.communicate(timeout=120) for run in both]
    for output, errors in outputs:
        assert "findings 0" in output and "Traceback" not in errors, errors
        # What was read longer than the time between two writes before the kill is known.
        assert not set(first[:15]) & set(names_read(output))
    monkeypatch.setattr("unisono.data.validate.runner.measure_job", lambda location: pytest.fail(f"{location} is read"))
    assert not examine(folder, store=store).findings


# -- memory -----------------------------------------------------------------------------------------------------------


def many_lines(folder: Path, lines: int) -> Path:
    """Lines whose recordings are not there, two findings each."""
    folder = folder / "text_to_audio" / "train"
    names = [f"a long name of an item, number {i:09d}" for i in range(lines)]
    write_jsonl(folder / "content.jsonl", ({"audio_id": n, "caption": [f"{n} rings", f"{n} rings"]} for n in names))
    write_jsonl(folder / "audio.jsonl", ({"audio_id": n, "audio": f"../audio/{n}.flac"} for n in names))
    return folder


def test_a_line_leaves_less_than_300_bytes_whatever_is_found(tmp_path: Path) -> None:
    kept = []
    for lines in (300, 2300):
        folder = many_lines(tmp_path / str(lines), lines)
        tracemalloc.start()
        validated = examine(folder)
        write_report(validated, tmp_path / "report.json")
        # Not the tables of names that Python itself makes larger now and then.
        own = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*validate*")])
        kept.append(sum(trace.size for trace in own.traces))
        tracemalloc.stop()
        assert validated.findings.kinds() == {"missing_file": lines, "repeated_caption_in_line": lines}
    assert 50 < (kept[1] - kept[0]) / 2000 < 300
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert len(report["findings"]) == 4600 and report["findings"][0]["line"] == 1


def test_findings_come_in_the_order_of_manifests_and_lines() -> None:
    a, b = Path("a/content.jsonl"), Path("a/audio.jsonl")
    findings = Findings([a, b])
    told = [
        Finding("bad_field", b, 2, "ü" * 5000, "id \udcff", "f", [1, None]),
        Finding("clipping", a, 7, "m", None, None, 0.5),
        Finding("bad_field", a, 7, "n"),
        Finding("bad_field", a, 3, "o"),
    ]
    for finding in told:
        findings.add(finding)
    assert list(findings) == [told[3], told[1], told[2], told[0]] and findings[-1] == told[0]
    assert findings.of_kind("bad_field", 2) == [told[3], told[2]] and findings.kinds() == {
        "bad_field": 3,
        "clipping": 1,
    }
    assert findings.levels([b]) == {"error": 1, "warning": 0} and list(findings.of_level("warning")) == [told[1]]
    assert findings.lines_of_level(a, "error").tolist() == [7, 3] and len(Findings([])) == 0


def test_records_are_found_again_whatever_their_size() -> None:
    spool, rows = Spool(), RowFile(3)
    records = [os.urandom(size) for size in (0, 1, 4092, 4093, 100_000)]
    places = [spool.add(record) for record in records]
    assert [spool.read(place) for place in reversed(places)] == records[::-1]
    rows.write(2, np.array([[1, 2, 3], [4, 5, 6]]))
    assert rows.read(0, 5).tolist() == [[0, 0, 0], [0, 0, 0], [1, 2, 3], [4, 5, 6], [0, 0, 0]]


def test_groups_are_those_of_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 4, (200, 2)).astype(np.uint64)
    numbers = group_numbers(keys)
    by_key: dict[tuple, list[int]] = {}
    for place, key in enumerate(map(tuple, keys.tolist())):
        by_key.setdefault(key, []).append(place)
    assert len({(tuple(key), int(n)) for key, n in zip(keys.tolist(), numbers, strict=True)}) == len(by_key)
    expected = sorted(places for places in by_key.values() if len(places) > 1)
    assert sorted(places.tolist() for places in repeated(numbers)) == expected
    assert not list(repeated(group_numbers(np.zeros((0, 2), np.uint64))))


# -- manifests that change, files of every kind -----------------------------------------------------------------------


def test_a_manifest_that_changes_meanwhile_is_no_finding(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",)) / "train"
    manifests = Manifests(folder / "content.jsonl", folder / "audio.jsonl", "text_to_audio", "train")
    read = Corpus(0, manifests, SplitNames(), lambda finding: pytest.fail(str(finding)))
    read.read()
    assert read.line(1).record["audio_id"] == "train ü1" and read.item_of(folder / "audio.jsonl", 2) == 1
    raw = (folder / "content.jsonl").read_bytes()
    with (folder / "content.jsonl").open("r+b") as file:  # in place
        file.write(raw[5:])
    with pytest.raises(UserError, match=r"content\.jsonl was changed while it was examined"):
        read.line(1)


def test_recordings_of_extreme_lengths_and_channels(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",), items=4)
    audio = folder / "audio"
    rng = np.random.default_rng(0)
    hours = (20 * rng.standard_normal(3 * 3600 * 1000)).clip(-127, 127) / 128
    sf.write(audio / "train ü0.wav", hours, 1000, "PCM_U8")
    sf.write(audio / "train ü1.wav", np.full(1, 0.5), RATE, "PCM_16")
    sf.write(audio / "train ü2.wav", np.stack([sound(50 + i) for i in range(8)], axis=1), RATE, "PCM_16")
    for number in (1, 2):
        edit(folder / "train" / "audio.jsonl", number, duration_s=None)
    begin = time.perf_counter()
    found = {f.line: f for f in examine(folder).findings}
    assert {line: f.kind for line, f in found.items()} == {1: "long_audio", 2: "too_short_audio"}
    assert "10800 s" in found[1].message and time.perf_counter() - begin < 60


def test_a_length_that_an_mp3_only_estimates_is_no_error(tmp_path: Path) -> None:
    folder = corpus(tmp_path, splits=("train",))
    sf.write(folder / "audio" / "a.mp3", sound(3), RATE, format="MP3")
    edit(folder / "train" / "audio.jsonl", 1, audio="../audio/a.mp3", duration_s=1.4)
    assert not errors_of(examine(folder))  # as in training
    edit(folder / "train" / "audio.jsonl", 1, duration_s=2.0)
    assert only(examine(folder), "wrong_duration").line == 1


# -- the store --------------------------------------------------------------------------------------------------------


def test_the_store_answers_for_one_state_of_a_file_only(tmp_path: Path) -> None:
    for path in (tmp_path / "a" / "facts.sqlite", None):
        store = FactStore(path)
        store.put(b"k" * 16, b"s" * 16, [1, "ü"])
        for _ in range(2):  # before it is written, and after
            assert store.get(b"k" * 16, b"s" * 16) == [1, "ü"]
            assert store.get(b"k" * 16, b"t" * 16) is None and store.get(b"j" * 16, b"s" * 16) is None
            assert store.get(b"k" * 16, None) is None
            store.write()
        store.put(b"k" * 16, b"t" * 16, "read")
        assert store.get(b"k" * 16, b"s" * 16) is None and store.get(b"k" * 16, b"t" * 16) == "read"
        store.close()
    assert FactStore(tmp_path / "a" / "facts.sqlite").get(b"k" * 16, b"t" * 16) == "read"
