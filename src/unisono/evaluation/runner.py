"""From generated files to numbers and a page: `evaluate` measures every item, averages, and writes the report.

output_dir/
  report.html        opens by double click
  metrics.json       means, failures, and how each number is made
  items.jsonl        every number of every item
  audio/TASK/ITEM/*.flac, pictures/TASK/ITEM/*.png
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unisono.errors import UserError
from unisono.evaluation.catalogue import AnyMetric, metric_names, metrics_of
from unisono.evaluation.collection import CollectionMetric
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.jobs import MAX_WORKERS, run_jobs, worker_count
from unisono.evaluation.journal import Journal, remove_journal
from unisono.evaluation.measure import ItemResult, Job, Loaded, checked, load
from unisono.evaluation.metric import BUG, Metric, MetricCard
from unisono.evaluation.networks.cached import default_cache
from unisono.evaluation.output_folder import folder_names, remove_results, written
from unisono.evaluation.report.page import write_report
from unisono.evaluation.results import ITEMS_FILE, METRICS_FILE, REPORT_FILE, collect_failures, write_results
from unisono.evaluation.summary import Summary, TaskSummary, summarise_task
from unisono.evaluation.task_metrics import LoadedNetworks, TaskNumbers, load_networks, run_task_metrics
from unisono.media.audio import check_sample_rate
from unisono.suggest import nearest
from unisono.threads import one_thread
from unisono.workers import default_workers

logger = logging.getLogger(__name__)

Recode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What an evaluation measures, and with what.

    Attributes:
        sample_rate: Hz at which everything is compared; other files are resampled, and the report says so.
        metrics: names of those wanted; None for all of the task.
        skip: names of those left out.
        networks: weights by network (`unisono.evaluation.networks.table`).
        device: torch device of the networks.
        cache: folder of what the networks heard; None keeps nothing.
        workers: processes that measure; None for one per core, 0 to measure in this process. With workers the calling
            script needs the usual ``if __name__ == "__main__":`` guard.
        progress: show progress bars.
    """

    sample_rate: int = 24_000
    metrics: Sequence[str] | None = None
    skip: Sequence[str] = ()
    networks: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    cache: Path | None = field(default_factory=default_cache)
    workers: int | None = None
    progress: bool = True


def evaluate(
    items: Sequence[EvaluationItem],
    output_dir: Path,
    settings: Settings,
    *,
    title: str,
    recode: Recode | None = None,
    reference_set: Sequence[Path] = (),
    history: Path | None = None,
    facts: Mapping[str, str] | None = None,
) -> Summary:
    """Measure generated items and write the report.

    Whatever is wrong with one item (missing, silent, too long) becomes a counted failure of that item. The numbers do
    not depend on the number of workers.

    Args:
        items: what was generated; ``(task, audio_id)`` must be unique.
        output_dir: made if needed; an earlier evaluation in it is replaced. Where one was interrupted, the items
            that it measured are not measured again (`unisono.evaluation.journal`).
        settings: what to measure, and with what.
        title: heading of the report.
        recode: waveform ``(S,)`` float32 at the sample rate -> the same through the autoencoder and back; called in
            this process once per reference. None leaves that row out.
        reference_set: recordings that stand for the reference of Fréchet and kernel distances without belonging to an
            item.
        history: the run's metrics.jsonl, for the loss curves.
        facts: more lines for the report's "run" table, such as checkpoint or git revision.

    Raises:
        UserError: no items, ids used twice, settings out of range, weights that cannot be loaded.
    """
    check_items(items)
    check_sample_rate(settings.sample_rate, "sample_rate")
    num_workers = worker_count(settings.workers, len(items))
    wanted = wanted_metrics(settings, items)
    of_tasks = [metric for metric in wanted if isinstance(metric, CollectionMetric)]
    networks = load_networks(of_tasks, settings.networks, settings.device, settings.cache)
    output_dir = Path(output_dir)
    with written(output_dir):
        remove_results(output_dir)
        results, heard = _measured(items, output_dir, settings, wanted, networks, num_workers, recode, reference_set)
        drop_unasked(results, heard, settings)
        cards = used_cards(wanted, heard, results, settings.sample_rate)
        tasks = summarise_tasks(items, results, cards, heard)
        shown = {*cards, *networks.cached}
        summary = Summary(
            title=title,
            sample_rate=settings.sample_rate,
            tasks=tasks,
            cards=cards,
            unavailable=unavailable(wanted, networks, heard),
            failures=(*collect_failures(items, results, tasks), *(f for f in heard.unheard if f.metric in shown)),
            report=output_dir / REPORT_FILE,
            metrics_file=output_dir / METRICS_FILE,
            items_file=output_dir / ITEMS_FILE,
        )
        write_results(summary, items, results)
        write_report(summary, items, results, history, facts or {})
        remove_journal(output_dir)
    return summary


def _measured(
    items: Sequence[EvaluationItem],
    output_dir: Path,
    settings: Settings,
    wanted: Sequence[AnyMetric],
    networks: LoadedNetworks,
    num_workers: int,
    recode: Recode | None,
    reference_set: Sequence[Path],
) -> tuple[list[ItemResult], TaskNumbers]:
    """First single items, in worker processes; then whole tasks through networks, in this one."""
    of_items = [metric for metric in wanted if isinstance(metric, Metric)]
    of_tasks = [metric for metric in wanted if isinstance(metric, CollectionMetric)]
    jobs = make_jobs(items, output_dir, settings.sample_rate, of_items, recode)
    results = run_jobs(jobs, len(items), num_workers, settings.progress, Journal(output_dir))
    threads = min(default_workers(), MAX_WORKERS) if settings.device == "cpu" else 1
    heard = run_task_metrics(items, results, of_tasks, networks, output_dir, reference_set, settings.progress, threads)
    return results, heard


