"""What the page shows, ready to be written: every text formatted, every place computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unisono.evaluation.items import CODED, INPUT, MODEL, REFERENCE, ROW_TITLES
from unisono.evaluation.metric import MetricCard
from unisono.evaluation.report.distributions import Distribution
from unisono.evaluation.report.pictures import Tick


@dataclass(frozen=True)
class Layout:
    """Which rows and clips a page shows, under which titles.

    Attributes:
        rows: title by row, in the order of the columns.
        clips: title by clip, in the order of the players.
        judged: the rows whose worst items come first.
        baseline: the row that the others are compared with, where systems are compared.
    """

    rows: Mapping[str, str]
    clips: Mapping[str, str]
    judged: tuple[str, ...]
    baseline: str | None = None


ONE_MODEL = Layout(
    rows=ROW_TITLES,
    clips={INPUT: "Input", REFERENCE: "Reference", CODED: "Reference, coded", MODEL: "Generated"},
    judged=(MODEL,),
)


@dataclass(frozen=True)
class Cell:
    """One number of a table: text, what stands behind it, and its marks; ``best_of`` is the number of items on which it
    is the best row, 0 if it is not."""

    text: str
    interval: str = ""
    n: int | None = None
    failed: int = 0
    best_of: int = 0
    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True)
class DifferenceCell:
    """How far a system is from the baseline: text with its interval, on how many items, and whether that is beyond
    chance."""

    text: str
    interval: str
    n: int
    verdict: str
    reason: str


@dataclass(frozen=True)
class MetricLine:
    """One line of a task's table: a metric in every row; a cell is None where it does not apply to the row."""

    card: MetricCard
    cells: list[Cell | None]
    distribution: Distribution | None
    differences: list[DifferenceCell | None] = field(default_factory=list)
    warning: str = ""


@dataclass(frozen=True)
class Row:
    """One row of an item's table."""

    title: str
    key: str
    cells: list[Cell | None]


@dataclass(frozen=True)
class ClipView:
    """One player with its picture."""

    key: str
    title: str
    audio_url: str | None
    picture_url: str | None
    duration: str
    problem: str
    notes: list[str]


@dataclass(frozen=True)
class ItemView:
    """One card of the report."""

    audio_id: str
    anchor: str
    instruction: str
    content_text: str
    clips: list[ClipView]
    span_s: float
    time_ticks: list[Tick]
    rows: list[Row]
    duration: str
    details: list[tuple[str, str]]
    problems: list[str]
    failed: bool
    sort_values: dict[str, float | None]


@dataclass(frozen=True)
class TaskView:
    """One task: its table of means and its cards."""

    name: str
    title: str
    anchor: str
    n_items: int
    counted: str
    n_failed: int
    columns: list[MetricCard]
    rows: list[tuple[str, str]]
    compared: list[str]
    lines: list[MetricLine]
    has_best: bool
    items: list[ItemView]
    left_out: int
