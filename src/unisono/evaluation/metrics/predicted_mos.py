"""UTMOS: the mean opinion score that listeners would give, as a network predicts it."""

from __future__ import annotations

from dataclasses import dataclass

import unisono
from unisono.evaluation.collection import Clips, CollectionMetric, CollectionResult, each_item, listener
from unisono.evaluation.metric import MetricCard
from unisono.evaluation.networks.network import AudioNetwork


@dataclass(frozen=True)
class PredictedMos(CollectionMetric):
    """``utmos``, per item: the network's ``score`` as it is."""

    network: str = "utmos"
    tasks: frozenset[str] = frozenset({"text_to_speech", "speech_enhancement"})

    @property
    def names(self) -> tuple[str, ...]:
        return (self.network,)

    def cards(self, network: AudioNetwork) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name=self.names[0],
                title="UTMOS",
                unit="",
                direction="higher",
                value_range="about 1 to 5, as listeners' marks; not clipped",
                definition="Naturalness of the speech as a network predicts it, trained on listeners' marks of the "
                "VoiceMOS challenge 2022.",
                blind_to="The text, the speaker and the reference: fluent speech of other words scores as well. It "
                "learned from English synthetic speech at 16 kHz: it hears nothing above 8 kHz, and noise, rooms, "
                "other languages and singing are outside of what it knows. Models tuned to it win without sounding "
                "better.",
                source="Saeki et al. 2022 (UTMOS)",
                implementation="unisono.evaluation.metrics.predicted_mos",
                version=unisono.__version__,
                parameters=listener(network),
            ),
        )

    def __call__(self, clips: Clips, network: AudioNetwork) -> CollectionResult:
        def judge(index: int) -> dict[str, float]:
            return {self.names[0]: float(clips.heard(index, "score").item())}

        return CollectionResult(items=each_item(clips, self.names, judge))
