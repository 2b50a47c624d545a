"""A small Oobleck autoencoder with lively weights, for its tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unisono.models.autoencoder import OobleckAutoencoder

HOP = 24
SMALL: dict[str, Any] = {
    "hop_samples": HOP,
    "strides": [2, 3, 4],
    "channel_multiples": [1, 2, 3],
    "latent_dim": 6,
    "encoder_channels": 8,
    "decoder_channels": 5,
}


def lively(network: nn.Module, seed: int = 0) -> None:
    """Weights that tell layers apart: first weights would hide a wrong frequency or a missing norm."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith(("alpha", "beta")):
            parameter.data = 0.5 * noise
        elif name.endswith("weight_g"):
            parameter.data *= 1 + 0.3 * noise.tanh()
        elif name.endswith("bias"):
            parameter.data = 0.1 * noise


def saved(folder: Path) -> Path:
    """The weights of one, in a file."""
    torch.manual_seed(0)
    network = OobleckAutoencoder(**SMALL, trainable=True)
    lively(network)
    save_file(network.state_dict(), folder / "oobleck.safetensors")
    return folder / "oobleck.safetensors"


def loaded(source: Path, **settings: Any) -> OobleckAutoencoder:
    return OobleckAutoencoder(**{**SMALL, "weights": str(source), **settings})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
