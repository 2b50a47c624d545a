"""Statistics of a latent's channels, as an autoencoder's settings give them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def _shown(value: float | Sequence[float]) -> str:
    return f"a list of {len(value)}" if isinstance(value, Sequence) and len(value) > 8 else str(value)


def per_channel(name: str, value: float | Sequence[float], channels: int, positive: bool = False) -> Tensor:
    """One number, or one per channel, as a tensor ``(C,)``."""
    # Through numpy, so that settings are checked where tensors have no values (the meta device of `unisono check`).
    given = np.asarray(value, dtype=np.float32)
    if given.shape not in ((), (channels,)) or not np.isfinite(given).all():
        raise ValueError(
            f"{name} is {_shown(value)}; it must be one finite number or one for each of {channels} channels"
        )
    if positive and not (given > 0).all():
        raise ValueError(f"{name} is {_shown(value)}; it must be positive in every channel")
    return torch.from_numpy(np.broadcast_to(given, (channels,)).copy())
