"""Content that attends to the instruction."""

from __future__ import annotations

from torch import Tensor

from unisono.models.content_adapter.base import ContentAdapter
from unisono.models.layers import TransformerEncoder
from unisono.types import Condition


class CrossAttentionAdapter(ContentAdapter):
    """Transformer over the content with cross-attention to the instruction in every block."""

    def __init__(
        self,
        dim: int,
        instruction_dim: int,
        num_layers: int = 1,
        num_heads: int = 4,
        duration_offset: float = 1.0,
        duration_gradient_scale: float = 0.1,
    ) -> None:
        super().__init__(dim, instruction_dim, duration_offset, duration_gradient_scale)
        self.transformer = TransformerEncoder(dim, num_layers, num_heads, context_dim=instruction_dim)

    def adapt(self, content: Condition, instruction: Condition) -> Tensor:
        return self.transformer(content.tensor, content.mask, instruction)
