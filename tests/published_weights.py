"""Names and shapes of the published weights of taggers, and random weights in their layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
NAMES = ("vggish", "panns16k", "panns32k", "passt", "aisfx")


def layer(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def conv_block(name: str, before: int, width: int) -> Shapes:
    shapes: Shapes = {f"{name}.conv1.weight": (width, before, 3, 3), f"{name}.conv2.weight": (width, width, 3, 3)}
    for norm in ("bn1", "bn2"):
        shapes |= batch_norm(f"{name}.{norm}", width)
    return shapes


def batch_norm(name: str, width: int) -> Shapes:
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()
    }


def vggish_shapes(hidden: int = 4096) -> Shapes:
    widths = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512), 13: (512, 512)}
    shapes: Shapes = {}
    for i, (before, width) in widths.items():
        shapes |= layer(f"features.{i}", width, before, 3, 3)
    return (
        shapes
        | layer("embeddings.0", hidden, 12_288)
        | layer("embeddings.2", hidden, hidden)
        | layer("embeddings.4", 128, hidden)
    )


def panns_shapes(n_fft: int, widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)) -> Shapes:
    shapes: Shapes = {
        "spectrogram_extractor.stft.conv_real.weight": (n_fft // 2 + 1, 1, n_fft),
        "spectrogram_extractor.stft.conv_imag.weight": (n_fft // 2 + 1, 1, n_fft),
        "logmel_extractor.melW": (n_fft // 2 + 1, 64),
    } | batch_norm("bn0", 64)
    for i, (before, width) in enumerate(zip((1, *widths), widths, strict=False), start=1):
        shapes |= conv_block(f"conv_block{i}", before, width)
    return shapes | layer("fc1", widths[-1], widths[-1]) | layer("fc_audioset", 527, widths[-1])


def passt_shapes(depth: int = 12) -> Shapes:
    shapes: Shapes = {
        "cls_token": (1, 1, 768),
        "dist_token": (1, 1, 768),
        "new_pos_embed": (1, 2, 768),
        "freq_new_pos_embed": (1, 768, 12, 1),
        "time_new_pos_embed": (1, 768, 1, 99),
    } | layer("patch_embed.proj", 768, 1, 16, 16)
    for i in range(depth):
        at = f"blocks.{i}"
        shapes |= layer(f"{at}.norm1", 768) | layer(f"{at}.norm2", 768)
        shapes |= layer(f"{at}.attn.qkv", 2304, 768) | layer(f"{at}.attn.proj", 768, 768)
        shapes |= layer(f"{at}.mlp.fc1", 3072, 768) | layer(f"{at}.mlp.fc2", 768, 3072)
    return shapes | layer("norm", 768) | layer("head.0", 768) | layer("head.1", 527, 768) | layer("head_dist", 527, 768)


def aisfx_shapes() -> Shapes:
    shapes: Shapes = {}
    for i, (before, width) in enumerate(((1, 64), (64, 128), (128, 256), (256, 512)), start=1):
        shapes |= conv_block(f"embedding_net.conv_block{i}", before, width)
    for i, classes in enumerate((78, 79, 69, 81, 10, 27, 3, 23, 8)):
        shapes |= layer(f"fc.{i}.0", 256, 512) | layer(f"fc.{i}.2", 128, 256) | layer(f"fc.{i}.4", classes, 128)
    return shapes


PUBLISHED: dict[str, Callable[[], Shapes]] = {
    "vggish": vggish_shapes,
    "panns16k": lambda: panns_shapes(512),
    "panns32k": lambda: panns_shapes(1024),
    "passt": passt_shapes,
    "aisfx": aisfx_shapes,
}
WIDTHS = (8, 8, 8, 16, 16, 16)
SMALL = PUBLISHED | {
    "vggish": lambda: vggish_shapes(16),
    "panns16k": lambda: panns_shapes(512, WIDTHS),
    "panns32k": lambda: panns_shapes(1024, WIDTHS),
    "passt": lambda: passt_shapes(1),
}


def weights(name: str, shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Random ones, with the matrices that PANNs' files hold."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            made[key] = torch.tensor(5)
        elif key.endswith("running_var"):
            made[key] = torch.rand(shape, generator=generator) + 0.5
        elif key.endswith(".weight") and len(shape) == 1:  # of a normalisation
            made[key] = 1 + 0.3 * torch.randn(shape, generator=generator)
        else:
            fan_in = max(1, int(np.prod(shape[1:])))
            made[key] = torch.randn(shape, generator=generator) * (1.4 / fan_in**0.5 if len(shape) > 1 else 0.3)
    if name.startswith("panns"):
        rate, n_fft, high_hz = (16_000, 512, 8000) if name == "panns16k" else (32_000, 1024, 14_000)
        spectrum = np.fft.rfft(np.diag(librosa.filters.get_window("hann", n_fft)))  # of every sample alone
        made["spectrogram_extractor.stft.conv_real.weight"] = torch.from_numpy(spectrum.real.T[:, None]).float()
        made["spectrogram_extractor.stft.conv_imag.weight"] = torch.from_numpy(spectrum.imag.T[:, None]).float()
        mel = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=64, fmin=50, fmax=high_hz)
        made["logmel_extractor.melW"] = torch.from_numpy(mel.T.copy())
    return made


def save(path: Path, name: str, state: dict[str, Tensor]) -> Path:
    """As it was published: PANNs beside the state of its training, aiSFX beside its data sets."""
    content: object = state
    if name.startswith("panns"):
        content = {"iteration": 600_000, "model": state, "sampler": {"indexes": np.arange(3), "pointer": np.int64(1)}}
    elif name == "aisfx":
        content = (state, {"prosfx": (np.int64(0), 78)})
    torch.save(content, path)
    return path
