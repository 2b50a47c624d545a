"""Signals that ask a run to stop: it ends its step, saves, and leaves; what a cluster's preemption needs."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from unisono.training.processes import PATIENCE

_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")
_SECOND_THOUGHT_S = 2.0  # a terminal and a launcher may both send one and the same Ctrl-C


class StopSignals:
    """Context in which SIGTERM, SIGINT and SIGUSR1 are remembered until the next step boundary.

    A second SIGINT, two seconds later or more, raises ``KeyboardInterrupt`` at once.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.received: str | None = None  # by this process
        self.decided: str | None = None  # by all of them: only this may change what they do together
        self._received_s = 0.0
        self._before: dict[int, Callable[..., Any] | int | None] = {}
        self._group: Any = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for name in _NAMES:
                if hasattr(signal, name):
                    self._before[getattr(signal, name)] = signal.signal(getattr(signal, name), self._receive)
        if self.accelerator.num_processes > 1:
            # On the CPU whatever the model is on: asking must not wait for a GPU.
            self._group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._group is not None and error is None:
            torch.distributed.destroy_process_group(self._group)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self.received is None:
            self.received, self._received_s = signal.Signals(number).name, now_s
        elif number == signal.SIGINT and now_s - self._received_s >= _SECOND_THOUGHT_S:
            raise KeyboardInterrupt

    def agreed(self) -> str | None:
        """The signal that any process got, in all of them; every process must call it at the same place.

        Else one would leave, and the others wait for it in the next step.
        """
        index = self._largest(_NAMES.index(self.received) + 1 if self.received else 0)
        self.decided = _NAMES[index - 1] if index else None
        return self.decided

    def any_process(self, wish: bool) -> bool:
        """Whether any process has the wish; every process must call it at the same place."""
        return bool(self._largest(int(wish)))

    def _largest(self, value: int) -> int:
        if self._group is None:
            return value
        flag = torch.tensor(value)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self._group)
        return int(flag)
