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
import unisono.data.kept_index as kept_index
import unisono.data.manifest as manifest_module
from unisono.data.index import ManifestFile, build_index
from unisono.data.kept_index import NamedFiles
from unisono.data.manifest import Fields, parse_line, scan_lines, write_jsonl
from unisono.errors import UserError
from unisono.media.locations import Location
from unisono.types import PhonemeContent


class Captioned:
    """Lines with a caption and stated lengths; files are looked for if asked to."""

    def __init__(self, check_files: bool = False) -> None:
        self.check_files = check_files
        self.checked: list[str] = []

    def check_item(self, line: Fields, target: Fields | None) -> float:
        line.text("caption")
        self.checked.append(line.record["audio_id"])
        for _, location in self.other_files(line) if self.check_files else ():
            if not location.exists():
                raise line.fail(f"{location} is not there")
        if target is None:
            return 0.0
        return len(target.file("audio").read_bytes()) if self.check_files else target.seconds("duration_s")

    def input_files(self, line: Fields) -> tuple[tuple[str, Location], ...]:
        return ()

    def other_files(self, line: Fields) -> tuple[tuple[str, Location], ...]:
        return (("score", line.location("score")),) if "score" in line.record else ()

    def symbolic_content(self, line: Fields) -> tuple[PhonemeContent, ...]:
        symbols = tuple(line.record.get("phonemes", ()))
        return (PhonemeContent(symbols, speaker=line.record.get("speaker")),) if symbols else ()


class Unread(Captioned):
    def check_item(self, line: Fields, target: Fields | None) -> float:
        raise AssertionError("the manifests were read again")


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


def built(manifests, items=None, **options):
    items = Captioned() if items is None else items
    return build_index(*manifests, items, **{"split": None, "kind": "test", "max_samples": None, **options})


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Even small indices are kept, in a folder of the test's own."""
    monkeypatch.setenv("UNISONO_CACHE", str(tmp_path / "cache of mine"))
    monkeypatch.setattr(index_module, "CACHED_FROM_ITEMS", 1)
    monkeypatch.setattr(kept_index, "code_digest", lambda kind: "the same")
    return tmp_path / "cache of mine"


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
    again = built(manifests, Unread())
    assert isinstance(again.duration_s, np.memmap)
    for name in index_module.COLUMNS:
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert len(built(manifests, Unread(), max_samples=3)) == 3
    with pytest.raises(AssertionError, match="read again"):  # other checks, other index
        built(manifests, Unread(), kind="other")


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
    assert len(built(manifests, Unread())) == 20


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
    mapped = built(manifests, Unread())
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


def test_lines_too_long_to_be_items_are_refused(tmp_path: Path, monkeypatch) -> None:
    for module in (manifest_module, index_module):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 20_000)
    path = tmp_path / "content.jsonl"
    fits = json.dumps({"audio_id": "a", "caption": "x" * 19_000}).ljust(20_000 - 1)
    for line, ok in ((fits, True), (fits + "  ", False)):
        path.write_text('{"audio_id": "0"}\n' + line + "\n")
        offset = path.read_bytes().index(b"\n") + 1
        if ok:
            assert [number for number, *_ in scan_lines(path)] == [1, 2]
            assert ManifestFile(path).fields(offset, 2).audio_id() == "a"
            continue
        for read in (lambda: list(scan_lines(path)), lambda at=offset: ManifestFile(path).fields(at, 2)):
            with pytest.raises(UserError, match=r"content\.jsonl:2: the line has more than 20000 bytes"):
                read()


def test_reading_a_long_line_takes_few_calls(tmp_path: Path, monkeypatch) -> None:
    path = write_jsonl(tmp_path / "content.jsonl", [{"audio_id": "a", "caption": "x" * 4_000_000}, {"audio_id": "b"}])
    sizes = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *place: sizes.append(place[1]) or pread(*place))
    assert len(ManifestFile(path).fields(0, 1).record["caption"]) == 4_000_000
    assert len(sizes) < 15 and sizes[0] <= 4096


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
        "import unisono.data.kept_index as k; k.code_digest = lambda kind: 'the same'\n"
        "from test_index import built; print(len(built((m.Path(sys.argv[1]), m.Path(sys.argv[2])))))"
    )
    arguments = [sys.executable, "-c", script, *map(str, manifests), str(Path(__file__).parent)]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in processes] == ["20"] * 3
    assert len(built(manifests, Unread())) == 20


