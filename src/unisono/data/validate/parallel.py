"""Jobs over processes that survive what they read: a decoder that crashes is a finding, not the end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from unisono.workers import worker_pool

JobT = TypeVar("JobT")
Result = dict[str, Any]

CRASHED: Result = {"crashed": True}
_CHUNK = 8
_FEW_JOBS = 16  # not worth starting processes for


def run_jobs(
    function: Callable[[JobT], Result], jobs: Iterable[JobT], workers: int, few: int = _FEW_JOBS
) -> Iterator[tuple[JobT, Result]]:
    """Yield ``(job, function(job))`` as they are done, or ``CRASHED`` where the job killed its process.

    Args:
        function: of a module; raises nothing.
        jobs: read as processes become free.
        workers: processes; 1 works in this one.
        few: no more jobs than these are done in this process as well.
    """
    jobs = iter(jobs)
    first = list(itertools.islice(jobs, few + 1))
    if workers <= 1 or len(first) <= few:
        for job in itertools.chain(first, jobs):
            yield job, function(job)
        return
    chunks = _chunks(itertools.chain(first, jobs))
    while True:
        suspects: list[JobT] = []
        yield from _run_pool(function, chunks, workers, suspects)
        if not suspects:
            return
        yield from _run_singly(function, suspects)


def _chunks(jobs: Iterator[JobT]) -> Iterator[list[JobT]]:
    while chunk := list(itertools.islice(jobs, _CHUNK)):
        yield chunk


def _run_chunk(function: Callable[[JobT], Result], chunk: Sequence[JobT]) -> list[Result]:
    return [function(job) for job in chunk]


def _run_pool(
    function: Callable[[JobT], Result], chunks: Iterator[list[JobT]], workers: int, suspects: list[JobT]
) -> Iterator[tuple[JobT, Result]]:
    """Until all are done, or the pool breaks: ``suspects`` then has the jobs that were under way."""
    running: dict[Future, list[JobT]] = {}
    with worker_pool(workers) as pool:
        try:
            while True:
                for chunk in itertools.islice(chunks, 3 * workers - len(running)):
                    try:
                        running[pool.submit(_run_chunk, function, chunk)] = chunk
                    except BrokenProcessPool:
                        suspects.extend(chunk)
                        raise
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    results = future.result()
                    yield from zip(running.pop(future), results, strict=True)
        except BrokenProcessPool:
            for future, chunk in running.items():
                if future.done() and future.exception() is None:
                    yield from zip(chunk, future.result(), strict=True)
                else:
                    suspects.extend(chunk)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _run_singly(function: Callable[[JobT], Result], jobs: Sequence[JobT]) -> Iterator[tuple[JobT, Result]]:
    """Each alone, so that it is known which one kills its process."""
    waiting = list(jobs)
    while waiting:
        with worker_pool(1) as pool:
            while waiting:
                job = waiting.pop(0)
                try:
                    result = pool.submit(function, job).result()
                except BrokenProcessPool:
                    yield job, CRASHED
                    break
                yield job, result
