"""What all recipes for public corpora share: finding, tables, splits, work that survives a kill, manifests."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.data.manifest import load_manifest
from unisono.data.prepare import RECIPES
from unisono.data.prepare.corpora import engine
from unisono.data.prepare.corpora.clips import ClipFinder
from unisono.data.prepare.corpora.engine import Corpus, Step, build_corpus
from unisono.data.prepare.corpora.files import corpus_root, read_table
from unisono.data.prepare.corpora.items import Found, Item, LeaveOut
from unisono.data.prepare.corpora.output import summary_line
from unisono.data.prepare.splits import SPLITS, hash_order, hash_splits, split_of
from unisono.errors import UserError
from unisono.media.audio import write_audio


def write_tone(path: Path, duration_s: float = 0.2, f0_hz: float = 220.0, sample_rate: int = 16_000) -> Path:
    time_s = np.arange(round(duration_s * sample_rate)) / sample_rate
    return write_audio(path, (0.3 * np.sin(2 * np.pi * f0_hz * time_s)).astype(np.float32), sample_rate)


def lines(out: Path, task: str, name: str = "content") -> dict[str, dict[str, Any]]:
    """All lines of a task by id, with the split they stand in."""
    found: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        path = out / task / split / f"{name}.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            record = json.loads(line)
            assert record["audio_id"] not in found
            found[record["audio_id"]] = {**record, "split": split}
    return found


def left_out(out: Path) -> dict[str, tuple[str, str]]:
    """Kind and reason by item."""
    records = [json.loads(line) for line in (out / "left_out.jsonl").read_text(encoding="utf-8").splitlines()]
    return {record["item"]: (record["kind"], record["reason"]) for record in records}


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "corpus.json").read_text(encoding="utf-8"))


def assert_whole(out: Path) -> None:
    """Nothing unfinished is left, all paths are relative and lead to files, and content and audio belong together."""
    assert not list(out.rglob(".*"))
    for content in out.glob("*/*/content.jsonl"):
        audio = content.with_name("audio.jsonl")
        assert load_manifest(content).keys() == load_manifest(audio).keys()
        for fields in load_manifest(audio).values():
            assert not os.path.isabs(fields.record["audio"])
            fields.file("audio")


# -- a toy corpus -----------------------------------------------------------------------------------------------------


def toy_work(item: Item) -> dict[str, Any]:
    """Counts calls in a file beside the recording; waits if the corpus says so."""
    with Path(item.data["log"]).open("a", encoding="utf-8") as log:
        log.write(item.audio_id + "\n")
    time.sleep(item.data.get("wait_s", 0))
    if item.audio_id in item.data.get("bad", ()):
        raise LeaveOut("bad", f"{item.audio_id} is bad")
    return {"duration_s": 0.2}


def toy_corpus(source: Path, **data: Any) -> Corpus:
    def find(root: Path) -> Found:
        found = Found()
        for path in sorted(root.glob("*.wav")):
            plain = {"log": str(source.parent / "log"), **data}
            found.items.append(Item(path.stem, str(path), path.stem, fields={"caption": path.stem}, data=plain))
        return found

    return Corpus(
        name="toy",
        version=1,
        license="CC0-1.0",
        tasks=("text_to_audio",),
        groups="recording",
        find=find,
        steps=(Step("work", "working", toy_work, chunk_items=2),),
        lines=lambda item, record: {"text_to_audio": item.fields},
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "a source"
    for number in range(12):
        write_tone(folder / f"clip {number:02}.wav")
    return folder


def calls(source: Path) -> list[str]:
    return (source.parent / "log").read_text(encoding="utf-8").splitlines()


def build(source: Path, out: Path, corpus: Corpus | None = None, **options: Any) -> Path:
    run = {"source": source, "workers": 1, "progress": False, **options}
    return build_corpus(corpus or toy_corpus(source), out, run)  # type: ignore[arg-type]


def test_manifests_report_and_summary(source: Path, tmp_path: Path) -> None:
    out = build(source, tmp_path / "out put", toy_corpus(source, bad=["clip 03"]))
    assert_whole(out)
    assert set(lines(out, "text_to_audio")) == {f"clip {n:02}" for n in range(12) if n != 3}
    assert left_out(out) == {"clip 03": ("bad", "clip 03 is bad")}
    made = report(out)
    assert made["items_kept"] == 11
    assert made["left_out"] == {"bad": 1}
    assert made["license"] == "CC0-1.0"
    assert sum(n["clips"] for n in made["datasets"]["text_to_audio"].values()) == 11
    assert made["source"] == "../a source"
    assert "left out 1 of 12 (bad 1)" in summary_line(out)
    assert not os.path.isabs(lines(out, "text_to_audio", "audio")["clip 00"]["audio"])


def test_a_finished_folder_is_left_alone_and_another_corpus_refused(source: Path, tmp_path: Path) -> None:
    out = build(source, tmp_path / "out")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    build(source, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert len(calls(source)) == 12
    with pytest.raises(UserError, match=r"holds another corpus already .*seed 0 instead of 1"):
        build(source, out, seed=1)


def test_work_that_was_recorded_survives_a_kill_and_is_not_done_again(source: Path, tmp_path: Path) -> None:
    whole = build(source, tmp_path / "whole")
    (source.parent / "log").unlink()
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_recipes_engine import build, toy_corpus\n"
        "if __name__ == '__main__':\n"
        "    source = Path(sys.argv[2])\n"
        "    build(source, Path(sys.argv[3]), toy_corpus(source, wait_s=0.15), workers=2)\n"
    )
    script = tmp_path / "prepare.py"
    script.write_text(code, encoding="utf-8")
    command = [sys.executable, str(script), str(Path(__file__).parent), str(source), str(tmp_path / "out")]
    records = tmp_path / "out/.work/work/records.log"

    def num_done() -> int:
        return records.read_bytes().count(b"\n") if records.is_file() else 0

    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not num_done() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "corpus.json").exists()
    time.sleep(0.5)  # its workers end by themselves
    done = num_done()
    assert 0 < done < 6
    before = len(calls(source))
    build(source, tmp_path / "out", toy_corpus(source, wait_s=0.15))
    # Chunks of two items; what was recorded is not done again.
    assert len(calls(source)) - before == 12 - 2 * done
    assert_whole(tmp_path / "out")
    for path in whole.rglob("*.jsonl"):
        assert (tmp_path / "out" / path.relative_to(whole)).read_bytes() == path.read_bytes()


def test_too_much_left_out_is_an_error_and_mended_files_are_looked_at_again(source: Path, tmp_path: Path) -> None:
    bad = [f"clip {number:02}" for number in range(7)]
    with pytest.raises(UserError, match=r"7 of 12 items of toy cannot be used \(bad 7\), such as\n  clip 00"):
        build(source, tmp_path / "out", toy_corpus(source, bad=bad))
    assert len(left_out(tmp_path / "out")) == 7
    assert not (tmp_path / "out" / "corpus.json").exists()
    assert not list((tmp_path / "out").glob("text_to_audio/*/*.jsonl"))
    before = len(calls(source))
    out = build(source, tmp_path / "out", toy_corpus(source, bad=bad), max_left_out=0.6)
    # The chunks of two that hold a bad item were done again, the two good ones not.
    assert len(calls(source)) - before == 8
    assert report(out)["items_kept"] == 5


def test_a_changed_source_is_noticed_when_a_run_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_write_manifests", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(source, tmp_path / "out")
    monkeypatch.undo()
    write_tone(source / "clip 001.wav")  # sorts after the first
    out = build(source, tmp_path / "out")
    assert len(lines(out, "text_to_audio")) == 13
    assert_whole(out)


def test_bad_folders_and_options_are_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    out = tmp_path / "out"
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: build(source, tmp_path / "mine"), r"holds other files \(thesis.txt\)"),
        (lambda: build(source, tmp_path / "mine" / "thesis.txt"), "is a file"),
        (lambda: build(source, out, seed=-1), "seed is -1"),
        (lambda: build(source, out, workers=0), "workers is 0"),
        (lambda: build(source, out, max_items=0), "max_items is 0"),
        (lambda: build(source, out, max_left_out=1.5), "max_left_out is 1.5"),
        (lambda: build(tmp_path / "mine", out), "no item of toy was found"),
        (lambda: build_corpus(toy_corpus(source), out, {}), "give the folder of the corpus"),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message):
            call()
    assert not out.exists()


def test_ids_that_cannot_be_used_are_left_out(source: Path, tmp_path: Path) -> None:
    corpus = toy_corpus(source)
    plain = corpus.find(source).items[0]

    def find(root: Path) -> Found:
        found = corpus.find(root)
        for audio_id, audio in (("clip 00", plain.audio), ("a/b", plain.audio), ("c", "/x.tar::y.wav")):
            found.items.append(Item(audio_id, audio, audio_id, data=plain.data))
        return found

    out = build(source, tmp_path / "out", Corpus(**{**vars(corpus), "find": find}))
    kinds = [json.loads(line)["kind"] for line in (out / "left_out.jsonl").read_text().splitlines()]
    assert sorted(kinds) == ["bad_name", "bad_name", "duplicate"]
    assert len(lines(out, "text_to_audio")) == 12


# -- splits -----------------------------------------------------------------------------------------------------------


def item(audio_id: str, group: str, split: str | None = None) -> Item:
    return Item(audio_id, f"/{audio_id}.wav", group, split)


def test_official_splits_are_kept_and_lacking_ones_drawn_by_group() -> None:
    items = [item(f"t{n}", f"group {n // 5}", "train") for n in range(500)] + [item("x", "group x", "test")]
    origins = engine._assign_splits(items, "song")
    assert origins == {"train": "official", "val": "hash of the song", "test": "official"}
    assert [i.audio_id for i in items if i.split == "test"] == ["x"]
    validated = {i.group for i in items if i.split == "val"}
    assert 1 <= len(validated) <= 15
    assert not validated & {i.group for i in items if i.split == "train"}


def test_what_the_corpus_does_not_list_goes_with_its_group() -> None:
    items = [item("a", "song 1", "test"), item("b", "song 1"), *(item(f"c{n}", f"s{n}", "train") for n in range(3))]
    engine._assign_splits(items, "song")
    assert {i.audio_id for i in items if i.split == "test"} == {"a", "b"}


def test_hash_splits_do_not_depend_on_other_groups_and_are_never_empty() -> None:
    many = [f"g{n}" for n in range(300)]
    splits = hash_splits(many)
    assert all(splits[group] == split_of(group) for group in many)
    for few in (many[:3], many[40:44], [g for g in many if split_of(g) == "test"][:3]):
        assert set(hash_splits(few).values()) == set(SPLITS)
    assert set(hash_splits(many[:2]).values()) <= set(SPLITS)
    assert set(hash_splits(many, ["val"]).values()) == {"train", "val"}


def test_a_sample_is_drawn_by_seed_per_split(source: Path, tmp_path: Path) -> None:
    one = build(source, tmp_path / "one", max_items=2)
    assert {split: n["clips"] for split, n in report(one)["datasets"]["text_to_audio"].items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }
    trained = [
        {k for k, line in lines(build(source, tmp_path / f"s{seed}", max_items=2, seed=seed), "text_to_audio").items()}
        for seed in range(4)
    ]
    assert trained[0] == set(lines(one, "text_to_audio"))
    assert any(other != trained[0] for other in trained[1:])
    order = hash_order([f"k{n}" for n in range(50)], 1)
    assert hash_order(order[::3], 1) == order[::3]


# -- files and tables -------------------------------------------------------------------------------------------------


def test_a_corpus_is_found_in_the_folder_or_below_it_and_a_wrong_one_named(tmp_path: Path) -> None:
    root = tmp_path / "down loads" / "Corpus-1.0"
    (root / "wavs").mkdir(parents=True)
    (root / "table.csv").touch()
    required = [["table.csv", "other.csv"], ["wavs"]]
    assert corpus_root(root, "Corpus", required) == root
    assert corpus_root(tmp_path, "Corpus", required) == root
    with pytest.raises(UserError, match=r"does not look like Corpus: looked for table.csv or other.csv and wavs"):
        corpus_root(root / "wavs", "Corpus", required)
    with pytest.raises(UserError, match="no such folder"):
        corpus_root(tmp_path / "none", "Corpus", required)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "corpus.tar.gz").touch()
    with pytest.raises(UserError, match=r"it holds corpus.tar.gz; .*unpack corpus.tar.gz first"):
        corpus_root(tmp_path / "packed", "Corpus", [["corpus*"]])
    other = tmp_path / "down loads" / "Corpus-1.1"
    (other / "wavs").mkdir(parents=True)
    (other / "table.csv").touch()
    with pytest.raises(UserError, match="holds Corpus 2 times"):
        corpus_root(tmp_path / "down loads", "Corpus", required)


def test_broken_lines_of_a_table_are_named_and_the_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(
        "\ufeffid,caption,more\r\n"
        "1,plain,x\r\n"
        '2,"a dog, then\r\na cat",x\r\n'
        '3,"never closed,x\r\n'
        "4,still read,x\r\n"
        "5,too few\r\n"
        '6,"quoted ""word""",x\r\n'
        "\r\n"
        '7,"a"b,x\r\n'
        "8,a,b,c\r\n"
        "9,naïve café\u2028line,x\r\n".encode()
    )
    rows, broken = read_table(path, ("id", "caption"))
    assert {row["id"]: row["caption"] for row in rows} == {
        "1": "plain",
        "2": "a dog, then a cat",
        "4": "still read",
        "6": 'quoted "word"',
        "9": "naïve café line",
    }
    assert [entry.item for entry in broken] == ["t.csv:5", "t.csv:7", "t.csv:10", "t.csv:11"]
    assert "fields instead of 3" in broken[1].reason
    path.write_text("id,text\n1,a\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"t.csv:1: column caption is missing \(there are: id, text\)"):
        read_table(path, ("id", "caption"))
    path.write_bytes("id,license\n1,Attribution á\n".encode("latin-1"))
    assert read_table(path, ("id", "license"))[0][0]["license"] == "Attribution á"


@pytest.mark.parametrize(
    "name",
    [
        "abc-DEF_123_30.wav",
        "abc-DEF_123_30_40.flac",
        "abc-DEF_123_000030.mp4",
        "Yabc-DEF_123_30_40.mp3",
        "abc-DEF_123_30000_40000.m4a",
        "[abc-DEF_123]-[30-40].WAV",
        "abc-DEF_123.wav",
        "Yabc-DEF_123.ogg",
        "4711.wav",
    ],
)
def test_clips_are_found_under_their_usual_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / name).touch()
    finder = ClipFinder([tmp_path], ["abc-DEF_123", "another"])
    assert finder.find("abc-DEF_123", 30, 40, others=["4711"]).endswith(name)
    with pytest.raises(LeaveOut, match="another usual name"):
        finder.find("another", 30, 40)


