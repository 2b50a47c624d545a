"""Networks that tell recordings from reconstructions."""

from unisono.models.discriminators.base import Discriminator, Judgement
from unisono.models.discriminators.period import MultiPeriodDiscriminator
from unisono.models.discriminators.spectral import MultiResolutionDiscriminator

__all__ = ["Discriminator", "Judgement", "MultiPeriodDiscriminator", "MultiResolutionDiscriminator"]
