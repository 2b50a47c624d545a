"""What a metric is: cards that say how its numbers are made, and one function from a sample to the numbers.

A metric that cannot give an honest number for an item says so: `MetricFailure` (the item is at fault: silent, too
short, missing) or `NotApplicable` (there is nothing to measure). Neither ever enters a mean; both are counted and
shown.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from unisono.evaluation.items import EvaluationItem, Sample

logger = logging.getLogger(__name__)

ARROWS = {"lower": "↓", "higher": "↑"}
"""Signs of a card's direction, in every table."""

FRAME_LOCKED_TASKS = frozenset(
    {"speech_enhancement", "audio_super_resolution", "singing_acoustic_modeling", "video_to_audio"}
)
"""Tasks whose input fixes when everything happens, so that frames may be compared one to one. Elsewhere the model
chooses the timing, and spectra are compared after dynamic time warping."""


@dataclass(frozen=True)
class MetricCard:
    """How a number was made. Numbers may be compared only where the whole card is the same.

    Attributes:
        name: key in metrics.json; unique. What moves the number so far that it is another metric is part of it
            (`pesq_wb`, `fd_panns16k`).
        title: column heading.
        unit: "dB", "s", "%", "cents" or "" for pure numbers.
        direction: which end is good.
        value_range: in words, such as "0 to 100 dB, 0 for identical signals".
        definition: what is computed, in a sentence or two.
        blind_to: what it does not hear, and how to read it.
        source: paper or equation it comes from.
        implementation: library or module that computes it.
        version: version of that library.
        parameters: every choice that moves the number.
        decimals: digits after the point in the report.
        scope: whether every item has a number, or only all items together.
    """

    name: str
    title: str
    unit: str
    direction: Literal["lower", "higher"]
    value_range: str
    definition: str
    blind_to: str
    source: str
    implementation: str
    version: str
    parameters: dict[str, Any]
    decimals: int = 2
    scope: Literal["item", "set"] = "item"


class MetricFailure(Exception):
    """This item has no valid number, for the reason given; counted as failed."""


class NotApplicable(Exception):
    """There is nothing to measure here (no reference, no predicted duration); counted apart from failures."""


NoValue = MetricFailure | NotApplicable

BUG = "unexpected error"
"""How the reason begins where a metric failed by a fault of its own."""


class Metric(ABC):
    """One measurement of one sample, which gives one number or several. Instances are picklable: they travel to worker
    processes.

    Attributes:
        tasks: names of the tasks whose items get it; empty for all.
        needs_waveform: False if the numbers come from the item's other fields, so that they exist without any audio.
        libraries: modules of the `eval` extra that it imports when it is called.
    """

    tasks: ClassVar[frozenset[str]] = frozenset()
    needs_waveform: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def cards(self) -> tuple[MetricCard, ...]:
        """A card for each number, in the order of the report's columns."""

    @abstractmethod
    def __call__(self, sample: Sample) -> Mapping[str, float | NoValue]:
        """The numbers by the names of the cards. A reason in place of a number withholds that one; raised, all."""

    def applies_to(self, item: EvaluationItem) -> bool:
        """Whether the item gets this metric at all, by its task and what is known about it."""
        return not self.tasks or item.task in self.tasks

    def unavailable(self) -> str | None:
        """Why it cannot run here, or None."""
        return why_not_installed(self.libraries)


@dataclass(frozen=True)
class Outcome:
    """What one metric gave for one row of one item: a finite value, or the reason why there is none."""

    status: Literal["ok", "failed", "not_applicable"]
    value: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        assert (self.status == "ok") == (self.value is not None)

    @staticmethod
    def of(value: float | NoValue) -> Outcome:
        """The outcome of a number or a reason; a number that is not finite is a failure."""
        if isinstance(value, NotApplicable):
            return Outcome("not_applicable", reason=str(value))
        if isinstance(value, MetricFailure):
            return Outcome("failed", reason=str(value))
        value = float(value)
        finite = value - value == 0
        return Outcome("ok", value) if finite else Outcome("failed", reason=f"the metric gave {value}")


@dataclass(frozen=True)
class SetOutcome:
    """What a metric of all items together gave for one row: a finite value, or the reason why there is none.

    Attributes:
        n: clips that were judged.
        missing: clips that should have been and could not.
        conditions: what else must agree before two values may be compared, such as the reference set and its size.
    """

    value: float | None
    n: int
    missing: int = 0
    reason: str = ""
    conditions: dict[str, Any] = field(default_factory=dict)


def measure(metric: Metric, sample: Sample) -> dict[str, Outcome]:
    """Every number of a metric, or the reason why there is none.

    Any other exception is a bug. It costs its own numbers and is told as such; an hour of others is not lost for it.
    """
    names = [card.name for card in metric.cards]
    try:
        values = metric(sample)
        if set(values) != set(names):
            raise TypeError(f"{type(metric).__name__} gave {sorted(values)}, its cards are {sorted(names)}")
    except (MetricFailure, NotApplicable) as reason:
        return dict.fromkeys(names, Outcome.of(reason))
    except Exception as error:
        where = f"while measuring {names[0]} ({sample.row}) of {sample.item.task} {sample.item.audio_id!r}"
        logger.exception("unexpected error %s", where)
        return dict.fromkeys(names, Outcome("failed", reason=f"{BUG} ({type(error).__name__}: {error}) {where}"))
    return {name: Outcome.of(values[name]) for name in names}


def why_not_installed(libraries: Iterable[str]) -> str | None:
    """Which modules of the `eval` extra are absent, with the remedy, or None; nothing is imported to find out."""
    absent = [name for name in libraries if not importlib.util.find_spec(name)]
    return f"{' and '.join(absent)} not installed; run: pip install 'unisono[eval]'" if absent else None


def library_version(name: str) -> str:
    """Version of an installed distribution, or "not installed"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
