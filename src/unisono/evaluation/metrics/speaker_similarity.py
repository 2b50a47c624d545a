"""Whose voice is it? The clip's voice against that of its reference, or of the recording that it should copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import unisono
from unisono.evaluation.collection import (
    VOICE_TASKS,
    Clips,
    CollectionMetric,
    CollectionResult,
    cosine,
    each_item,
    listener,
)
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.metric import MetricCard
from unisono.evaluation.networks.network import AudioNetwork

PROMPTS = ("speaker_audio", "speaker_audio_file")
"""Manifest fields of a recording whose voice is to be copied: as it is given, and as `unisono speaker` keeps it."""


@dataclass(frozen=True)
class SpeakerSimilarity(CollectionMetric):
    """Cosine of speaker embeddings, per item: ``speaker_similarity`` to the reference, ``speaker_similarity_prompt`` to
    the recording whose voice is to be copied, which are different questions."""

    to: Literal["reference", "prompt"] = "reference"
    network: str = "speaker"
    tasks: frozenset[str] = VOICE_TASKS

    companions = PROMPTS

    @property
    def names(self) -> tuple[str, ...]:
        return ("speaker_similarity" if self.to == "reference" else "speaker_similarity_prompt",)

    def applies_to(self, item: EvaluationItem) -> bool:
        return super().applies_to(item) and (self.to == "reference" or _prompt_field(item) is not None)

    def cards(self, network: AudioNetwork) -> tuple[MetricCard, ...]:
        other = "its reference" if self.to == "reference" else "the recording whose voice it should copy"
        return (
            MetricCard(
                name=self.names[0],
                title="Speaker similarity" if self.to == "reference" else "Speaker similarity to the prompt",
                unit="",
                direction="higher",
                value_range="-1 to 1; what two recordings of one speaker get depends on the network",
                definition=f"Cosine between the speaker embedding of the clip and that of {other}.",
                blind_to="What is said and how. Room, microphone and noise count as part of the voice, the more the "
                "shorter the clip; the network learned from speech, so that on singing pitch moves it as well. Not to "
                "be compared between networks: read it beside the row of the coded reference.",
                source="cosine scoring of Dehak et al. 2011; SIM-o of Le et al. 2023 (Voicebox) for the prompt",
                implementation="unisono.evaluation.metrics.speaker_similarity",
                version=unisono.__version__,
                parameters=listener(network)
                | {"compared_with": "reference" if self.to == "reference" else f"item's {' or '.join(PROMPTS)}"},
                decimals=3,
            ),
        )

    def __call__(self, clips: Clips, network: AudioNetwork) -> CollectionResult:
        def judge(index: int) -> dict[str, float]:
            if self.to == "reference":
                other = clips.reference(index, "embedding")
            else:
                prompt = _prompt_field(clips.items[index]) or PROMPTS[0]
                other = clips.companion(index, prompt, "embedding")
            return {self.names[0]: cosine(clips.heard(index, "embedding"), other)}

        return CollectionResult(items=each_item(clips, self.names, judge))


def _prompt_field(item: EvaluationItem) -> str | None:
    return next((name for name in PROMPTS if name in item.files), None)
