"""Video to one vector per latent frame."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from unisono.errors import UserError
from unisono.models.layers import TransformerEncoder
from unisono.models.unused import touch
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
        self, shown: Tensor, lengths: Tensor, frames: Tensor | None = None, features: Tensor | None = None
    ) -> Condition:
        """Vectors of what is shown at each of T latent frames.

        Args:
            shown: int64 ``(B, T)``, which of N pictures.
            lengths: int64 ``(B,)``, latent frames.
            frames: pictures, uint8 ``(B, N, H, W, 3)``; or
            features: of pictures, ``(B, N, F)``.
        """
        if features is not None:
            if self.features is None or self.features.in_features != features.shape[-1]:
                expected = "pictures only" if self.features is None else f"{self.features.in_features}"
                raise UserError(
                    f"video features have {features.shape[-1]} values, the model takes {expected}; set "
                    "feature_dim of model.content_encoders.video"
                )
            x = touch(self.features(features.to(self.features.weight.dtype)), self.pictures.parameters())
        else:
            assert frames is not None, "a video is pictures or features"
            x = self._encode_pictures(frames)
            x = x if self.features is None else touch(x, self.features.parameters())
        x = torch.gather(x, 1, shown[..., None].expand(-1, -1, x.shape[2]))
        mask = length_mask(lengths, x.shape[1])
        return Condition(self.transformer(x, mask), mask)

    def _encode_pictures(self, frames: Tensor) -> Tensor:
        """``(B, T, D)``; each picture stands beside its difference to the one before."""
        picture = frames.to(next(self.pictures.parameters()).dtype).permute(0, 1, 4, 2, 3) / 127.5 - 1.0
        change = torch.diff(picture, dim=1, prepend=picture[:, :1])
        both = torch.cat([picture, change], dim=2)
        return self.pictures(both.flatten(0, 1)).unflatten(0, both.shape[:2])
