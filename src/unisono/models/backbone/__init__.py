"""Networks that predict the velocity of a latent from frames and context."""

from unisono.models.backbone.dit import BackboneConditions, DiffusionTransformer, InputFusionDiT, LayerFusionDiT

__all__ = ["BackboneConditions", "DiffusionTransformer", "InputFusionDiT", "LayerFusionDiT"]
