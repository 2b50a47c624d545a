"""Steps over a manifest: each line gets fields that are computed from its recording, or is left out with a reason.

Work is done in chunks of lines. A finished chunk leaves a record in a hidden folder beside the output, under a name
that depends on everything it was made from, so that a run that was killed goes on and nothing stale is used. The output
is written at the end, whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unisono.data.manifest import Fields, load_manifest, write_jsonl
from unisono.data.prepare.jobs import Record, finish_jobs
from unisono.errors import UserError
from unisono.files import locked
from unisono.media.locations import parse_location
from unisono.workers import default_workers

PATH_FIELDS = (
    *("audio", "noisy_audio", "narrow_audio", "video", "video_file", "video_features"),
    *("speaker_embedding", "speaker_audio", "f0_hz", "voicing", "score", "score_midi"),
)
"""Fields of a line that hold paths relative to the manifest."""


class LeaveOut(Exception):
    """A line cannot be used; ``kind`` is a word to count by."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


@dataclass(frozen=True)
class Work:
    """What is to be done for a line.

    Attributes:
        audio_id: of the line.
        source: location of the recording or video, absolute.
        data: what else the step needs, as JSON.
    """

    audio_id: str
    source: str
    data: Any = None


Function = Callable[[Work, Mapping[str, Any]], Record]


@dataclass(frozen=True)
class Options:
    """How a step runs.

    Attributes:
        output: the manifest to write.
        workers: processes; None: one per processor.
        progress: show bars.
        overwrite: replace an output that is there; it may then be the input itself.
        max_left_out: the largest share of lines that may be left out, 0 to 1; beyond it no output is written.
    """

    output: Path
    workers: int | None = None
    progress: bool = True
    overwrite: bool = False
    max_left_out: float = 0.5

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers is {self.workers}; give a whole number of at least 1")
        if not 0 <= self.max_left_out <= 1:
            raise UserError(f"max_left_out is {self.max_left_out}; give a share from 0 to 1")
        if self.output.is_dir():
            raise UserError(
                f"{self.output} is a folder; name the manifest to write, such as {self.output}/content.jsonl"
            )
        if self.output.exists() and not self.overwrite:
            raise UserError(f"{self.output} exists; choose another output, or replace it with --overwrite")

    @property
    def num_workers(self) -> int:
        return self.workers or default_workers()

    def work_folder(self, step: str) -> Path:
        return self.output.with_name(f".{self.output.stem}.{step}.work")


@dataclass(frozen=True)
class ManifestStep:
    """What is computed.

    Attributes:
        name: of the step; also of its hidden folder.
        version: raise it when the same input gives another result.
        description: of the progress bar.
        function: a module-level function of a line's ``Work`` and ``settings``; returns the fields to set, None to
            remove one. What it raises as ``LeaveOut`` or ``UserError`` leaves the line out.
        settings: as JSON; part of every record's name.
        chunk_items: lines per record.
    """

    name: str
    version: int
    description: str
    function: Function
    settings: Mapping[str, Any]
    chunk_items: int = 16


@dataclass(frozen=True)
class StepResult:
    """What was written: ``output`` with ``items`` lines, and how many were left out, by kind."""

    output: Path
    items: int
    left_out: Counter[str] = field(default_factory=Counter)
    left_out_path: Path | None = None

    def __str__(self) -> str:
        text = f"{self.output}: {self.items} items"
        if self.left_out_path is None:
            return text
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.left_out.most_common())
        return f"{text}; {self.left_out.total()} left out ({kinds}), reasons in {self.left_out_path}"


@dataclass(frozen=True)
class _Chunk:
    job_id: str
    function: Function
    settings: Mapping[str, Any]
    works: tuple[Work, ...]


def targets(content: Mapping[str, Fields], audio: str | os.PathLike) -> dict[str, Fields]:
    """The lines of an audio manifest for those of a content manifest."""
    lines = load_manifest(audio)
    for audio_id, line in content.items():
        if audio_id not in lines:
            raise line.fail(f"audio_id {audio_id!r} has no line in {audio}; add it there or remove this line")
    return {audio_id: lines[audio_id] for audio_id in content}


def work_of(line: Fields, field_name: str, data: Any = None) -> Work | LeaveOut:
    """The work for the file that a line names; a reason to leave the line out if the file is not there."""
    try:
        location = line.file(field_name)
    except UserError as error:
        return LeaveOut("missing_file", str(error))
    return Work(line.audio_id(), str(type(location)(location.path.absolute(), location.member)), data)


