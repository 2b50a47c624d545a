"""Processes that share a run: its plan, its devices, which batch comes next, and how many items are done."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list

from unisono.errors import UserError
from unisono.inference.pipeline import choose_device

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")


def from_main(state: PartialState, make: Callable[[], T]) -> T:
    """What the main process makes, in all processes; where it raises ``UserError``, the others leave without a word."""
    sent: list[Any] = [None, False]
    error: UserError | None = None
    if state.is_main_process:
        try:
            sent = [make(), True]
        except UserError as raised:
            error = raised
    if state.num_processes > 1:
        broadcast_object_list(sent)
    if error is not None:
        raise error
    if not sent[1]:
        sys.exit(1)
    return sent[0]


def main_first(state: PartialState, make: Callable[[], T]) -> T:
    """What each process makes for itself, the main one first: its errors are said once, its caches serve the others."""
    made: list[T] = []
    from_main(state, lambda: made.append(make()))
    return made[0] if made else make()


def own_device(state: PartialState, name: str) -> torch.device:
    """The device of this process.

    Args:
        name: "auto", "cpu", "cuda", or "cuda:1" for a process that is alone.
    """
    device = choose_device(name)
    if state.num_processes == 1:
        return device
    if name != "auto" and (device.type != state.device.type or device.index is not None):
        raise UserError(
            f"device is {name!r}, and {state.num_processes} processes share the work on {state.device.type}; leave "
            "device=auto, which gives each its own"
        )
    return state.device


class Tally:
    """Counters that all processes of a run add to.

    Args:
        name: of the run, the same in all processes and new for each run.
    """

    def __init__(self, state: PartialState, name: str) -> None:
        self._own: Counter[str] = Counter()
        self._store = None
        if state.num_processes > 1:
            # The store by which the processes found each other; it adds atomically, without waiting for anybody.
            from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

            self._store = PrefixStore(name, _get_default_store())

    def add(self, counter: str, amount: int) -> int:
        """The counter's new value."""
        if self._store is not None:
            return int(self._store.add(counter, amount))
        self._own[counter] += amount
        return self._own[counter]

    def value(self, counter: str) -> int:
        return self.add(counter, 0)
