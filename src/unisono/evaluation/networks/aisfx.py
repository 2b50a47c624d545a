"""aiSFX: a small network trained to tell kinds of sound effects apart. Its weights come in the package ``aisfx``.

Ma and Richard 2022, "Representation learning for the automatic indexing of sound effects libraries" (ISMIR);
checkpoint under CC BY 4.0. Only the file is needed: install the package with ``--no-deps``.

Shapes: T frames, M = 96 mel bands, B blocks of 100 frames (2.3 s).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unisono.errors import UserError
from unisono.evaluation.metric import library_version
from unisono.evaluation.networks.checkpoints import Checkpoint, fill, read_checkpoint, weights_of
from unisono.evaluation.networks.front_end import hann, mel_power, mel_weights, power_frames
from unisono.evaluation.networks.panns import ConvBlock
from unisono.evaluation.networks.torch_network import TorchNetwork

TAKES = "file checkpoint.pth of aisfx"
_N_FFT, _HOP, _N_MELS = 2048, 1024, 96
_BLOCK, _BLOCK_HOP, _BATCH = 100, 50, 16
_LARGEST = 9.457798957824707
"""Of the training set's log-mel values."""

FRONT_END = {
    "window": "hann (periodic), 2048 samples, zeros beyond the ends",
    "hop_samples": _HOP,
    "mel": "96 bands, 0 to 22050 Hz, HTK scale, weights of a band add up to 1, of the power",
    "log": f"log10(10000 mel + 1) / {_LARGEST}",
    "level_normalisation": "none",
    "blocks": "100 frames every 50, the rest at the end dropped; clips below 100 frames filled with silence",
}


class AisfxNet(nn.Module):
    """``(N, T, M)`` to ``(N, 512)``."""

    def __init__(self) -> None:
        super().__init__()
        for i, (before, width) in enumerate(((1, 64), (64, 128), (128, 256), (256, 512)), start=1):
            self.add_module(f"conv_block{i}", ConvBlock(before, width))

    def forward(self, log_mel: Tensor) -> Tensor:
        x = log_mel[:, None]
        for i in range(1, 5):
            x = self.get_submodule(f"conv_block{i}")(x)
            x = F.max_pool2d(x, 2) if i < 4 else x
        return x.mean(dim=3).amax(dim=2)


def log_mel_blocks(waveform: np.ndarray) -> np.ndarray:
    """``(S,)`` at 44.1 kHz to float32 ``(B, 100, M)``."""
    power = power_frames(waveform, _N_FFT, _HOP, hann(_N_FFT), pad="zeros")
    mel = mel_power(power, mel_weights(44_100, _N_FFT, _N_MELS, 0.0, 22_050.0, "htk", "sum"))
    log_mel = (np.log10(1e4 * mel + 1.0) / _LARGEST).astype(np.float32)
    if len(log_mel) < _BLOCK:
        log_mel = np.pad(log_mel, ((0, _BLOCK - len(log_mel)), (0, 0)))
    blocks = np.lib.stride_tricks.sliding_window_view(log_mel, _BLOCK, axis=0)[::_BLOCK_HOP]
    return blocks.swapaxes(1, 2).copy()


class Aisfx(TorchNetwork):
    """`embedding` ``(512,)``, the mean of all blocks."""

    name = "aisfx"
    sample_rate = 44_100

    def __init__(self, source: str | None = None, device: str = "cpu") -> None:
        checkpoint = read_checkpoint(source or _packaged_checkpoint(), TAKES)
        if isinstance(checkpoint.content, tuple | list) and checkpoint.content:  # (weights, names of the data sets)
            checkpoint = Checkpoint(checkpoint.path, checkpoint.sha256, checkpoint.content[0])
        self.module = AisfxNet()
        prefix = "embedding_net."
        weights = {
            name.removeprefix(prefix) if name.startswith(prefix) else name: tensor
            for name, tensor in weights_of(checkpoint, TAKES).items()
        }
        # One classifier per training set stands on the embedding.
        fill(self.module, weights, checkpoint, TAKES, unused=lambda name: name.startswith("fc."))
        parameters: dict[str, Any] = {
            "checkpoint_sha256": checkpoint.sha256,
            "front_end": FRONT_END,
            "embedding": "mean of the blocks",
        }
        super().__init__(device, parameters)
        self.module.eval().to(device)

    def hear(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        blocks = torch.from_numpy(log_mel_blocks(waveform))
        vectors = torch.cat([self.module(batch.to(self.device)).cpu() for batch in blocks.split(_BATCH)]).numpy()
        return {"embedding": vectors.mean(axis=0, dtype=np.float64)}


def _packaged_checkpoint() -> str:
    # The package is not imported: its modules want librosa, essentia and more.
    spec = importlib.util.find_spec("aisfx")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise UserError("aisfx is not installed; run: pip install --no-deps aisfx")
    path = Path(folders[0]) / "models" / "checkpoint.pth"
    if not path.is_file():
        raise UserError(
            f"aisfx {library_version('aisfx')} brings no {path.name}; run: pip install --no-deps aisfx==0.1.2"
        )
    return str(path)
