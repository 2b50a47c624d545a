"""One pass over a corpus: where the present model hears each state, and what the next one is estimated from.

Shapes: T frames, U distinct states of an utterance, N states of its path, M Gaussians, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unisono.text.aligner.mixtures import Mixtures, Statistics, log_sum
from unisono.text.aligner.search import IMPOSSIBLE, all_paths, best_paths
from unisono.text.aligner.units import STATES, Units, lattice_of, states_of

# States times frames of a batch: 24 MB in each of the three arrays of a pass.
_BATCH_CELLS = 3_000_000


@dataclass(frozen=True)
class Utterance:
    """What is said, and the features ``(T, D)`` of how."""

    units: Units
    features: np.ndarray


def batches(utterances: Sequence[Utterance]) -> list[list[Utterance]]:
    """Utterances of similar length together, as many as memory allows; the same on every run."""
    order = sorted(range(len(utterances)), key=lambda index: (len(utterances[index].features), index))
    groups: list[list[Utterance]] = []
    widest = 0
    for utterance in (utterances[index] for index in order):
        widest = max(widest, STATES * len(utterance.units.symbols))
        if not groups or (len(groups[-1]) + 1) * widest * len(utterance.features) > _BATCH_CELLS:
            groups.append([])
            widest = STATES * len(utterance.units.symbols)
        groups[-1].append(utterance)
    return groups


@dataclass(frozen=True)
class Pass:
    """What a batch is gone through with: the model, and whether all paths count or the best alone."""

    mixtures: Mixtures
    inventory: Mapping[str, int]
    soft: bool

    def __call__(self, batch: Sequence[Utterance]) -> tuple[Statistics, float]:
        """Statistics, and the sum of the log probabilities of the paths; utterances without a path add nothing."""
        from threadpoolctl import threadpool_limits

        # One thread: sums of several depend on how many there are, and every processor has its own batch already.
        with threadpool_limits(1):
            return self._run(batch)

    def _run(self, batch: Sequence[Utterance]) -> tuple[Statistics, float]:
        scored = [Scored(utterance, self.mixtures, self.inventory) for utterance in batch]
        lattice = lattice_of([utterance.units for utterance in batch], [len(u.features) for u in batch])
        log_likelihood = np.zeros((len(batch), int(lattice.num_frames.max()), lattice.start.shape[1]))
        for row, item in enumerate(scored):
            frames, states = item.of_path.shape
            log_likelihood[row, :frames, :states] = item.of_path
        statistics = Statistics(self.mixtures.means.shape)
        if self.soft:
            posteriors, total = all_paths(log_likelihood, lattice)
        else:
            paths, total = best_paths(log_likelihood, lattice)
        for row, item in enumerate(scored):
            if total[row] < IMPOSSIBLE / 2:
                continue
            frames, states = item.of_path.shape
            heard = posteriors[row, :frames, :states] if self.soft else paths[row, :frames, None] == np.arange(states)
            statistics.add(batch[row].features, item.states, item.weights(heard))
        return statistics, float(total[total > IMPOSSIBLE / 2].sum())


class Scored:
    """How well each frame of an utterance fits each of its states.

    Attributes:
        states: the distinct ones, ``(U,)``.
        of_path: log likelihood ``(T, N)`` of the states in their order.
    """

    def __init__(self, utterance: Utterance, mixtures: Mixtures, inventory: Mapping[str, int]) -> None:
        path_states = states_of(utterance.units, inventory)
        self.states, self._place = np.unique(path_states, return_inverse=True)
        of_gaussians = mixtures.log_likelihood(utterance.features, self.states)
        of_states = log_sum(of_gaussians)
        self._shares = np.exp(of_gaussians - of_states[..., None])
        self.of_path = of_states[:, self._place]

    def weights(self, heard: np.ndarray) -> np.ndarray:
        """From how far each state of the path is heard ``(T, N)``, how far each Gaussian is ``(T, U, M)``."""
        of_states = np.zeros((len(self.states), len(heard)))
        np.add.at(of_states, self._place, heard.T)
        return of_states.T[..., None] * self._shares
