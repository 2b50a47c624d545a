"""Reverberation: rooms simulated by image sources, one at a time or from a bank that is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from unisono.data.degrade.settings import checked_range
from unisono.errors import UserError

MIN_RT60_S, MAX_RT60_S = 0.15, 1.0
_TAIL_ENERGY = 1e-6


def reverberate(rng: np.random.Generator, speech: np.ndarray, sample_rate: int, rt60_s: float) -> np.ndarray:
    """``speech`` as heard in a room, float32, same length and time-aligned with the input.

    The room is a shoe box of 3.5-7 x 3-5 x 2.4-3.2 m, simulated by image sources (Allen and Berkley, 1979) in
    pyroomacoustics, talker and microphone 0.5 to 1.6 m apart. The direct path has gain 1 and no delay, so the
    difference to the input is reverberation alone; the part of the tail beyond the end of the input is dropped.

    Args:
        rng: draws the room and the two positions.
        speech: ``(S,)``.
        sample_rate: Hz.
        rt60_s: reverberation time by Sabine's formula, 0.15 to 1 s.

    Raises:
        UserError: ``rt60_s`` out of range, empty speech, or pyroomacoustics missing.
    """
    if not MIN_RT60_S <= rt60_s <= MAX_RT60_S:
        raise UserError(f"reverberate: rt60_s is {rt60_s}; give {MIN_RT60_S} to {MAX_RT60_S} seconds")
    if speech.ndim != 1 or speech.size == 0:
        raise UserError(f"reverberate: the speech has the shape {speech.shape}; give a 1-D waveform that is not empty")
    from scipy.signal import fftconvolve

    response, direct = _room_response(rng, sample_rate, rt60_s)
    wet = fftconvolve(speech.astype(np.float64), response / response[direct])
    return wet[direct : direct + len(speech)].astype(np.float32)


def _room_response(rng: np.random.Generator, sample_rate: int, rt60_s: float) -> tuple[np.ndarray, int]:
    """``(impulse response, index of the direct path)`` of a random room."""
    try:
        import pyroomacoustics as pra
    except ImportError as error:
        raise UserError(f"reverberation needs pyroomacoustics ({error}); run pip install 'unisono[speech]'") from error

    room_size_m = rng.uniform([3.5, 3.0, 2.4], [7.0, 5.0, 3.2])
    # A whole number of samples between talker and microphone: the direct path then is one tap, not a spread sinc.
    speed_m_per_s = pra.constants.get("c")
    travel_samples = np.round(rng.uniform(0.5, 1.6) / speed_m_per_s * sample_rate)
    distance_m = travel_samples * speed_m_per_s / sample_rate
    angle = rng.uniform(0, 2 * np.pi)
    half_way = 0.5 * distance_m * np.array([np.cos(angle), np.sin(angle), 0.0])
    centre = np.array([*(room_size_m[:2] / 2 + rng.uniform(-0.4, 0.4, 2)), rng.uniform(1.1, 1.7)])

    absorption, order = pra.inverse_sabine(rt60_s, room_size_m)
    # inverse_sabine's order follows the last echo between the two nearest walls down to -60 dB; the cost grows with its
    # cube, and what is left after three quarters lies under -45 dB.
    order = int(np.ceil(0.75 * order))
    threads = pra.constants.get("num_threads")
    # Sums in several threads differ in their last bits from run to run.
    pra.constants.set("num_threads", 1)
    try:
        room = pra.ShoeBox(room_size_m, fs=sample_rate, materials=pra.Material(absorption), max_order=order)
        room.add_source(centre + half_way)
        room.add_microphone(centre - half_way)
        room.compute_rir()
    finally:
        pra.constants.set("num_threads", threads)
    return room.rir[0][0], int(travel_samples) + pra.constants.get("frac_delay_length") // 2


class Room(NamedTuple):
    """An impulse response.

    Attributes:
        response: float32 ``(L,)``, 1 at the direct path, cut where less than a millionth of its energy is left.
        direct: index of the direct path.
        rt60_s: reverberation time by Sabine's formula.
    """

    response: np.ndarray
    direct: int
    rt60_s: float


class RoomBank:
    """A fixed set of rooms, each simulated once per process and sample rate when first used.

    A simulation takes milliseconds to a second, growing with the cube of the reverberation time; from the bank, 10 s of
    speech are reverberated in a few milliseconds. Room ``i`` is a function of ``(seed, i, sample_rate, rt60_s)``.

    Args:
        size: number of rooms.
        rt60_s: lowest and highest reverberation time, within 0.15 to 1 s; the rooms spread evenly between.
        seed: chooses the rooms.
    """

    def __init__(self, size: int = 64, rt60_s: Sequence[float] = (0.2, 0.8), seed: int = 0) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"RoomBank: size is {size!r}; give a number of rooms, at least 1")
        self.size, self.seed = size, seed
        self.rt60_s = checked_range("RoomBank: rt60_s", rt60_s, MIN_RT60_S, MAX_RT60_S)

    def room(self, index: int, sample_rate: int) -> Room:
        """Room ``index`` (below ``size``) at ``sample_rate`` Hz."""
        if not 0 <= index < self.size:
            raise ValueError(f"room {index} of {self.size}")
        return _banked_room(self.seed, index, self.size, self.rt60_s, sample_rate)

    def warm_up(self, sample_rate: int) -> None:
        """Simulate every room now; forked loader workers then share them."""
        for index in range(self.size):
            self.room(index, sample_rate)

    def reverberate(self, rng: np.random.Generator, speech: np.ndarray, sample_rate: int) -> tuple[np.ndarray, Room]:
        """``speech`` in a room drawn by ``rng``, as :func:`reverberate` gives it, and the room."""
        from scipy.signal import fftconvolve

        room = self.room(int(rng.integers(self.size)), sample_rate)
        wet = fftconvolve(speech.astype(np.float32, copy=False), room.response)
        return wet[room.direct : room.direct + len(speech)], room


@lru_cache(maxsize=1024)
def _banked_room(seed: int, index: int, size: int, rt60_range_s: tuple[float, float], sample_rate: int) -> Room:
    low_s, high_s = rt60_range_s
    rt60_s = low_s + (high_s - low_s) * (index + 0.5) / size
    response, direct = _room_response(np.random.default_rng([seed, index]), sample_rate, rt60_s)
    energy_left = np.cumsum(response[::-1] ** 2)[::-1]
    length = max(direct + 1, int(np.searchsorted(-energy_left, -_TAIL_ENERGY * energy_left[0])))
    return Room((response[:length] / response[direct]).astype(np.float32), direct, rt60_s)
