"""The instruction in front of the content, in one small transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unisono.models.content_adapter.base import ContentAdapter
from unisono.models.layers import Attention, TransformerEncoder
from unisono.types import Condition


class PrefixAdapter(ContentAdapter):
    """A few learned queries summarise the instruction; the summary stands before the content in a transformer.

    A summary of fixed length keeps a 250-frame recording from paying for every byte of the instruction, and keeps
    the content's rotary positions the same whatever the instruction's length.
    """

    def __init__(
        self,
        dim: int,
        instruction_dim: int,
        num_layers: int = 1,
        num_heads: int = 4,
        prefix_length: int = 4,
        duration_offset: float = 1.0,
        duration_gradient_scale: float = 0.1,
    ) -> None:
        super().__init__(dim, instruction_dim, duration_offset, duration_gradient_scale)
        self.queries = nn.Parameter(torch.randn(prefix_length, dim) * 0.02)
        self.summarise = Attention(dim, num_heads, instruction_dim)
        self.transformer = TransformerEncoder(dim, num_layers, num_heads)

    def adapt(self, content: Condition, instruction: Condition) -> Tensor:
        queries = self.queries.expand(content.tensor.shape[0], -1, -1)
        prefix = self.summarise(queries, self.summarise.keys_values(instruction.tensor), instruction.mask)
        x = torch.cat([prefix.to(content.tensor.dtype), content.tensor], dim=1)
        mask = torch.cat([content.mask.new_ones(prefix.shape[:2]), content.mask], dim=1)
        return self.transformer(x, mask)[:, prefix.shape[1] :]