def check_items(items: Sequence[EvaluationItem]) -> None:
    """Ids name files and join results: each must be unique within its task."""
    if not items:
        raise UserError("there are no items to evaluate; check the data sets, or the folders that were given")
    seen: set[tuple[str, str]] = set()
    for item in items:
        key = (item.task, item.audio_id)
        if key in seen:
            raise UserError(f"audio_id {item.audio_id!r} of task {item.task} is given twice; evaluate each item once")
        seen.add(key)


def wanted_metrics(settings: Settings, items: Sequence[EvaluationItem]) -> list[AnyMetric]:
    """Those of the catalogue that some item gets and that were asked for; a name that does not exist is an error."""
    everything = metrics_of(settings.sample_rate)
    known = [name for metric in everything for name in metric_names(metric)]
    for name in (*(settings.metrics or ()), *settings.skip):
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {' or '.join(near)}?" if near else "`unisono metrics` lists them"
            raise UserError(f"there is no metric {name!r}; {hint}")
    wanted = []
    for metric in everything:
        names = set(metric_names(metric))
        asked = settings.metrics is None or names & set(settings.metrics)
        applies = any(metric.applies_to(item) for item in items)
        if asked and applies and not names <= set(settings.skip):
            wanted.append(metric)
    if not wanted:
        tasks = ", ".join(dict.fromkeys(item.task for item in items))
        raise UserError(
            f"nothing is left to measure: none of the metrics asked for is one that these items of {tasks} can have; "
            "`unisono metrics --task` lists them"
        )
    return wanted


def drop_unasked(results: Sequence[ItemResult], heard: TaskNumbers, settings: Settings) -> None:
    """Numbers that came along with one that was asked for."""
    tables: list[dict[str, Any]] = [by_metric for result in results for by_metric in result.outcomes.values()]
    tables += [by_metric for rows in heard.sets.values() for by_metric in rows.values()]
    for table in tables:
        for name in list(table):
            if name in settings.skip or (settings.metrics is not None and name not in settings.metrics):
                del table[name]


def unavailable(wanted: Iterable[AnyMetric], networks: LoadedNetworks, heard: TaskNumbers) -> dict[str, str]:
    """Metrics without which the report is not complete, by name, with the reason."""
    reasons: dict[str, str] = {}
    for metric in wanted:
        reason = metric.unavailable()
        if reason is None and isinstance(metric, CollectionMetric):
            reason = networks.absent.get(metric.network)
        if reason is not None:
            reasons |= dict.fromkeys(metric_names(metric), reason)
    return reasons | dict.fromkeys(sorted(heard.unreferenced - heard.cards.keys()), "no item has a reference")


def make_jobs(
    items: Sequence[EvaluationItem],
    output_dir: Path,
    sample_rate: int,
    metrics: Sequence[Metric],
    recode: Recode | None,
) -> Iterator[Job]:
    """One job per item, made when it is asked for: the autoencoder runs here while the workers measure."""
    available = [metric for metric in metrics if metric.unavailable() is None]
    for item, folder in zip(items, folder_names(items), strict=True):
        coded = None
        if recode is not None and item.reference is not None:
            coded = code_reference(load(item.reference, sample_rate), recode)
        applying = tuple(metric for metric in available if metric.applies_to(item))
        yield Job(item, folder, output_dir, sample_rate, applying, coded)


def code_reference(reference: Loaded, recode: Recode) -> Loaded:
    if reference.waveform is None:
        return Loaded(None, f"reference: {reference.problem}")
    try:
        with one_thread():
            return checked(np.asarray(recode(reference.waveform)), [])
    except Exception as error:  # out of memory on one long recording is no end of the others
        logger.exception("the autoencoder failed")
        return Loaded(None, f"{BUG} in the autoencoder ({type(error).__name__}: {error})")


def summarise_tasks(
    items: Sequence[EvaluationItem], results: Sequence[ItemResult], cards: Mapping[str, MetricCard], heard: TaskNumbers
) -> dict[str, TaskSummary]:
    """Means per task, in the order in which the tasks come first."""
    tasks = {}
    for task in dict.fromkeys(item.task for item in items):
        of_task = [result for item, result in zip(items, results, strict=True) if item.task == task]
        outcomes, sources = [result.outcomes for result in of_task], [result.source for result in of_task]
        tasks[task] = summarise_task(outcomes, sources, cards, heard.sets.get(task), heard.conditions.get(task))
    return tasks


def used_cards(
    metrics: Iterable[AnyMetric], heard: TaskNumbers, results: Sequence[ItemResult], sample_rate: int
) -> dict[str, MetricCard]:
    """Cards of the numbers that some row has, in the order of the columns."""
    used = {name for result in results for by_metric in result.outcomes.values() for name in by_metric}
    used |= {name for rows in heard.sets.values() for by_metric in rows.values() for name in by_metric}
    cards: dict[str, MetricCard] = {}
    for metric in metrics:
        if isinstance(metric, Metric):
            at = {"compared_at_hz": sample_rate}
            cards |= {card.name: replace(card, parameters=card.parameters | at) for card in metric.cards}
        else:
            cards |= {name: heard.cards[name] for name in metric.names if name in heard.cards}
    return {name: card for name, card in cards.items() if name in used}
