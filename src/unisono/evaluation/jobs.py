"""Items through worker processes: in order, with bounded memory, and past an item that takes its process down."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

from unisono.errors import UserError
from unisono.evaluation.items import CODED, INPUT, MODEL, REFERENCE
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


def run_jobs(jobs: Iterable[Job], total: int, workers: int, progress: bool) -> list[ItemResult]:
    """Results in the order of the jobs; at most two jobs per worker wait, so that memory stays bounded.

    A job whose process dies is tried once more alone; where it dies again, all its numbers are failures.
    """
    results: dict[int, ItemResult] = {}
    with tqdm(total=total, desc="measure", unit="item", disable=not progress) as bar:
        if workers == 0:
            for i, job in enumerate(jobs):
                results[i] = measured(job)
                bar.update()
        else:
            numbered = enumerate(jobs)
            while unfinished := _run_pool(numbered, results, workers, bar):
                for i, job in unfinished:
                    results[i] = _alone(job)
                    bar.update()
    return [results[i] for i in range(len(results))]


def _run_pool(
    jobs: Iterator[tuple[int, Job]], results: dict[int, ItemResult], workers: int, bar: tqdm
) -> list[tuple[int, Job]]:
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
                    return [*_rest(pending, results, bar), (i, job)]
            if len(pending) >= 2 * workers and not _collect(pending, results, bar):
                return _rest(pending, results, bar)
        while pending:
            if not _collect(pending, results, bar):
                return _rest(pending, results, bar)
        return []
    except BaseException:  # Ctrl-C above all: the workers do not hear it, and would end their items first
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=not pending, cancel_futures=True)


def _collect(pending: dict[Future[ItemResult], tuple[int, Job]], results: dict[int, ItemResult], bar: tqdm) -> bool:
    """Wait for at least one job and take its result; False where its process died."""
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        if isinstance(future.exception(), BrokenProcessPool):
            return False
        results[pending.pop(future)[0]] = future.result()
        bar.update()
    return True


def _rest(
    pending: dict[Future[ItemResult], tuple[int, Job]], results: dict[int, ItemResult], bar: tqdm
) -> list[tuple[int, Job]]:
    """Jobs of a broken pool that have no result; those that ended well are taken."""
    unfinished = []
    for future, (i, job) in list(pending.items()):
        if future.done() and not future.cancelled() and future.exception() is None:
            results[i] = future.result()
            bar.update()
        else:
            unfinished.append((i, job))
    return unfinished


def _alone(job: Job) -> ItemResult:
    with single_threaded_children(), worker_pool(1) as pool:
        try:
            return pool.submit(measured, job).result()
        except BrokenProcessPool:
            logger.error("%s %r: %s", job.item.task, job.item.audio_id, _DIED)
    return _lost(job, _DIED)


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


@contextlib.contextmanager
def single_threaded_torch() -> Iterator[None]:
    """One thread for torch in this process: the others have workers, and torch's threads spin while they wait."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
