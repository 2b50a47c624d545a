"""Fundamental frequency: estimated by WORLD (pyworld), moved from one frame rate to another.

Frame k of a contour with rate r covers the seconds [k / r, (k + 1) / r) and holds the value at its middle, 0 where
unvoiced. WORLD's own frames stand at k / r instead: only its vocoder wants them so (``world_f0``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from unisono.errors import UserError
from unisono.media.audio import check_sample_rate, check_waveform
from unisono.timing import frames_covering, seconds_to_samples

METHODS = ("harvest", "dio")
MIN_SAMPLE_RATE = 8_000
_MAX_RATE_HZ = 1_000.0
# WORLD needs a few periods around each frame.
_PADDING_S = 0.1


def num_f0_frames(num_samples: int, sample_rate: int, rate_hz: float) -> int:
    """Frames that cover a recording."""
    return frames_covering(num_samples / sample_rate, rate_hz)


def estimate_f0(
    waveform: np.ndarray,
    sample_rate: int,
    rate_hz: float = 100.0,
    *,
    method: str = "harvest",
    floor_hz: float = 60.0,
    ceil_hz: float = 1_100.0,
) -> np.ndarray:
    """F0 of a recording, float32 ``(T,)``, T = ``num_f0_frames``.

    Args:
        waveform: mono ``(S,)``.
        sample_rate: Hz.
        rate_hz: frames per second.
        method: ``harvest`` finds more voiced frames, also in noise; ``dio`` (refined by StoneMask) is several times
            faster.
        floor_hz, ceil_hz: where F0 is looked for. The defaults hold for speech and for singing from C2 to C6.

    Raises:
        UserError: no audio, NaN, a value out of range, pyworld missing.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim != 1:
        raise UserError(f"waveform of shape {waveform.shape}: F0 needs one channel, shape (S,)")
    check_waveform(waveform, "waveform")
    check_f0_settings(rate_hz, method, floor_hz, ceil_hz)
    check_sample_rate(sample_rate, "sample_rate")
    if sample_rate < max(MIN_SAMPLE_RATE, 2 * ceil_hz):
        raise UserError(f"sample_rate is {sample_rate}; F0 needs at least {max(MIN_SAMPLE_RATE, 2 * ceil_hz):g} Hz")
    # WORLD's frames stand at multiples of the period. The padding brings one of them to the middle of frame 0.
    lead = math.ceil(_PADDING_S * rate_hz)
    padding = seconds_to_samples((lead + 0.5) / rate_hz, sample_rate)
    padded = np.pad(waveform.astype(np.float64), padding)
    f0_hz, _ = world_f0(padded, sample_rate, rate_hz, method, floor_hz, ceil_hz)
    first = lead + 1
    frames = num_f0_frames(len(waveform), sample_rate, rate_hz)
    return f0_hz[first : first + frames].astype(np.float32)


def world_f0(
    samples: np.ndarray, sample_rate: int, rate_hz: float, method: str, floor_hz: float, ceil_hz: float
) -> tuple[np.ndarray, np.ndarray]:
    """``(f0_hz, times_s)`` float64 ``(T,)`` as WORLD's vocoder takes them: frame k stands at ``k / rate_hz``.

    Args:
        samples: float64 ``(S,)``, finite.
        sample_rate, rate_hz, method, floor_hz, ceil_hz: as ``estimate_f0`` takes them.
    """
    world = load_world()
    options = {"f0_floor": float(floor_hz), "f0_ceil": float(ceil_hz), "frame_period": 1000.0 / rate_hz}
    if method == "harvest":
        return world.harvest(samples, sample_rate, **options)
    rough_hz, times_s = world.dio(samples, sample_rate, **options)
    return world.stonemask(samples, rough_hz, times_s, sample_rate), times_s


