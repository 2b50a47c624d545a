"""Content units to latent frames by index gather.

Shape letters: B items, L units, T frames, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def expand(units: Tensor, unit_ends: Tensor, num_frames: int) -> Tensor:
    """Give every frame the vector of the unit that covers it, O(B·T) instead of an O(B·L·T) alignment matrix.

    Args:
        units: ``(B, L, D)``.
        unit_ends: int64 ``(B, L)``, non-decreasing end frames; unit ``i`` covers ``[end[i-1], end[i])``. Frames past
            the last end keep the last unit (a recording may be one frame longer than its content).
        num_frames: T.

    Returns:
        ``(B, T, D)``.
    """
    frames = torch.arange(num_frames, device=units.device).expand(units.shape[0], -1).contiguous()
    index = torch.searchsorted(unit_ends.contiguous(), frames, right=True)
    last = torch.searchsorted(unit_ends.contiguous(), unit_ends[:, -1:].contiguous())
    index = torch.minimum(index, last)
    rows = torch.arange(units.shape[0], device=units.device)[:, None] * units.shape[1]
    # As an embedding, whose gradient is summed in a fixed order on a GPU too; that of a gather is not.
    return F.embedding(rows + index, units.flatten(0, 1))
