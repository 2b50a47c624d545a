"""The acoustic model of the aligner: for each state of each phoneme a mixture of Gaussians with diagonal covariance.

Shapes: P states of the inventory, M Gaussians at most per state, D dimensions, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LOG_2PI = float(np.log(2 * np.pi))
_ABSENT = -1e30  # log weight of a Gaussian that does not exist
_MIN_VARIANCE = 0.01  # features have variance 1 within a recording
_SPLIT_DEVIATIONS = 0.2
# What each estimate is mixed with: for a state so many frames of the whole corpus, for a Gaussian of its state.
_PRIOR_FRAMES = 10.0


@dataclass(frozen=True)
class Mixtures:
    """Parameters of all states.

    Attributes:
        means, variances: ``(P, M, D)``.
        log_weights: ``(P, M)``, very low where a state has fewer Gaussians.
    """

    means: np.ndarray
    variances: np.ndarray
    log_weights: np.ndarray

    @classmethod
    def flat(cls, num_states: int, mean: np.ndarray, variance: np.ndarray) -> Mixtures:
        """One and the same Gaussian ``(D,)`` for every state."""
        shape = (num_states, 1, len(mean))
        return cls(np.broadcast_to(mean, shape).copy(), np.broadcast_to(variance, shape).copy(), np.zeros(shape[:2]))

    @property
    def present(self) -> np.ndarray:
        """Which Gaussians exist, bool ``(P, M)``."""
        return self.log_weights > _ABSENT / 2

    def log_likelihood(self, features: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Log of weight times density of each Gaussian, float64 ``(T, len(states), M)``."""
        means, precisions = self.means[states], 1.0 / self.variances[states]
        constant = self.log_weights[states] - 0.5 * (
            (means**2 * precisions).sum(-1) - np.log(precisions).sum(-1) + means.shape[-1] * _LOG_2PI
        )
        x = features.astype(np.float64)
        flat = (-1, means.shape[-1])
        scores = x @ (means * precisions).reshape(flat).T - 0.5 * (x**2 @ precisions.reshape(flat).T)
        return scores.reshape(len(x), *constant.shape) + constant

    def split(self, frames: np.ndarray, min_frames: float) -> Mixtures:
        """One Gaussian more where a state's ``frames`` ``(P,)`` suffice for ``min_frames`` each: the heaviest parts."""
        counts = self.present.sum(axis=1)
        log_weights = np.concatenate([self.log_weights, np.full((len(counts), 1), _ABSENT)], axis=1)
        means = np.concatenate([self.means, self.means[:, :1]], axis=1)
        variances = np.concatenate([self.variances, self.variances[:, :1]], axis=1)
        states = np.flatnonzero(frames >= min_frames * (counts + 1))
        heaviest, new = log_weights[states].argmax(axis=1), counts[states]
        offset = _SPLIT_DEVIATIONS * np.sqrt(variances[states, heaviest])
        means[states, new] = means[states, heaviest] + offset
        means[states, heaviest] -= offset
        variances[states, new] = variances[states, heaviest]
        log_weights[states, heaviest] -= np.log(2)
        log_weights[states, new] = log_weights[states, heaviest]
        used = int((log_weights > _ABSENT / 2).any(axis=0).sum())
        return Mixtures(means[:, :used], variances[:, :used], log_weights[:, :used])


class Statistics:
    """Sums over frames, weighted with how much a Gaussian accounts for each, from which mixtures are estimated.

    Attributes:
        frames: ``(P, M)``.
        sums, squares: of the features, ``(P, M, D)``.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.frames = np.zeros(shape[:2])
        self.sums = np.zeros(shape)
        self.squares = np.zeros(shape)

    def add(self, features: np.ndarray, states: np.ndarray, weights: np.ndarray) -> None:
        """Count ``features`` ``(T, D)`` with ``weights`` ``(T, len(states), M)`` of distinct ``states``."""
        x = features.astype(np.float64)
        flat = weights.reshape(len(x), -1).T
        shape = (len(states), weights.shape[2], -1)
        self.frames[states] += weights.sum(axis=0)
        self.sums[states] += (flat @ x).reshape(shape)
        self.squares[states] += (flat @ x**2).reshape(shape)

    def merge(self, other: Statistics) -> None:
        self.frames += other.frames
        self.sums += other.sums
        self.squares += other.squares

    def estimate(self, present: np.ndarray) -> Mixtures:
        """The likeliest mixtures, given that rare states resemble the corpus and rare Gaussians their state.

        Args:
            present: bool ``(P, M)``, the Gaussians to estimate.
        """
        total = self.frames.sum()
        overall = self.sums.sum(axis=(0, 1)) / total, self.squares.sum(axis=(0, 1)) / total
        of_state = _blend(
            self.frames.sum(axis=1, keepdims=True)[..., None],
            self.sums.sum(axis=1, keepdims=True),
            self.squares.sum(axis=1, keepdims=True),
            *overall,
        )
        single = self.frames.shape[1] == 1
        means, squares = of_state if single else _blend(self.frames[..., None], self.sums, self.squares, *of_state)
        counted = np.where(present, self.frames + 1.0, np.exp(_ABSENT))
        shares = counted / counted.sum(axis=1, keepdims=True)
        log_weights = np.where(present, np.log(np.where(present, shares, 1.0)), _ABSENT)
        return Mixtures(means, np.maximum(squares - means**2, _MIN_VARIANCE), log_weights)


def _blend(
    frames: np.ndarray, sums: np.ndarray, squares: np.ndarray, prior_mean: np.ndarray, prior_square: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First and second moments, as if ``_PRIOR_FRAMES`` frames had been counted before."""
    weight = frames + _PRIOR_FRAMES
    return (sums + _PRIOR_FRAMES * prior_mean) / weight, (squares + _PRIOR_FRAMES * prior_square) / weight


def log_sum(log_values: np.ndarray) -> np.ndarray:
    """Logarithm of the sum of exponentials over the last axis."""
    highest = log_values.max(axis=-1, keepdims=True)
    return highest[..., 0] + np.log(np.exp(log_values - highest).sum(axis=-1))
