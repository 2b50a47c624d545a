"""Whether two recordings are the same moment by moment: of one length, and neither late."""

from __future__ import annotations

import numpy as np
import scipy.signal

from unisono.evaluation.metric import MetricFailure

LENGTH_TOLERANCE_S = 0.05
LENGTH_TOLERANCE_SHARE = 0.02
LONGEST_DELAY_S = 0.5
CLEAR_CORRELATION = 0.75
LOST_CORRELATION = 0.7
RIVAL_CORRELATION, NEAR_S = 0.9, 0.002

LENGTHS = "cut to the shorter; fails beyond 0.05 s or 2 % of the reference, whichever is larger"
ALIGNMENT = (
    "none; fails where the cross-correlation at some delay (up to 0.5 s) is 0.75 or more, "
    "that at no delay less than 0.7 of it, and none more than 2 ms away more than 0.9 of it"
)
"""For the cards of metrics that compare moment by moment."""


def common_length(waveform: np.ndarray, reference: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Both cut to the shorter one's length.

    A latent frame more or less is no fault; beyond 0.05 s or 2 % of the reference, whichever is larger, the two are not
    the same recording any more and a comparison of what they share would hide what is missing: `MetricFailure`.
    """
    tolerance = max(LENGTH_TOLERANCE_S * sample_rate, LENGTH_TOLERANCE_SHARE * len(reference))
    if abs(len(waveform) - len(reference)) > tolerance:
        raise MetricFailure(
            f"{len(waveform) / sample_rate:.2f} s against {len(reference) / sample_rate:.2f} s of reference: "
            f"lengths differ by more than {tolerance / sample_rate:.2f} s"
        )
    length = min(len(waveform), len(reference))
    return waveform[:length], reference[:length]


def check_alignment(waveform: np.ndarray, reference: np.ndarray, sample_rate: int) -> None:
    """`MetricFailure` if one of two recordings ``(S,)`` clearly lags behind the other.

    A delay of a millisecond ruins every sample-by-sample comparison and is a fault of the file, not of the sound. It is
    told only where it is beyond doubt: a voice with a phase of its own (any vocoder) correlates with nothing, or by
    chance with a vowel a few milliseconds away (0.5 was seen), and a sung note resembles itself a period later.
    """
    delay, there, here, rival = best_delay(waveform, reference, sample_rate)
    if rival > RIVAL_CORRELATION * there:
        return
    if delay and there >= CLEAR_CORRELATION and here < LOST_CORRELATION * there:
        word = "late" if delay > 0 else "early"
        raise MetricFailure(
            f"{abs(delay) / sample_rate * 1000:.1f} ms {word}: its correlation with the reference is {here:.2f} as it "
            f"stands and {there:.2f} when shifted; shift the file and evaluate again"
        )


def best_delay(waveform: np.ndarray, reference: np.ndarray, sample_rate: int) -> tuple[int, float, float, float]:
    """By how many samples ``waveform`` is late at the largest absolute correlation, looked for up to `LONGEST_DELAY_S`.

    Returns:
        the delay (negative: early), the absolute correlation there, that at no delay, and the largest more than
        `NEAR_S` away from the best; each in 0 to 1.
    """
    waveform, reference = waveform.astype(np.float64), reference.astype(np.float64)
    scale = float(np.linalg.norm(waveform) * np.linalg.norm(reference))
    if scale == 0:
        return 0, 0.0, 0.0, 0.0
    correlation = np.abs(scipy.signal.correlate(waveform, reference, method="fft")) / scale
    centre, longest, near = len(reference) - 1, round(LONGEST_DELAY_S * sample_rate), round(NEAR_S * sample_rate)
    first = max(0, centre - longest)
    searched = correlation[first : centre + longest + 1]
    best = int(np.argmax(searched))
    others = np.concatenate([searched[: max(0, best - near)], searched[best + near + 1 :]])
    return first + best - centre, float(searched[best]), float(correlation[centre]), float(others.max(initial=0.0))