def run_manifest_step(
    step: ManifestStep,
    content: Mapping[str, Fields],
    works: Mapping[str, Work | LeaveOut],
    options: Options,
    finish: Callable[[dict[str, Record]], None] | None = None,
) -> StepResult:
    """Run ``step`` on ``works`` and write the lines of ``content`` with the fields it gives.

    Paths in the lines stay right if the output lies in another folder.

    Args:
        step: what is computed.
        content: the lines.
        works: for each line what is to be done, or why nothing can be.
        options: output, workers …
        finish: may change the new fields, by ``audio_id``, when all are there.

    Raises:
        UserError: too many lines left out (the reasons are written, no output).
    """
    folder = options.work_folder(step.name)
    with locked(folder.with_suffix(".lock")):
        ready = [work for work in works.values() if isinstance(work, Work)]
        records = finish_jobs(
            _run_chunk,
            _chunks(step, ready),
            folder,
            description=step.description,
            workers=options.num_workers,
            progress=options.progress,
            size=lambda chunk: len(chunk.works),
        )
        results = _results(works, records)
        left_out = [
            {"audio_id": audio_id, "kind": result["left_out"][0], "reason": result["left_out"][1]}
            for audio_id, result in results.items()
            if "left_out" in result
        ]
        kept = len(content) - len(left_out)
        reasons = _write_left_out(
            options.output.with_name(f"{options.output.stem}.{step.name}.left_out.jsonl"), left_out
        )
        if len(left_out) > options.max_left_out * len(content) or kept == 0:
            raise UserError(
                f"{len(left_out)} of {len(content)} lines would be left out, reasons in {reasons}; the first, "
                f"{left_out[0]['audio_id']}: {left_out[0]['reason']}. Mend them, or allow more with --max-left-out"
            )
        fields = {audio_id: result["fields"] for audio_id, result in results.items() if "fields" in result}
        if finish is not None:
            finish(fields)
        new = options.output.parent
        write_jsonl(options.output, (_changed(content[i], added, new) for i, added in fields.items()))
        shutil.rmtree(folder, ignore_errors=True)
    return StepResult(options.output, kept, Counter(entry["kind"] for entry in left_out), reasons)


def _changed(line: Fields, fields: Record, folder: Path) -> Record:
    changed = {**rebased(line.record, line.path.parent, folder), **fields}
    return {name: value for name, value in changed.items() if value is not None}


def rebased(line: Record, old: Path, new: Path) -> Record:
    """A line whose relative paths are read from the folder ``new`` instead of ``old``."""
    if old.absolute() == new.absolute():
        return dict(line)
    moved = dict(line)
    for name in PATH_FIELDS:
        if isinstance(value := line.get(name), str) and value:
            location = parse_location(value, old.absolute())
            if not os.path.isabs(value):
                moved[name] = str(type(location)(Path(relative_path(location.path, new)), location.member))
    return moved


def relative_path(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


def _chunks(step: ManifestStep, works: Sequence[Work]) -> list[_Chunk]:
    chunks = []
    for begin in range(0, len(works), step.chunk_items):
        some = tuple(works[begin : begin + step.chunk_items])
        made_from = [
            step.name,
            step.version,
            dict(step.settings),
            [[w.audio_id, w.source, w.data, _stamp(w)] for w in some],
        ]
        digest = hashlib.sha256(json.dumps(made_from, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
        chunks.append(_Chunk(digest[:32], step.function, step.settings, some))
    return chunks


def _stamp(work: Work) -> list[int]:
    return parse_location(work.source, None).stamp()


def _run_chunk(chunk: _Chunk) -> Record:
    results: list[Record] = []
    for work in chunk.works:
        try:
            results.append({"fields": chunk.function(work, chunk.settings)})
        except LeaveOut as error:
            results.append({"left_out": [error.kind, error.reason]})
        except UserError as error:
            results.append({"left_out": ["unusable", str(error)]})
    return {"audio_ids": [work.audio_id for work in chunk.works], "results": results}


def _results(works: Mapping[str, Work | LeaveOut], records: Sequence[Path]) -> dict[str, Record]:
    """The result of every line, in order."""
    done: dict[str, Record] = {}
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        done.update(zip(record["audio_ids"], record["results"], strict=True))
    return {
        audio_id: {"left_out": [work.kind, work.reason]} if isinstance(work, LeaveOut) else done[audio_id]
        for audio_id, work in works.items()
    }


def _write_left_out(path: Path, entries: Sequence[Record]) -> Path | None:
    if not entries:
        path.unlink(missing_ok=True)
        return None
    return write_jsonl(path, entries)
