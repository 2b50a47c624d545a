"""An ear without weights: mean, spread and restlessness of mel bands."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import unisono
from unisono.evaluation.networks.checkpoints import fingerprint
from unisono.evaluation.networks.network import AudioNetwork
from unisono.features.mel import MelFrontEnd


class MelStatistics(AudioNetwork):
    """Mean, standard deviation and mean absolute change per frame of every mel band in dB: ``(3 M,)``.

    No network at all, so it is always there. It tells a knock from rain, and knows nothing of what sounds mean.
    """

    name = "mel_statistics"
    sample_rate = 24_000
    implementation = "unisono.evaluation.networks.mel_statistics.MelStatistics"
    version = unisono.__version__

    def __init__(self) -> None:
        self.front_end = MelFrontEnd.for_rate(self.sample_rate)
        self.parameters = self.front_end.parameters | {
            "embedding": "mean, standard deviation and mean absolute frame-to-frame change of each mel band, dB",
        }
        self.fingerprint = fingerprint(self)

    def __call__(self, waveform: np.ndarray) -> Mapping[str, np.ndarray]:
        mel_db = self.front_end(waveform)
        change = np.abs(np.diff(mel_db, axis=0)).mean(axis=0) if len(mel_db) > 1 else np.zeros(mel_db.shape[1])
        return {"embedding": np.concatenate([mel_db.mean(axis=0), mel_db.std(axis=0), change])}
