"""Checks of the settings that the degradations share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from unisono.errors import UserError
from unisono.media.audio import check_waveform

PEAK_LIMIT = 0.99


class Degraded(NamedTuple):
    """A degraded waveform.

    Attributes:
        waveform: float32 ``(S,)``, as long as the input and aligned with it.
        description: what was done, in JSON's own types; parts that were not applied are absent.
    """

    waveform: np.ndarray
    description: dict[str, Any]


def checked_range(what: str, values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """``(lowest, highest)`` as floats, both within ``low`` and ``high``.

    Raises:
        UserError: not two finite numbers in rising order, or beyond the limits.
    """
    pair = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    numbers = [float(v) for v in pair if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if len(pair) != 2 or len(numbers) != 2 or not low <= numbers[0] <= numbers[1] <= high:
        raise UserError(f"{what} is {values!r}; give [lowest, highest] within {low:g} to {high:g}")
    return numbers[0], numbers[1]


def checked_probability(what: str, value: float) -> float:
    """``value`` if it is a probability, else a UserError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"{what} is {value!r}; give a probability, 0 to 1")
    return float(value)


def checked_names(what: str, values: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """``values`` as a tuple if all are ``known``, else a UserError."""
    names = [values] if isinstance(values, str) else list(values)
    for name in names:
        if name not in known:
            raise UserError(f"{what} has {name!r}; choose from {', '.join(known)}")
    return tuple(names)


def checked_waveform(what: str, waveform: np.ndarray) -> np.ndarray:
    """``waveform`` as float32 if it is mono, finite and not empty, else a UserError."""
    if waveform.ndim != 1:
        raise UserError(f"{what}: the waveform has the shape {waveform.shape}; give one channel, (samples,)")
    check_waveform(waveform, what)
    return waveform.astype(np.float32, copy=False)


def stage_generators(rng: np.random.Generator, count: int) -> list[np.random.Generator]:
    """A generator per stage: changing what one stage draws leaves the others as they were."""
    return [np.random.default_rng(seed) for seed in rng.integers(2**63, size=count)]


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between ``low`` and ``high``, each octave as likely as the next."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
