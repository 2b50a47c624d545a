"""Which lengths to batch together."""

from __future__ import annotations

import numpy as np

_MAX_BINS = 256


def bucket_edges(frames: np.ndarray, num_buckets: int, min_items: int = 1) -> np.ndarray:
    """Greatest length of each bucket, ascending, chosen for the least padding.

    Padding of a bucket is what its items lack to its greatest length. The best cuts of a sorted sequence are found
    exactly by dynamic programming over a histogram of at most 256 lengths.

    Args:
        frames: length per item.
        num_buckets: at most so many.
        min_items: at least so many items in each.

    Returns:
        int64 edges; item ``i`` belongs to the first bucket whose edge is at least ``frames[i]``.
    """
    lengths, counts = _histogram(np.asarray(frames))
    bins = len(lengths)
    items = np.concatenate([[0], np.cumsum(counts)])
    best = np.full((num_buckets + 1, bins + 1), np.inf)
    cut = np.zeros((num_buckets + 1, bins + 1), dtype=np.int64)
    best[0, 0] = 0.0
    for bucket in range(1, num_buckets + 1):
        for end in range(1, bins + 1):
            # Padded length of bins begin..end; what the items themselves hold is the same for every choice.
            begin = np.arange(end)
            number = items[end] - items[:end]
            cost = best[bucket - 1, begin] + np.where(number >= min_items, number * lengths[end - 1], np.inf)
            cut[bucket, end] = int(np.argmin(cost))
            best[bucket, end] = cost[cut[bucket, end]]
    chosen = int(np.argmin(best[:, bins]))
    edges, end = [], bins
    while end:
        edges.append(int(lengths[end - 1]))
        chosen, end = chosen - 1, int(cut[chosen, end])
    return np.array(edges[::-1], dtype=np.int64)


def _histogram(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (ends of bins) that occur, ascending, and how many items end there."""
    lengths, counts = np.unique(frames, return_counts=True)
    if len(lengths) <= _MAX_BINS:
        return lengths.astype(np.int64), counts
    # Ends at equal shares of the items, so that bins are fine where lengths are many.
    ends = np.unique(np.quantile(frames, np.linspace(0, 1, _MAX_BINS + 1)[1:], method="inverted_cdf"))
    which = np.searchsorted(ends, lengths, side="left")
    return ends.astype(np.int64), np.bincount(which, weights=counts, minlength=len(ends)).astype(np.int64)
