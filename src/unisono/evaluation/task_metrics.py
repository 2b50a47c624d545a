"""Metrics of whole tasks: networks hear every clip, then the metrics look at what they heard."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unisono.errors import UserError
from unisono.evaluation.collection import Arrays, Clips, CollectionMetric, CollectionResult
from unisono.evaluation.items import CODED, INPUT, MODEL, REFERENCE, EvaluationItem
from unisono.evaluation.measure import ItemResult, load
from unisono.evaluation.metric import BUG, MetricCard, MetricFailure, NotApplicable, Outcome, SetOutcome
from unisono.evaluation.metrics.audio_visual import heard_with_video
from unisono.evaluation.networks.cached import CachedNetwork
from unisono.evaluation.networks.network import AudioNetwork
from unisono.evaluation.networks.table import NETWORKS, load_network, why_absent
from unisono.evaluation.summary import Failure
from unisono.media.locations import Location
from unisono.suggest import did_you_mean
from unisono.threads import one_thread

Source = Path | Location

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedNetworks:
    """The networks of an evaluation, loaded, and why the others are not.

    Attributes:
        cached: by name.
        absent: reason by name.
    """

    cached: dict[str, CachedNetwork] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def load_networks(
    metrics: Iterable[CollectionMetric], sources: Mapping[str, Any], device: str, cache: Path | None
) -> LoadedNetworks:
    """Load the networks that metrics need, before anything else takes time.

    Raises:
        UserError: a name that is not in the table, or weights that were given and cannot be used.
    """
    for name in sources:
        if name not in NETWORKS:
            raise UserError(f"networks.{name}: there is no such network; {did_you_mean(name, NETWORKS)}")
    networks = LoadedNetworks()
    for name in dict.fromkeys(metric.network for metric in metrics):
        source = sources.get(name)
        if (reason := why_absent(name, source)) is not None:
            networks.absent[name] = reason
        else:
            networks.cached[name] = CachedNetwork(load_network(name, source, device), cache)
    return networks


@dataclass
class TaskNumbers:
    """What the metrics of whole tasks gave, beside what they wrote into the items' results.

    Attributes:
        cards: by metric.
        sets: ``sets[task][row][metric]``: numbers of all items together.
        conditions: ``conditions[task][row][metric]``: what numbers of single items depend on beside the item.
        unreferenced: metrics that a task without any reference cannot have.
        unheard: clips of metrics of all items together that could not be heard, and recordings of a reference set.
    """

    cards: dict[str, MetricCard] = field(default_factory=dict)
    sets: dict[str, dict[str, dict[str, SetOutcome]]] = field(default_factory=dict)
    conditions: dict[str, dict[str, dict[str, dict[str, Any]]]] = field(default_factory=dict)
    unreferenced: set[str] = field(default_factory=set)
    unheard: list[Failure] = field(default_factory=list)


def run_task_metrics(
    items: Sequence[EvaluationItem],
    results: Sequence[ItemResult],
    metrics: Sequence[CollectionMetric],
    networks: LoadedNetworks,
    output_dir: Path,
    others: Sequence[Path] = (),
    progress: bool = True,
    threads: int = 1,
) -> TaskNumbers:
    """Run every metric whose network is there over every task that it is for; outcomes of items go into ``results``.

    Args:
        items, results: as measured; a clip that could not be judged there is not heard either.
        metrics: of whole tasks.
        networks: loaded; metrics of absent ones are left out.
        output_dir: where the coded references lie.
        others: recordings that stand for the reference without belonging to an item.
        progress: show a progress bar.
        threads: clips that are heard at a time. On a CPU several clips on a thread each are far quicker than one clip
            on several threads, and what one thread computes does not depend on how many there are.
    """
    heard = TaskNumbers()
    usable = [metric for metric in metrics if metric.unavailable() is None]
    for name, cached in networks.cached.items():
        for task in dict.fromkeys(item.task for item in items):
            chosen = [(item, result) for item, result in zip(items, results, strict=True) if item.task == task]
            wanted = [m for m in usable if m.network == name and any(m.applies_to(item) for item, _ in chosen)]
            for with_video in (False, True):
                of_kind = [metric for metric in wanted if metric.with_video == with_video]
                if not others and all(item.reference is None for item, _ in chosen):
                    heard.unreferenced |= {name for m in of_kind if m.needs_references for name in m.names}
                    of_kind = [metric for metric in of_kind if not metric.needs_references]
                if not of_kind:
                    continue
                fields = tuple(dict.fromkeys(field for metric in of_kind for field in metric.companions))
                with (
                    tqdm(desc=f"{name}, {task}", unit="clip", disable=not progress) as bar,
                    one_thread() if threads > 1 else nullcontext(),
                    ThreadPoolExecutor(threads) as pool,
                ):
                    clips = _TaskClips(chosen, cached, output_dir, with_video, bar, pool)
                    apart = [] if with_video else clips.reference_set(others)
                    rows = clips.rows({path: one for path, one in apart if not isinstance(one, str)}, fields)
                heard.unheard += [
                    Failure(task, f"reference set: {path.name}", MODEL, name, reason)
                    for path, reason in apart
                    if isinstance(reason, str)
                ]
                for metric in of_kind:
                    _run(metric, cached.network, task, chosen, rows, heard)
    return heard


def _run(
    metric: CollectionMetric,
    network: AudioNetwork,
    task: str,
    chosen: Sequence[tuple[EvaluationItem, ItemResult]],
    rows: Mapping[str, Clips],
    heard: TaskNumbers,
) -> None:
    read = {"resampler": "soxr HQ", "channels": "averaged", "coded_reference": "as written for the player (FLAC)"}
    cards = {card.name: replace(card, parameters=card.parameters | read) for card in metric.cards(network)}
    heard.cards |= cards
    for row, clips in rows.items():
        try:
            result = metric(clips, network)
        except Exception as error:  # an hour of other numbers is not lost for it
            logger.exception("unexpected error in %s (%s, %s)", metric.names[0], task, row)
            result = _failed(cards.values(), clips, f"{BUG} ({type(error).__name__}: {error})")
        given = {*result.items, *result.sets}
        assert given <= set(cards), f"{type(metric).__name__} gave {sorted(given)}, its cards are {sorted(cards)}"
        for name, outcomes in result.items.items():
            for (_, of_item), outcome in zip(chosen, outcomes, strict=True):
                if row in of_item.outcomes:
                    of_item.outcomes[row][name] = outcome
            if result.conditions:
                heard.conditions.setdefault(task, {}).setdefault(row, {})[name] = result.conditions
        judged = _judged(clips)
        for name, number in result.sets.items():
            conditions = number.conditions | {"judged_items": judged}
            heard.sets.setdefault(task, {}).setdefault(row, {})[name] = replace(number, conditions=conditions)
            heard.unheard += [
                Failure(task, item.audio_id, row, name, reason)
                for item, reason in zip(clips.items, clips.judged, strict=True)
                if isinstance(reason, str)
            ]


def _judged(clips: Clips) -> str:
    """How many items and which: a system must not win by failing on the hard ones."""
    ids = sorted(
        item.audio_id for item, arrays in zip(clips.items, clips.judged, strict=True) if not isinstance(arrays, str)
    )
    return f"{len(ids)} ({hashlib.sha256(chr(0).join(ids).encode('utf-8', 'replace')).hexdigest()[:8]})"


def _failed(cards: Iterable[MetricCard], clips: Clips, reason: str) -> CollectionResult:
    of_items = {c.name: [Outcome("failed", reason=reason)] * len(clips.items) for c in cards if c.scope == "item"}
    return CollectionResult(of_items, {c.name: SetOutcome(None, 0, 0, reason) for c in cards if c.scope == "set"})


@dataclass(frozen=True)
class _TaskClips:
    """One network listening to one task's clips, with their videos or without."""

    chosen: Sequence[tuple[EvaluationItem, ItemResult]]
    cached: CachedNetwork
    output_dir: Path
    with_video: bool
    bar: tqdm
    pool: ThreadPoolExecutor

    def rows(self, apart: Mapping[Path, Arrays], fields: Sequence[str]) -> dict[str, Clips]:
        """Every row of the task.

        Args:
            apart: what was heard of references that belong to no item.
            fields: other recordings of the items that are to be heard too, by manifest field.
        """
        items = [item for item, _ in self.chosen]
        references: list[Arrays | str | None] = [None] * len(items)
        if not self.with_video:
            references = list(self.pool.map(lambda pair: self._clip(REFERENCE, *pair), self.chosen))
        companions = {field: list(self.pool.map(partial(self._companion, field), items)) for field in fields}
        usable = [
            result.source
            for (_, result), reference in zip(self.chosen, references, strict=True)
            if reference is not None and not isinstance(reference, str)
        ]
        fingerprint = _fingerprint(usable, apart)
        rows = {}
        for row in (MODEL, CODED, INPUT):
            if any(row in result.outcomes for _, result in self.chosen):
                judged = list(self.pool.map(partial(self._of_row, row), self.chosen))
                rows[row] = Clips(items, judged, references, [*apart.values()], fingerprint, companions)
        return rows

    def _of_row(self, row: str, pair: tuple[EvaluationItem, ItemResult]) -> Arrays | str:
        return self._clip(row, *pair) or "there is none"

    def _clip(self, key: str, item: EvaluationItem, result: ItemResult) -> Arrays | str | None:
        """Arrays of one clip, why there are none, or None where there is no such clip."""
        clip = result.clips.get(key)
        if clip is None:
            return None
        prefix = "reference: " if key == REFERENCE else ""
        if clip.problem or clip.audio is None:
            return prefix + clip.problem
        source: Source | None = {MODEL: item.generated, INPUT: item.input_audio, REFERENCE: item.reference}.get(key)
        arrays = self._arrays(source or self.output_dir / clip.audio, item)
        return prefix + arrays if isinstance(arrays, str) else arrays

    def _companion(self, field: str, item: EvaluationItem) -> Arrays | str | None:
        if field not in item.files:
            return None
        arrays = self._arrays(item.files[field], item)
        return f"{field}: {arrays}" if isinstance(arrays, str) else arrays

    def reference_set(self, others: Sequence[Path]) -> list[tuple[Path, Arrays | str]]:
        """What the network makes of each recording of a reference set, or why it cannot be heard."""
        return list(zip(others, self.pool.map(lambda path: self._arrays(path, None), others), strict=True))

    def _arrays(self, source: Source, item: EvaluationItem | None) -> Arrays | str:
        loaded = load(source, self.cached.network.sample_rate)
        self.bar.update()
        if loaded.waveform is None or loaded.problem:
            return loaded.problem
        try:
            if self.with_video:
                assert item is not None
                return heard_with_video(self.cached, loaded.waveform, item)
            return self.cached(loaded.waveform)
        except (MetricFailure, NotApplicable) as reason:
            return str(reason)
        except Exception as error:  # a network that runs out of memory on one long clip has heard the others
            name = self.cached.network.name
            logger.exception("unexpected error in %s at %s", name, source)
            return f"{BUG} in {name} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"


def _fingerprint(samples: Sequence[str], files: Iterable[Path]) -> str:
    """Of a set of references, whatever their order: of what was given, since what a network makes of it differs in its
    last bits from machine to machine.

    Args:
        samples: hashes of the items' references (`ItemResult.source`).
        files: references that belong to no item.
    """
    digests = sorted([*samples, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)])
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]
