"""What all recipes share: items are found, worked on in parallel, sorted into splits, and written as manifests.

Work is done in chunks of items (``unisono.data.prepare.jobs``), whose records lie in ``OUT/.work``, so that a run that
was killed goes on where it stopped; manifests are written at the end, ``corpus.json`` last of all.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from unisono.data.manifest import Fields, write_jsonl
from unisono.data.prepare.corpora.items import Found, Item
from unisono.data.prepare.corpora.output import (
    LEFT_OUT,
    REPORT,
    WORK,
    ManifestWriter,
    held_folder,
    is_finished,
    summary_line,
)
from unisono.data.prepare.jobs import (
    LeftOut,
    Record,
    Results,
    check_run_options,
    finish_items,
    one_by_one,
    too_many_left_out,
)
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
            sent to other processes. The records of an item's steps are joined; one of them tells ``duration_s``.
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
    if max_items is not None and max_items < 1:
        raise UserError(f"max_items is {max_items}; give a whole number of at least 1")
    check_run_options(workers, max_left_out)
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
    if not too_many_left_out(len(left_out), total, run.max_left_out):
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
    done: list[tuple[list[Item], Results]] = []
    for step in corpus.steps:
        results = _finish_step(corpus, step, alive, work, run)
        done.append((alive, results))
        kept = []
        for item, result in zip(alive, results.items(), strict=True):
            if "left_out" in result:
                left_out.append(LeftOut(item.audio_id, *result["left_out"]))
            else:
                kept.append(item)
        alive = kept
        try:
            _check_share(left_out, len(alive), run, corpus, run.out / LEFT_OUT)
        except UserError:
            write_jsonl(run.out / LEFT_OUT, (entry.record() for entry in found.left_out + left_out))
            results.forget_left_out()  # the next run looks at the mended files
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


def _finish_step(corpus: Corpus, step: Step, items: list[Item], work: Path, run: _Run) -> Results:
    return finish_items(
        partial(one_by_one, step.function),
        items,
        work / step.name,
        made_from=(corpus.name, corpus.version),
        chunk_items=step.chunk_items,
        description=f"{corpus.name}: {step.description}",
        workers=run.workers,
        progress=run.progress,
        total=len(items),
    )


def _records(items: Sequence[Item], results: Results) -> Iterator[tuple[Item, Record]]:
    """Items of a step with their records, as far as they have one."""
    for item, result in zip(items, results.items(), strict=True):
        if "record" in result:
            yield item, result["record"]


def _write_manifests(
    corpus: Corpus, out: Path, alive: Sequence[Item], done: Sequence[tuple[list[Item], Results]]
) -> ManifestWriter:
    for task in corpus.tasks:  # what a killed run was just writing
        for partial_file in (out / task).glob("*/.*.tmp"):
            partial_file.unlink()
    streams = [_records(items, results) for items, results in done]
    with ManifestWriter(out) as writer:
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
    return writer
