"""Phonemes of an utterance as the states that a path runs through.

Every phoneme has three states in a row: its beginning, its middle and its end, each heard for at least one frame. A
silence may be skipped as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unisono.text.aligner.search import Lattice
from unisono.text.phonemes import SILENCE

STATES = 3
_LOG_HALF = float(np.log(0.5))


@dataclass(frozen=True)
class Units:
    """The phonemes of an utterance with a silence at both ends, neighbouring silences joined.

    Attributes:
        symbols: of each unit.
        sources: the index of each in what was given; -1 for a silence that was added.
    """

    symbols: tuple[str, ...]
    sources: tuple[int, ...]

    @classmethod
    def of(cls, phonemes: Sequence[str]) -> Units:
        symbols: list[str] = []
        sources: list[int] = []
        for source, symbol in enumerate(phonemes):
            if not symbols and symbol != SILENCE:
                symbols.append(SILENCE)
                sources.append(-1)
            if symbol != SILENCE or not symbols or symbols[-1] != SILENCE:
                symbols.append(symbol)
                sources.append(source)
        if not symbols or symbols[-1] != SILENCE:
            symbols.append(SILENCE)
            sources.append(-1)
        return cls(tuple(symbols), tuple(sources))

    @property
    def spoken(self) -> int:
        """How many are not silence."""
        return sum(symbol != SILENCE for symbol in self.symbols)

    @property
    def min_frames(self) -> int:
        """Frames of the shortest path."""
        return STATES * max(1, self.spoken)


def states_of(units: Units, inventory: Mapping[str, int]) -> np.ndarray:
    """Rows of the acoustic model, int64 ``(STATES * len(units),)``."""
    numbers = np.array([inventory[symbol] for symbol in units.symbols])
    return (numbers[:, None] * STATES + np.arange(STATES)).ravel()


def lattice_of(utterances: Sequence[Units], num_frames: Sequence[int]) -> Lattice:
    """The paths of a batch; in every state it is as likely to go on as to leave it."""
    num_states = np.array([STATES * len(units.symbols) for units in utterances])
    plain = Lattice.plain(np.asarray(num_frames), num_states)
    start, end, jumps = plain.start, plain.end, plain.jumps
    for row, units in enumerate(utterances):
        last = len(units.symbols) - 1
        for place, symbol in enumerate(units.symbols):
            if symbol != SILENCE or last == 0:
                continue
            if place == 0:
                start[row, STATES] = True
            elif place == last:
                end[row, STATES * last - 1] = True
            else:
                jumps[row, STATES * (place + 1)] = True
    log_half = np.full(start.shape, _LOG_HALF)
    return Lattice(plain.num_frames, num_states, start, end, jumps, STATES + 1, log_half, log_half)
