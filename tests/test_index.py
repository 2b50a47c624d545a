"""Manifests as arrays: joined, checked, kept for the next start, shared by workers."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import unisono.data.index as index_module
from unisono.data.index import ManifestFile, build_index
from unisono.data.manifest import Fields, write_jsonl
from unisono.errors import UserError


def check(line: Fields, target: Fields | None) -> float:
    line.text("caption")
    return 0.0 if target is None else target.seconds("duration_s")


@pytest.fixture
def manifests(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "a folder with ünïcode"
    ids = [f"clip {i} é" for i in range(20)]
    content = [
        {"audio_id": i, "caption": f"caption of {i}", "split": ["train", "val"][n % 2]} for n, i in enumerate(ids)
    ]
    audio = [{"audio_id": i, "audio": f"{i}.wav", "duration_s": 1 + n / 8} for n, i in enumerate(ids)]
    np.random.default_rng(0).shuffle(audio)
    return write_jsonl(folder / "content.jsonl", content), write_jsonl(folder / "audio.jsonl", audio)


def built(manifests, check=check, **options):
    return build_index(*manifests, check, **{"split": None, "kind": "test", "max_samples": None, **options})


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Even small indices are kept, in a folder of the test's own."""
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache of mine"))
    monkeypatch.setattr(index_module, "CACHED_FROM_ITEMS", 1)
    return tmp_path / "cache of mine"


def no_check(line: Fields, target: Fields | None) -> float:
    raise AssertionError("the manifests were read again")


def test_rows_lead_back_to_the_lines_of_both_manifests_in_any_order(manifests) -> None:
    index = built(manifests)
    content, audio = map(ManifestFile, manifests)
    assert len(index) == 20
    for row in range(20):
        line = content.fields(int(index.content_offset[row]), int(index.content_line[row]))
        target = audio.fields(int(index.audio_offset[row]), int(index.audio_line[row]))
        assert line.record["audio_id"] == target.record["audio_id"] == f"clip {row} é"
        assert index.duration_s[row] == target.record["duration_s"]
        assert line.where == f"{manifests[0]}:{row + 1}"


@pytest.mark.parametrize("ending", ["\r\n", "\n\n", "\n"])
@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_marks_and_line_ends_do_not_shift_the_lines(manifests, ending: str, mark: str) -> None:
    for path in manifests:
        path.write_bytes((mark + path.read_text(encoding="utf-8").replace("\n", ending)).rstrip().encode())
    index = built(manifests)
    last = ManifestFile(manifests[0]).fields(int(index.content_offset[-1]), int(index.content_line[-1]))
    assert last.record["audio_id"] == "clip 19 é"
    assert last.line == (39 if ending == "\n\n" else 20)


def test_a_split_takes_its_lines_wherever_the_field_stands(manifests, tmp_path: Path) -> None:
    assert len(built(manifests, split="train")) == 10
    with pytest.raises(UserError, match="no item is of the split 'test'"):
        built(manifests, split="test")
    lines = [json.loads(line) for line in manifests[0].read_text(encoding="utf-8").splitlines()]
    write_jsonl(manifests[0], [{k: v for k, v in line.items() if k != "split"} for line in lines])
    audio = [json.loads(line) for line in manifests[1].read_text(encoding="utf-8").splitlines()]
    write_jsonl(manifests[1], [{**line, "split": "val" if line["duration_s"] > 3 else "train"} for line in audio])
    assert built(manifests, split="val").duration_s.min() > 3


def test_a_large_index_is_kept_and_mapped_at_the_next_start(manifests, kept: Path) -> None:
    first = built(manifests)
    again = built(manifests, no_check)
    assert isinstance(again.duration_s, np.memmap)
    for name in index_module._TYPES:
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert len(built(manifests, no_check, max_samples=3)) == 3
    with pytest.raises(AssertionError, match="read again"):  # other checks, other index
        built(manifests, no_check, kind="other")