def check_f0_settings(rate_hz: float, method: str, floor_hz: float, ceil_hz: float) -> None:
    """Raise :class:`UserError` for a setting of ``estimate_f0`` that is out of range."""
    if method not in METHODS:
        raise UserError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    if not 1 <= rate_hz <= _MAX_RATE_HZ:
        raise UserError(f"rate_hz is {rate_hz}; give frames per second, 1 to {_MAX_RATE_HZ:g}")
    if not 20 <= floor_hz < ceil_hz <= 4_000:
        raise UserError(f"floor_hz is {floor_hz} and ceil_hz {ceil_hz}; give 20 <= floor_hz < ceil_hz <= 4000")


def _at(f0_hz: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values between the frames of a grid: as of the nearest, or between two that are both voiced, in log frequency."""
    places = np.clip(places, 0, len(f0_hz) - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, len(f0_hz) - 1)
    nearest = np.floor(places + 0.5).astype(int)
    share = places - low
    both = (f0_hz[low] > 0) & (f0_hz[high] > 0)
    logs = np.log(np.where(f0_hz > 0, f0_hz, 1.0))
    between = np.exp((1 - share) * logs[low] + share * logs[high])
    return np.where(both, between, f0_hz[nearest])


def resample_f0(
    f0_hz: np.ndarray, rate_hz: float, target_rate_hz: float, num_frames: int, start_s: float | None = None
) -> np.ndarray:
    """A contour at another frame rate, float32 ``(num_frames,)``.

    A frame is voiced where the frame of ``f0_hz`` that covers its middle is. Values are interpolated in log frequency
    between neighbouring voiced frames; at the edge of a voiced stretch its last value holds.

    Args:
        f0_hz: ``(T,)``, 0 where unvoiced.
        rate_hz, target_rate_hz: frames per second before and after.
        num_frames: of the result. It may cover up to one frame (of the slower contour) more or less than ``f0_hz``; a
            frame more repeats the last one.
        start_s: of a part of ``f0_hz`` that begins there, at any time, not only between frames; it may end earlier
            than ``f0_hz``. None means the whole.

    Raises:
        UserError: lengths that differ by more, a part that is not there, negative or non-finite values.
    """
    f0_hz = np.asarray(f0_hz)
    if f0_hz.ndim != 1 or f0_hz.size == 0:
        raise UserError(f"f0_hz has shape {f0_hz.shape}; give one value per frame, shape (T,), at least one")
    if not np.isfinite(f0_hz).all() or (f0_hz < 0).any():
        bad = int(np.flatnonzero(~np.isfinite(f0_hz) | (f0_hz < 0))[0])
        raise UserError(f"f0_hz: frame {bad} is {f0_hz[bad]}; give Hz, 0 where unvoiced")
    for name, rate in (("rate_hz", rate_hz), ("target_rate_hz", target_rate_hz)):
        if not 0 < rate < math.inf:
            raise UserError(f"{name} is {rate}; give frames per second, above 0")
    given_s, wanted_s = len(f0_hz) / rate_hz, num_frames / target_rate_hz
    first_s = start_s or 0.0
    lacks_s = first_s + wanted_s - given_s
    frame_s = 1 / min(rate_hz, target_rate_hz) + 1e-6
    if num_frames < 1 or first_s < 0 or lacks_s > frame_s or (start_s is None and -lacks_s > frame_s):
        raise UserError(
            f"f0_hz has {len(f0_hz)} frames at {rate_hz:g} Hz, {given_s:.3f} s, but {num_frames} frames at "
            f"{target_rate_hz:g} Hz, {wanted_s:.3f} s, are wanted from "
            f"{first_s:.3f} s on; they may differ by one frame"
        )
    places = ((np.arange(num_frames) + 0.5) / target_rate_hz + first_s) * rate_hz - 0.5
    return _at(f0_hz.astype(np.float64), places).astype(np.float32)


def check_installed() -> None:
    """Raise :class:`UserError` if pyworld is missing."""
    load_world()


def load_world() -> Any:
    """The package; :class:`UserError` if it is missing."""
    try:
        import pyworld
    except ImportError as error:
        raise UserError(
            f"F0 and singing need WORLD, the package pyworld ({error}); run: pip install 'unisono[singing]'"
        ) from error
    return pyworld
