"""Video to audio."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unisono.data.datasets.base import AudioGenerationDataset, Target
from unisono.data.datasets.units import numbers_of
from unisono.data.manifest import Fields
from unisono.errors import UserError
from unisono.media import tolerances
from unisono.media.locations import Location
from unisono.types import Content, TextContent, VideoContent

if TYPE_CHECKING:
    from unisono.data.feature_cache import CachedSequences
    from unisono.features.video import VideoEncoder


class VideoToAudioDataset(AudioGenerationDataset):
    """Videos, or features of their frames, with an optional caption; and their sound.

    Args:
        content, audio, **options: see ``AudioGenerationDataset``.
        frame_rate_hz: pictures a second that are read from a video.
        frame_size: their height and width in pixels; an encoder has its own.
        frame_encoder: name for ``load_video_encoder``: its features stand for the pictures. Taken from the feature
            cache where that is in use; ``unisono video-features`` writes them into files once and for all.

    Attributes:
        frames: cached features of the videos; None computes them where ``frame_encoder`` is given.
    """

    task = "video_to_audio"

    def __init__(
        self,
        content: str | os.PathLike | None,
        audio: str | os.PathLike | None = None,
        frame_rate_hz: float = 25.0,
        frame_size: int = 64,
        frame_encoder: str | None = None,
        **options: Any,
    ) -> None:
        if not frame_rate_hz > 0 or frame_size < 8:
            raise UserError(
                f"{content}: frame_rate_hz ({frame_rate_hz}) must be above 0, frame_size ({frame_size}) 8 or more"
            )
        self.frame_rate_hz, self.frame_size = frame_rate_hz, frame_size
        self.frame_encoder: VideoEncoder | None = None
        if frame_encoder is not None:
            from unisono.features.video import shared_video_encoder

            self.frame_encoder = shared_video_encoder(frame_encoder, "cpu")
        self.frames: CachedSequences | None = None
        super().__init__(content, audio, **options)

    def check(self, line: Fields, duration_s: float | None) -> None:
        if line.record.get("caption") is not None:
            line.texts("caption")
        video, features = (line.record.get(name) is not None for name in ("video", "video_features"))
        if video == features:
            raise line.fail(
                "has "
                + ("both 'video' and" if video else "neither 'video' nor")
                + " 'video_features'; give one of them"
            )
        if features:
            line.positive("video_features_rate_hz", "a positive number of frames per second")
            self.check_file(line, "video_features")
            return
        self.check_file(line, "video")
        if not self.check_files:
            return
        location = line.location("video")
        from unisono.media.video import video_info

        try:
            video_s = video_info(location).duration_s
        except UserError as error:
            raise line.fail(f"field 'video': {error}") from error
        if duration_s is not None and abs(video_s - duration_s) > tolerances.VIDEO_S:
            raise line.fail(
                f"field 'video': {location} lasts {video_s:.3f} s, its sound {duration_s:.3f} s; they must agree "
                f"within {tolerances.VIDEO_S} s and start together"
            )

    def load_content(self, line: Fields, target: Target, rng: np.random.Generator) -> tuple[Content, ...]:
        caption: tuple[TextContent, ...] = ()
        if line.record.get("caption") is not None:
            caption = (self.caption(line, target, rng),)
        has_features = line.record.get("video_features") is not None
        return (self._features(line, target) if has_features else self._frames(line, target), *caption)

    def _frames(self, line: Fields, target: Target) -> VideoContent:
        from unisono.features.video import video_features
        from unisono.media.video import read_video_frames

        location = line.location("video")
        if self.frames is not None:
            return VideoContent(self.frame_rate_hz, features=self.frames.read(location, target.window))
        start_s, duration_s = 0.0, None
        if target.window is not None:
            start_s, duration_s = target.window.start_s, target.window.duration_s
        try:
            if self.frame_encoder is not None:
                # On the grid of the whole video's features, as the cache has them.
                part = (0, None) if target.window is None else target.window.indices(self.frame_rate_hz)
                features = video_features(location, self.frame_encoder, self.frame_rate_hz, *part)
                return VideoContent(self.frame_rate_hz, features=torch.from_numpy(features))
            frames = read_video_frames(location, self.frame_rate_hz, self.frame_size, start_s, duration_s)
        except UserError as error:
            raise line.fail(f"field 'video': {error}") from error
        return VideoContent(self.frame_rate_hz, frames=torch.from_numpy(frames))

    def _features(self, line: Fields, target: Target) -> VideoContent:
        features, rate_hz = numbers_of(line, "video_features", 2), float(line.record["video_features_rate_hz"])
        if target.num_samples is not None and target.window is None:
            video_s, target_s = len(features) / rate_hz, target.num_samples / self.sample_rate
            if abs(video_s - target_s) > tolerances.VIDEO_S:
                raise line.fail(
                    f"field 'video_features': {len(features)} frames at {rate_hz:g} Hz are {video_s:.3f} s, the sound "
                    f"{target_s:.3f} s; correct video_features_rate_hz"
                )
        if target.window is not None:
            features = features[slice(*target.window.indices(rate_hz))]
        return VideoContent(rate_hz, features=torch.from_numpy(features))

    def other_files(self, line: Fields) -> tuple[tuple[str, Location], ...]:
        field = "video_features" if line.record.get("video_features") is not None else "video"
        return ((field, line.location(field)),)

    def describe(self, line: Fields) -> str:
        if line.record.get("caption") is not None:
            return line.texts("caption")[0]
        return str(line.record.get("video") or line.record["video_features"])
