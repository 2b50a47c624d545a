"""Running means over steps, items and processes, and the log file ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from unisono.errors import UserError
from unisono.files import replaced_file


class MeanMetrics:
    """Sums and counts by name. Values stay on their device until ``compute``: no synchronisation per step.

    Args:
        skip_nonfinite: leave out values that are infinite or NaN, which belong to updates that were not made.
    """

    def __init__(self, skip_nonfinite: bool = False) -> None:
        self.skip_nonfinite = skip_nonfinite
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def update(self, name: str, values: Tensor, mask: Tensor | None = None) -> None:
        """Add values of any shape; ``mask`` (same shape) says which count."""
        values = values.detach().double()
        counts = torch.ones_like(values, dtype=torch.bool) if mask is None else mask.bool()
        if self.skip_nonfinite:
            counts = counts & values.isfinite()
        total, count = torch.where(counts, values, 0.0).sum(), counts.sum().double()
        if name in self.sums:
            total, count = self.sums[name] + total, self.counts[name] + count
        self.sums[name], self.counts[name] = total, count

    def compute(self, accelerator: Accelerator | None = None) -> dict[str, float]:
        """Means over everything added; with an accelerator, over all processes (every process must call it)."""
        return {name: total / count for name, (total, count) in self.state_dict(accelerator).items() if count > 0}

    def state_dict(self, accelerator: Accelerator | None = None) -> dict[str, Any]:
        """``name -> (sum, count)``; with an accelerator, over all processes (every process must call it)."""
        names = list(self.sums)
        both = [*self.sums.values(), *self.counts.values()]
        plain = torch.stack(both).tolist() if both else []  # one transfer from the device, not one for each
        pairs = [dict(zip(names, zip(plain[: len(names)], plain[len(names) :], strict=True), strict=True))]
        if accelerator is not None and accelerator.num_processes > 1:
            pairs = gather_object(pairs)
        names = sorted({name for part in pairs for name in part})
        parts = {name: [part[name] for part in pairs if name in part] for name in names}
        return {name: (sum(s for s, _ in part), sum(c for _, c in part)) for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = {name: torch.tensor(total, dtype=torch.float64) for name, (total, _) in state.items()}
        self.counts = {name: torch.tensor(count, dtype=torch.float64) for name, (_, count) in state.items()}


class MetricsFile:
    """``metrics.jsonl``: one JSON object per logged step; floats written so that they round-trip."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def truncate(self, step: int) -> None:
        """Forget what was logged after ``step``: a resumed run writes it again. A torn last line goes too."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break  # only the last line of a killed run can be torn
            if not isinstance(record, dict) or "step" not in record:
                break
            if record["step"] <= step:
                kept.append(line + "\n")
        with replaced_file(self.path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Add a line. What is infinite or NaN becomes null, since JSON has no word for it."""
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        try:
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(finite, allow_nan=False) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.path} could not be written: {error.strerror}; make room there, or see to its permissions, and "
                "give the same command again: it goes on from the last checkpoint"
            ) from error
