"""Learning-rate schedules, counted in optimizer updates."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, min_ratio: float = 0.05
) -> LambdaLR:
    """Linear warm-up, then half a cosine down to ``min_ratio`` of the learning rate at the last update."""

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            return (step + 1) / num_warmup_steps
        progress = (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)
        return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)


def constant_with_warmup(optimizer: Optimizer, num_warmup_steps: int) -> LambdaLR:
    """Linear warm-up, then constant."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, num_warmup_steps)))
