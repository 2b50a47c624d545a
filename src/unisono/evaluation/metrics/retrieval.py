"""Does a sound resemble what its own caption stands for more than what the other captions of the test set stand for?

The references of a task are ranked by their distance to the clip, in the space of a network's embeddings, and the rank
of the clip's own reference counts. A model that ignores the caption gets rank (n + 1) / 2 on average.

Shapes: N clips, M references, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial.distance import cdist

import unisono
from unisono.evaluation.collection import Arrays, Clips, CollectionMetric, CollectionResult, each_item, listener
from unisono.evaluation.metric import MetricCard, NotApplicable
from unisono.evaluation.networks.network import AudioNetwork

_ROWS = 256


@dataclass(frozen=True)
class Rank:
    """Place of the own reference (1 is best) among ``candidates`` references."""

    rank: float
    candidates: int


def rank_own_references(
    embeddings: np.ndarray, own: Sequence[int], references: np.ndarray, texts: Sequence[str]
) -> list[Rank]:
    """Rank of each clip's own reference among all, by mean absolute difference of the embeddings.

    Other references with the same text answer the caption as well, so they do not compete; references exactly as far
    away share the mean of their places (a constant clip must not look good because of its place in the list).

    Args:
        embeddings: of the clips, ``(N, D)``.
        own: of each clip, the index of its reference.
        references: ``(M, D)``.
        texts: what each reference stands for.
    """
    numbers = {text: number for number, text in enumerate(dict.fromkeys(text.strip() for text in texts))}
    kinds = np.array([numbers[text.strip()] for text in texts])
    ranks = []
    for start in range(0, len(embeddings), _ROWS):
        rows = slice(start, start + _ROWS)
        distances = cdist(embeddings[rows], references, "cityblock") / references.shape[1]
        for row, mine in zip(distances, own[rows], strict=True):
            rivals = row[kinds != kinds[mine]]
            closer, as_close = int((rivals < row[mine]).sum()), int((rivals == row[mine]).sum())
            ranks.append(Rank(rank=1 + closer + as_close / 2, candidates=1 + len(rivals)))
    return ranks


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
        usable = [index for index, clip in enumerate(clips.references) if _has_embedding(clip)]
        places = {index: place for place, index in enumerate(usable)}
        heard = [index for index in usable if _has_embedding(clips.judged[index])]
        ranks: dict[int, Rank] = {}
        if heard:
            found = rank_own_references(
                np.stack([clips.heard(index, "embedding") for index in heard]),
                [places[index] for index in heard],
                np.stack([clips.reference(index, "embedding") for index in usable]),
                [clips.items[index].content_text for index in usable],
            )
            ranks = dict(zip(heard, found, strict=True))

        def judge(index: int) -> Mapping[str, float]:
            # Whether there is a reference to look for comes before whether the clip could be heard.
            clips.reference(index, "embedding")
            clips.heard(index, "embedding")
            rank = ranks[index]
            if rank.candidates < 2:
                raise NotApplicable("no other reference with another text")
            return dict(zip(self.names, (float(rank.rank == 1), 1.0 / rank.rank, rank.rank), strict=True))

        rivals = {"references": len(usable), "reference_set": clips.reference_set}
        return CollectionResult(items=each_item(clips, self.names, judge), conditions=rivals)


def _has_embedding(clip: Arrays | str | None) -> bool:
    return isinstance(clip, Mapping) and "embedding" in clip


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
