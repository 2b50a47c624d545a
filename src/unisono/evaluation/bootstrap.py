"""Is one system better than another: differences item by item, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unisono.evaluation.intervals import CONFIDENCE, error_of_mean, numbered

RESAMPLES, SEED = 9_999, 0
FEWEST_PAIRS = 5
FEWEST_FOR_BOOTSTRAP = 40
METHOD = (
    "paired bootstrap over items (those of one recording or text together), bias-corrected and accelerated (BCa), "
    f"{RESAMPLES} resamples, seed {SEED}; joined with Student's t interval below {FEWEST_FOR_BOOTSTRAP} pairs, where "
    "the bootstrap is too narrow"
)


@dataclass(frozen=True)
class Difference:
    """A system less the baseline, over the items for which both have a value.

    Attributes:
        n: number of those items.
        mean: of the differences; for a metric of all items together, the difference of the two numbers.
        interval95: of that mean; None where there is none.
        reason: why there is no difference, or no interval.
    """

    n: int
    mean: float | None
    interval95: tuple[float, float] | None
    reason: str = ""

    def verdict(self, direction: Literal["lower", "higher"]) -> Literal["better", "worse", ""]:
        """Better or worse where the interval leaves zero out."""
        if self.interval95 is None or not (self.interval95[0] > 0 or self.interval95[1] < 0):
            return ""
        return "better" if (self.interval95[0] > 0) == (direction == "higher") else "worse"


def paired_difference(
    system: Mapping[str, float], baseline: Mapping[str, float], sources: Mapping[str, str] | None = None
) -> Difference:
    """Mean of ``system - baseline`` over the items that both have, with its interval (Efron 1987).

    Pairing takes out how hard each item is, so that far smaller differences show than between two intervals of means.
    Test items are resampled, nothing else: it says what another choice of them would give, not another training.

    Args:
        system, baseline: value by item.
        sources: recording or text that the item goes back to; those of one source are resampled together. None, or an
            item that is missing there or has an empty one: a source for each.
    """
    shared = sorted(system.keys() & baseline.keys())
    if not shared:
        return Difference(0, None, None, "no item has a value in both")
    differences = np.array([system[item] - baseline[item] for item in shared])
    of_items = numbered([(sources or {}).get(item, "") for item in shared])
    mean, n, pairs = float(differences.mean()), len(differences), int(of_items.max()) + 1
    if pairs < FEWEST_PAIRS:
        told = f"{n} item{'s' if n > 1 else ''}" + (f" of {pairs} recordings or texts" if pairs < n else "")
        return Difference(n, mean, None, f"{told} in both; an interval needs {FEWEST_PAIRS}")
    size = max(float(np.abs(list(values.values())).max()) for values in (system, baseline))
    if float(np.ptp(differences)) <= 1e-12 * size:  # equal but for rounding
        return Difference(n, mean, (mean, mean))
    return Difference(n, mean, _interval(differences, of_items))


def _interval(differences: np.ndarray, sources: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of differences ``(N,)`` whose sources have the numbers ``(N,)``.

    With few pairs the bootstrap's intervals cover less than they say (85 % at 5 pairs, 90 % at 12, 93 % at 24), as it
    resamples a spread that is itself too small; there the wider of its ends and those of Student's t is taken.
    """
    from scipy.stats import bootstrap

    sums, counts = np.bincount(sources, weights=differences), np.bincount(sources)
    pairs = len(sums)
    found = bootstrap(
        (sums, counts),
        lambda sums, counts, axis: sums.sum(axis=axis) / counts.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        batch=max(1, 2_500_000 // pairs),  # resamples at a time: bounded memory for any number of items
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    low, high = float(found.low), float(found.high)
    if pairs < FEWEST_FOR_BOOTSTRAP or not np.isfinite([low, high]).all():
        errors = error_of_mean(differences, sources)
        assert errors is not None
        mean, half = float(differences.mean()), errors[1]
        low, high = np.fmin(low, mean - half), np.fmax(high, mean + half)
    return float(low), float(high)
