"""Video to one vector per latent frame."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from unisono.errors import UserError
from unisono.models.layers import TransformerEncoder
from unisono.timing import seconds_to_frames
from unisono.types import Alignment, Condition, length_mask


class VideoEncoder(nn.Module):
    """A small convolutional network over each picture and its change, or a projection of features.

    Args:
        dim: width D.
        feature_dim: size of precomputed features; None takes pictures only.
        channels: of the first convolution; each of the four halves the picture and doubles them.
        num_layers, num_heads: of the transformer over frames (none by default: the backbone has many).
    """

    alignment = Alignment.FRAMES

    def __init__(
        self,
        dim: int,
        feature_dim: int | None = None,
        channels: int = 16,
        num_layers: int = 0,
        num_heads: int = 4,
    ) -> None:
        super().__init__()
        self.dim = dim
        widths = [6, channels, 2 * channels, 4 * channels, 8 * channels]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.SiLU()]
        # Where on the picture something happens matters less than when: a 2 x 2 grid is kept of it.
        self.pictures = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * widths[-1], dim))
        self.features = None if feature_dim is None else nn.Linear(feature_dim, dim)
        self.transformer = TransformerEncoder(dim, num_layers, num_heads)

    def forward(
        self,
        lengths: Tensor,
        rate_hz: Tensor,
        latent_rate_hz: float,
        frames: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Condition:
        """``frames`` uint8 ``(B, T, H, W, 3)`` or ``features (B, T, F)``; ``lengths``, ``rate_hz (B,)``.

        The picture on the screen at a latent frame's beginning stands for it.
        """
        if features is not None:
            if self.features is None or self.features.in_features != features.shape[-1]:
                expected = "pictures only" if self.features is None else f"{self.features.in_features}"
                raise UserError(
                    f"video features have {features.shape[-1]} values, the model takes {expected}; set "
                    "feature_dim of model.content_encoders.video"
                )
            x = self.features(features.to(self.features.weight.dtype))
        else:
            assert frames is not None, "a video is pictures or features"
            x = self._encode_pictures(frames)
        seconds = lengths / rate_hz
        latent_lengths = seconds_to_frames(seconds, latent_rate_hz)
        time_s = torch.arange(int(latent_lengths.max()), device=x.device) / latent_rate_hz
        x = _at_times(x, lengths, rate_hz, time_s)
        mask = length_mask(latent_lengths, x.shape[1])
        return Condition(self.transformer(x, mask), mask)

    def _encode_pictures(self, frames: Tensor) -> Tensor:
        """``(B, T, D)``; each picture stands beside its difference to the one before."""
        picture = frames.to(next(self.pictures.parameters()).dtype).permute(0, 1, 4, 2, 3) / 127.5 - 1.0
        change = torch.diff(picture, dim=1, prepend=picture[:, :1])
        both = torch.cat([picture, change], dim=2)
        return self.pictures(both.flatten(0, 1)).unflatten(0, both.shape[:2])


def _at_times(x: Tensor, lengths: Tensor, rate_hz: Tensor, time_s: Tensor) -> Tensor:
    """Of ``x (B, T, D)`` at ``rate_hz (B,)`` what is shown at ``time_s (N,)``, ``(B, N, D)``."""
    index = (time_s[None, :] * rate_hz[:, None] + 1e-4).long().clamp_max((lengths - 1)[:, None])
    return torch.gather(x, 1, index[..., None].expand(-1, -1, x.shape[2]))
