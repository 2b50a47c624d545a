"""The interface of every network that a metric listens with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np


class AudioNetwork(ABC):
    """A frozen network that turns a recording into arrays.

    What it gives is kept on disk under the content of the recording and ``fingerprint``, so a call must depend on
    nothing else.

    Attributes:
        name: key of the setting that holds its weights, and part of the names of its metrics: `panns16k`.
        sample_rate: Hz of the recordings it takes.
        fingerprint: of weights and front end (``checkpoints.fingerprint``); changes when the same recording would give
            other arrays.
        front_end_version: part of the fingerprint. Raise it with every change of the network's code or front end that
            moves its arrays, as the version of the project stays the same from release to release.
        parameters: what the cards of its metrics must say: checkpoint hash, front end, pooling.
        implementation, version: what runs it, for the cards.
    """

    name: str
    sample_rate: int
    fingerprint: str
    front_end_version: ClassVar[int] = 1
    parameters: dict[str, Any]
    implementation: str
    version: str

    @abstractmethod
    def __call__(self, waveform: np.ndarray) -> Mapping[str, np.ndarray]:
        """Arrays by name of mono float32 audio ``(S,)`` at ``sample_rate``; only those that it can give.

        `embedding`: ``(D,)``, of the whole clip.
        `frames`: ``(T, D)``, where Fréchet distances are customarily taken over frames (VGGish).
        `logits`: ``(C,)``, of a tagger's classes, before the sigmoid of each. The KL divergence and the inception score
        of the text-to-audio papers are those of ``softmax(logits)``.
        `text`: an array of one string, ``(1,)``.
        `score`: one number, ``()``.

        Raises:
            MetricFailure: the recording is too short for it.
        """
