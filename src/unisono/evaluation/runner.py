"""From generated files to numbers and a page: `evaluate` measures every item, averages, and writes the report.

output_dir/
  report.html        opens by double click
  metrics.json       means, failures, and how each number is made
  items.jsonl        every number of every item
  audio/TASK/ITEM/*.flac, pictures/TASK/ITEM/*.png
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unisono.errors import UserError
from unisono.evaluation import retrieval
from unisono.evaluation.catalogue import default_metrics
from unisono.evaluation.measure import ItemResult, Job, Loaded, checked, load, measure_item
from unisono.evaluation.metric import CODED, MODEL, EvaluationItem, Metric, MetricCard, Outcome
from unisono.evaluation.report import write_report
from unisono.evaluation.summary import (
    Failure,
    Summary,
    TaskSummary,
    summarise_task,
    summary_as_dict,
    to_json,
    write_text,
)
from unisono.features.mel import MelFrontEnd

MAX_WORKERS = 16
_EVAL_EXTRA = "pip install 'unisono[eval]'"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def evaluate(
    items: Sequence[EvaluationItem],
    output_dir: Path,
    *,
    sample_rate: int,
    recode: Callable[[np.ndarray], np.ndarray] | None,
    history: Path | None,
    title: str,
    workers: int | None = None,
    progress: bool = True,
    facts: Mapping[str, str] | None = None,
) -> Summary:
    """Measure generated items and write the report.

    Whatever is wrong with one item (missing, silent, too long) becomes a counted failure of that item. The numbers do
    not depend on ``workers``.

    Args:
        items: what was generated; ``(task, audio_id)`` must be unique.
        output_dir: made if needed; files of an earlier evaluation are overwritten.
        sample_rate: Hz at which everything is compared; other files are resampled, and the report says so.
        recode: waveform ``(S,)`` float32 at ``sample_rate`` -> the same through the autoencoder and back; called in
            this process once per reference. None leaves that row out.
        history: the run's metrics.jsonl, for the loss curves.
        title: heading of the report.
        workers: processes to spawn; None means one per CPU core but one, at most 16; 0 measures in this process. With
            workers the calling script needs the usual ``if __name__ == "__main__":`` guard.
        progress: show a progress bar.
        facts: more lines for the report's "run" table, such as checkpoint or git revision.

    Raises:
        UserError: ids used twice, a negative number of workers, or a sample rate below 8 kHz.
    """
    check_items(items)
    num_workers = worker_count(workers, len(items))
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    metrics = default_metrics(sample_rate)
    unavailable, available = split_by_library(metrics, items)

    jobs = make_jobs(items, output_dir, sample_rate, available, recode)
    results = run_jobs(jobs, len(items), num_workers, progress)
    add_retrieval(items, results)

    cards = used_cards(metrics, sample_rate, results)
    summary = Summary(
        title=title,
        sample_rate=sample_rate,
        tasks=summarise_tasks(items, results, cards),
        cards=cards,
        unavailable=unavailable,
        failures=tuple(collect_failures(items, results)),
        report=output_dir / "report.html",
        metrics_file=output_dir / "metrics.json",
        items_file=output_dir / "items.jsonl",
    )
    write_numbers(summary, items, results)
    write_report(summary, items, results, history, facts or {})
    return summary


def summarise_tasks(
    items: Sequence[EvaluationItem], results: Sequence[ItemResult], cards: Mapping[str, MetricCard]
) -> dict[str, TaskSummary]:
    """Means per task, in the order in which the tasks come first."""
    tasks = {}
    for task in dict.fromkeys(item.task for item in items):
        of_task = [result.outcomes for item, result in zip(items, results, strict=True) if item.task == task]
        tasks[task] = summarise_task(of_task, cards)
    return tasks


def write_numbers(summary: Summary, items: Sequence[EvaluationItem], results: Sequence[ItemResult]) -> None:
    """``items.jsonl`` and ``metrics.json``."""
    lines = (to_json(item_record(item, result)) + "\n" for item, result in zip(items, results, strict=True))
    write_text(summary.items_file, "".join(lines))
    write_text(summary.metrics_file, to_json(summary_as_dict(summary), indent=2) + "\n")


def check_items(items: Sequence[EvaluationItem]) -> None:
    """Ids name files and join results: each must be unique within its task."""
    seen: set[tuple[str, str]] = set()
    for item in items:
        key = (item.task, item.audio_id)
        if key in seen:
            raise UserError(f"audio_id {item.audio_id!r} of task {item.task} is given twice; evaluate each item once")
        seen.add(key)


def split_by_library(metrics: Iterable[Metric], items: Sequence[EvaluationItem]) -> tuple[dict[str, str], list[Metric]]:
    """Metrics that cannot run here (name -> reason; only those some item wants), and those that can."""
    unavailable, available = {}, []
    for metric in metrics:
        library = metric.missing_library()
        if library is None:
            available.append(metric)
        elif any(metric.applies_to(item) for item in items):
            unavailable[metric.card.name] = f"{library} is not installed: {_EVAL_EXTRA}"
    return unavailable, available


def worker_count(workers: int | None, n_items: int) -> int:
    """How many processes to spawn; see ``evaluate``."""
    if workers is not None and workers < 0:
        raise UserError(
            f"workers is {workers}; use 0 (no extra process), a positive number, or none for one per core but one"
        )
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # One core stays for this process, which codes the references: torch's threads spin when they have to share.
        workers = min(max(1, cores - 1), MAX_WORKERS)
    return min(workers, n_items)


def folder_names(items: Sequence[EvaluationItem]) -> list[str]:
    """``TASK/ITEM`` for every item: letters, digits, "-" and "_" only, so that any file system and any URL takes it.

    An id that had to be changed carries a hash of the original, and so do ids that would differ in case alone.
    """
    taken: set[str] = set()
    names = []
    for item in items:
        task, name = safe_name(item.task), safe_name(item.audio_id)
        if f"{task}/{name}".casefold() in taken:
            name = f"{name}-{short_hash(item.audio_id)}"
        assert f"{task}/{name}".casefold() not in taken, "two ids with one hash"
        taken.add(f"{task}/{name}".casefold())
        names.append(f"{task}/{name}")
    return names


def safe_name(text: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:60]
    # Windows cannot have files of these names.
    reserved = re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", plain)
    return plain if plain == text and not reserved else f"{plain}-{short_hash(text)}"


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:12]


def make_jobs(
    items: Sequence[EvaluationItem],
    output_dir: Path,
    sample_rate: int,
    metrics: Sequence[Metric],
    recode: Callable[[np.ndarray], np.ndarray] | None,
) -> Iterator[Job]:
    """One job per item, made when it is asked for: the autoencoder runs here while the workers measure."""
    for item, folder in zip(items, folder_names(items), strict=True):
        coded = None
        if recode is not None and item.reference is not None:
            try:
                coded = code_reference(load(item.reference, sample_rate), recode)
            except Exception as error:
                error.add_note(f"while coding the reference of {item.task} {item.audio_id!r}")
                raise
        yield Job(
            item=item,
            folder=folder,
            output_dir=output_dir,
            sample_rate=sample_rate,
            metrics=tuple(metric for metric in metrics if metric.applies_to(item)),
            coded=coded,
            with_statistics=item.task in retrieval.TASKS,
        )


def code_reference(reference: Loaded, recode: Callable[[np.ndarray], np.ndarray]) -> Loaded:
    if reference.waveform is None:
        return Loaded(None, f"reference: {reference.problem}")
    return checked(np.asarray(recode(reference.waveform)), [])


def run_jobs(jobs: Iterable[Job], total: int, workers: int, progress: bool) -> list[ItemResult]:
    """Results in the order of the jobs; at most two jobs per worker wait, so that memory stays bounded."""
    bar = tqdm(total=total, desc="evaluate", unit="item", disable=not progress)
    results: dict[int, ItemResult] = {}
    with bar:
        if workers == 0:
            for i, job in enumerate(jobs):
                results[i] = measure_item(job)
                bar.update()
            return [results[i] for i in range(len(results))]
        # Spawn: forking a process that holds torch and its threads may hang.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            pending: dict[Future[ItemResult], int] = {}
            try:
                for i, job in enumerate(jobs):
                    if len(pending) >= 2 * workers:
                        collect(pending, results, bar)
                    with single_threaded_children():
                        pending[pool.submit(measure_item, job)] = i
                while pending:
                    collect(pending, results, bar)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [results[i] for i in range(len(results))]


def collect(pending: dict[Future[ItemResult], int], results: dict[int, ItemResult], bar: tqdm) -> None:
    """Wait for at least one job and take its result; an error in a worker is raised here."""
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        results[pending.pop(future)] = future.result()
        bar.update()


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


def add_retrieval(items: Sequence[EvaluationItem], results: Sequence[ItemResult]) -> None:
    """Add the retrieval metrics to the outcomes; they need all items of a task at once."""
    for task in retrieval.TASKS:
        of_task = [(i, r) for i, r in zip(items, results, strict=True) if i.task == task]
        references = {
            item.audio_id: retrieval.Candidate(item.content_text, result.statistics["reference"])
            for item, result in of_task
            if "reference" in result.statistics
        }
        for item, result in of_task:
            for row in (MODEL, CODED):
                if row in result.outcomes:
                    result.outcomes[row].update(retrieval_outcomes(row, item, result, references))


def retrieval_outcomes(
    row: str, item: EvaluationItem, result: ItemResult, references: Mapping[str, retrieval.Candidate]
) -> dict[str, Outcome]:
    """The three retrieval numbers of one row of one item, or one reason for all three."""
    names = tuple(retrieval.retrieval_values(retrieval.Rank(1, 1)))
    if item.reference is None:
        return dict.fromkeys(names, Outcome("not_applicable", reason="the item has no reference"))
    if item.audio_id not in references:
        problem = f"reference: {result.clips['reference'].problem}"
        return dict.fromkeys(names, Outcome("failed", reason=problem))
    if row not in result.statistics:
        return dict.fromkeys(names, Outcome("failed", reason=result.clips[row].problem))
    rank = retrieval.rank_own_reference(result.statistics[row], item.audio_id, references)
    if rank.candidates < 2:
        return dict.fromkeys(names, Outcome("not_applicable", reason="no other reference with another text"))
    return {name: Outcome("ok", value) for name, value in retrieval.retrieval_values(rank).items()}


def used_cards(metrics: Iterable[Metric], sample_rate: int, results: Sequence[ItemResult]) -> dict[str, MetricCard]:
    """Cards of the metrics that some item has an outcome of, in the order of the columns."""
    cards = [metric.card for metric in metrics]
    # Retrieval stands before the durations, which are no quality of the sound.
    place = next((i for i, card in enumerate(cards) if card.name.startswith("duration")), len(cards))
    cards[place:place] = retrieval.retrieval_cards(MelFrontEnd.for_rate(sample_rate))
    used = {name for result in results for by_metric in result.outcomes.values() for name in by_metric}
    return {card.name: card for card in cards if card.name in used}


def collect_failures(items: Sequence[EvaluationItem], results: Sequence[ItemResult]) -> Iterator[Failure]:
    for item, result in zip(items, results, strict=True):
        for row, by_metric in result.outcomes.items():
            for metric, outcome in by_metric.items():
                if outcome.status == "failed":
                    yield Failure(item.task, item.audio_id, row, metric, outcome.reason)


def item_record(item: EvaluationItem, result: ItemResult) -> dict[str, Any]:
    """One line of items.jsonl; files relative to the output folder, a number or null with the reason beside it."""
    reasons = {
        row: {name: f"{o.status}: {o.reason}" for name, o in by_metric.items() if o.value is None}
        for row, by_metric in result.outcomes.items()
    }
    return {
        "audio_id": item.audio_id,
        "task": item.task,
        "instruction": item.instruction,
        "content_text": item.content_text,
        "predicted_duration_s": item.predicted_duration_s,
        "true_duration_s": item.true_duration_s,
        "metrics": {row: {name: o.value for name, o in named.items()} for row, named in result.outcomes.items()},
        "without_value": {row: named for row, named in reasons.items() if named},
        "clips": {key: asdict(clip) for key, clip in result.clips.items()},
        "details": item.details,
    }
