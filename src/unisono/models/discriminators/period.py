"""Discriminators that see every p-th sample.

Shape letters: B items, S samples, P period.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from unisono.models.discriminators.base import ConvolutionStack, Discriminator, Judgement

_SLOPE = 0.1


class MultiPeriodDiscriminator(Discriminator):
    """One network per period (Kong, Kim and Bae 2020, HiFi-GAN, section 2.3).

    Each folds the waveform to ``(S / P, P)`` and looks along the first dimension only, at samples that are whole
    periods apart: what repeats with its period it sees as a constant.

    Args:
        periods: in samples; primes, so that they overlap little.
        width: channels of the first layer. The paper has 32, and 41 M parameters.
        max_width: the layers' widths grow fourfold up to this.
    """

    def __init__(self, periods: Sequence[int] = (2, 3, 5, 7, 11), width: int = 32, max_width: int = 1024) -> None:
        super().__init__()
        if not periods or min(periods) < 1 or min(width, max_width) < 1:
            raise ValueError(
                f"periods ({list(periods)}), width ({width}) and max_width ({max_width}) must be positive, and at "
                "least one period is needed"
            )
        self.periods = tuple(periods)
        self.networks = nn.ModuleList(_network(width, max_width) for _ in self.periods)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        return [network(folded(waveform, period)) for period, network in zip(self.periods, self.networks, strict=True)]


def folded(waveform: Tensor, period: int) -> Tensor:
    """``(B, S)`` to ``(B, 1, ceil(S / P), P)``, zeros at the end."""
    waveform = F.pad(waveform, (0, -waveform.shape[1] % period))
    return waveform.reshape(waveform.shape[0], 1, -1, period)


def _network(width: int, max_width: int) -> ConvolutionStack:
    widths = [1, *(min(width * 4**k, max_width) for k in range(4))]
    layers = [nn.Conv2d(inner, outer, (5, 1), stride=(3, 1), padding=(2, 0)) for inner, outer in pairwise(widths)]
    layers.append(nn.Conv2d(widths[-1], widths[-1], (5, 1), padding=(2, 0)))
    return ConvolutionStack(layers, nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)), _SLOPE)
