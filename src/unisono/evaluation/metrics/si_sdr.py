"""SI-SDR: what was generated against the reference, sample by sample (torchmetrics)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unisono.evaluation.alignment import ALIGNMENT, LENGTHS
from unisono.evaluation.items import Sample
from unisono.evaluation.metric import Metric, MetricCard, library_version
from unisono.threads import one_torch_thread


@dataclass(frozen=True)
class SiSdr(Metric):
    """Scale-invariant signal-to-distortion ratio in dB, in float64."""

    sample_rate: int

    tasks = frozenset({"speech_enhancement", "audio_super_resolution"})
    libraries = ("torchmetrics",)

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name="si_sdr_db",
                title="SI-SDR",
                unit="dB",
                direction="higher",
                value_range="unbounded; an exact copy prints 100 dB and more, where float64 ends",
                definition="Energy of the reference as far as it is in the output, over the energy of the rest.",
                blind_to="Level and polarity. Compares samples, phase included: a vocoder that makes its own phase "
                "(Griffin-Lim above all) gets low or negative values for speech that sounds right. The row of the "
                "coded reference is the ceiling.",
                source="Le Roux, Wisdom, Erdogan and Hershey 2019, equation 5",
                implementation="torchmetrics.functional.audio.scale_invariant_signal_distortion_ratio",
                version=library_version("torchmetrics"),
                parameters={
                    "sample_rate": self.sample_rate,
                    "zero_mean": False,
                    "dtype": "float64",
                    "alignment": ALIGNMENT,
                    "lengths": LENGTHS,
                },
            ),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        import torch
        from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

        waveform, reference = sample.against_reference
        # One thread, so that the order of the sums and with it the last digit does not depend on the machine's load.
        with one_torch_thread():
            ratio_db = scale_invariant_signal_distortion_ratio(
                torch.from_numpy(np.array(waveform, dtype=np.float64)),
                torch.from_numpy(np.array(reference, dtype=np.float64)),
            )
        return {"si_sdr_db": float(ratio_db)}
