"""Many small jobs over several processes, each done once even if the run is killed in between.

Recipes and steps hand over their items; a chunk of items is a job, whose result is appended to one file of records
under a name that depends on everything it was made from. A run that was killed finds there what is done, and nothing
stale is used. Neither items nor results are all in memory at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from unisono.data.prepare.records import Record, RecordFile, Results
from unisono.errors import UserError
from unisono.workers import worker_pool

_WAITING_PER_WORKER = 4
"""Jobs that are handed out at once: enough that no worker waits, few enough for memory."""


class Job(Protocol):
    """What is done at once; ``job_id`` names it among the jobs of its step and has no white space but blanks."""

    @property
    def job_id(self) -> str: ...


JobT = TypeVar("JobT", bound=Job)
ItemT = TypeVar("ItemT")


class LeaveOut(Exception):
    """Raised while an item is looked at or worked on: it cannot be used. ``kind`` is a word to count by."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An item that cannot be used.

    Attributes:
        item: its id, or the file or line where it should have been.
        kind: a word to count by, such as ``missing_audio``.
        reason: what was found, in words.
    """

    item: str
    kind: str
    reason: str

    def record(self) -> Record:
        return {"item": self.item, "kind": self.kind, "reason": self.reason}


def check_run_options(workers: int | None, max_left_out: float) -> None:
    """Raise :class:`UserError` for a number of processes or a share that is none."""
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; give a whole number of at least 1")
    if not 0 <= max_left_out <= 1:
        raise UserError(f"max_left_out is {max_left_out}; give a share from 0 to 1")


def too_many_left_out(left_out: int, total: int, max_left_out: float) -> bool:
    """Whether more than the share is left out, or nothing is left."""
    return left_out > max_left_out * total or left_out >= total


# -- items ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunk(Generic[ItemT]):
    """Items that one job works on.

    Attributes:
        job_id: changes with the items and with what is done to them.
        function: the record of each item, or its ``LeftOut``; sent to other processes.
        items: what is to be worked on, and what turned out before to be of no use.
    """

    job_id: str
    function: Callable[[Sequence[ItemT]], Iterable[Record | LeftOut]]
    items: tuple[ItemT | LeftOut, ...]


def finish_items(
    function: Callable[[Sequence[ItemT]], Iterable[Record | LeftOut]],
    items: Iterable[ItemT | LeftOut],
    folder: Path,
    *,
    made_from: Any,
    chunk_items: int,
    description: str,
    workers: int,
    progress: bool,
    total: int,
) -> Results:
    """Work on items, as far as that was not done before; :meth:`Results.items` has one result for each, in order.

    Args:
        function: of some items at once, such as ``partial(one_by_one, function_of_one)``; can be sent to processes.
        items: with a ``repr`` that tells all that their records depend on.
        folder: of the file of records.
        made_from: what else records depend on; ``repr`` again.
        chunk_items: so many are remembered as done at once.
        description, workers, progress: as for :func:`finish_jobs`.
        total: number of items.
    """
    jobs = _chunks(function, items, chunk_items, repr(made_from).encode())
    return finish_jobs(
        work_on_chunk,
        jobs,
        folder,
        description=description,
        workers=workers,
        progress=progress,
        total=total,
        size=lambda chunk: len(chunk.items),
    )


def _chunks(
    function: Callable[[Sequence[ItemT]], Iterable[Record | LeftOut]],
    items: Iterable[ItemT | LeftOut],
    chunk_items: int,
    made_from: bytes,
) -> Iterator[Chunk[ItemT]]:
    remaining = iter(items)
    while some := tuple(islice(remaining, chunk_items)):
        digest = hashlib.sha256(made_from + repr(some).encode("utf-8", "surrogatepass")).hexdigest()
        yield Chunk(digest[:32], function, some)


def work_on_chunk(chunk: Chunk[Any]) -> Record:
    """``results``, one per item: its ``record``, or why it is ``left_out`` (kind, reason)."""
    usable = [item for item in chunk.items if not isinstance(item, LeftOut)]
    worked = iter(chunk.function(usable) if usable else ())
    results: list[Record] = []
    for item in chunk.items:
        result = item if isinstance(item, LeftOut) else next(worked)
        if isinstance(result, LeftOut):
            results.append({"left_out": [result.kind, result.reason]})
        else:
            results.append({"record": result})
    return {"results": results}


def one_by_one(function: Callable[[ItemT], Record], items: Iterable[ItemT]) -> Iterator[Record | LeftOut]:
    """The record of each item; what is raised as ``LeaveOut`` or ``UserError`` leaves the item out.

    Raises:
        RuntimeError: anything else that is raised, with the item.
    """
    for item in items:
        name = getattr(item, "audio_id", "")
        try:
            yield function(item)
        except LeaveOut as reason:
            yield LeftOut(name, reason.kind, reason.reason)
        except UserError as error:
            yield LeftOut(name, "unreadable", str(error))
        except Exception as error:
            raise RuntimeError(f"{item}: {type(error).__name__}: {error}") from error


# -- jobs -------------------------------------------------------------------------------------------------------------


def run_step(
    function: Callable[[JobT], Record],
    jobs: Sequence[JobT],
    folder: Path,
    *,
    description: str,
    workers: int,
    progress: bool,
) -> list[Record]:
    """Run ``function`` on every job that has no record yet, and return all records in the order of ``jobs``.

    The arguments are those of :func:`finish_jobs`.
    """
    total = len(jobs)
    return list(
        finish_jobs(function, jobs, folder, description=description, workers=workers, progress=progress, total=total)
    )


def finish_jobs(
    function: Callable[[JobT], Record],
    jobs: Iterable[JobT],
    folder: Path,
    *,
    description: str,
    workers: int,
    progress: bool,
    total: int,
    size: Callable[[JobT], int] = lambda job: 1,
) -> Results:
    """Run ``function`` on every job that has no record yet; the records stay on disk, for steps of many jobs.

    Args:
        function: a module-level function; returns what JSON can hold, after its files are written.
        jobs: with distinct ids; taken as they are needed.
        folder: of the file of records, of one run at a time. A job's record is appended when the job is done.
        description: of the progress bar.
        workers: processes; 1 works in this one.
        progress: show a bar.
        total: length of the bar.
        size: how far a job moves the bar.

    Returns:
        The records in the order of ``jobs``.
    """
    order: list[str] = []
    with RecordFile(folder) as records, tqdm(total=total, desc=description, disable=not progress) as bar:

        def missing() -> Iterator[JobT]:
            for job in jobs:
                order.append(job.job_id)
                if job.job_id in records:
                    if progress:
                        bar.initial += size(job)  # else the rate would count it
                    bar.update(size(job))
                else:
                    yield job

        def done(job: JobT, record: Record) -> None:
            records.add(job.job_id, record)
            bar.update(size(job))

        waiting = missing()
        first = list(islice(waiting, 2))
        if workers <= 1 or len(first) <= 1:
            for job in chain(first, waiting):
                done(job, function(job))
        else:
            try:
                _run_parallel(function, chain(first, waiting), workers, done)
            except BrokenProcessPool as error:
                raise UserError(
                    f"{description}: a worker process was killed ({error}), perhaps for want of memory; "
                    "what is done is kept: give the same command again, with fewer --workers"
                ) from error
        assert len(set(order)) == len(order), f"job ids of {description} are not unique"
        return records.results(order)


def _run_parallel(
    function: Callable[[JobT], Record],
    jobs: Iterator[JobT],
    workers: int,
    done: Callable[[JobT, Record], None],
) -> None:
    with worker_pool(workers) as pool:
        running: dict[Future[Record], JobT] = {}
        try:
            for job in jobs:
                running[pool.submit(function, job)] = job
                if len(running) >= workers * _WAITING_PER_WORKER:
                    _collect(running, done)
            while running:
                _collect(running, done)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _collect(running: dict[Future[Record], JobT], done: Callable[[JobT, Record], None]) -> None:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        done(running.pop(future), future.result())
