"""Does the sound belong to the pictures, and is it in time with them? By networks that take both.

Such a network has ``video`` (a `unisono.evaluation.networks.sidecar.VideoInput`) and ``with_video``; the clips of these
metrics are heard by `heard_with_video`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

import unisono
from unisono.errors import UserError
from unisono.evaluation.collection import Arrays, Clips, CollectionMetric, CollectionResult, each_item, listener
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.metric import MetricCard, MetricFailure, NotApplicable
from unisono.evaluation.networks.cached import CachedNetwork
from unisono.evaluation.networks.network import AudioNetwork
from unisono.media.locations import Location

VIDEOS = ("video", "video_file")
"""Manifest fields of an item's video: as it is given, and as steps keep it that replace it by features."""

_OFFSETS_S = np.linspace(-2.0, 2.0, 21)


def video_of(item: EvaluationItem) -> Location | None:
    """The item's video, where it has one."""
    return next((item.files[name] for name in VIDEOS if name in item.files), None)


def heard_with_video(cached: CachedNetwork, waveform: np.ndarray, item: EvaluationItem) -> Arrays:
    """What a network makes of a recording ``(S,)`` at its rate together with the item's pictures.

    Args:
        cached: of a network with ``video`` and ``with_video``.
        waveform: float32.
        item: whose video it is.

    Raises:
        NotApplicable: the item has no video.
        MetricFailure: the network takes no video, the video cannot be read, or one of both is too short.
    """
    video = getattr(cached.network, "video", None)
    if video is None:
        raise MetricFailure(f"{cached.network.name} was exported without a video input")
    location = video_of(item)
    if location is None:
        raise NotApplicable("the item has no video")

    from unisono.media.video import iterate_video_frames

    try:
        # No more than the network takes: the rest of a long video is not decoded.
        frames = list(islice(iterate_video_frames(location, video.frame_rate_hz, video.size), video.num_frames))
    except UserError as error:
        raise MetricFailure(str(error)) from error
    return cached.with_video(waveform, np.stack(frames))


def desync_s(logits: np.ndarray) -> float:
    """Seconds between sound and pictures, without a sign, of Synchformer's 21 classes from -2 to 2 s ``(21,)``."""
    if logits.shape != _OFFSETS_S.shape:
        raise MetricFailure(
            f"the network gave classes of shape {logits.shape}; DeSync needs those of {len(_OFFSETS_S)} offsets"
        )
    if not np.isfinite(logits).all():
        raise MetricFailure("the network gave NaN or infinite values (logits)")
    return abs(float(_OFFSETS_S[int(np.argmax(logits))]))


class _WithVideo(CollectionMetric):
    tasks = frozenset({"video_to_audio"})
    with_video = True
    array: str

    def applies_to(self, item: EvaluationItem) -> bool:
        return super().applies_to(item) and video_of(item) is not None

    def __call__(self, clips: Clips, network: AudioNetwork) -> CollectionResult:
        def judge(index: int) -> Mapping[str, float]:
            if video_of(clips.items[index]) is None:
                raise NotApplicable("the item has no video")
            return {self.names[0]: self.value(clips.heard(index, self.array))}

        return CollectionResult(items=each_item(clips, self.names, judge))

    @abstractmethod
    def value(self, heard: np.ndarray) -> float:
        """The metric's number from the network's array."""

    def _card(self, network: AudioNetwork, direction: Literal["lower", "higher"], **fields: Any) -> MetricCard:
        return MetricCard(
            name=self.names[0],
            direction=direction,
            implementation="unisono.evaluation.metrics.audio_visual",
            version=unisono.__version__,
            parameters=listener(network) | fields.pop("parameters"),
            **fields,
        )


@dataclass(frozen=True)
class Desync(_WithVideo):
    """``desync_s``, per item."""

    network: str = "synchformer"

    array = "logits"
    names = ("desync_s",)

    def cards(self, network: AudioNetwork) -> tuple[MetricCard, ...]:
        return (
            self._card(
                network,
                "lower",
                title="DeSync",
                unit="s",
                value_range="0 to 2 s in steps of 0.2 s",
                definition="Seconds by which Synchformer thinks that sound and pictures are apart, without a sign.",
                blind_to="What sounds, and how well. Guesses where nothing can be seen that sounds, and for sounds "
                "that last: the row of the coded reference has its floor. Offsets of more than 2 s and of less than "
                "0.1 s. How much of the clip it judges is up to the exported network; papers average the first and "
                "the last 4.8 s of 8 s.",
                source="Iashin, Xie, Rahtu and Zisserman 2024 (Synchformer); DeSync of Viertola et al. 2025 and Cheng "
                "et al. 2025 (MMAudio)",
                parameters={
                    "offsets": "21 classes from -2 to 2 s, the likeliest one",
                    "pictures": "of the item's video",
                },
            ),
        )

    def value(self, heard: np.ndarray) -> float:
        return desync_s(heard)


@dataclass(frozen=True)
class ImageBindScore(_WithVideo):
    """``imagebind_score``, per item."""

    network: str = "imagebind"

    array = "score"
    names = ("imagebind_score",)

    def cards(self, network: AudioNetwork) -> tuple[MetricCard, ...]:
        return (
            self._card(
                network,
                "higher",
                title="ImageBind score",
                unit="",
                value_range="-1 to 1; what a fitting recording gets depends on the export, often 0.2 to 0.4",
                definition="Cosine between ImageBind's embedding of the clip and that of the pictures.",
                blind_to="Time within the clip, and quality. Sounds of the scene that are not those to be seen score "
                "as well. A model trained or picked with ImageBind scores high without sounding better.",
                source="Girdhar et al. 2023 (ImageBind); the score of Mei et al. 2024 (FoleyGen) and Cheng et al. 2025",
                parameters={"score": "as the network gives it", "pictures": "of the item's video"},
                decimals=3,
            ),
        )

    def value(self, heard: np.ndarray) -> float:
        return float(heard.item())
