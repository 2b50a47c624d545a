"""Pictures of a video as vectors, one per frame."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from unisono.errors import UserError
from unisono.features.pretrained import inference, load_pretrained, load_weights, weights_fingerprint
from unisono.media.video import VideoSource, iterate_video_frames

LUMINANCE = "luminance"
_BATCH_FRAMES = 32


class VideoEncoder(Protocol):
    """What gives pictures their vectors.

    Attributes:
        fingerprint: changes when the same pictures would give other vectors.
        dim: length of a vector.
        size: pixels of each side of the pictures it takes.
    """

    fingerprint: str
    dim: int
    size: int

    def __call__(self, frames: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        """float32 ``(T, dim)`` of uint8 ``(T, size, size, 3)``; ``before`` is the picture before the first, if any."""
        ...


def load_video_encoder(name: str, device: str = "cpu") -> VideoEncoder:
    """An encoder by name.

    Args:
        name: ``luminance``, or a folder or Hugging Face Hub id of a vision model of ``transformers`` (CLIP, SigLIP,
            DINOv2, ViT …). ``id@revision`` pins a version.
        device: of the model, where it has one.
    """
    return Luminance() if name == LUMINANCE else VisionModel(name, device)


def video_features(
    source: VideoSource, encoder: VideoEncoder, rate_hz: float, first: int = 0, end: int | None = None
) -> np.ndarray:
    """float32 ``(T, encoder.dim)`` of a video; vector k is of the picture shown at ``k / rate_hz``.

    The pictures are read and encoded a few at a time, so videos may be of any length.

    Args:
        source: of the video.
        encoder: of its pictures.
        rate_hz: vectors a second.
        first, end: the part of all vectors that is wanted; the picture before it is looked at as well.
    """
    began = max(first - 1, 0)
    duration_s = None if end is None else (end - began) / rate_hz
    pictures = iterate_video_frames(source, rate_hz, encoder.size, began / rate_hz, duration_s)
    before: np.ndarray | None = next(pictures) if first > 0 else None
    features = []
    for batch in _batched(pictures):
        frames = np.stack(batch)
        features.append(encoder(frames, before))
        before = frames[-1]
    return np.concatenate(features)


def _batched(pictures: Iterator[np.ndarray]) -> Iterator[list[np.ndarray]]:
    while batch := list(itertools.islice(pictures, _BATCH_FRAMES)):
        yield batch


class Luminance:
    """Brightness on a grid of 8 x 8, and how it changed since the picture before: no weights, nothing to download.

    Weak: it tells when and where something moves, not what. Enough for sounds that follow movement, and to try things
    out. The vector: 64 brightnesses in [0, 1], then 64 mean absolute changes per pixel, 0 for the first picture.
    """

    size = 64
    dim = 128
    fingerprint = "luminance-1"
    _grid = 8
    _weights = (0.2126, 0.7152, 0.0722)  # of red, green, blue, ITU-R BT.709

    def __call__(self, frames: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        grey = self._grey(frames)
        previous = np.concatenate([grey[:1] if before is None else self._grey(before[None]), grey[:-1]])
        return np.concatenate([self._pooled(grey), self._pooled(np.abs(grey - previous))], axis=1).astype(np.float32)

    def _grey(self, frames: np.ndarray) -> np.ndarray:
        return frames.astype(np.float32) @ np.array(self._weights, np.float32) / 255.0

    def _pooled(self, grey: np.ndarray) -> np.ndarray:
        """``(T, size, size)`` to ``(T, grid * grid)``."""
        side = self.size // self._grid
        return grey.reshape(len(grey), self._grid, side, self._grid, side).mean(axis=(2, 4)).reshape(len(grey), -1)


class VisionModel:
    """The vision part of a model of ``transformers``: what CLIP-like models compare with text, else the pooled vector.

    Pictures come square and in the model's size, so only the mean and deviation of colours are taken from its own
    preprocessing.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        from transformers import AutoConfig, AutoModel

        self.name = name
        config = load_pretrained(AutoConfig.from_pretrained, name, "a vision model")
        size = getattr(getattr(config, "vision_config", config), "image_size", None)
        if not isinstance(size, int):
            raise UserError(
                f"{name}: a model of type {config.model_type} takes no square pictures; give one such as CLIP"
            )
        self.size = size
        colours = load_pretrained(_image_settings, name, "a vision model with preprocessor_config.json")
        self._mean, self._deviation = (
            np.array(colours.get(key, 0.5), np.float32) for key in ("image_mean", "image_std")
        )
        model = load_weights(AutoModel.from_pretrained, name, "a vision model")
        self.model: Any = model.to(device)
        self.fingerprint = weights_fingerprint(model)
        self.dim = self(np.zeros((1, self.size, self.size, 3), np.uint8), None).shape[1]

    def __call__(self, frames: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        import torch

        pixels = (frames.astype(np.float32) / 255.0 - self._mean) / self._deviation
        values = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(self.model.device)
        with inference(self.model.device):
            encode = getattr(self.model, "get_image_features", self.model)
            output = encode(pixel_values=values)
        if not isinstance(output, torch.Tensor):
            pooled = getattr(output, "pooler_output", None)
            output = output.last_hidden_state.mean(dim=1) if pooled is None else pooled
        return output.flatten(1).float().cpu().numpy()


def _image_settings(source: str, **options: Any) -> dict[str, Any]:
    """preprocessor_config.json alone: the image processors themselves want torchvision, which wants an exact torch."""
    from transformers.image_processing_base import ImageProcessingMixin

    options.pop("trust_remote_code")
    return ImageProcessingMixin.get_image_processor_dict(source, **options)[0]


@functools.lru_cache(maxsize=1)
def shared_video_encoder(name: str, device: str) -> VideoEncoder:
    """One loaded encoder per process."""
    return load_video_encoder(name, device)
