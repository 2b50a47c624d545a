"""Does a sound resemble what its own caption stands for more than what the other captions of the test set stand for?

The references of a task are ranked by their distance to the clip, in the space of a network's embeddings, and the rank
of the clip's own reference counts. A model that ignores the caption gets rank (n + 1) / 2 on average.

Shapes: D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

import unisono
from unisono.evaluation.collection import Clips, CollectionMetric, CollectionResult, each_item, listener
from unisono.evaluation.metric import MetricCard, NotApplicable
from unisono.evaluation.networks.network import AudioNetwork


@dataclass(frozen=True)
class Candidate:
    """One reference that a clip may be taken for: its embedding ``(D,)`` and the text it stands for."""

    content_text: str
    embedding: np.ndarray


@dataclass(frozen=True)
class Rank:
    """Place of the own reference (1 is best) among ``candidates`` references."""

    rank: float
    candidates: int


def rank_own_reference(embedding: np.ndarray, own_id: str, references: Mapping[str, Candidate]) -> Rank:
    """Rank of reference ``own_id`` among all by mean absolute difference to ``embedding``.

    Other references with the same text answer the caption as well, so they do not compete; references exactly as far
    away share the mean of their places (a constant clip must not look good because of its place in the list).
    """
    own = references[own_id]
    rivals = [c.embedding for c in references.values() if c.content_text.strip() != own.content_text.strip()]
    own_distance = np.abs(own.embedding - embedding).mean()
    distances = np.array([np.abs(rival - embedding).mean() for rival in rivals])
    closer = int((distances < own_distance).sum())
    as_close = int((distances == own_distance).sum())
    return Rank(rank=1 + closer + as_close / 2, candidates=1 + len(rivals))


@dataclass(frozen=True)
class Retrieval(CollectionMetric):
    """Rank of the own reference, whether it is the first, and the reciprocal of the rank."""

    network: str = "mel_statistics"

    tasks = frozenset({"text_to_audio", "text_to_music"})
    names = ("retrieval_top1", "retrieval_reciprocal_rank", "retrieval_rank")

    def cards(self, network: AudioNetwork) -> tuple[MetricCard, ...]:
        top1, reciprocal, rank = self.names
        return (
            _card(network, top1, "Top-1 share", "higher", "0 to 1; 1 / n by chance", 2, "Whether it is the nearest."),
            _card(network, reciprocal, "Mean reciprocal rank", "higher", "1 / n to 1", 3, "1 / rank."),
            _card(network, rank, "Retrieval rank", "lower", "1 to n; (n + 1) / 2 by chance", 1, "Its rank."),
        )

    def __call__(self, clips: Clips, network: AudioNetwork) -> CollectionResult:
        candidates = {
            item.audio_id: Candidate(item.content_text, reference["embedding"])
            for item, reference in zip(clips.items, clips.references, strict=True)
            if reference is not None and not isinstance(reference, str)
        }

        def judge(index: int) -> Mapping[str, float]:
            # Whether there is a reference to look for comes before whether the clip could be heard.
            clips.reference(index, "embedding")
            rank = rank_own_reference(clips.heard(index, "embedding"), clips.items[index].audio_id, candidates)
            if rank.candidates < 2:
                raise NotApplicable("no other reference with another text")
            return dict(zip(self.names, (float(rank.rank == 1), 1.0 / rank.rank, rank.rank), strict=True))

        return CollectionResult(items=each_item(clips, self.names, judge))


def _card(
    network: AudioNetwork,
    name: str,
    title: str,
    direction: Literal["lower", "higher"],
    value_range: str,
    decimals: int,
    what: str,
) -> MetricCard:
    return MetricCard(
        name=name,
        title=title,
        unit="",
        direction=direction,
        value_range=value_range,
        definition=f"The clip's own reference among all references of the task, nearest first. {what}",
        blind_to="Depends on the number of references: compare only on the same test set.",
        source="this project",
        implementation="unisono.evaluation.metrics.retrieval",
        version=unisono.__version__,
        parameters=listener(network)
        | {
            "distance": "mean absolute difference",
            "candidates": "all references of the task; others with the same text do not compete",
            "ties": "mean rank",
        },
        decimals=decimals,
    )
