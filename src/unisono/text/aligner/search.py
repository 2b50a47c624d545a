"""Monotonic alignment: which state of a left-to-right sequence is heard in each frame, best path and all paths.

The best path is the monotonic alignment search of Glow-TTS (Kim et al. 2020, section 3), the sum over all paths the
forward-sum objective of One TTS Alignment (Badlani et al. 2022), here with states that may be skipped, so that a pause
that is written but not made takes no time.

Shapes: B utterances, T frames, N states (padded at the end). All in log domain, float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IMPOSSIBLE = -1e30


@dataclass(frozen=True)
class Lattice:
    """Which paths are possible.

    A path begins in a ``start`` state, ends in an ``end`` state, and from frame to frame stays, goes to the next state,
    or from state ``n - jump`` to ``n`` where ``jumps[n]``.

    Attributes:
        num_frames, num_states: ``(B,)`` of each utterance.
        start, end, jumps: bool ``(B, N)``.
        jump: how many states a jump goes forward.
        log_stay, log_leave: ``(B, N)``, added for each frame a state goes on, and for leaving it.
    """

    num_frames: np.ndarray
    num_states: np.ndarray
    start: np.ndarray
    end: np.ndarray
    jumps: np.ndarray
    jump: int
    log_stay: np.ndarray
    log_leave: np.ndarray

    @classmethod
    def plain(cls, num_frames: np.ndarray, num_states: np.ndarray) -> Lattice:
        """Every state in order, each at least one frame: the search of Glow-TTS."""
        count, longest = len(num_states), int(max(num_states))
        zeros = np.zeros((count, longest))
        start, end = zeros.astype(bool), zeros.astype(bool)
        start[:, 0] = True
        end[np.arange(count), np.asarray(num_states) - 1] = True
        jumps = np.zeros((count, longest), bool)
        return cls(np.asarray(num_frames), np.asarray(num_states), start, end, jumps, 1, zeros, zeros)


def best_paths(log_likelihood: np.ndarray, lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest path of each utterance.

    Args:
        log_likelihood: ``(B, T, N)``; what lies beyond an utterance's frames and states is not read.

    Returns:
        states int64 ``(B, T)``, -1 after the last frame; log probability ``(B,)``. Where no path fits, which is where
        there are fewer frames than states to pass, all states are -1 and the probability is ``IMPOSSIBLE`` or less. Of
        equal paths the one that moves on last is taken.
    """
    frames = log_likelihood.shape[1]
    score = np.where(lattice.start, log_likelihood[:, 0], IMPOSSIBLE)
    came_from = np.zeros(log_likelihood.shape, np.int8)  # 0 stay, 1 next, 2 jump
    last_score = score
    for t in range(1, frames):
        score, came_from[:, t] = _best_step(score, lattice)
        score += log_likelihood[:, t]
        last_score = np.where((lattice.num_frames > t)[:, None], score, last_score)
    last_score = np.where(lattice.end, last_score, 2 * IMPOSSIBLE)
    final = last_score.max(axis=1)
    return _trace_back(came_from, last_score.argmax(axis=1), final, lattice), final


def _best_step(score: np.ndarray, lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    leaving = score + lattice.log_leave
    best = score + lattice.log_stay
    move = np.zeros(score.shape, np.int8)
    following = np.full_like(score, IMPOSSIBLE)
    following[:, 1:] = leaving[:, :-1]
    move[following > best] = 1
    best = np.maximum(best, following)
    if lattice.jump < score.shape[1]:
        jumped = np.full_like(score, IMPOSSIBLE)
        jumped[:, lattice.jump :] = leaving[:, : -lattice.jump]
        jumped[~lattice.jumps] = IMPOSSIBLE
        move[jumped > best] = 2
        best = np.maximum(best, jumped)
    return best, move


def _trace_back(came_from: np.ndarray, final_state: np.ndarray, final: np.ndarray, lattice: Lattice) -> np.ndarray:
    batch, frames, _ = came_from.shape
    paths = np.full((batch, frames), -1, np.int64)
    rows = np.arange(batch)
    state = np.zeros(batch, np.int64)
    steps = np.array([0, 1, lattice.jump])
    for t in range(frames - 1, -1, -1):
        state = np.where(lattice.num_frames == t + 1, final_state, state)
        active = (lattice.num_frames > t) & (final > IMPOSSIBLE / 2)
        paths[active, t] = state[active]
        state = state - np.where(active, steps[came_from[rows, t, state]], 0)
    return paths


def all_paths(log_likelihood: np.ndarray, lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """The probability of being in each state at each frame, over all paths.

    Args:
        log_likelihood: ``(B, T, N)``.

    Returns:
        posteriors ``(B, T, N)``, summing to 1 over the states in an utterance's frames and 0 elsewhere; log probability
        of all paths together ``(B,)``. Posteriors of an utterance without any path are 0.
    """
    batch, frames, num_states = log_likelihood.shape
    forward = np.empty((batch, frames, num_states))
    forward[:, 0] = np.where(lattice.start, log_likelihood[:, 0], IMPOSSIBLE)
    for t in range(1, frames):
        forward[:, t] = _forward_step(forward[:, t - 1], lattice) + log_likelihood[:, t]
    rows = np.arange(batch)
    ends = np.where(lattice.end, 0.0, IMPOSSIBLE)
    total = np.logaddexp.reduce(forward[rows, lattice.num_frames - 1] + ends, axis=1)
    backward = np.full((batch, num_states), IMPOSSIBLE)
    posteriors = np.zeros((batch, frames, num_states))
    valid = total > IMPOSSIBLE / 2
    for t in range(frames - 1, -1, -1):
        if t + 1 < frames:
            backward = _backward_step(backward + log_likelihood[:, t + 1], lattice)
        backward = np.where((lattice.num_frames == t + 1)[:, None], ends, backward)
        inside = (valid & (lattice.num_frames > t))[:, None]
        posteriors[:, t] = np.exp(np.where(inside, forward[:, t] + backward - total[:, None], -np.inf))
    return posteriors, total


def _forward_step(score: np.ndarray, lattice: Lattice) -> np.ndarray:
    leaving = score + lattice.log_leave
    reached = score + lattice.log_stay
    reached[:, 1:] = np.logaddexp(reached[:, 1:], leaving[:, :-1])
    jump = lattice.jump
    rows, states = np.nonzero(lattice.jumps)
    reached[rows, states] = np.logaddexp(reached[rows, states], leaving[rows, states - jump])
    return reached


def _backward_step(score: np.ndarray, lattice: Lattice) -> np.ndarray:
    onward = np.full_like(score, IMPOSSIBLE)
    onward[:, :-1] = score[:, 1:]
    rows, states = np.nonzero(lattice.jumps)
    jump = lattice.jump
    onward[rows, states - jump] = np.logaddexp(onward[rows, states - jump], score[rows, states])
    return np.logaddexp(score + lattice.log_stay, onward + lattice.log_leave)
