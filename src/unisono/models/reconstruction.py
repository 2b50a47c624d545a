"""An autoencoder and the discriminators that judge what it makes of recordings: what the reconstruction trainer trains.

Shape letters: B items, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unisono.errors import UserError
from unisono.models.autoencoder import Autoencoder
from unisono.models.discriminators import Discriminator, Judgement
from unisono.timing import samples_to_frames
from unisono.types import Batch, length_mask


@dataclass(frozen=True)
class Judgements:
    """What all discriminators say, one ``Judgement`` per network.

    Attributes:
        recording: of the recordings; gradients reach the discriminators.
        copy: of the reconstructions, cut off from the autoencoder; gradients reach the discriminators.
        reconstruction: of the reconstructions, by discriminators that are held fixed; gradients reach the autoencoder.
    """

    recording: list[Judgement]
    copy: list[Judgement]
    reconstruction: list[Judgement]


@dataclass(frozen=True)
class ReconstructionOutput:
    """Recordings and what became of them, both ``(B, S)`` and zero at padding.

    Attributes:
        lengths: ``(B,)`` samples.
        kl: ``(B,)`` KL divergence of a variational autoencoder; None of others.
        judgements: None while the discriminators rest.
    """

    target: Tensor
    reconstruction: Tensor
    lengths: Tensor
    kl: Tensor | None
    judgements: Judgements | None


class _Panel(Discriminator):
    """Several discriminators as one."""

    def __init__(self, members: Mapping[str, Discriminator]) -> None:
        super().__init__()
        self.members = nn.ModuleDict(members)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        return [judgement for member in self.members.values() for judgement in member(waveform)]


class ReconstructionModel(nn.Module):
    """The two sides of adversarial training in one module, so that one forward pass serves both.

    Args:
        autoencoder: a variational one (``posterior`` and ``waveform_of``, as of ``OobleckAutoencoder``), or one with
            ``reconstruct`` (as of ``VocoderAutoencoder``); trainable.
        discriminators: by name; none trains on distances alone.
    """

    def __init__(self, autoencoder: Autoencoder, discriminators: Mapping[str, Discriminator] | None = None) -> None:
        super().__init__()
        name = type(autoencoder).__name__
        self.is_variational = hasattr(autoencoder, "posterior") and hasattr(autoencoder, "waveform_of")
        if not (self.is_variational or hasattr(autoencoder, "reconstruct")):
            raise UserError(f"model.autoencoder is a {name}, which has nothing to train; take one with weights")
        if not any(p.requires_grad for p in autoencoder.parameters()):
            raise UserError(f"model.autoencoder ({name}) is frozen; set model.autoencoder.trainable=true to train it")
        self.autoencoder: Any = autoencoder
        self.discriminators = _Panel(discriminators or {})

    def forward(self, batch: Batch, adversarial: bool = True) -> ReconstructionOutput:
        """Reconstruct the recordings of a batch; ``adversarial`` has them judged."""
        assert batch.waveform is not None and batch.waveform_lengths is not None, "training needs recordings"
        mask = length_mask(batch.waveform_lengths, batch.waveform.shape[1])
        target = batch.waveform.float() * mask
        waveform, kl = self._reconstruct(target, batch.waveform_lengths)
        reconstruction = waveform[:, : target.shape[1]].float() * mask
        judgements = None
        if adversarial and len(self.discriminators.members):
            judgements = self._judge(target, reconstruction)
        else:  # several processes wait for a gradient of every weight
            reconstruction = reconstruction + sum(p.sum() for p in self.discriminators.parameters()) * 0.0
        return ReconstructionOutput(target, reconstruction, batch.waveform_lengths, kl, judgements)

    def _reconstruct(self, target: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """``(B, at least S)`` samples; a latent is drawn from its distribution in training, and its mean otherwise."""
        if not self.is_variational:
            return self.autoencoder.reconstruct(target, lengths), None
        posterior = self.autoencoder.posterior(target, lengths)
        latent = posterior.sample(torch.randn_like(posterior.mean)) if self.training else posterior.mean
        frames = samples_to_frames(lengths, self.autoencoder.hop_samples)
        return self.autoencoder.waveform_of(latent, frames), posterior.kl().float()

    def _judge(self, target: Tensor, reconstruction: Tensor) -> Judgements:
        # Tensors without gradients in place of the weights: switching requires_grad off would not do, since autocast
        # may have kept a bfloat16 copy of a weight that remembers where it came from.
        fixed = {name: p.detach() for name, p in self.discriminators.named_parameters()}
        return Judgements(
            recording=self.discriminators(target),
            copy=self.discriminators(reconstruction.detach()),
            reconstruction=functional_call(self.discriminators, fixed, (reconstruction,)),
        )
