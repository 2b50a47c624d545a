"""Kernel audio distance (KAD): how far two sets of embeddings lie apart, without bias at any number of clips.

Shapes: N judged clips, M references, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.spatial.distance import pdist

import unisono
from unisono.evaluation.collection import SOUND_TASKS, Clips, CollectionMetric, CollectionResult, listener
from unisono.evaluation.metric import MetricCard, MetricFailure, SetOutcome
from unisono.evaluation.networks.network import AudioNetwork

SCALE = 100
_BANDWIDTH_CLIPS = 2000
_ROWS = 1024


def kernel_audio_distance(judged: np.ndarray, references: np.ndarray) -> float:
    """100 times the unbiased estimate of the squared maximum mean discrepancy between ``(N, D)`` and ``(M, D)``, for
    ``k(x, y) = exp(-|x - y|² / (2 s²))`` (Gretton et al. 2012, equation 3); N, M >= 2.

    Raises:
        MetricFailure: more than half of the references are the same, so that there is no bandwidth.
    """
    bandwidth = median_distance(references)
    if bandwidth == 0:
        raise MetricFailure("most references are exactly alike, so their median distance gives no kernel bandwidth")
    n, m = len(judged), len(references)
    # The kernel of a vector with itself is 1, and is left out of the sums within a set: that is what makes it unbiased.
    within_judged = (_kernel_sum(judged, judged, bandwidth) - n) / (n * (n - 1))
    within_references = (_kernel_sum(references, references, bandwidth) - m) / (m * (m - 1))
    between = _kernel_sum(judged, references, bandwidth) / (n * m)
    return SCALE * (within_judged + within_references - 2 * between)


def median_distance(vectors: np.ndarray) -> float:
    """Median Euclidean distance of all pairs of ``(M, D)``; of 2000 evenly spaced vectors where there are more."""
    if len(vectors) > _BANDWIDTH_CLIPS:
        vectors = vectors[np.linspace(0, len(vectors) - 1, _BANDWIDTH_CLIPS).astype(int)]
    return float(np.median(pdist(vectors)))


def _kernel_sum(first: np.ndarray, second: np.ndarray, bandwidth: float) -> float:
    """Sum of the kernel over all pairs, computed a block of rows at a time so that memory stays bounded."""
    total = 0.0
    # About a common centre, so that the expanded square does not cancel for embeddings far from zero.
    centre = second.mean(axis=0)
    columns = second - centre
    columns_squared = (columns**2).sum(axis=1)
    for rows in _blocks(first - centre):
        squared = (rows**2).sum(axis=1)[:, None] + columns_squared - 2 * rows @ columns.T
        total += float(np.exp(-np.maximum(squared, 0) / (2 * bandwidth**2)).sum())
    return total


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(vectors), _ROWS):
        yield vectors[start : start + _ROWS]


@dataclass(frozen=True)
class KernelDistance(CollectionMetric):
    """``kad_NETWORK`` over the network's embeddings.

    Attributes:
        network: name in the table of networks.
        minimum_clips: fewer clips, or fewer references, have no distance.
        tasks: names of the tasks that get it.
    """

    needs_references: ClassVar[bool] = True

    network: str
    minimum_clips: int = 5
    tasks: frozenset[str] = SOUND_TASKS

    def __post_init__(self) -> None:
        if self.minimum_clips < 2:
            raise ValueError(f"minimum_clips is {self.minimum_clips}; a distance within a set needs at least 2")

    @property
    def names(self) -> tuple[str, ...]:
        return (f"kad_{self.network}",)

    def cards(self, network: AudioNetwork) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name=self.names[0],
                title=f"Kernel distance ({self.network})",
                unit="",
                direction="lower",
                value_range="about 0 for one distribution, below it by chance; at most 200",
                definition="100 times the unbiased squared maximum mean discrepancy between the embeddings of the "
                "clips and those of the references, with a Gaussian kernel.",
                blind_to="Which clip belongs to which item: the right sounds for the wrong captions score as well. "
                "Without bias at any number of clips, but not without chance: two sets of one distribution scatter "
                "about 0 by some 2 to 5 at 8 clips, 0.3 at 50 and 0.04 at 500. Clips that are much like their own "
                "references, as the coded references are, draw the distance below 0 (by up to 10 at 8 clips, 1 at 80), "
                "as the two sets are then not independent. Hears only what the network was trained to tell apart.",
                source="Chung, Eu, Lee, Choi, Nam and Chon 2025 (KAD); Gretton et al. 2012, equation 3",
                implementation="unisono.evaluation.metrics.kernel_distance",
                version=unisono.__version__,
                parameters=listener(network)
                | {
                    "kernel": "Gaussian, exp(-|x - y|² / (2 s²)), float64",
                    "bandwidth": "s is the median distance between references, of "
                    f"{_BANDWIDTH_CLIPS} evenly spaced ones at most",
                    "estimator": "unbiased: pairs of a vector with itself are left out",
                    "scale": SCALE,
                    "pooling": "one vector per clip, as the network pools it",
                    "minimum_clips": self.minimum_clips,
                    "references": "those of all items of the task, also of items whose clip failed",
                },
                decimals=2,
                scope="set",
            ),
        )

    def __call__(self, clips: Clips, network: AudioNetwork) -> CollectionResult:
        references = len(clips.usable_references)
        conditions = {"references": references, "reference_set": clips.reference_set}
        try:
            if min(clips.n, references) < self.minimum_clips:
                raise MetricFailure(f"{clips.n} clips and {references} references; needs {self.minimum_clips} of each")
            outcome = SetOutcome(
                kernel_audio_distance(*clips.stacked("embedding")), clips.n, clips.missing, conditions=conditions
            )
        except MetricFailure as reason:
            outcome = SetOutcome(None, clips.n, clips.missing, str(reason), conditions)
        return CollectionResult(sets={self.names[0]: outcome})
