"""Steps over a manifest: each line gets fields computed from it or its recording, or is left out with a reason.

The work is done by ``unisono.data.prepare.jobs``, in a hidden folder beside the output. Lines are read when they are
needed. The outputs are written at the end, whole or not at all: the targets, then the lines.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unisono.data.manifest import Fields, read_jsonl, rebased, write_jsonl
from unisono.data.prepare.jobs import (
    LeaveOut,
    LeftOut,
    Record,
    Results,
    check_run_options,
    finish_items,
    one_by_one,
    too_many_left_out,
)
from unisono.data.prepare.steps.pair import ManifestPair
from unisono.errors import UserError
from unisono.files import locked, write_json
from unisono.workers import default_workers


@dataclass(frozen=True)
class Work:
    """What is to be done for a line.

    Attributes:
        audio_id: of the line.
        source: location of the recording or video, absolute; empty for a step that needs none.
        data: what else the step needs, as JSON.
        stamp: of the source's file.
    """

    audio_id: str
    source: str = ""
    data: Any = None
    stamp: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.audio_id} ({self.source})" if self.source else self.audio_id


Plan = Callable[[Fields, Fields | None], Work]
"""The work for a line and its target; raises ``LeaveOut`` if the line cannot be used, ``UserError`` if none can."""


@dataclass(frozen=True)
class Options:
    """How a step runs.

    Attributes:
        output: the manifest to write.
        workers: processes; None: one per processor.
        progress: show bars.
        overwrite: replace outputs that are there; ``output`` may then be the input itself.
        max_left_out: the largest share of lines that may be left out, 0 to 1; beyond it no output is written.
    """

    output: Path
    workers: int | None = None
    progress: bool = True
    overwrite: bool = False
    max_left_out: float = 0.5

    def __post_init__(self) -> None:
        check_run_options(self.workers, self.max_left_out)
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
        open: a module-level function of ``settings``, called once per process, which loads what is needed and returns
            the function that is applied: to a line's ``Work``, giving the fields to set, None to remove one, or
            raising ``LeaveOut`` or ``UserError`` to leave the line out; with ``batch`` to several works, giving fields
            or ``LeftOut`` for each.
        settings: as JSON; records depend on them.
        chunk_items: lines that are remembered as done at once.
        batch: see ``open``.
    """

    name: str
    version: int
    description: str
    open: Callable[[Any], Callable[[Any], Any]]
    settings: Mapping[str, Any]
    chunk_items: int = 16
    batch: bool = False


@dataclass(frozen=True)
class StepResult:
    """What was written.

    Attributes:
        output: the manifest.
        items: its lines.
        left_out: how many lines were left out, by kind.
        left_out_path: where the reasons are.
        notes: what else is to be told, a line each.
    """

    output: Path
    items: int
    left_out: Counter[str] = field(default_factory=Counter)
    left_out_path: Path | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.output}: {self.items} items"
        if self.left_out_path is not None:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self.left_out.most_common())
            text += f"; {self.left_out.total()} left out ({kinds}), reasons in {self.left_out_path}"
        return "\n".join([text, *self.notes])

    def noted(self, *notes: str) -> StepResult:
        return replace(self, notes=(*self.notes, *notes))


def work_of(line: Fields, field_name: str, data: Any = None) -> Work:
    """The work for the file that a line names.

    Raises:
        LeaveOut: the file is not there.
    """
    try:
        location = line.file(field_name)
        stamp = tuple(location.stamp())
    except (UserError, OSError) as error:
        raise LeaveOut("missing_file", str(error)) from None
    return Work(line.audio_id(), str(type(location)(location.path.absolute(), location.member)), data, stamp)


@contextmanager
def run_step_on(
    step: ManifestStep,
    pair: ManifestPair,
    options: Options,
    plan: Plan,
    check: Callable[[Fields], object] | None = None,
) -> Iterator[StepRun]:
    """Do a step's work on all lines; :meth:`StepRun.write` writes the outputs.

    Args:
        step: what is computed.
        pair: the lines.
        options: output, workers …
        plan: what is to be done for each line.
        check: raises ``UserError`` for a line that makes the whole manifest one of another kind, before any work.

    Raises:
        UserError: another run writes the output, or one would be replaced unasked.
    """
    targets = pair.targets_output(options.output, options.overwrite)
    folder = options.work_folder(step.name)
    refusal = f"another run of {step.name} writes {options.output} at this moment; wait for it, or end it"
    with locked(folder.with_suffix(".lock"), refusal=refusal):
        if check is not None:
            for line, _ in pair:
                check(line)
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(json.dumps(step.settings, sort_keys=True).encode()).hexdigest()
        write_json(folder / "settings.json", dict(step.settings))
        results = finish_items(
            _Worker(step.open, step.batch, str((folder / "settings.json").absolute()), digest),
            _planned(pair, plan),
            folder,
            made_from=(step.name, step.version, digest),
            chunk_items=step.chunk_items,
            description=step.description,
            workers=options.num_workers,
            progress=options.progress,
            total=len(pair),
        )
        yield StepRun(step, pair, options, results, targets)