def test_a_file_that_may_be_several_clips_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "vid.wav").touch()
    with pytest.raises(LeaveOut, match="may be any of"):
        ClipFinder([tmp_path], ["vid", "vid"]).find("vid", 0, 10)
    for folder in ("train", "test", "a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ("x_0.wav" if folder in ("train", "test") else "y_0.wav")).touch()
    (tmp_path / "test" / "x_0.mp3").touch()
    finder = ClipFinder([tmp_path], ["x", "y"])
    assert finder.find("x", 0, 10, folder_words=["test"]) == str(tmp_path / "test" / "x_0.wav")
    with pytest.raises(LeaveOut, match="2 files fit"):
        finder.find("y", 0, 10)
    with pytest.raises(UserError, match="--clips"):
        ClipFinder([tmp_path / "none"], [])


def test_the_table_of_recipes_needs_no_heavy_imports_and_names_the_options() -> None:
    corpora = [recipe for recipe in RECIPES.values() if recipe.needs_source]
    assert len(corpora) == 10
    for recipe in corpora:
        own = set(inspect.signature(recipe.load()).parameters) - {"out", "run"}
        assert own == set(recipe.options) - set(engine.RunOptions.__annotations__)
        assert set(engine.RunOptions.__annotations__) <= set(recipe.options)