def test_a_changed_manifest_is_read_again_even_if_its_time_is_set_back(manifests, kept: Path) -> None:
    built(manifests)
    status = os.stat(manifests[1])
    text = manifests[1].read_text(encoding="utf-8")
    manifests[1].write_text(text.replace('"duration_s": 1.0', '"duration_s": 9.0'), encoding="utf-8")
    os.utime(manifests[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert os.stat(manifests[1]).st_size == status.st_size
    assert built(manifests).duration_s[0] == 9.0


@pytest.mark.parametrize("damage", ["truncate", "empty", "json", "unequal"])
def test_a_damaged_kept_index_costs_time_only(manifests, kept: Path, damage: str) -> None:
    built(manifests)
    (place,) = [path for path in (kept / "index").iterdir() if path.is_dir()]
    column = place / "duration_s.npy"
    if damage == "truncate":
        column.write_bytes(column.read_bytes()[:-10])
    elif damage == "empty":
        column.write_bytes(b"")
    elif damage == "json":
        (place / "index.json").write_text("{")
    else:
        np.save(column, np.zeros(3, dtype=np.float32))
    assert len(built(manifests)) == 20
    assert len(built(manifests, no_check)) == 20


def test_a_cache_folder_that_cannot_be_made_costs_time_only(manifests, kept: Path, caplog) -> None:
    kept.write_text("a file where the folder should be")
    assert len(built(manifests)) == 20
    assert "set UNISONO_CACHE" in caplog.text


def test_lines_are_read_in_other_processes(manifests) -> None:
    file = ManifestFile(manifests[0])
    file.fields(0, 1)  # it is open now
    copy = pickle.loads(pickle.dumps(file))
    assert copy.fields(0, 1).record == file.fields(0, 1).record


def test_a_kept_index_travels_as_the_place_of_its_files(manifests, kept: Path) -> None:
    built(manifests)
    mapped = built(manifests, no_check)
    packed = pickle.dumps(mapped)
    assert str(kept).encode() in packed
    copy = pickle.loads(packed)
    assert isinstance(copy.duration_s, np.memmap) and np.array_equal(copy.id_hash, mapped.id_hash)
    part = mapped.rows(np.array([3, 1]))
    assert pickle.loads(pickle.dumps(part)).duration_s.tolist() == part.duration_s.tolist()
    assert pickle.loads(pickle.dumps(mapped.rows(slice(4)))).duration_s.tolist() == mapped.duration_s[:4].tolist()


def test_a_manifest_that_is_cut_off_under_a_run_is_an_error(manifests) -> None:
    index, file = built(manifests), ManifestFile(manifests[0])
    assert file.fields(int(index.content_offset[19]), 20).audio_id() == "clip 19 é"
    manifests[0].write_bytes(manifests[0].read_bytes()[:100])
    with pytest.raises(UserError, match=r"content\.jsonl:20: not JSON"):
        file.fields(int(index.content_offset[19]), 20)


def test_a_line_longer_than_is_read_at_once(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "content.jsonl", [{"audio_id": "a", "caption": "é" * 9000}, {"audio_id": "b"}])
    file = ManifestFile(path)
    assert len(file.fields(0, 1).record["caption"]) == 9000
    assert file.fields(len(path.read_bytes().split(b"\n")[0]) + 1, 2).record == {"audio_id": "b"}


def test_an_id_that_comes_twice_is_named_in_either_manifest(manifests) -> None:
    for path, number in ((manifests[1], 21), (manifests[0], 21)):
        text = path.read_text(encoding="utf-8")
        path.write_text(text + text.splitlines()[4] + "\n", encoding="utf-8")
        with pytest.raises(UserError, match=rf"{path.name}:{number}: audio_id .* was used on line 5 already"):
            built(manifests)
        path.write_text(text, encoding="utf-8")


def test_processes_that_start_together_keep_one_whole_index(manifests, kept: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[3]); import unisono.data.index as m; m.CACHED_FROM_ITEMS = 1\n"
        "from test_index import built, check; print(len(built((m.Path(sys.argv[1]), m.Path(sys.argv[2])))))"
    )
    arguments = [sys.executable, "-c", script, *map(str, manifests), str(Path(__file__).parent)]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in processes] == ["20"] * 3
    assert len(built(manifests, no_check)) == 20
