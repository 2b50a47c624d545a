"""Networks that predict, from a noised latent, frames and context, what the objective asks for."""

from unisono.models.backbone.dit import BackboneConditions, DiffusionTransformer, InputFusionDiT, LayerFusionDiT

__all__ = ["BackboneConditions", "DiffusionTransformer", "InputFusionDiT", "LayerFusionDiT"]
