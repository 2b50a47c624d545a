"""Many small jobs over several processes, each done once even if the run is killed in between."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from unisono.errors import UserError
from unisono.files import write_json
from unisono.workers import worker_pool


class Job(Protocol):
    """What a step works on; ``job_id`` names it among the jobs of its step and may be used as a file name."""

    @property
    def job_id(self) -> str: ...


JobT = TypeVar("JobT", bound=Job)
Record = dict[str, Any]


def run_step(
    function: Callable[[JobT], Record],
    jobs: Sequence[JobT],
    records: Path,
    *,
    description: str,
    workers: int,
    progress: bool,
) -> list[Record]:
    """Run ``function`` on every job that has no record yet, and return all records in the order of ``jobs``.

    The arguments are those of :func:`finish_jobs`.
    """
    paths = finish_jobs(function, jobs, records, description=description, workers=workers, progress=progress)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def finish_jobs(
    function: Callable[[JobT], Record],
    jobs: Sequence[JobT],
    records: Path,
    *,
    description: str,
    workers: int,
    progress: bool,
    size: Callable[[JobT], int] = lambda job: 1,
) -> list[Path]:
    """Run ``function`` on every job that has no record yet; the records stay on disk, for steps of many jobs.

    Args:
        function: a module-level function; returns what JSON can hold, after its files are written.
        jobs: with distinct ids.
        records: folder of the results, one file per job. A job's file is written when the job is done.
        description: of the progress bar.
        workers: processes; 1 works in this one.
        progress: show a bar.
        size: how far a job moves the bar.

    Returns:
        The records' files in the order of ``jobs``.
    """
    paths = [records / f"{job.job_id}.json" for job in jobs]
    assert len(set(paths)) == len(paths), f"job ids of {description} are not unique"
    records.mkdir(parents=True, exist_ok=True)
    waiting = [(job, path) for job, path in zip(jobs, paths, strict=True) if not path.is_file()]
    total, left = sum(map(size, jobs)), sum(size(job) for job, _ in waiting)
    with tqdm(total=total, initial=total - left, desc=description, disable=not progress) as bar:
        if workers <= 1 or len(waiting) <= 1:
            for job, path in waiting:
                write_json(path, function(job))
                bar.update(size(job))
        else:
            _run_parallel(function, waiting, min(workers, len(waiting)), bar, size)
    return paths


def _run_parallel(
    function: Callable[[JobT], Record],
    waiting: list[tuple[JobT, Path]],
    workers: int,
    bar: tqdm,
    size: Callable[[JobT], int],
) -> None:
    with worker_pool(workers) as pool:
        futures = {pool.submit(function, job): (path, size(job)) for job, path in waiting}
        try:
            for future in as_completed(futures):
                path, done = futures.pop(future)  # a result is not kept longer than it takes to write it
                write_json(path, future.result())
                bar.update(done)
        except BrokenProcessPool as error:
            raise UserError(
                f"{bar.desc}: a worker process was killed ({error}), perhaps for want of memory; "
                "what is done is kept: give the same command again, with fewer --workers"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
