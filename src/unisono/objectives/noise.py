"""Noise that belongs to an item, not to its place in a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts; the same on every machine and in every process."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def item_noise(seeds: Sequence[int], lengths: Sequence[int], num_frames: int, channels: int) -> Tensor:
    """Standard normal ``(B, T, C)`` on the CPU, each item from its own seed, zero past its length."""
    noise = torch.zeros(len(seeds), num_frames, channels)
    for row, (seed, length) in enumerate(zip(seeds, lengths, strict=True)):
        generator = torch.Generator().manual_seed(seed)
        noise[row, :length] = torch.randn(length, channels, generator=generator)
    return noise
