"""What the main process shows while it trains: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack
from datetime import timedelta

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)
_LINE_EVERY_S = 10.0


class Progress:
    """Loss, learning rate, items per second and the time that is left.

    Args:
        total_steps, step: of the run, and where it begins.
        enabled: False for processes other than the main one.
    """

    def __init__(self, total_steps: int, step: int, enabled: bool) -> None:
        self.total_steps, self.step, self.enabled = total_steps, step, enabled
        self.first_step, self.began_s, self._line_s = step, time.perf_counter(), -_LINE_EVERY_S
        self._items, self._busy_s = 0, 0.0
        self._stack = ExitStack()

    def __enter__(self) -> Progress:
        on_terminal = self.enabled and sys.stderr.isatty()
        self.bar = tqdm(
            total=self.total_steps, initial=self.step, unit="step", desc="train", dynamic_ncols=True,
            disable=not on_terminal,
        )  # fmt: skip
        if on_terminal:
            self._stack.enter_context(logging_redirect_tqdm())  # lines of the log above the bar, not through it
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        self._stack.close()

    def update(self, items: int, busy_s: float) -> None:
        """One step more, of so many items of all processes, that took ``busy_s``."""
        self.step += 1
        self._items += items
        self._busy_s += busy_s
        self.bar.update()

    def items_per_s(self) -> float:
        """Since the last call; validating and saving do not count."""
        rate = self._items / self._busy_s if self._busy_s else 0.0
        self._items, self._busy_s = 0, 0.0
        return rate

    def show(self, loss: float, lr: float, items_per_s: float) -> None:
        values = f"loss {loss:.4f}, lr {lr:.2e}, {items_per_s:.1f} items/s"
        self.bar.set_postfix_str(values)
        now_s = time.perf_counter()
        if not self.enabled or not self.bar.disable:
            return
        if now_s - self._line_s >= _LINE_EVERY_S or self.step == self.total_steps:
            self._line_s = now_s
            left_s = (self.total_steps - self.step) * (now_s - self.began_s) / max(1, self.step - self.first_step)
            logger.info("step %d of %d, %s, %s left", self.step, self.total_steps, values, timedelta(0, round(left_s)))
