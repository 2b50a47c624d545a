"""CLAP score: how close a clip lies to its caption, where a network puts sounds and words into one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

import unisono
from unisono.evaluation.collection import (
    SOUND_TASKS,
    Clips,
    CollectionMetric,
    CollectionResult,
    cosine,
    each_item,
    listener,
)
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.metric import MetricCard, NotApplicable
from unisono.evaluation.networks.network import AudioNetwork


class TextReader(Protocol):
    """What the network has to offer beside its `embedding` of a recording."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """``(N, D)``, in the same space."""


def caption_of(item: EvaluationItem) -> str | None:
    """The `caption` of the item's manifest line (of several the first), else its `text`. What the report shows in their
    place may be the name of a file, which describes no sound."""
    captions = item.details.get("caption")
    given = (*(captions if isinstance(captions, list) else [captions]), item.details.get("text"))
    return next((text for text in given if isinstance(text, str) and text.strip()), None)


@dataclass(frozen=True)
class ClapScore(CollectionMetric):
    """``clap_score``, per item."""

    network: str = "clap"
    tasks: frozenset[str] = SOUND_TASKS

    @property
    def names(self) -> tuple[str, ...]:
        return (f"{self.network}_score",)

    def applies_to(self, item: EvaluationItem) -> bool:
        return super().applies_to(item) and caption_of(item) is not None

    def cards(self, network: AudioNetwork) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name=self.names[0],
                title="CLAP score",
                unit="",
                direction="higher",
                value_range="-1 to 1; what a fitting recording gets depends on the network, often 0.2 to 0.5",
                definition="Cosine between the network's embedding of the clip and that of its caption.",
                blind_to="Quality, and much of order, count and time of the sounds. Differs by a factor of two between "
                "checkpoints: the checkpoint is part of the number. A model trained or picked with the same network "
                "scores high without sounding better; read it beside the row of the coded reference.",
                source="Wu et al. 2023 (LAION-CLAP)",
                implementation="unisono.evaluation.metrics.clap_score",
                version=unisono.__version__,
                parameters=listener(network)
                | {"text": "the item's caption, as it is (of several the first), else its text", "scale": 1},
                decimals=3,
            ),
        )

    def __call__(self, clips: Clips, network: AudioNetwork) -> CollectionResult:
        captions = [caption_of(item) for item in clips.items]
        # A caption may stand for many clips.
        wanted = list(dict.fromkeys(caption for caption in captions if caption is not None))
        read = dict(zip(wanted, cast(TextReader, network).embed_text(wanted), strict=True)) if wanted else {}

        def judge(index: int) -> dict[str, float]:
            caption = captions[index]
            if caption is None:
                raise NotApplicable("the item has no caption")
            return {self.names[0]: cosine(clips.heard(index, "embedding"), read[caption])}

        return CollectionResult(items=each_item(clips, self.names, judge))
