"""PaSST-S: a spectrogram transformer with AudioSet tags.

Koutini et al. 2022, "Efficient training of audio transformers with Patchout". Weights:
``passt-s-f128-p16-s10-ap.476-swa.pt``: ViT-B/16 with a class and a distillation token, 128 mel bands, patches of
16 x 16 every 10 x 10, positions for 12 x 99 of them. Patchout is of the training only.

Shapes: T frames, M = 128 mel bands, P patches, D = 768, C = 527 classes of AudioSet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unisono.evaluation.networks.checkpoints import fill, read_checkpoint, weights_of
from unisono.evaluation.networks.front_end import hann, kaldi_mel_weights, mel_power, power_frames
from unisono.evaluation.networks.torch_network import TorchNetwork

TAKES = "file passt-s-f128-p16-s10-ap.476-swa.pt of PaSST"
NUM_CLASSES = 527
_DIM, _HEADS, _N_MELS = 768, 12, 128
_PATCH, _STRIDE, _GRID = 16, 10, (12, 99)
_N_FFT, _WINDOW, _HOP = 1024, 800, 320

FRONT_END = {
    "pre_emphasis": 0.97,
    "window": "hann (symmetric), 800 samples, n_fft 1024, ends reflected",
    "hop_samples": _HOP,
    "mel": "128 bands, 0 to 15000 Hz, HTK scale, triangles over mel, of the power",
    "log": "(ln(mel + 1e-5) + 4.5) / 5",
}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(_DIM, 3 * _DIM), nn.Linear(_DIM, _DIM)

    def forward(self, x: Tensor) -> Tensor:
        n, p, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, p, 3, _HEADS, _DIM // _HEADS).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, p, _DIM))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(_DIM, 4 * _DIM), nn.Linear(4 * _DIM, _DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(_DIM, eps=1e-6), nn.LayerNorm(_DIM, eps=1e-6)
        self.attn, self.mlp = Attention(), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, _DIM, _PATCH, stride=_STRIDE)


class PasstNet(nn.Module):
    """``(N, 1, M, T)`` to embedding ``(N, D)`` and logits ``(N, C)``; T from 16 to 1005."""

    depth = 12

    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.dist_token = (nn.Parameter(torch.zeros(1, 1, _DIM)) for _ in range(2))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, _DIM))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, _DIM, _GRID[0], 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, _DIM, 1, _GRID[1]))
        self.patch_embed = PatchEmbed()
        self.blocks = nn.Sequential(*(Block() for _ in range(self.depth)))
        self.norm = nn.LayerNorm(_DIM, eps=1e-6)
        self.head = nn.Sequential(nn.LayerNorm(_DIM), nn.Linear(_DIM, NUM_CLASSES))
        self.head_dist = nn.Linear(_DIM, NUM_CLASSES)  # of the training only

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patch_embed.proj(log_mel)
        x = x + self.time_new_pos_embed[..., : x.shape[-1]] + self.freq_new_pos_embed
        tokens = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        x = torch.cat([tokens.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        x = self.norm(self.blocks(x))
        embedding = x[:, :2].mean(dim=1)
        return embedding, self.head(embedding)


def log_mel_spectrogram(waveform: np.ndarray) -> np.ndarray:
    """``(S,)`` at 32 kHz to float32 ``(M, T)``, T = 1 + (S - 1) // 320."""
    waveform = np.asarray(waveform, dtype=np.float64)
    emphasised = waveform[1:] - 0.97 * waveform[:-1]
    power = power_frames(emphasised, _N_FFT, _HOP, hann(_WINDOW, periodic=False), pad="reflect")
    mel = mel_power(power, kaldi_mel_weights(32_000, _N_FFT, _N_MELS, 0.0, 15_000.0))
    return ((np.log(mel + 1e-5) + 4.5) / 5.0).astype(np.float32).T


class Passt(TorchNetwork):
    """`embedding` ``(768,)``, mean of the two tokens, and `logits` ``(527,)``."""

    name = "passt"
    sample_rate = 32_000
    shortest_samples = 1 + (_PATCH - 1) * _HOP
    longest_s = 10.0

    def __init__(self, source: str, device: str = "cpu") -> None:
        checkpoint = read_checkpoint(source, TAKES)
        self.module = PasstNet()
        fill(self.module, weights_of(checkpoint, TAKES, "model"), checkpoint, TAKES)
        parameters: dict[str, Any] = {
            "checkpoint_sha256": checkpoint.sha256,
            "architecture": "PaSST-S, stride 10 x 10, no patchout",
            "front_end": FRONT_END,
            "embedding": "mean of class and distillation token",
        }
        super().__init__(device, parameters)
        self.module.eval().to(device)

    def hear(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        log_mel = torch.from_numpy(np.ascontiguousarray(log_mel_spectrogram(waveform)))[None, None].to(self.device)
        embedding, logits = self.module(log_mel)
        arrays = {"embedding": embedding, "logits": logits}
        return {name: tensor[0].cpu().numpy() for name, tensor in arrays.items()}
