"""Whether a metric of a given band has anything to hear: sound within the band, and a sample rate that holds it.

Shapes: S samples.
"""

from __future__ import annotations

import numpy as np

from unisono.evaluation.items import Sample
from unisono.evaluation.metric import MetricFailure, NotApplicable

# As for whole clips: peaks below -80 dB re full scale are what resampling leaves of sound outside the band.
_SILENCE_PEAK = 1e-4


def check_band(sample: Sample, needed_hz: int, metric: str) -> None:
    """`NotApplicable` if the recordings are compared at less than ``needed_hz``: what lies above half the sample rate
    is then empty whatever the model does, and the number would be that of another band under the same name."""
    if sample.sample_rate < needed_hz:
        raise NotApplicable(
            f"{metric} hears up to {needed_hz // 2} Hz, and recordings are compared at {sample.sample_rate} Hz; "
            f"give --sample-rate {needed_hz} or more"
        )


def check_audible(name: str, waveform: np.ndarray, sample_rate: int) -> None:
    """`MetricFailure` if ``(S,)`` holds nothing within the band of this rate."""
    if not len(waveform) or np.abs(waveform).max() < _SILENCE_PEAK:
        raise MetricFailure(f"the {name} is silent below {sample_rate // 2} Hz")


def audible_pair(sample: Sample, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Clip and reference at ``sample_rate`` Hz, of one length and in step.

    Raises:
        NotApplicable: there is no reference.
        MetricFailure: as `Sample.against_reference`, or one of them is silent within the band.
    """
    waveform, reference = sample.resampled(sample_rate).against_reference
    check_audible("clip", waveform, sample_rate)
    check_audible("reference", reference, sample_rate)
    return waveform, reference
