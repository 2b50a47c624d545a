"""Speaker verification models as a network: the vectors whose cosine is the speaker similarity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

import unisono
from unisono.errors import UserError
from unisono.evaluation.metric import MetricFailure, library_version
from unisono.evaluation.networks.checkpoints import fingerprint
from unisono.evaluation.networks.network import AudioNetwork
from unisono.evaluation.networks.torch_network import check_device, checked_waveform
from unisono.features.speaker import RESEMBLYZER, STATISTICS, load_speaker_encoder


class Speaker(AudioNetwork):
    """`embedding` ``(D,)`` of length 1, by an encoder of ``unisono.features.speaker``.

    Args:
        source: ``resemblyzer``, or folder or Hub id of an x-vector model of ``transformers``; None is resemblyzer.
    """

    name = "speaker"

    def __init__(self, source: str | None = None, device: str = "cpu") -> None:
        source = source or RESEMBLYZER
        if source == STATISTICS:
            raise UserError(
                f"networks.speaker: {STATISTICS!r} holds the room as much as the voice and is no measure of it; give "
                f"{RESEMBLYZER} or an x-vector model"
            )
        self.encoder = load_speaker_encoder(source, check_device(device))
        self.sample_rate = self.encoder.sample_rate
        self.implementation = f"unisono.features.speaker.{type(self.encoder).__name__}"
        self.version = unisono.__version__
        library = "resemblyzer" if source == RESEMBLYZER else "transformers"
        named = {} if source == RESEMBLYZER or Path(source).exists() else {"hub_id": source}
        self.parameters = {
            "network": self.name,
            "sample_rate": self.sample_rate,
            "weights_hash": self.encoder.fingerprint,
            "encoder": type(self.encoder).__name__,
            library: library_version(library),
            **named,
            "embedding": "unit length",
        }
        self.fingerprint = fingerprint(self)

    def __call__(self, waveform: np.ndarray) -> Mapping[str, np.ndarray]:
        waveform = checked_waveform(waveform, 1, self.sample_rate, self.name)
        try:
            return {"embedding": self.encoder(waveform)}
        except UserError as error:  # silent, too short, or no speech in it: this recording's fault
            raise MetricFailure(str(error)) from error
