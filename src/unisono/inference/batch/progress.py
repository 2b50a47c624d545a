"""How far a run is, all of its processes together: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack
from datetime import timedelta

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from unisono.inference.batch.sharing import Tally

logger = logging.getLogger(__name__)
_LINE_EVERY_S = 10.0


class Progress:
    """Items done, items per second and the time that is left.

    Long items come first, so the time is judged by latent frames.

    Args:
        tally: counts for all processes.
        items, frames: that are to be generated.
        shown: in this process.
    """

    def __init__(self, tally: Tally, items: int, frames: int, shown: bool) -> None:
        self.tally, self.items, self.frames, self.shown = tally, items, frames, shown
        self._began_s = self._line_s = time.perf_counter()
        self._stack = ExitStack()

    def __enter__(self) -> Progress:
        on_terminal = self.shown and sys.stderr.isatty()
        self._bar = tqdm(
            total=self.items, unit="item", desc="generate", dynamic_ncols=True, disable=not on_terminal,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]",
        )  # fmt: skip
        if on_terminal:
            self._stack.enter_context(logging_redirect_tqdm())
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._stack.close()

    @property
    def done(self) -> int:
        """Items that all processes are through with."""
        return self.tally.value("items")

    def add(self, items: int, frames: int) -> None:
        """This process is through with so many."""
        self.tally.add("frames", frames)
        self.tally.add("items", items)
        self.show()

    def show(self) -> None:
        """What all processes have done."""
        if not self.shown:
            return
        done, now_s = self.done, time.perf_counter()
        elapsed_s, frames = now_s - self._began_s, self.tally.value("frames")
        left = timedelta(0, round(elapsed_s * (self.frames - frames) / frames)) if frames else None
        if not self._bar.disable:
            if left is not None:
                self._bar.set_postfix_str(f"{left} left", refresh=False)
            self._bar.update(done - self._bar.n)
        elif done == self.items or now_s - self._line_s >= _LINE_EVERY_S:
            self._line_s = now_s
            logger.info("%d of %d items, %.2f items/s, %s left", done, self.items, done / elapsed_s, left)
