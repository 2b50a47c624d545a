"""The level of speech, and noise mixed with it at a signal-to-noise ratio."""

from __future__ import annotations

import numpy as np

from unisono.errors import UserError

ACTIVE_RANGE_DB = 40.0
_FRAME_SAMPLES = 480


def active_power(speech: np.ndarray) -> float:
    """Mean square over the active part of ``speech``: frames of 480 samples within 40 dB of the loudest one.

    Pauses would lower a plain mean, and the same sentence with a longer pause would then be mixed with less noise.
    """
    frames = np.array_split(speech.astype(np.float64), max(1, len(speech) // _FRAME_SAMPLES))
    power = np.array([np.mean(frame**2) for frame in frames])
    active = power >= power.max() * 10 ** (-ACTIVE_RANGE_DB / 10)
    lengths = np.array([len(frame) for frame in frames])
    return float(np.sum(power[active] * lengths[active]) / lengths[active].sum())


def mix_at_snr(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """``speech`` plus ``noise`` scaled to ``snr_db``, float32 ``(S,)``.

    The ratio is the power of the active speech (:func:`active_power`) to the mean power of the noise over the whole
    clip. The mixture may exceed [-1, 1]; whoever writes it to a file scales it.

    Raises:
        UserError: the lengths differ, one of the two is silent or holds NaN, or ``snr_db`` is not finite.
    """
    if speech.ndim != 1 or speech.shape != noise.shape or speech.size == 0:
        raise UserError(
            f"mix_at_snr: speech {speech.shape} and noise {noise.shape} must be 1-D, not empty, of one length"
        )
    if not np.isfinite(snr_db):
        raise UserError(f"mix_at_snr: snr_db is {snr_db}; give a finite number of dB")
    speech_power = active_power(speech)
    noise_power = float(np.mean(noise.astype(np.float64) ** 2))
    for name, power in (("speech", speech_power), ("noise", noise_power)):
        if not np.isfinite(power) or power <= 0:
            raise UserError(f"mix_at_snr: the {name} is silent or not finite (power {power}); a ratio has no meaning")
    gain = np.sqrt(speech_power / noise_power) * 10 ** (-snr_db / 20)
    return (speech + gain * noise).astype(np.float32)
