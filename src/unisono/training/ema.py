"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unisono.training.weights import gathered, share_of


class ExponentialMovingAverage:
    """Average of all trainable parameters.

    The decay grows with the number of updates, ``min(decay, (1 + n) / (10 + n))``, so that early averages forget the
    random initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA decay is {decay}; it must lie in [0, 1)")
        self.decay, self.updates = decay, 0
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone().float() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.average.values()), [p.float() for p in self.parameters.values()], 1 - decay)

    def restart(self) -> None:
        """Begin again at the model's present weights."""
        self.updates = 0
        for name, p in self.parameters.items():
            self.average[name].copy_(p.detach())

    def state_dict(self, keep: bool = True) -> dict[str, Tensor]:
        """Whole tensors on the CPU; every process must call it, and those that do not ``keep`` get none."""
        return gathered(self.average, keep)

    def load_state_dict(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Averages that ``state_dict`` gave, and how many updates they have seen."""
        self.updates = updates
        for name, tensor in self.average.items():
            tensor.copy_(share_of(weights[name], tensor))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the model holds the averaged weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """One tensor after the other, so that no third copy of the model is needed."""
        for name, parameter in self.parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(kept)
