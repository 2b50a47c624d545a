"""What all recipes share: items are found, worked on in parallel, sorted into splits, and written as manifests.

Work is done in chunks of items. A finished chunk leaves a record in ``OUT/.work``, so that a run that was killed goes
on where it stopped; manifests are written at the end, ``corpus.json`` last of all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from unisono.data.manifest import Fields, write_jsonl
from unisono.data.prepare.corpora.items import Found, Item, LeaveOut, LeftOut
from unisono.data.prepare.corpora.output import (
    LEFT_OUT,
    REPORT,
    WORK,
    ManifestWriter,
    held_folder,
    is_finished,
    summary_line,
)
from unisono.data.prepare.jobs import Record, finish_jobs
from unisono.data.prepare.splits import SPLITS, hash_order, hash_splits
from unisono.errors import UserError
from unisono.files import write_json
from unisono.workers import default_workers

logger = logging.getLogger(__name__)


class RunOptions(TypedDict, total=False):
    """What every recipe for a corpus takes besides its own options.

    Attributes:
        source: folder of the corpus; required.
        seed: of the choice that ``max_items`` makes; at least 0.
        workers: processes; default: one per core.
        progress: show progress bars.
        max_items: at most so many items per split, drawn by ``seed``.
        max_left_out: the largest share of items that may be left out, 0 to 1; beyond it nothing is written.
    """

    source: str | os.PathLike
    seed: int
    workers: int | None
    progress: bool
    max_items: int | None
    max_left_out: float


@dataclass(frozen=True)
class Step:
    """Work that is done once per item.

    Attributes:
        name: folder of its records.
        description: of the progress bar.
        function: gives the item's record, or raises ``LeaveOut`` or ``UserError`` (an unreadable recording); can be
            pickled. The records of an item's steps are joined; one of them tells ``duration_s``.
        chunk_items: so many items are remembered as done at once.
    """

    name: str
    description: str
    function: Callable[[Item], Record]
    chunk_items: int


@dataclass(frozen=True)
class Corpus:
    """What a recipe says about its corpus.

    Attributes:
        name, version: of the recipe; the version rises when the same corpus would give other manifests.
        license: of the corpus, written into every line.
        tasks: whose data sets are made.
        groups: what the items' ``group`` is, in words.
        find: all items in a source folder.
        steps: in order.
        lines: fields of ``content.jsonl`` for each task, from an item and its joined records.
        options: the recipe's own options, remembered in ``corpus.json``.
    """

    name: str
    version: int
    license: str
    tasks: tuple[str, ...]
    groups: str
    find: Callable[[Path], Found]
    steps: tuple[Step, ...]
    lines: Callable[[Item, Record], dict[str, Record]]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Run:
    """Where and how, checked."""

    source: Path
    out: Path
    seed: int
    workers: int
    progress: bool
    max_items: int | None
    max_left_out: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """Items that one job works on; its id changes with what is in it."""

    job_id: str
    function: Callable[[Item], Record]
    items: tuple[Item, ...]


def build_corpus(corpus: Corpus, out: Path, options: RunOptions) -> Path:
    """Make the data sets of a corpus in ``out``, or go on with it; a finished folder is left as it is.

    Raises:
        UserError: the source is not the corpus, ``out`` holds something else, too much had to be left out.
    """
    run = _checked(out, options)
    settings = {
        "recipe": corpus.name,
        "recipe_version": corpus.version,
        "source": Path(os.path.relpath(run.source, run.out)).as_posix(),
        "seed": run.seed,
        "max_items": run.max_items,
        **corpus.options,
    }
    if is_finished(run.out, settings):
        logger.info("%s is complete already", run.out)
        shutil.rmtree(run.out / WORK, ignore_errors=True)
        return out
    found = corpus.find(run.source)
    _drop_unusable(found)
    _check_share(found.left_out, len(found.items), run, corpus)
    origins = _assign_splits(found.items, corpus.groups)
    if run.max_items is not None:
        found.items = _sample(found.items, run.max_items, run.seed)
    with held_folder(run.out, settings) as work:
        _build(corpus, run, settings, found, origins, work)
        shutil.rmtree(work)
    if found.left_out:
        logger.warning("%s", summary_line(run.out))
    return out


def _checked(out: Path, options: RunOptions) -> _Run:
    source = options.get("source")
    if source is None:
        raise UserError("give the folder of the corpus: --source FOLDER")
    seed, workers, max_items = options.get("seed", 0), options.get("workers"), options.get("max_items")
    max_left_out = options.get("max_left_out", 0.5)
    if seed < 0:
        raise UserError(f"seed is {seed}; give a whole number of at least 0")
    for name, value in (("workers", workers), ("max_items", max_items)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; give a whole number of at least 1")
    if not 0 <= max_left_out <= 1:
        raise UserError(f"max_left_out is {max_left_out}; give a share from 0 to 1")
    # Absolute, because the working folder of a manifest's reader is not known; links stay as they are.
    source, out = (Path(os.path.abspath(path)) for path in (source, out))
    return _Run(source, out, seed, workers or default_workers(), options.get("progress", True), max_items, max_left_out)


# -- before the work --------------------------------------------------------------------------------------------------


def _drop_unusable(found: Found) -> None:
    """Leave out items whose id or path cannot stand in a manifest, and ids that are there twice."""
    seen: set[str] = set()
    kept = []
    for item in found.items:
        try:
            Fields(Path(item.audio), 0, {"audio_id": item.audio_id}).audio_id()
            item.audio.encode()
        except (UserError, UnicodeEncodeError):
            found.leave_out(ascii(item.audio_id), "bad_name", f"id or path cannot be used: {item.audio!a}")
            continue
        if "::" in item.audio:
            found.leave_out(item.audio_id, "bad_name", f"'::' in {item.audio} would name a member of an archive")
        elif item.audio_id in seen:
            found.leave_out(item.audio_id, "duplicate", f"the id is used already; {item.audio} is the second one")
        else:
            seen.add(item.audio_id)
            kept.append(item)
    found.items = kept


def _check_share(left_out: Sequence[LeftOut], kept: int, run: _Run, corpus: Corpus, log: Path | None = None) -> None:
    total = kept + len(left_out)
    if kept and len(left_out) <= run.max_left_out * total:
        return
    if total == 0:
        raise UserError(f"--source {run.source}: no item of {corpus.name} was found; docs/corpora.md shows its layout")
    kinds = ", ".join(f"{kind} {count}" for kind, count in _kinds(left_out).items())
    examples = "\n  ".join(f"{entry.item}: {entry.reason}" for entry in left_out[:3])
    where = f"\nall of them: {log}" if log else ""
    raise UserError(
        f"{len(left_out)} of {total} items of {corpus.name} cannot be used ({kinds}), such as\n  {examples}{where}\n"
        "check the source folder, or allow more with --max-left-out (a share from 0 to 1)"
    )


def _kinds(left_out: Sequence[LeftOut]) -> dict[str, int]:
    return dict(Counter(entry.kind for entry in left_out).most_common())


def _assign_splits(items: list[Item], groups: str) -> dict[str, str]:
    """Give every item a split; returns where each split comes from.

    Splits that the corpus has are kept. A validation or test set that it lacks is taken from what is for training, by
    the hash of the group.
    """
    official = {item.split for item in items if item.split is not None}
    held_out = {item.group: item.split for item in items if item.split in ("val", "test")}
    for item in items:
        # Not in the corpus's own lists: with its group, which is not both trained and tested on.
        item.split = item.split or held_out.get(item.group, "train")
    lacking = [split for split in ("test", "val") if split not in official]
    if lacking:
        drawn = hash_splits({item.group for item in items if item.split == "train"}, lacking)
        for item in items:
            if item.split == "train":
                item.split = drawn[item.group]
    by_hash = f"hash of the {groups}"
    return {split: "official" if split in official else by_hash for split in SPLITS}


def _sample(items: list[Item], max_items: int, seed: int) -> list[Item]:
    """At most ``max_items`` per split, in their old order."""
    chosen: set[str] = set()
    for split in SPLITS:
        ids = [item.audio_id for item in items if item.split == split]
        chosen.update(hash_order(ids, seed)[:max_items])
    return [item for item in items if item.audio_id in chosen]


# -- the work ---------------------------------------------------------------------------------------------------------


def _build(corpus: Corpus, run: _Run, settings: Record, found: Found, origins: dict[str, str], work: Path) -> None:
    alive = found.items
    left_out: list[LeftOut] = []
    done: list[tuple[list[Item], list[Path]]] = []
    for step in corpus.steps:
        paths = _finish_step(corpus, step, alive, work, run)
        done.append((alive, paths))
        kept = []
        for item, record in _records(alive, paths):
            if "left_out" in record:
                left_out.append(LeftOut(item.audio_id, *record["left_out"]))
            else:
                kept.append(item)
        alive = kept
        try:
            _check_share(left_out, len(alive), run, corpus, run.out / LEFT_OUT)
        except UserError:
            write_jsonl(run.out / LEFT_OUT, (entry.record() for entry in found.left_out + left_out))
            _forget_failures(paths)  # the next run looks at the mended files
            raise
    found.left_out += left_out
    writer = _write_manifests(corpus, run.out, alive, done)
    write_jsonl(run.out / LEFT_OUT, (entry.record() for entry in found.left_out))
    report = {
        **settings,
        "license": corpus.license,
        "datasets": writer.counts(corpus.tasks),
        "splits": origins,
        "items_kept": len(alive),
        "items_left_out": len(found.left_out),
        "left_out": _kinds(found.left_out),
        "speakers": sorted(writer.speakers),
        "phonemes": sorted(writer.phonemes),
    }
    write_json(run.out / REPORT, report)


def _finish_step(corpus: Corpus, step: Step, items: list[Item], work: Path, run: _Run) -> list[Path]:
    chunks = []
    for first in range(0, len(items), step.chunk_items):
        part = tuple(items[first : first + step.chunk_items])
        content = repr((corpus.name, corpus.version, part)).encode("utf-8", "surrogatepass")
        job_id = f"{first:08d}-{hashlib.sha256(content).hexdigest()[:16]}"
        chunks.append(Chunk(job_id, step.function, part))
    return finish_jobs(
        work_on_chunk,
        chunks,
        work / step.name,
        description=f"{corpus.name}: {step.description}",
        workers=run.workers,
        progress=run.progress,
        size=_chunk_size,
    )


def _chunk_size(chunk: Chunk) -> int:
    return len(chunk.items)


def work_on_chunk(chunk: Chunk) -> Record:
    """One record per item: what the step's function gave, or ``left_out`` with kind and reason."""
    results: list[Record] = []
    for item in chunk.items:
        try:
            results.append(chunk.function(item))
        except LeaveOut as reason:
            results.append({"left_out": [reason.kind, reason.reason]})
        except UserError as error:
            results.append({"left_out": ["unreadable", str(error)]})
        except Exception as error:
            raise RuntimeError(f"{item.audio_id} ({item.audio}): {type(error).__name__}: {error}") from error
    return {"results": results}


