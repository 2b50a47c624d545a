"""Does a sound resemble what its own caption stands for more than what the other captions of the test set stand for?

Each clip becomes a vector of mel statistics; the references of a task are ranked by their distance to the clip, and the
rank of the clip's own reference counts. A model that ignores the caption gets rank (n + 1) / 2 on average.

Shapes: S samples, M mel bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

import unisono
from unisono.evaluation.metric import MetricCard
from unisono.features.mel import MelFrontEnd

TASKS = frozenset({"text_to_audio", "text_to_music"})


def mel_statistics(waveform: np.ndarray, front_end: MelFrontEnd) -> np.ndarray:
    """Mean, standard deviation and mean absolute change per frame of every mel band in dB, ``(3 M,)``."""
    mel_db = front_end(waveform)
    change = np.abs(np.diff(mel_db, axis=0)).mean(axis=0) if len(mel_db) > 1 else np.zeros(mel_db.shape[1])
    return np.concatenate([mel_db.mean(axis=0), mel_db.std(axis=0), change])


@dataclass(frozen=True)
class Candidate:
    """One reference that a clip may be taken for: its mel statistics ``(3 M,)`` and the text it stands for."""

    content_text: str
    statistics: np.ndarray


@dataclass(frozen=True)
class Rank:
    """Place of the own reference (1 is best) among ``candidates`` references."""

    rank: float
    candidates: int


def rank_own_reference(statistics: np.ndarray, own_id: str, references: Mapping[str, Candidate]) -> Rank:
    """Rank of reference ``own_id`` among all by mean absolute difference to ``statistics``.

    Other references with the same text answer the caption as well, so they do not compete; references exactly as far
    away share the mean of their places (a constant clip must not look good because of its place in the list).
    """
    own = references[own_id]
    rivals = [c.statistics for c in references.values() if c.content_text.strip() != own.content_text.strip()]
    own_distance = np.abs(own.statistics - statistics).mean()
    distances = np.array([np.abs(rival - statistics).mean() for rival in rivals])
    closer = int((distances < own_distance).sum())
    as_close = int((distances == own_distance).sum())
    return Rank(rank=1 + closer + as_close / 2, candidates=1 + len(rivals))


def retrieval_values(rank: Rank) -> dict[str, float]:
    """The three numbers of one item; their means are mean rank, top-1 share and mean reciprocal rank."""
    return {
        "retrieval_rank": rank.rank,
        "retrieval_top1": float(rank.rank == 1),
        "retrieval_reciprocal_rank": 1.0 / rank.rank,
    }


def retrieval_cards(front_end: MelFrontEnd) -> tuple[MetricCard, ...]:
    """Cards of the three numbers, in the order of the table's columns."""
    parameters = front_end.parameters | {
        "statistics": "mean, standard deviation and mean absolute frame-to-frame change of each mel band, dB",
        "distance": "mean absolute difference",
        "candidates": "all references of the task; others with the same text do not compete",
        "ties": "mean rank",
    }

    def card(name: str, title: str, direction: str, value_range: str, note: str, decimals: int) -> MetricCard:
        return MetricCard(
            name=name,
            title=title,
            unit="",
            direction="lower" if direction == "lower" else "higher",
            value_range=value_range,
            implementation="unisono.evaluation.retrieval",
            version=unisono.__version__,
            parameters=parameters,
            note=note,
            decimals=decimals,
        )

    chance = "Depends on the number of references: compare only on the same test set."
    return (
        card(
            "retrieval_top1",
            "Top-1 share",
            "higher",
            "0 to 1; 1 / n by chance",
            "Share of items whose own reference is the nearest of all. " + chance,
            2,
        ),
        card(
            "retrieval_reciprocal_rank",
            "Mean reciprocal rank",
            "higher",
            "1 / n to 1",
            "Mean of 1 / rank of the own reference. " + chance,
            3,
        ),
        card(
            "retrieval_rank",
            "Retrieval rank",
            "lower",
            "1 to n; (n + 1) / 2 by chance",
            "Rank of the own reference among all references of the task. " + chance,
            1,
        ),
    )