# -- order of the targets ---------------------------------------------------------------------------------------------


def reordered(manifests, order: str) -> None:
    lines = sorted(
        manifests[1].read_text(encoding="utf-8").splitlines(), key=lambda t: int(json.loads(t)["audio_id"][5:7])
    )
    if order == "reversed":
        lines.reverse()
    elif order == "near":
        lines = [lines[i ^ 1] for i in range(20)]
    elif order == "far":
        lines = lines[10:] + lines[:10]
    manifests[1].write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize("ahead", [1, 3, 1000])
@pytest.mark.parametrize("order", ["same", "near", "far", "reversed"])
def test_lines_are_parsed_once_where_both_orders_are_alike(manifests, monkeypatch, order: str, ahead: int) -> None:
    wanted = built(manifests)
    reordered(manifests, order)
    monkeypatch.setattr(index_module, "_AHEAD_LINES", ahead)
    parsed: list[str] = []

    def counted(where: str, raw: bytes) -> dict:
        parsed.append(where)
        return parse_line(where, raw)

    monkeypatch.setattr(index_module, "parse_line", counted)
    index = built(manifests)
    assert index.duration_s.tolist() == wanted.duration_s.tolist()
    assert index.id_hash.tolist() == wanted.id_hash.tolist()
    if order == "same" or ahead == 1000:
        assert len(parsed) == len(set(parsed)) == 40


@pytest.mark.parametrize("order", ["same", "far", "reversed"])
def test_lines_without_the_other_are_named_in_any_order(manifests, order: str) -> None:
    reordered(manifests, order)
    texts = [path.read_text(encoding="utf-8") for path in manifests]
    without = "\n".join(line for line in texts[1].splitlines() if "clip 7 é" not in line)
    manifests[1].write_text(without, encoding="utf-8")
    with pytest.raises(UserError, match=r"content\.jsonl:8: audio_id 'clip 7 é' has no line in .*audio\.jsonl"):
        built(manifests)
    manifests[1].write_text(texts[1], encoding="utf-8")
    manifests[0].write_text("\n".join(texts[0].splitlines()[:-1]), encoding="utf-8")
    with pytest.raises(UserError, match=r"audio\.jsonl:\d+: audio_id 'clip 19 é' has no line in .*content\.jsonl"):
        built(manifests)
    assert len(built(manifests, max_samples=19)) == 19  # what comes after them is not looked at