def _records(items: Sequence[Item], paths: Sequence[Path]) -> Iterator[tuple[Item, Record]]:
    """Items with their records, one chunk in memory at a time."""
    remaining = iter(items)
    for path in paths:
        for record in json.loads(path.read_text(encoding="utf-8"))["results"]:
            yield next(remaining), record


def _forget_failures(paths: Sequence[Path]) -> None:
    for path in paths:
        if any("left_out" in record for record in json.loads(path.read_text(encoding="utf-8"))["results"]):
            path.unlink()


def _write_manifests(
    corpus: Corpus, out: Path, alive: Sequence[Item], done: Sequence[tuple[list[Item], list[Path]]]
) -> ManifestWriter:
    for task in corpus.tasks:  # what a killed run was just writing
        for partial in (out / task).glob("*/.*.tmp"):
            partial.unlink()
    writer = ManifestWriter(out)
    streams = [_records(items, paths) for items, paths in done]
    try:
        for item in alive:
            joined: Record = {}
            for stream in streams:
                # Later steps see fewer items: each stream is moved on to this one.
                joined |= next(record for other, record in stream if other.audio_id == item.audio_id)
            license_name = item.license or corpus.license
            audio = {
                "audio_id": item.audio_id,
                "audio": Path(item.audio),
                "duration_s": round(joined["duration_s"], 6),
                "license": license_name,
            }
            for task, fields in corpus.lines(item, joined).items():
                content = {"audio_id": item.audio_id, **fields, "license": license_name}
                writer.add(task, item.split or "train", content, audio)
        writer.commit()
    except BaseException:
        writer.discard()
        raise
    return writer
