"""Metrics that look at all clips of a task at once, through one network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.metric import (
    MetricCard,
    MetricFailure,
    NotApplicable,
    NoValue,
    Outcome,
    SetOutcome,
    why_not_installed,
)
from unisono.evaluation.networks.network import AudioNetwork

Arrays = Mapping[str, np.ndarray]

SOUND_TASKS = frozenset({"text_to_audio", "text_to_music", "video_to_audio"})
VOICE_TASKS = frozenset(
    {"text_to_speech", "speech_enhancement", "singing_voice_synthesis", "singing_acoustic_modeling"}
)


@dataclass(frozen=True)
class Clips:
    """One row of one task as a network heard it.

    Attributes:
        items: of the task, in order.
        judged: by item: the network's arrays of the row's clip, or the reason why there are none.
        references: by item: the same of its reference; None where it has none.
        others: arrays of references that belong to no item, where a set of recordings stands for the reference.
        reference_set: fingerprint of all references together, for the conditions of a Fréchet distance.
        companions: by manifest field, then by item: the same of another recording of the item
            (`CollectionMetric.companions`); None where it has none.
    """

    items: Sequence[EvaluationItem]
    judged: Sequence[Arrays | str]
    references: Sequence[Arrays | str | None]
    others: Sequence[Arrays] = ()
    reference_set: str = ""
    companions: Mapping[str, Sequence[Arrays | str | None]] = field(default_factory=dict)

    def heard(self, index: int, name: str) -> np.ndarray:
        """Array ``name`` of an item's clip; `MetricFailure` with the reason why there is none."""
        return _array(self.judged[index], name)

    def reference(self, index: int, name: str) -> np.ndarray:
        """The same of its reference; `NotApplicable` where the item has none."""
        arrays = self.references[index]
        if arrays is None:
            raise NotApplicable("the item has no reference")
        return _array(arrays, name)

    def companion(self, index: int, field_name: str, name: str) -> np.ndarray:
        """The same of its recording under a manifest field; `NotApplicable` where the item has none."""
        arrays = self.companions[field_name][index] if field_name in self.companions else None
        if arrays is None:
            raise NotApplicable(f"the item has no {field_name}")
        return _array(arrays, name)

    def stacked(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Array ``name`` of all judged clips ``(N, D)`` and of all references ``(M, D)``, failed ones left out; where
        it has frames ``(T, D)``, those of all clips one after the other.

        Raises:
            MetricFailure: the network does not give it.
        """
        judged = [_array(clip, name) for clip in self.judged if not isinstance(clip, str)]
        references = [_array(clip, name) for clip in self.usable_references]
        return _stack(judged), _stack(references)

    @property
    def usable_references(self) -> list[Arrays]:
        """References that could be heard, those of no item included."""
        return [clip for clip in self.references if clip is not None and not isinstance(clip, str)] + list(self.others)

    @property
    def n(self) -> int:
        """Judged clips with arrays."""
        return len(self.judged) - self.missing

    @property
    def missing(self) -> int:
        """Judged clips without arrays."""
        return sum(isinstance(clip, str) for clip in self.judged)


def _array(arrays: Arrays | str, name: str) -> np.ndarray:
    if isinstance(arrays, str):
        raise MetricFailure(arrays)
    if name not in arrays:
        raise MetricFailure(f"the network gives no {name}, only {', '.join(arrays)}")
    return arrays[name]


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    if not arrays:
        return np.zeros((0, 0))
    return np.concatenate([np.atleast_2d(array) for array in arrays]).astype(np.float64)


@dataclass(frozen=True)
class CollectionResult:
    """Numbers of one row.

    Attributes:
        items: per item by metric, in the order of the items.
        sets: of all items together by metric.
        conditions: what the numbers of single items depend on beside the item, such as the other references.
    """

    items: dict[str, list[Outcome]] = field(default_factory=dict)
    sets: dict[str, SetOutcome] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)


class CollectionMetric(ABC):
    """A measurement over what one network heard of a task's clips.

    Attributes:
        network: name of the network (`unisono.evaluation.networks.table`).
        tasks: names of the tasks that get it; empty for all.
        companions: manifest fields of other recordings that the network has to hear too, where ``item.files`` has them.
        with_video: the clips are heard together with the item's video
            (`unisono.evaluation.metrics.audio_visual.heard_with_video`), references not at all.
        needs_references: it compares with the references of the whole task.
        libraries: modules of the `eval` extra that it imports when it is called.
    """

    network: str
    tasks: frozenset[str] = frozenset()
    companions: ClassVar[tuple[str, ...]] = ()
    with_video: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False
    libraries: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def cards(self, network: AudioNetwork) -> tuple[MetricCard, ...]:
        """A card for each number. What the network says of itself (`listener`) is part of each."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the cards, known without the network: what is reported as unavailable where it is missing."""

    @abstractmethod
    def __call__(self, clips: Clips, network: AudioNetwork) -> CollectionResult:
        """The numbers of one row, every name of ``names`` once."""

    def applies_to(self, item: EvaluationItem) -> bool:
        """Whether the item can have this metric, by its task and what is known about it. A task gets the metric if
        one of its items can have it; the others are not applicable."""
        return not self.tasks or item.task in self.tasks

    def unavailable(self) -> str | None:
        """Why it cannot run here whatever the network, or None."""
        return why_not_installed(self.libraries)


def each_item(
    clips: Clips, names: Sequence[str], judge: Callable[[int], Mapping[str, float | NoValue]]
) -> dict[str, list[Outcome]]:
    """Outcomes by name of a judgement that takes one item, by its index, at a time.

    A reason that ``judge`` raises stands for all names; one in place of a number withholds that number.
    """
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    for index, item in enumerate(clips.items):
        try:
            values = judge(index)
        except (MetricFailure, NotApplicable) as reason:
            values = dict.fromkeys(names, reason)
        except Exception as error:
            error.add_note(f"while measuring {names[0]} of {item.task} {item.audio_id!r}")
            raise
        for name in names:
            outcomes[name].append(Outcome.of(values[name]))
    return outcomes


def listener(network: AudioNetwork) -> dict[str, Any]:
    """Parameters of a card: which network listens, and what it says of itself."""
    return {
        "network": network.name,
        "network_implementation": f"{network.implementation} {network.version}",
        "sample_rate": network.sample_rate,
    } | network.parameters


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of the angle between two vectors ``(D,)``; `MetricFailure` where one of them is zero."""
    first, second = first.astype(np.float64).ravel(), second.astype(np.float64).ravel()
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    if length == 0:
        raise MetricFailure("the network gave an embedding of zeros, which has no direction")
    return float(np.clip(first @ second / length, -1, 1))
