"""The contract of a discriminator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class Judgement(NamedTuple):
    """What one network says of waveforms.

    Attributes:
        scores: ``(B, ...)``, one per place it looks at; above 0 means a recording.
        features: outputs of its hidden layers, ``(B, ...)`` each, for feature matching.
    """

    scores: Tensor
    features: list[Tensor]


class Discriminator(nn.Module, ABC):
    """One or several networks that judge waveforms."""

    @abstractmethod
    def forward(self, waveform: Tensor) -> list[Judgement]:
        """Waveforms ``(B, S)`` to one judgement per network."""


class ConvolutionStack(nn.Module):
    """Weight-normalised 2-D convolutions with leaky rectifiers; the last one gives scores.

    Args:
        layers: hidden ones.
        last: from the last hidden layer to one channel.
        slope: of the rectifiers below 0.
    """

    def __init__(self, layers: list[nn.Conv2d], last: nn.Conv2d, slope: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.last = weight_norm(last)
        self.slope = slope

    def forward(self, x: Tensor) -> Judgement:
        """``(B, channels, height, width)`` to a judgement."""
        features = []
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(x), self.slope)
            features.append(x)
        return Judgement(self.last(x), features)
