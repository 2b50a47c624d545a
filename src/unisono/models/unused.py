"""Parameters that a batch does not use.

Without a gradient for each parameter, a rank whose batch lacks a modality stalls the others in distributed training,
and looking for unused parameters costs every step (``find_unused_parameters``).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def touch(value: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """The same ``value``, with a gradient of zero for trainable ``parameters``."""
    first = [parameter.flatten()[0] for parameter in parameters if parameter.requires_grad]
    return value + torch.stack(first).sum() * 0.0 if first else value
