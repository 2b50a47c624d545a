"""Cards of single items: players, pictures, numbers and what went wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from unisono.evaluation.items import REFERENCE, EvaluationItem
from unisono.evaluation.measure import ClipResult, ItemResult
from unisono.evaluation.metric import MetricCard
from unisono.evaluation.report.pictures import time_ticks
from unisono.evaluation.report.tables import fixed, outcome_cell
from unisono.evaluation.report.views import ClipView, ItemView, Layout, Row
from unisono.evaluation.summary import plain

_MAX_DETAIL_CHARACTERS = 4000


def item_view(
    item: EvaluationItem,
    result: ItemResult,
    columns: Sequence[MetricCard],
    shared: Mapping[str, Any],
    anchor: str,
    layout: Layout,
) -> ItemView:
    """One item's card; ``shared`` are the details that all items have alike, told once above."""
    rows = [
        Row(layout.rows[key], key, [outcome_cell(by_metric.get(card.name), card) for card in columns])
        for key, by_metric in result.outcomes.items()
    ]
    return ItemView(
        audio_id=item.audio_id,
        anchor=anchor,
        instruction=item.instruction,
        content_text=item.content_text,
        clips=[clip_view(key, title, result.clips[key]) for key, title in layout.clips.items() if key in result.clips],
        span_s=result.span_s,
        time_ticks=time_ticks(result.span_s),
        rows=rows,
        duration=duration_text(item),
        details=[(key, detail_text(value)) for key, value in item.details.items() if key not in shared],
        problems=problems_of(result, layout),
        failed=any(o.status == "failed" for by_metric in result.outcomes.values() for o in by_metric.values()),
        sort_values=sort_values(result, columns, layout),
    )


def sort_values(result: ItemResult, columns: Sequence[MetricCard], layout: Layout) -> dict[str, float | None]:
    """By metric, the worst number of the judged rows; None where one failed, nothing where it does not apply."""
    values: dict[str, float | None] = {}
    for card in columns:
        outcomes = [by[card.name] for row in layout.judged if card.name in (by := result.outcomes.get(row, {}))]
        if any(outcome.status == "failed" for outcome in outcomes):
            values[card.name] = None
            continue
        numbers = [outcome.value for outcome in outcomes if outcome.value is not None]
        if numbers:
            values[card.name] = max(numbers) if card.direction == "lower" else min(numbers)
    return values


def worst_first(views: Sequence[ItemView], columns: Sequence[MetricCard]) -> list[ItemView]:
    """Items by their mean rank over all metrics, the worst first; a failure ranks behind every number.

    Ranks, not values: metrics have different units, and one of them must not decide alone.
    """
    scores: dict[str, list[float]] = {view.anchor: [] for view in views}
    for card in columns:
        having = [view for view in views if card.name in view.sort_values]
        sign = 1.0 if card.direction == "lower" else -1.0

        def badness(view: ItemView, name: str = card.name, sign: float = sign) -> float:
            value = view.sort_values[name]
            return float("inf") if value is None else sign * value

        ordered = sorted(having, key=badness)
        places: dict[float, list[int]] = {}
        for place, view in enumerate(ordered):
            places.setdefault(badness(view), []).append(place)
        for view in having:  # equal numbers share their mean place
            tied = places[badness(view)]
            scores[view.anchor].append((sum(tied) / len(tied) + 1) / len(having))
    means = {anchor: sum(ranks) / len(ranks) if ranks else 0.0 for anchor, ranks in scores.items()}
    return sorted(views, key=lambda view: -means[view.anchor])


def problems_of(result: ItemResult, layout: Layout) -> list[str]:
    """Why numbers are missing, where the players do not say it already: a line per row and reason, with the metrics."""
    told = {(row, clip.problem) for row, clip in result.clips.items()}
    if REFERENCE in result.clips:
        told |= {(row, f"reference: {result.clips[REFERENCE].problem}") for row in result.clips}
    grouped: dict[tuple[str, str], list[str]] = {}
    for row, by_metric in result.outcomes.items():
        for name, outcome in by_metric.items():
            if outcome.status == "failed" and (row, outcome.reason) not in told:
                grouped.setdefault((row, outcome.reason), []).append(name)
    return [f"{layout.rows[row]}: {reason} ({', '.join(names)})" for (row, reason), names in grouped.items()]


def clip_view(key: str, title: str, clip: ClipResult) -> ClipView:
    return ClipView(
        key=key,
        title=title,
        audio_url=None if clip.audio is None else quote(clip.audio),
        picture_url=None if clip.picture is None else quote(clip.picture),
        duration="" if clip.duration_s is None else f"{clip.duration_s:.2f} s",
        problem=clip.problem,
        notes=clip.notes,
    )


def duration_text(item: EvaluationItem) -> str:
    """Predicted and true length, and the difference in per cent where both are known."""
    predicted_s, true_s = item.predicted_duration_s, item.true_duration_s
    parts = []
    if predicted_s is not None:
        parts.append(f"predicted {predicted_s:.2f} s")
    if true_s is not None:
        parts.append(f"true {true_s:.2f} s")
    if predicted_s is not None and true_s:
        percent = fixed(100.0 * (predicted_s - true_s) / true_s, 1)
        parts.append(f"{percent} %" if predicted_s <= true_s else f"+{percent} %")
    return " · ".join(parts)


def detail_text(value: Any) -> str:
    """A detail as text: lists of words (phonemes) spaced, anything nested as JSON."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value):
        text = " ".join(value)
    else:
        text = json.dumps(plain(value), ensure_ascii=False)
    return text if len(text) <= _MAX_DETAIL_CHARACTERS else text[:_MAX_DETAIL_CHARACTERS] + " …"
