"""Items of an evaluation from a data set of the configuration: target, input and everything its manifest says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unisono.data.datasets.base import AudioGenerationDataset
from unisono.data.manifest import PATH_FIELDS, Fields
from unisono.evaluation.items import EvaluationItem
from unisono.media.locations import Location

_SHOWN = ("seed", "num_steps", "guidance_scale", "solver", "weights", "seconds")


def item_of(dataset: AudioGenerationDataset, index: int, generated: Path, made: dict[str, Any]) -> EvaluationItem:
    """One item of a data set.

    Args:
        dataset: with or without targets.
        index: of the item.
        generated: what is judged; a file that does not exist becomes a failure.
        made: what is known of how it was made: a line of the manifest that generation writes, or nothing.
    """
    line = dataset.line(index)
    inputs = dataset.input_files(line)
    return EvaluationItem(
        audio_id=line.record["audio_id"],
        task=dataset.task,
        instruction=made.get("instruction", ""),
        content_text=dataset.describe(line),
        generated=generated,
        reference=dataset.target(index),
        input_audio=inputs[0][1] if inputs else None,
        predicted_duration_s=made.get("duration_s"),
        true_duration_s=float(dataset.durations_s[index]) if dataset.has_targets else None,
        details={**line.record, **{key: made[key] for key in _SHOWN if key in made}},
        files=named_files(line),
    )


def named_files(line: Fields) -> dict[str, Location]:
    """The files that a line of ``content.jsonl`` names, by field."""
    return {name: line.location(name) for name in PATH_FIELDS if isinstance(line.record.get(name), str)}
