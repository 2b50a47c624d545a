"""Loss of bandwidth, drawn anew for every item and epoch: the input of audio super-resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unisono.data.degrade.codecs import CODECS, codec_bit_rates, through_codec
from unisono.data.degrade.filters import LOW_PASS_FILTERS, MAX_ORDER, MIN_CUTOFF_HZ, MIN_ORDER, low_pass
from unisono.data.degrade.settings import (
    Degraded,
    checked_names,
    checked_probability,
    checked_range,
    checked_waveform,
    log_uniform,
    stage_generators,
)
from unisono.errors import UserError


class BandwidthDegradation:
    """A low-pass filter, sometimes a conversion to a lower sample rate and back, sometimes a lossy codec.

    Nothing is shifted in time and the level is kept: peaks above 1, which filters can make, are left.

    Args:
        cutoff_hz: lowest and highest cutoff; an octave is as likely as the next.
        filters: kinds of :data:`LOW_PASS_FILTERS`; the widest choice teaches a model to look at the spectrum rather
            than at one filter's slope.
        order: lowest and highest order of the filters.
        resample_prob: how often the filtered waveform goes through a sample rate of twice the cutoff, which leaves
            nothing at all above it.
        codecs: of :data:`CODECS`.
        codec_prob: how often one of them follows.
        bit_rate: lowest and highest bits per second; None: each codec's own :func:`codec_bit_rates`.

    Raises:
        UserError: a setting out of range, an unknown filter or codec.
    """

    def __init__(
        self,
        cutoff_hz: Sequence[float] = (1000.0, 8000.0),
        filters: Sequence[str] = LOW_PASS_FILTERS,
        order: Sequence[int] = (2, 12),
        resample_prob: float = 0.5,
        codecs: Sequence[str] = CODECS,
        codec_prob: float = 0.0,
        bit_rate: Sequence[int] | None = None,
    ) -> None:
        self.cutoff_hz = checked_range("cutoff_hz", cutoff_hz, MIN_CUTOFF_HZ, 1e6)
        self.filters = checked_names("filters", filters, LOW_PASS_FILTERS)
        low, high = checked_range("order", order, MIN_ORDER, MAX_ORDER)
        if low % 1 or high % 1:
            raise UserError(f"order is {list(order)}; orders are whole numbers")
        self.order = (int(low), int(high))
        self.resample_prob = checked_probability("resample_prob", resample_prob)
        self.codecs = checked_names("codecs", codecs, CODECS)
        self.codec_prob = checked_probability("codec_prob", codec_prob)
        self.bit_rate = None if bit_rate is None else checked_range("bit_rate", bit_rate, 4_000, 512_000)
        if not self.filters:
            raise UserError(f"filters is empty; choose from {', '.join(LOW_PASS_FILTERS)}")
        if self.codec_prob and not self.codecs:
            raise UserError(f"codecs is empty; choose from {', '.join(CODECS)}, or set codec_prob 0")

    def __call__(self, rng: np.random.Generator, waveform: np.ndarray, sample_rate: int) -> Degraded:
        """Degrade ``waveform`` ``(S,)``; what is drawn depends on ``rng`` alone.

        Raises:
            UserError: the waveform is empty, not mono, or holds NaN; ``cutoff_hz`` reaches half the sample rate.
        """
        waveform = checked_waveform("BandwidthDegradation", waveform)
        if self.cutoff_hz[1] >= sample_rate / 2:
            raise UserError(
                f"cutoff_hz reaches {self.cutoff_hz[1]:g} Hz, where a sample rate of {sample_rate} Hz holds less than "
                f"{sample_rate / 2:g} Hz; lower it"
            )
        filter_rng, codec_rng = stage_generators(rng, 2)
        cutoff_hz = round(log_uniform(filter_rng, *self.cutoff_hz), 1)
        kind = str(filter_rng.choice(self.filters))
        description: dict[str, Any] = {"cutoff_hz": cutoff_hz, "filter": kind}
        if kind == "resample":
            return self._coded(codec_rng, low_pass(waveform, sample_rate, cutoff_hz, kind), sample_rate, description)
        order = int(filter_rng.integers(self.order[0], self.order[1], endpoint=True))
        description["order"] = order
        waveform = low_pass(waveform, sample_rate, cutoff_hz, kind, order)
        if filter_rng.random() < self.resample_prob:
            description["resampled"] = True
            waveform = low_pass(waveform, sample_rate, cutoff_hz, "resample")
        return self._coded(codec_rng, waveform, sample_rate, description)

    def _coded(
        self, rng: np.random.Generator, waveform: np.ndarray, sample_rate: int, description: dict[str, Any]
    ) -> Degraded:
        if rng.random() >= self.codec_prob:
            return Degraded(waveform, description)
        codec = str(rng.choice(self.codecs))
        usual, bit_rate = codec_bit_rates(codec), None
        if usual is not None:
            bit_rate = round(log_uniform(rng, *(self.bit_rate or usual)))
            description["bit_rate"] = bit_rate
        description["codec"] = codec
        return Degraded(through_codec(waveform, sample_rate, codec, bit_rate), description)
