"""The global random generators of Python, NumPy and torch, seeded and kept apart."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # data sets of others draw from the global generator
    # Not torch.manual_seed: where a GPU is not in use, that takes a hundred times as long, for each item of a batch.
    torch.default_generator.manual_seed(seed)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    module = torch.get_device_module(device) if device is not None else None
    if module is not None and module.is_initialized():
        module.manual_seed_all(seed)


class RandomStream:
    """Context in which the global generators go on from where they were when it was last left, first from ``seed``.

    Afterwards they are where they were before.
    """

    def __init__(self, seed: int) -> None:
        with _kept():
            seed_all(seed)
            self._states = _states()

    def __enter__(self) -> None:
        self._outside = _states()
        _set(self._states)

    def __exit__(self, *_: object) -> None:
        self._states = _states()
        _set(self._outside)


def _states() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002


def _set(states: tuple[Any, Any, torch.Tensor]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.random.set_rng_state(states[2])


@contextmanager
def _kept() -> Iterator[None]:
    states = _states()
    try:
        yield
    finally:
        _set(states)
