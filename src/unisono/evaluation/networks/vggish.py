"""VGGish: the embedding of the original Fréchet audio distance.

Hershey et al. 2017, "CNN architectures for large-scale audio classification"; Kilgour et al. 2019, "Fréchet audio
distance". Weights: ``vggish-10086976.pth`` of torchvggish (converted from TensorFlow), which holds ``features.*`` and
``embeddings.*``.

Shapes: T patches of 0.96 s, 96 frames by 64 mel bands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unisono.evaluation.networks.checkpoints import fill, read_checkpoint, weights_of
from unisono.evaluation.networks.front_end import hann, kaldi_mel_weights, mel_power, power_frames
from unisono.evaluation.networks.torch_network import TorchNetwork

TAKES = "file vggish-10086976.pth of torchvggish"
_PATCH_FRAMES, _N_MELS, _WINDOW, _HOP = 96, 64, 400, 160
_BATCH = 32

FRONT_END = {
    "window": "hann (periodic), 25 ms, n_fft 512",
    "hop_samples": _HOP,
    "mel": "64 bands, 125 to 7500 Hz, HTK scale, triangles over mel, of the magnitude",
    "log": "ln(mel + 0.01)",
    "patches": "96 frames, no overlap, the rest at the end dropped",
}


class VggishNet(nn.Module):
    """``(N, 1, 96, 64)`` to ``(N, 128)``. The last activation of the checkpoint's own network, a ReLU, is left out, as
    in the original distance and in its later implementations."""

    hidden = 4096

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for block in ((64,), (128,), (256, 256), (512, 512)):
            for width in block:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 6 * 4, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, 128),
        )

    def forward(self, patches: Tensor) -> Tensor:
        x = self.features(patches)
        return self.embeddings(x.permute(0, 2, 3, 1).flatten(1))  # TensorFlow's order: time, mel, channel


def log_mel_patches(waveform: np.ndarray) -> np.ndarray:
    """``(S,)`` at 16 kHz to float32 ``(T, 96, 64)``."""
    power = power_frames(waveform, 512, _HOP, hann(_WINDOW), pad="none")
    mel = mel_power(np.sqrt(power), kaldi_mel_weights(16_000, 512, _N_MELS, 125.0, 7500.0))
    log_mel = np.log(mel + 0.01).astype(np.float32)
    num_patches = len(log_mel) // _PATCH_FRAMES
    return log_mel[: num_patches * _PATCH_FRAMES].reshape(num_patches, _PATCH_FRAMES, _N_MELS)


class Vggish(TorchNetwork):
    """`frames` ``(T, 128)``, one per 0.96 s, and their mean as `embedding`."""

    name = "vggish"
    sample_rate = 16_000
    shortest_samples = _WINDOW + (_PATCH_FRAMES - 1) * _HOP

    def __init__(self, source: str, device: str = "cpu") -> None:
        checkpoint = read_checkpoint(source, TAKES)
        self.module = VggishNet()
        # The PCA of YouTube-8M's released features, which a saved torchvggish module carries along.
        fill(self.module, weights_of(checkpoint, TAKES), checkpoint, TAKES, unused=lambda k: k.startswith("pproc."))
        parameters: dict[str, Any] = {
            "checkpoint_sha256": checkpoint.sha256,
            "front_end": FRONT_END,
            "layer": "128 values before the last ReLU, no PCA, no quantisation",
            "embedding": "mean of the frames",
        }
        super().__init__(device, parameters)
        self.module.eval().to(device)

    def hear(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        patches = torch.from_numpy(log_mel_patches(waveform))[:, None]
        frames = torch.cat([self.module(batch.to(self.device)).cpu() for batch in patches.split(_BATCH)]).numpy()
        return {"frames": frames, "embedding": frames.mean(axis=0, dtype=np.float64)}
