"""How sure a mean is.

Items that go back to one recording or text (several noisy versions of a sentence, several takes of a caption) are not
independent: they are one draw of the test set, and count together in every interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95


def numbered(sources: Sequence[str]) -> np.ndarray:
    """Numbers from 0 ``(N,)`` of the sources of N items; an item without one (an empty text) stands for itself."""
    names = [f"of {source}" if source else f"item {i}" for i, source in enumerate(sources)]
    return np.unique(names, return_inverse=True)[1].reshape(-1)


def error_of_mean(values: np.ndarray, sources: np.ndarray) -> tuple[float, float] | None:
    """Standard error of the mean of ``values`` ``(N,)`` and half of its 95 % interval; None below two sources.

    Cluster-robust (Liang and Zeger 1986) times G / (G - 1) for G sources, with Student's t of G - 1
    degrees of freedom. Where every item has a source of its own that is the standard deviation (N - 1) / sqrt(N).

    Args:
        values: of the items.
        sources: number of each item's source (`numbered`).
    """
    from scipy.special import stdtrit

    _, index = np.unique(sources, return_inverse=True)
    sums = np.bincount(index, weights=values - values.mean())
    number = len(sums)
    if number < 2:
        return None
    error = math.sqrt(number / (number - 1) * float((sums**2).sum())) / len(values)
    return error, float(stdtrit(number - 1, 0.5 + CONFIDENCE / 2)) * error
