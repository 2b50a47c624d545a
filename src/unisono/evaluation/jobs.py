"""Items through worker processes: in order, with bounded memory, and past an item that takes its process down."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from tqdm import tqdm

from unisono.errors import UserError
from unisono.evaluation.items import CODED, INPUT, MODEL, REFERENCE
from unisono.evaluation.journal import Journal
from unisono.evaluation.measure import ClipResult, ItemResult, Job, measure_item
from unisono.evaluation.metric import BUG, Outcome
from unisono.workers import default_workers, worker_pool

MAX_WORKERS = 16
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_DIED = "measuring it ended its process (out of memory, or a crash in a library)"

logger = logging.getLogger(__name__)


def worker_count(workers: int | None, n_items: int) -> int:
    """How many processes to spawn, no more than items: as asked for; None means one per core, at most 16."""
    if workers is not None and workers < 0:
        raise UserError(f"workers is {workers}; use 0 (no extra process), a positive number, or none for one per core")
    if workers is None:
        workers = min(default_workers(), MAX_WORKERS)
    return min(workers, n_items)


@dataclass
class _Finished:
    """Results by the number of their job, told to the journal and the progress bar as they come."""

    bar: tqdm
    journal: Journal
    results: dict[int, ItemResult] = field(default_factory=dict)
    recalled: int = 0

    def unmeasured(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Job]]:
        """The jobs that an evaluation which was interrupted did not get to; the results of the others are taken."""
        for i, job in enumerate(jobs):
            result = self.journal.recall(job)
            if result is None:
                yield i, job
            else:
                self.recalled += 1
                self.take(i, result)

    def measured(self, i: int, job: Job, result: ItemResult) -> None:
        self.journal.keep(job, result)
        self.take(i, result)

    def take(self, i: int, result: ItemResult) -> None:
        self.results[i] = result
        self.bar.update()


def run_jobs(jobs: Iterable[Job], total: int, workers: int, progress: bool, journal: Journal) -> list[ItemResult]:
    """Results in the order of the jobs; at most two jobs per worker wait, so that memory stays bounded.

    What the journal knows is not measured again. A job whose process dies is tried once more alone; where it dies
    again, all its numbers are failures.
    """
    with tqdm(total=total, desc="measure", unit="item", disable=not progress) as bar:
        finished = _Finished(bar, journal)
        numbered = finished.unmeasured(jobs)
        try:
            _run(numbered, finished, workers)
        except KeyboardInterrupt:
            logger.warning("interrupted at %d of %d items; given again, it goes on there", len(finished.results), total)
            raise
    if finished.recalled:
        logger.warning(
            "%d of %d items had been measured before an interruption; they were not measured again",
            finished.recalled,
            total,
        )
    return [finished.results[i] for i in range(len(finished.results))]


def _run(numbered: Iterator[tuple[int, Job]], finished: _Finished, workers: int) -> None:
    if workers == 0:
        for i, job in numbered:
            finished.measured(i, job, measured(job))
        return
    while unfinished := _run_pool(numbered, finished, workers):
        for i, job in unfinished:
            if (result := _alone(job)) is not None:
                finished.measured(i, job, result)
            else:
                finished.take(i, _lost(job, _DIED))


def _run_pool(jobs: Iterator[tuple[int, Job]], finished: _Finished, workers: int) -> list[tuple[int, Job]]:
    """Work through ``jobs`` until they end or a process dies; returns those that were under way then."""
    pending: dict[Future[ItemResult], tuple[int, Job]] = {}
    others = set(multiprocessing.active_children())
    pool = worker_pool(workers)
    try:
        for i, job in jobs:
            with single_threaded_children():
                try:
                    pending[pool.submit(measured, job)] = (i, job)
                except BrokenProcessPool:
                    return [*_rest(pending, finished), (i, job)]
            if len(pending) >= 2 * workers and not _collect(pending, finished):
                return _rest(pending, finished)
        while pending:
            if not _collect(pending, finished):
                return _rest(pending, finished)
        return []
    except BaseException:  # Ctrl-C above all: the workers do not hear it, and would end their items first
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=not pending, cancel_futures=True)


def _collect(pending: dict[Future[ItemResult], tuple[int, Job]], finished: _Finished) -> bool:
    """Wait for at least one job and take its result; False where its process died."""
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        if isinstance(future.exception(), BrokenProcessPool):
            return False
        finished.measured(*pending.pop(future), future.result())
    return True


def _rest(pending: dict[Future[ItemResult], tuple[int, Job]], finished: _Finished) -> list[tuple[int, Job]]:
    """Jobs of a broken pool that have no result; those that ended well are taken."""
    unfinished = []
    for future, numbered in list(pending.items()):
        if future.done() and not future.cancelled() and future.exception() is None:
            finished.measured(*numbered, future.result())
        else:
            unfinished.append(numbered)
    return unfinished


def _alone(job: Job) -> ItemResult | None:
    """The result from a process of its own; None if that died too."""
    with single_threaded_children(), worker_pool(1) as pool:
        try:
            return pool.submit(measured, job).result()
        except BrokenProcessPool:
            logger.error("%s %r: %s", job.item.task, job.item.audio_id, _DIED)
            return None


def measured(job: Job) -> ItemResult:
    """`measure_item`; an exception outside the metrics (memory, disk, a codec) costs this item alone."""
    try:
        return measure_item(job)
    except (UserError, OSError):
        raise  # a full disk: nothing after it could be written either
    except Exception as error:
        logger.exception("%s %r could not be measured", job.item.task, job.item.audio_id)
        return _lost(job, f"{BUG} ({type(error).__name__}: {error})")


def _lost(job: Job, reason: str) -> ItemResult:
    """All numbers of an item as failures."""
    present = [(MODEL, True), (CODED, job.coded is not None), (INPUT, job.item.input_audio is not None)]
    failed = {card.name: Outcome("failed", reason=reason) for metric in job.metrics for card in metric.cards}
    outcomes = {row: dict(failed) for row, there in present if there}
    clips = {key: ClipResult(problem=reason) for key in outcomes}
    if job.item.reference is not None:
        clips[REFERENCE] = ClipResult(problem=reason)
    return ItemResult(outcomes=outcomes, clips=clips, span_s=1.0)


@contextlib.contextmanager
def single_threaded_children() -> Iterator[None]:
    """Processes started within get one BLAS thread each: one worker per core is enough for all cores."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
