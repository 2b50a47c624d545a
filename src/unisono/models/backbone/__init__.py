"""Networks that predict, from a noised latent, frames and context, what the objective asks for."""

from unisono.models.backbone.block import DiTBlock
from unisono.models.backbone.dit import BackboneConditions, DiffusionTransformer
from unisono.models.backbone.fusion import InputFusionDiT, LayerFusionDiT

__all__ = ["BackboneConditions", "DiTBlock", "DiffusionTransformer", "InputFusionDiT", "LayerFusionDiT"]