def _planned(pair: ManifestPair, plan: Plan) -> Iterator[Work | LeftOut]:
    for line, target in pair:
        try:
            yield plan(line, target)
        except LeaveOut as reason:
            yield LeftOut(line.audio_id(), reason.kind, reason.reason)


@dataclass(frozen=True)
class _Worker:
    """A step's function in a worker process; settings may be large, so only the place of their file is sent."""

    open: Callable[[Any], Callable[[Any], Any]]
    batch: bool
    settings: str
    digest: str

    def __call__(self, works: Sequence[Work]) -> Any:
        function = _opened(self)
        return function(works) if self.batch else one_by_one(function, works)


@functools.lru_cache(maxsize=1)
def _opened(worker: _Worker) -> Callable[[Any], Any]:
    return worker.open(json.loads(Path(worker.settings).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class StepRun:
    """Work that is done: ``results`` has one entry per line of ``pair``, ``targets`` is the manifest of targets."""

    step: ManifestStep
    pair: ManifestPair
    options: Options
    results: Results
    targets: Any

    def kept(self) -> Iterator[tuple[Fields, Record]]:
        """The lines that can be used, with their new fields."""
        for row, result in enumerate(self.results.items()):
            if "record" in result:
                yield self.pair.line(row), result["record"]

    def write(self, finish: Callable[[Record, Record], Record] | None = None) -> StepResult:
        """Write the lines with their new fields, and the targets of these lines; paths stay right in another folder.

        Args:
            finish: changes the new fields of a line, given the line as it reads in the output's folder.

        Raises:
            UserError: too many lines left out (the reasons are written, no output).
        """
        kept, counts, reasons = self._left_out()
        total = len(self.pair)
        if too_many_left_out(counts.total(), total, self.options.max_left_out):
            kind, reason = next(result["left_out"] for result in self.results.items() if "left_out" in result)
            first = self.pair.line(int(np.flatnonzero(~kept)[0])).audio_id()
            raise UserError(
                f"{counts.total()} of {total} lines would be left out, reasons in {reasons}; the first, {first}: "
                f"{reason} ({kind}). Mend them, or allow more with --max-left-out"
            )
        output = self.options.output
        notes = []

        def lines() -> Iterator[Record]:
            for line, fields in self.kept():
                record = rebased(line.record, line.path.parent, output.parent)
                fields = fields if finish is None else finish(record, fields)
                record.update(fields)
                for name in [name for name, value in fields.items() if value is None]:
                    del record[name]
                yield record
            if self.targets is not None:  # they come first: the step is done when the lines are there
                notes.append(self.targets.write(kept))

        write_jsonl(output, lines())
        if self.pair.passed_over is not None:
            notes.append(f"{self.pair.passed_over} is no partner of {self.pair.content} and stays as it is")
        shutil.rmtree(self.options.work_folder(self.step.name))
        return StepResult(output, int(kept.sum()), counts, reasons, tuple(notes))

    def _left_out(self) -> tuple[np.ndarray, Counter[str], Path | None]:
        """Which lines are kept, how many are left out of each kind, and the file that was written of them."""
        kept = np.ones(len(self.pair), bool)
        counts: Counter[str] = Counter()
        output = self.options.output
        path = output.with_name(f"{output.stem}.{self.step.name}.left_out.jsonl")
        # What was taken out of a manifest that was its own output stands nowhere else.
        in_place = output.exists() and output.samefile(self.pair.content)
        before = [record for _, record in read_jsonl(path)] if in_place and path.is_file() else []
        earlier = [record for record in before if not self.pair.has(str(record.get("item")))]

        def entries() -> Iterator[Record]:
            yield from earlier
            for row, result in enumerate(self.results.items()):
                if "left_out" in result:
                    kept[row] = False
                    counts[result["left_out"][0]] += 1
                    line = self.pair.line(row)
                    entry = LeftOut(line.audio_id(), *result["left_out"]).record()
                    yield {**entry, "line": line.line, "content": line.record}

        write_jsonl(path, entries())
        if not counts and not earlier:
            path.unlink()
        return kept, counts, path if counts else None