def test_an_empty_list_of_targets_is_an_error(manifests) -> None:
    manifests[1].write_text("\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"audio\.jsonl: the manifest has no items"):
        built(manifests)


# -- files of a kept index --------------------------------------------------------------------------------------------


@pytest.fixture
def with_files(manifests, kept):
    """Manifests whose files exist: recordings of 1 to 20 bytes, and one score for every four items."""
    folder = manifests[0].parent
    lines = [json.loads(line) for line in manifests[0].read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines):
        (folder / f"{line['audio_id']}.wav").write_bytes(b"x" * (number + 1))
        line["score"] = f"score {number // 4}.mid"
        (folder / line["score"]).write_text("a score")
    write_jsonl(manifests[0], lines)
    assert built(manifests, Captioned(check_files=True)).duration_s.tolist() == list(range(1, 21))
    return manifests


def test_nothing_is_checked_again_while_no_file_changes(with_files) -> None:
    assert built(with_files, Unread(check_files=True)).duration_s.tolist() == list(range(1, 21))


def test_items_whose_files_changed_are_checked_again_and_no_others(with_files) -> None:
    folder = with_files[0].parent
    (folder / "clip 3 é.wav").write_bytes(b"y" * 50)
    (folder / "score 2.mid").write_text("another")
    items = Captioned(check_files=True)
    assert built(with_files, items).duration_s[3] == 50
    assert items.checked == [f"clip {number} é" for number in (3, 8, 9, 10, 11)]
    assert built(with_files, Unread(check_files=True)).duration_s[3] == 50  # and that is kept


@pytest.mark.parametrize("gone", ["clip 5 é.wav", "score 1.mid"])
def test_a_file_that_vanished_is_named_though_the_index_was_kept(with_files, gone: str) -> None:
    status = os.stat(with_files[0].parent / gone)
    (with_files[0].parent / gone).unlink()
    for _ in range(2):
        with pytest.raises(
            UserError, match=rf"content\.jsonl:\d: .*{gone} is not there|jsonl:\d+: .*{gone}, which is no"
        ):
            built(with_files, Captioned(check_files=True))
    assert len(built(with_files, Captioned(check_files=True), max_samples=3)) == 3  # its item is not among them
    (with_files[0].parent / gone).write_bytes(b"x" * status.st_size)
    assert len(built(with_files, Captioned(check_files=True))) == 20


def test_a_damaged_list_of_files_costs_time_only(with_files, kept: Path) -> None:
    (place,) = [path for path in (kept / "index").iterdir() if path.is_dir()]
    (place / "paths").write_bytes((place / "paths").read_bytes()[:-5])
    assert len(built(with_files, Captioned(check_files=True))) == 20
    assert len(built(with_files, Unread(check_files=True))) == 20


def test_archives_are_looked_at_once_for_all_their_members(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(kept_index, "_KNOWN_FILES", 3)
    names = [tmp_path / f"{n % 3}.tar" for n in range(30)] + [tmp_path / f"own {n}" for n in range(5)]
    for name in names:
        name.write_bytes(b"")
    files = NamedFiles()
    for row, name in enumerate(names):
        files.add(row, name)
    assert len(files.stamps) == 8 and not len(files.changed_rows(100)[0])
    names[1].write_bytes(b"new")
    assert files.changed_rows(100)[0].tolist() == list(range(1, 30, 3))
    assert files.changed_rows(5)[0].tolist() == [1, 4]


def test_lists_of_files_of_any_length_are_told_apart() -> None:
    paths = [b"a" * length for length in np.random.default_rng(0).integers(1, 400_000, size=40)]
    assert list(kept_index._split(b"".join(path + b"\0" for path in paths))) == paths
    assert list(kept_index._split(b"")) == []


def test_another_way_of_checking_is_another_index(tmp_path: Path, monkeypatch) -> None:
    """The code of a data set's class is part of the key, wherever it lies."""
    module = tmp_path / "own_data_set.py"
    module.write_text("class Own: pass")
    monkeypatch.syspath_prepend(tmp_path)
    import own_data_set

    before = kept_index.code_digest(own_data_set.Own)
    assert before == kept_index.code_digest(own_data_set.Own) != kept_index.code_digest(Captioned)
    module.write_text("class Own: x = 1")
    assert kept_index.code_digest(own_data_set.Own) != before


# -- vocabulary -------------------------------------------------------------------------------------------------------


def test_symbols_are_kept_with_the_first_line_of_each(manifests, kept: Path) -> None:
    lines = [json.loads(line) for line in manifests[0].read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines):
        line |= {"phonemes": ["a", "b" if number < 4 else "ç"], "speaker": f"voice {number // 10}"}
    write_jsonl(manifests[0], lines)
    built(manifests)
    for index in (built(manifests, Unread()), pickle.loads(pickle.dumps(built(manifests, Unread())))):
        assert index.vocabulary.phonemes == {"a": 1, "b": 1, "ç": 5}
        assert index.vocabulary.speakers == {"voice 0": 1, "voice 1": 11}
        assert index.vocabulary.first_unknown("abç", ["voice 0", "voice 1"]) is None
        assert index.vocabulary.first_unknown("ab", ["voice 0"]) == 5
        assert index.vocabulary.first_unknown("abç", ["voice 0"]) == 11
