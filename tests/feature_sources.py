"""Recordings, videos and tiny untrained models that tests of features share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

RATE = 16_000


def voice(f0_hz: np.ndarray | float, duration_s: float, rate: int = RATE, tilt: float = 1.0) -> np.ndarray:
    """A buzz of twenty harmonics; ``f0_hz`` a number or one per sample."""
    samples = round(duration_s * rate)
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(f0_hz, samples)) / rate
    return (0.15 * sum(np.sin(k * phase) / k**tilt for k in range(1, 21))).astype(np.float32)


def write_video(path: Path, frames: np.ndarray, rate_hz: int = 25) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate_hz)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.bit_rate = 4_000_000
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_flash(path: Path) -> Path:
    """Two seconds, 25 pictures each: dark but for the left half, which is bright from picture 20 to 29."""
    frames = np.full((50, 64, 64, 3), 16, np.uint8)
    frames[20:30, :, :32] = 220
    return write_video(path, frames)


def save_x_vector_model(folder: Path) -> Path:
    """A tiny untrained WavLM with an x-vector head, saved as a real one is."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        tdnn_dim=(8,) * 5, xvector_output_dim=12, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    WavLMForXVector(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(folder)
    return folder


def save_text_encoder(folder: Path, kind: str = "t5") -> Path:
    """A tiny untrained T5 or BERT that reads bytes, saved as a real one is."""
    import transformers

    torch.manual_seed(0)
    if kind == "t5":
        config = transformers.T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
        transformers.T5ForConditionalGeneration(config).save_pretrained(folder)  # with a decoder, as published ones
    else:
        bert = transformers.BertConfig(
            vocab_size=384, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=32,
        )  # fmt: skip
        transformers.BertModel(bert).save_pretrained(folder)
    transformers.ByT5Tokenizer().save_pretrained(folder)
    return folder
