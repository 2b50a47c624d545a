"""PANNs Cnn14: embedding and AudioSet tags, trained at 32 kHz or at 16 kHz.

Kong et al. 2020, "PANNs: large-scale pretrained audio neural networks for audio pattern recognition". Weights:
``Cnn14_mAP=0.431.pth`` and ``Cnn14_16k_mAP=0.438.pth``, each ``{"model": weights, …}``. They carry their own Fourier
and mel matrices, which say at what rate they were trained.

``Cnn14_DecisionLevelMax`` has weights of the same names and shapes and cannot be told from ``Cnn14``.

Shapes: T frames, M = 64 mel bands, C = 527 classes of AudioSet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unisono.errors import UserError
from unisono.evaluation.networks.checkpoints import fill, read_checkpoint, weights_of
from unisono.evaluation.networks.front_end import hann, mel_power, mel_weights, power_frames
from unisono.evaluation.networks.torch_network import TorchNetwork

NUM_CLASSES = 527
_N_MELS = 64
_MATRICES = ("spectrogram_extractor.", "logmel_extractor.")


@dataclass(frozen=True)
class PannsFrontEnd:
    """Log-mel spectrogram in dB, nothing below -100 dB."""

    sample_rate: int
    n_fft: int
    hop_samples: int
    high_hz: float
    low_hz: float = 50.0

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            "window": f"hann (periodic), {self.n_fft} samples, ends reflected",
            "hop_samples": self.hop_samples,
            "mel": f"{_N_MELS} bands, {self.low_hz:g} to {self.high_hz:g} Hz, Slaney scale and area, of the power",
            "log": "10 log10(max(mel, 1e-10))",
        }

    @property
    def mel(self) -> Any:
        return mel_weights(self.sample_rate, self.n_fft, _N_MELS, self.low_hz, self.high_hz, "slaney", "slaney")

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """``(S,)`` to float32 ``(T, M)``."""
        power = power_frames(waveform, self.n_fft, self.hop_samples, hann(self.n_fft), pad="reflect")
        return (10.0 * np.log10(np.maximum(mel_power(power, self.mel), 1e-10))).astype(np.float32)

    def check(self, weights: dict[str, Tensor], where: str, takes: str) -> None:
        """Raise if the checkpoint was trained with other matrices than this front end applies."""
        angle = 2 * np.pi * np.outer(np.arange(self.n_fft // 2 + 1), np.arange(self.n_fft)) / self.n_fft
        expected = {
            "spectrogram_extractor.stft.conv_real.weight": (np.cos(angle) * hann(self.n_fft))[:, None],
            "spectrogram_extractor.stft.conv_imag.weight": (-np.sin(angle) * hann(self.n_fft))[:, None],
            "logmel_extractor.melW": self.mel.toarray().T,
        }
        for name, matrix in expected.items():
            given = weights.get(name)
            if given is None:
                raise UserError(f"{where}: weights of another network (without {name}); give the {takes}")
            if given.shape != matrix.shape or np.abs(given.double().numpy() - matrix).max() > 1e-3 * matrix.max():
                raise UserError(
                    f"{where}: trained with another front end than that of {self.sample_rate} Hz ({name}, "
                    f"{tuple(given.shape)}); give the {takes}"
                )


class ConvBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Cnn14(nn.Module):
    """``(N, 1, T, M)`` to embedding ``(N, 2048)`` and logits ``(N, C)``; T of 32 and more."""

    widths = (64, 128, 256, 512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(_N_MELS)
        for i, (before, width) in enumerate(zip((1, *self.widths), self.widths, strict=False), start=1):
            self.add_module(f"conv_block{i}", ConvBlock(before, width))
        self.fc1 = nn.Linear(self.widths[-1], self.widths[-1])
        self.fc_audioset = nn.Linear(self.widths[-1], NUM_CLASSES)

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        x = self.bn0(log_mel.transpose(1, 3)).transpose(1, 3)
        for i in range(1, 7):
            x = self.get_submodule(f"conv_block{i}")(x)
            x = F.avg_pool2d(x, 2) if i < 6 else x
        x = x.mean(dim=3)
        embedding = F.relu(self.fc1(x.amax(dim=2) + x.mean(dim=2)))
        return embedding, self.fc_audioset(embedding)


class Panns(TorchNetwork):
    """`embedding` ``(2048,)``, and `logits` ``(527,)`` of the whole clip."""

    front_end: ClassVar[PannsFrontEnd]
    takes: ClassVar[str]
    longest_s = 30.0

    def __init__(self, source: str, device: str = "cpu") -> None:
        checkpoint = read_checkpoint(source, self.takes)
        weights = weights_of(checkpoint, self.takes, "model")
        self.module = Cnn14()
        fill(self.module, weights, checkpoint, self.takes, unused=lambda name: name.startswith(_MATRICES))
        self.front_end.check(weights, str(checkpoint.path), self.takes)
        parameters: dict[str, Any] = {
            "checkpoint_sha256": checkpoint.sha256,
            "architecture": "Cnn14",
            "front_end": self.front_end.parameters,
            "embedding": "after the ReLU of fc1",
        }
        super().__init__(device, parameters)
        self.module.eval().to(device)

    def hear(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        log_mel = torch.from_numpy(self.front_end(waveform))[None, None].to(self.device)
        embedding, logits = self.module(log_mel)
        arrays = {"embedding": embedding, "logits": logits}
        return {name: tensor[0].cpu().numpy() for name, tensor in arrays.items()}


class Panns16k(Panns):
    name = "panns16k"
    sample_rate = 16_000
    front_end = PannsFrontEnd(16_000, n_fft=512, hop_samples=160, high_hz=8000.0)
    takes = "file Cnn14_16k_mAP=0.438.pth of PANNs"
    shortest_samples = 31 * 160


class Panns32k(Panns):
    name = "panns32k"
    sample_rate = 32_000
    front_end = PannsFrontEnd(32_000, n_fft=1024, hop_samples=320, high_hz=14_000.0)
    takes = "file Cnn14_mAP=0.431.pth of PANNs"
    shortest_samples = 31 * 320
