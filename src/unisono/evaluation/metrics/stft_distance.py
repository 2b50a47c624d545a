"""The distance of magnitude spectra that autoencoders and vocoders are trained with, as a metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

import unisono
from unisono.evaluation.alignment import ALIGNMENT, LENGTHS
from unisono.evaluation.items import Sample
from unisono.evaluation.metric import Metric, MetricCard


@dataclass(frozen=True)
class MultiResolutionStft(Metric):
    """Spectral convergence and log-magnitude distance at three resolutions."""

    sample_rate: int

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name="stft_distance",
                title="STFT distance",
                unit="",
                direction="lower",
                value_range="0 (identical magnitudes) upwards, seldom above 5",
                definition="Spectral convergence plus mean absolute difference of log magnitudes, mean of three "
                "resolutions.",
                blind_to="Phase.",
                source="Yamamoto, Song and Kim 2020, equations 4 to 6",
                implementation="unisono.training.reconstruction_losses.MultiResolutionSTFTDistance",
                version=unisono.__version__,
                parameters={
                    "sample_rate": self.sample_rate,
                    "resolutions": "n_fft, hop, window (1024, 120, 600), (2048, 240, 1200), (512, 50, 240)",
                    "terms": "spectral convergence + mean absolute difference of natural-log magnitudes",
                    "floor": "1e-4, of a full-scale sine of magnitude 1",
                    "alignment": ALIGNMENT,
                    "lengths": LENGTHS,
                },
                decimals=3,
            ),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        import torch

        from unisono.training.reconstruction_losses import MultiResolutionSTFTDistance

        judged, true = (torch.from_numpy(np.ascontiguousarray(x, np.float32))[None] for x in sample.against_reference)
        with torch.no_grad():
            return {"stft_distance": float(MultiResolutionSTFTDistance()(judged, true, torch.tensor([true.shape[1]])))}
