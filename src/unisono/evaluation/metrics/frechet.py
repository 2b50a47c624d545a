"""Fréchet distance between what a network heard in the clips and in the references, both taken as Gaussians.

Shapes: N judged vectors, M reference vectors, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

import unisono
from unisono.evaluation.collection import SOUND_TASKS, Clips, CollectionMetric, CollectionResult, listener
from unisono.evaluation.metric import MetricCard, MetricFailure, SetOutcome
from unisono.evaluation.networks.network import AudioNetwork

_POOLING = {
    "embedding": "one vector per clip, as the network pools it",
    "frames": "every frame of every clip is a vector of its own",
}


def frechet_distance(judged: np.ndarray, references: np.ndarray) -> float:
    """Squared Fréchet (2-Wasserstein) distance between Gaussians fitted to ``(N, D)`` and ``(M, D)``; N, M >= 2.

    ``|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½)`` with covariances over N - 1 and M - 1 (Dowson and Landau 1982). With
    ``C = RᵀR`` the eigenvalues of ``C1 C2`` are the squared singular values of ``R1 R2ᵀ``, so their sum is the trace of
    the root. Unlike the root of the product itself, singular values are real, not negative and exact to rounding, also
    where the covariances are singular because there are fewer vectors than dimensions.
    """
    mean_judged, root_judged = _gaussian(judged)
    mean_references, root_references = _gaussian(references)
    trace_of_root = np.linalg.svd(root_judged @ root_references.T, compute_uv=False).sum()
    distance = ((mean_judged - mean_references) ** 2).sum()
    distance += (root_judged**2).sum() + (root_references**2).sum() - 2 * trace_of_root
    # Never negative but by rounding, where the sets are the same.
    return max(0.0, float(distance))


def _gaussian(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``(D,)``, and a root R ``(min(N, D), D)`` of the covariance, which is ``RᵀR``."""
    mean = vectors.mean(axis=0)
    root = (vectors - mean) / np.sqrt(len(vectors) - 1)
    if len(root) > root.shape[1]:
        root = np.asarray(np.linalg.qr(root, mode="r"))
    return mean, root


@dataclass(frozen=True)
class FrechetDistance(CollectionMetric):
    """``fd_NETWORK`` over the network's embeddings or frames.

    Attributes:
        network: name in the table of networks.
        array: what of the network's arrays is compared.
        minimum_clips: fewer clips, or fewer references, have no distance.
        full_rank: whether there must be more vectors than dimensions on both sides as well. Published distances on
            large embeddings often lack that, so it is not asked where numbers stand beside published ones.
        tasks: names of the tasks that get it.
    """

    needs_references: ClassVar[bool] = True

    network: str
    array: Literal["embedding", "frames"] = "embedding"
    minimum_clips: int = 100
    full_rank: bool = False
    tasks: frozenset[str] = SOUND_TASKS

    def __post_init__(self) -> None:
        if self.minimum_clips < 2:
            raise ValueError(f"minimum_clips is {self.minimum_clips}; a covariance needs at least 2")

    @property
    def names(self) -> tuple[str, ...]:
        return (f"fd_{self.network}",)

    def cards(self, network: AudioNetwork) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name=self.names[0],
                title=f"Fréchet distance ({self.network})",
                unit="",
                direction="lower",
                value_range="0 and more; the scale is that of the network's embedding, squared",
                definition="Squared Fréchet distance between a Gaussian fitted to the embeddings of the clips and one "
                "fitted to those of the references.",
                blind_to="Which clip belongs to which item: the right sounds for the wrong captions score as well. "
                "Biased upwards where clips are few, the more the larger the embedding: two samples of one "
                "distribution are far apart, and the distance falls as clips are added. Compare only at the same "
                "number of clips and with the same references; for small sets use the kernel distance. Hears only "
                "what differs in mean or covariance, and only what the network was trained to tell apart.",
                source="Kilgour, Zuluaga, Roblek and Sharifi 2019 (FAD), after Heusel et al. 2017 and Dowson and "
                "Landau 1982",
                implementation="unisono.evaluation.metrics.frechet",
                version=unisono.__version__,
                parameters=listener(network)
                | {
                    "pooling": _POOLING[self.array],
                    "covariance": "unbiased (n - 1), nothing added to the diagonal",
                    "matrix_root": "trace from the singular values of the product of the covariances' roots, float64",
                    "minimum_clips": self.minimum_clips,
                    "full_rank": self.full_rank,
                    "references": "those of all items of the task, also of items whose clip failed",
                },
                decimals=2,
                scope="set",
            ),
        )

    def __call__(self, clips: Clips, network: AudioNetwork) -> CollectionResult:
        return CollectionResult(sets={self.names[0]: self._outcome(clips)})

    def _outcome(self, clips: Clips) -> SetOutcome:
        references = len(clips.usable_references)
        conditions = {
            "n": clips.n,
            "references": references,
            "reference_set": clips.reference_set,
            "pooling": self.array,
        }
        try:
            least = self.minimum_clips
            if self.full_rank and min(clips.n, references):
                least = max(least, clips.stacked(self.array)[0].shape[1] + 1)  # else the covariance is singular
            if min(clips.n, references) < least:
                raise MetricFailure(
                    f"{clips.n} clips and {references} references; needs {least} of each: with fewer the bias "
                    "outweighs most differences"
                )
            judged, reference = clips.stacked(self.array)
        except MetricFailure as reason:
            return SetOutcome(None, clips.n, clips.missing, str(reason), conditions)
        return SetOutcome(frechet_distance(judged, reference), clips.n, clips.missing, conditions=conditions)
