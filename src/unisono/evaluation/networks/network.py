"""The interface of every network that a metric listens with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np


class AudioNetwork(ABC):
    """A frozen network that turns a recording into arrays.

    What it gives is kept on disk under the content of the recording and ``fingerprint``, so a call must depend on
    nothing else.

    Attributes:
        name: key of the setting that holds its weights, and part of the names of its metrics: `panns16k`.
        sample_rate: Hz of the recordings it takes.
        fingerprint: of weights and front end; changes when the same recording would give other arrays.
        parameters: what the cards of its metrics must say: checkpoint hash, front end, pooling.
        implementation, version: what runs it, for the cards.
    """

    name: str
    sample_rate: int
    fingerprint: str
    parameters: dict[str, Any]
    implementation: str
    version: str

    @abstractmethod
    def __call__(self, waveform: np.ndarray) -> Mapping[str, np.ndarray]:
        """Arrays by name of mono float32 audio ``(S,)`` at ``sample_rate``; only those that it can give.

        `embedding`: ``(D,)``, of the whole clip.
        `frames`: ``(T, D)``, where Fréchet distances are customarily taken over frames (VGGish).
        `probabilities`: ``(C,)``, of a tagger's classes, each for itself (sigmoid): they do not add up to 1.
        `logits`: ``(C,)``, what they are made of. The KL divergence and the inception score of the text-to-audio
        papers are those of ``softmax(logits)``, not of the normalised probabilities.
        `text`: an array of one string, ``(1,)``.
        `score`: one number, ``()``.

        Raises:
            MetricFailure: the recording is too short for it.
        """
