"""What every objective offers to the model, the trainer and the batch runner.

An objective says how data is noised, what the network predicts and how noise becomes data. It has no weights and knows
no network. Noise levels are ``sigma`` in [0, 1]: 0 is data, 1 is noise.

Shape letters: B items, T frames, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unisono.errors import UserError
from unisono.suggest import nearest

# The network with its conditions, guidance included: ``(x (B, T, C), sigma) -> prediction (B, T, C)``. The noise level
# is that of all items, a Python float: what depends on it can be decided without waiting for a device.
Predict = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class SolverSettings:
    """How an objective generates: its solver, and how its steps lie (None where the objective has no such thing)."""

    solver: str
    sway: float | None
    shift: float | None


class Objective(ABC):
    """How to train a network to predict, and how to generate with it.

    Attributes:
        tag: its name in model cards.
        solvers: names that ``generate`` takes; the first is the default.
    """

    tag: ClassVar[str]
    solvers: ClassVar[tuple[str, ...]]

    @abstractmethod
    def sample_sigma(self, batch_size: int, device: torch.device) -> Tensor:
        """Noise levels ``(B,)`` to train at."""

    @abstractmethod
    def interpolate(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Noised data ``(B, T, C)`` at ``sigma (B,)``."""

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """What the network should predict ``(B, T, C)`` from ``interpolate(x0, noise, sigma)``."""

    def couple(self, x0: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
        """The noise ``(B, T, C)`` of each item of a training batch, from as much that was drawn without regard to it.

        Args:
            x0, noise: ``(B, T, C)``; the noise has no end, whatever the item's length.
            mask: bool ``(B, T)``, valid frames of ``x0``.
        """
        return noise

    @abstractmethod
    def generate(
        self,
        predict: Predict,
        noise: Tensor,
        num_steps: int,
        solver: str | None = None,
        sway: float | None = None,
        shift: float | None = None,
    ) -> Tensor:
        """Latent ``(B, T, C)`` from ``noise (B, T, C)``; draws nothing random and waits for no device.

        Args:
            predict: the network; what it predicts is this objective's ``target``.
            num_steps: steps from noise to data; a solver may ask the network more than once in each.
            solver: one of ``solvers``; None is the first.
            sway, shift: of flow matching, see ``sigma_schedule``; None is the objective's own default.

        Raises:
            UserError: a setting that this objective does not have.
        """

    @abstractmethod
    def settle(
        self, num_steps: int, solver: str | None = None, sway: float | None = None, shift: float | None = None
    ) -> SolverSettings:
        """What ``generate`` uses for these settings; raises as it does, before anything is made."""

    def noise_levels(
        self, num_steps: int, solver: str | None = None, sway: float | None = None, shift: float | None = None
    ) -> list[float]:
        """Where ``generate`` asks the network, in order, once per evaluation. Found by generating almost nothing."""
        asked = []

        def note(x: Tensor, sigma: float) -> Tensor:
            asked.append(sigma)
            return torch.zeros_like(x)

        self.generate(note, torch.zeros(1, 1, 1), num_steps, solver, sway, shift)
        return asked

    def choose_solver(self, name: str | None) -> str:
        """The solver to use; a UserError names the choices if ``name`` is none of them."""
        if name is None:
            return self.solvers[0]
        check_choice(f"solver (for {self.tag})", name, self.solvers)
        return name


def stratified_uniform(batch_size: int, device: torch.device) -> Tensor:
    """Uniform ``(B,)`` in [0, 1), one per stratum, in random order: less variance, the same distribution."""
    return (torch.randperm(batch_size, device=device) + torch.rand(batch_size, device=device)) / batch_size


def check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    """Raise a UserError that names the choices, and the nearest, if ``value`` is none of them."""
    if value not in choices:
        near = nearest(str(value), choices, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{what} is {value!r}; choose one of {', '.join(choices)}{hint}")
