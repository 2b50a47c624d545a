"""Dynamic time warping: which moments of two recordings belong together, where the model chose the timing.

Shapes: T1, T2 frames, D values of a frame, K pairs of a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from unisono.evaluation.metric import MetricFailure

DTW_LIMIT_S = 60.0
"""Longest recording that is warped: memory grows with the square."""

WARPING = "DTW, steps (1,0) (0,1) of weight 1 and (1,1) of weight 2, whole length, mean"
"""For the cards of metrics along a path."""


@dataclass(frozen=True)
class Warp:
    """The cheapest monotone path through two sequences, from the first pair of frames to the last.

    Attributes:
        mean_cost: weighted mean of the costs along it.
        first, second: frame of either sequence, int ``(K,)``.
        weights: 2 for a pair that both sequences step to, 1 where one waits; float ``(K,)``, summing to T1 + T2.
    """

    mean_cost: float
    first: np.ndarray
    second: np.ndarray
    weights: np.ndarray


def check_warpable(longest_s: float) -> None:
    """`MetricFailure` for what is too long to be warped."""
    if longest_s > DTW_LIMIT_S:
        raise MetricFailure(f"{longest_s:.0f} s of audio; time warping is limited to {DTW_LIMIT_S:.0f} s")


def time_warp(a: np.ndarray, b: np.ndarray, cost: Literal["mean_absolute", "euclidean"] = "mean_absolute") -> Warp:
    """The cheapest path through two sequences ``(T1, D)`` and ``(T2, D)``.

    Steps (1,0) and (0,1) of weight 1 and (1,1) of weight 2, from the first pair to the last, so that every path has the
    weight T1 + T2 by which the sum is divided (Sakoe and Chiba 1978, symmetric form, P = 0); the mean cost does not
    depend on the order of the arguments. The recursion runs over anti-diagonals, whose cells do not depend on each
    other.
    """
    from scipy.spatial.distance import cdist

    rows, columns = len(a), len(b)
    table = cdist(a, b, "cityblock") / a.shape[1] if cost == "mean_absolute" else cdist(a, b, "euclidean")
    # Where the best way into a cell comes from: 0 both steps at once, 1 from the row before, 2 from the column before.
    came_from = np.zeros((rows, columns), dtype=np.uint8)
    # Totals of the last two anti-diagonals, indexed by row + 1: index 0 is the border outside the table.
    before_last, last = np.full(rows + 1, np.inf), np.full(rows + 1, np.inf)
    before_last[0] = 0.0  # stands in front of cell (0, 0), which therefore starts the path with a diagonal step
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows - 1, diagonal) + 1)
        here = table[i, diagonal - i]
        both, row, column = before_last[i] + 2 * here, last[i] + here, last[i + 1] + here
        single = np.minimum(row, column)
        came_from[i, diagonal - i] = np.where(both <= single, 0, np.where(row <= column, 1, 2))
        total = np.full(rows + 1, np.inf)
        total[i + 1] = np.minimum(both, single)
        before_last, last = last, total
    return _followed(came_from, float(last[rows] / (rows + columns)))


def _followed(came_from: np.ndarray, mean_cost: float) -> Warp:
    """The path back from the last pair to the first, turned round."""
    i, j = came_from.shape[0] - 1, came_from.shape[1] - 1
    pairs, weights = [], []
    while i >= 0 and j >= 0:
        step = came_from[i, j]
        pairs.append((i, j))
        weights.append(2.0 if step == 0 else 1.0)
        i, j = i - (step != 2), j - (step != 1)
    first, second = np.array(pairs[::-1]).T
    return Warp(mean_cost, first, second, np.array(weights[::-1]))
