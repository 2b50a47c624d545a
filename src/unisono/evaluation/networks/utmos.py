"""UTMOS: a predictor of how natural listeners find speech, from 1 to 5.

Saeki et al. 2022, "UTMOS: UTokyo-SaruLab system for VoiceMOS Challenge 2022", strong learner: wav2vec 2.0 base, a
bidirectional LSTM over its frames beside a vector for the listening test and one for the listener, and two linear
layers. Weights: ``utmos22_strong_step7459_v1.pt`` of SpeechMOS, which fixed both vectors and took fairseq out. The
transformer is ``Wav2Vec2Model`` of ``transformers``; the file's names are those of fairseq.

Shapes: T frames at 50 Hz.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unisono.evaluation.metric import library_version
from unisono.evaluation.networks.checkpoints import fill, read_checkpoint, weights_of
from unisono.evaluation.networks.exported import SIDECARS, Exported
from unisono.evaluation.networks.network import AudioNetwork
from unisono.evaluation.networks.torch_network import TorchNetwork
from unisono.features.pretrained import HARMLESS

TAKES = "file utmos22_strong_step7459_v1.pt of SpeechMOS"
_NAMES = (
    (r"^wav2vec2\.(post_extract_proj)\.", "wav2vec2.feature_projection.projection."),
    (r"^wav2vec2\.layer_norm\.", "wav2vec2.feature_projection.layer_norm."),
    (r"^wav2vec2\.mask_emb$", "wav2vec2.masked_spec_embed"),
    (r"(conv_layers\.\d+)\.0\.", r"\1.conv."),
    (r"(conv_layers\.\d+)\.2\.", r"\1.layer_norm."),
    (r"pos_conv\.0\.weight_g$", "pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"pos_conv\.0\.weight_v$", "pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"pos_conv\.0\.", "pos_conv_embed.conv."),
    (r"(layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"(layers\.\d+)\.self_attn_layer_norm\.", r"\1.layer_norm."),
    (r"(layers\.\d+)\.fc1\.", r"\1.feed_forward.intermediate_dense."),
    (r"(layers\.\d+)\.fc2\.", r"\1.feed_forward.output_dense."),
)


def renamed(name: str) -> str:
    """A weight's name in the file to its name in `UtmosNet`."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


class UtmosNet(nn.Module):
    """``(N, S)`` at 16 kHz to ``(N,)``."""

    layers = 12

    def __init__(self) -> None:
        super().__init__()
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        self.wav2vec2 = Wav2Vec2Model(Wav2Vec2Config(num_hidden_layers=self.layers))  # else wav2vec 2.0 base
        self.domain_emb, self.judge_emb = (nn.Parameter(torch.zeros(1, 128)) for _ in range(2))
        self.blstm = nn.LSTM(768 + 2 * 128, 512, batch_first=True, bidirectional=True)
        self.projection = nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 1))

    def forward(self, waveform: Tensor) -> Tensor:
        frames = self.wav2vec2(waveform).last_hidden_state
        fixed = torch.cat([self.domain_emb, self.judge_emb], dim=1)[:, None].expand(*frames.shape[:2], -1)
        return self.projection(self.blstm(torch.cat([frames, fixed], dim=2))[0]).mean(dim=(1, 2)) * 2 + 3


class Utmos(TorchNetwork):
    """`score` ``()``, about 1 (bad) to 5 (excellent)."""

    name = "utmos"
    sample_rate = 16_000
    shortest_samples = 1_600
    longest_s = 60.0

    def __init__(self, source: str, device: str = "cpu") -> None:
        checkpoint = read_checkpoint(source, TAKES)
        self.module = UtmosNet()
        weights = {renamed(name): tensor for name, tensor in weights_of(checkpoint, TAKES).items()}
        fill(self.module, weights, checkpoint, TAKES, optional=HARMLESS)
        parameters: dict[str, Any] = {
            "checkpoint_sha256": checkpoint.sha256,
            "architecture": "UTMOS22 strong learner without phonemes",
            "front_end": "waveform, no level normalisation",
            "transformers": library_version("transformers"),
            "score": "2 x mean over frames + 3",
        }
        super().__init__(device, parameters)
        self.module.eval().to(device)

    def hear(self, waveform: np.ndarray) -> dict[str, np.ndarray]:
        return {"score": self.module(torch.from_numpy(waveform)[None].to(self.device))[0].cpu().numpy()}


def load(source: str, device: str = "cpu") -> AudioNetwork:
    """From the checkpoint, or any predictor of such scores as an exported network."""
    if source.endswith(SIDECARS):
        return Exported(source, device, name="utmos", must_give=("score",))
    return Utmos(source, device)
