"""What a tagger hears: divergence from the reference's tags, and how clear and how many tags there are.

Shapes: N clips, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import rel_entr, softmax, xlogy

import unisono
from unisono.evaluation.collection import SOUND_TASKS, Clips, CollectionMetric, CollectionResult, each_item, listener
from unisono.evaluation.metric import MetricCard, MetricFailure, SetOutcome
from unisono.evaluation.networks.network import AudioNetwork

EPS = 1e-6
SPLITS = 10
CLIPS_PER_SPLIT = 10
SPLIT_SEED = 2020


def kl_divergence(judged: np.ndarray, reference: np.ndarray) -> float:
    """``KL(reference ‖ judged)`` in nats of class probabilities ``(C,)``, with 1e-6 added to those of the judged clip
    so that a class it rules out costs something finite."""
    return float((xlogy(reference, reference) - xlogy(reference, judged + EPS)).sum())


def inception_score(probabilities: np.ndarray, splits: int, seed: int = SPLIT_SEED) -> float:
    """Mean over ``splits`` parts of ``(N, C)``, after a seeded shuffle, of ``exp(mean KL(p(class | clip) ‖ p(class)))``
    where ``p(class)`` is the mean of the part (Salimans et al. 2016)."""
    # The generator and the cuts of torch-fidelity, so that the same clips land in the same part as in published scores.
    order = np.random.RandomState(seed).permutation(len(probabilities))
    shuffled, n = probabilities[order].astype(np.float64), len(probabilities)
    parts = [shuffled[part * n // splits : (part + 1) * n // splits] for part in range(splits)]
    return float(np.mean([np.exp(rel_entr(part, part.mean(axis=0)).sum(axis=1).mean()) for part in parts]))


def tag_distribution(logits: np.ndarray) -> np.ndarray:
    """Softmax in float64 of a tagger's logits ``(C,)``.

    Taggers of AudioSet are trained with a sigmoid per class; the softmax of their logits, which the papers use all the
    same, weighs the classes against each other.
    """
    return softmax(logits.astype(np.float64).ravel())


@dataclass(frozen=True)
class TagDivergence(CollectionMetric):
    """``kl_NETWORK``: divergence of the clip's tags from its reference's, per item."""

    network: str
    tasks: frozenset[str] = SOUND_TASKS

    @property
    def names(self) -> tuple[str, ...]:
        return (f"kl_{self.network}",)

    def cards(self, network: AudioNetwork) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name=self.names[0],
                title=f"KL of tags ({self.network})",
                unit="",
                direction="lower",
                value_range="0 and more; as little as 0.001 below for identical clips, by the added constant",
                definition="Kullback-Leibler divergence in nats of the tags heard in the clip from those heard in its "
                "own reference, KL(reference ‖ clip); the mean over items is what papers print.",
                blind_to="Quality: noise over the right sounds may cost nothing. Order, time and count of sounds in "
                "the clip. A caption that allows other sounds than the one recorded is held against the clip. The "
                "direction makes a missing sound dear and an added one cheap; papers with the other direction "
                "(stable-audio-metrics) do not compare.",
                source="Yang et al. 2022 (Diffsound); direction and eps of AudioGen (Kreuk et al. 2023), AudioCraft's "
                "kld and the softmax form of AudioLDM-eval",
                implementation="unisono.evaluation.metrics.tagging",
                version=unisono.__version__,
                parameters=listener(network)
                | {
                    "direction": "KL(reference ‖ judged)",
                    "eps": f"{EPS:g} added to the judged probabilities within the logarithm",
                    "log_base": "e",
                    "probabilities": "softmax of the logits, one distribution per clip",
                },
                decimals=3,
            ),
        )

    def __call__(self, clips: Clips, network: AudioNetwork) -> CollectionResult:
        def judge(index: int) -> dict[str, float]:
            reference = tag_distribution(clips.reference(index, "logits"))
            judged = tag_distribution(clips.heard(index, "logits"))
            return {self.names[0]: kl_divergence(judged, reference)}

        return CollectionResult(items=each_item(clips, self.names, judge))


@dataclass(frozen=True)
class InceptionScore(CollectionMetric):
    """``isc_NETWORK``: clear tags in every clip, many different ones over all clips."""

    network: str
    tasks: frozenset[str] = SOUND_TASKS

    @property
    def names(self) -> tuple[str, ...]:
        return (f"isc_{self.network}",)

    def cards(self, network: AudioNetwork) -> tuple[MetricCard, ...]:
        return (
            MetricCard(
                name=self.names[0],
                title=f"Inception score ({self.network})",
                unit="",
                direction="higher",
                value_range="1 to the number of classes, or of clips in a split if those are fewer",
                definition="exp of the mean divergence of a clip's tags from the mean tags of all clips, averaged over "
                "splits.",
                blind_to="The references and the captions: clear, varied and wrong sounds score best, which also means "
                "that a caption set of one sound scores low however well it is met. Grows with the number of clips "
                "per split: compare only at the same number of clips.",
                source="Salimans et al. 2016; splits and seed of torch-fidelity and AudioLDM-eval",
                implementation="unisono.evaluation.metrics.tagging",
                version=unisono.__version__,
                parameters=listener(network)
                | {
                    "splits": f"{SPLITS}, or n // {CLIPS_PER_SPLIT} where that is fewer; which, is in the conditions",
                    "shuffle_seed": SPLIT_SEED,
                    "minimum_clips": CLIPS_PER_SPLIT,
                    "probabilities": "softmax of the logits, one distribution per clip",
                },
                decimals=2,
                scope="set",
            ),
        )

    def __call__(self, clips: Clips, network: AudioNetwork) -> CollectionResult:
        splits = min(SPLITS, clips.n // CLIPS_PER_SPLIT)
        conditions = {"n": clips.n, "splits": splits}
        try:
            if splits < 1:
                raise MetricFailure(f"{clips.n} clips; one split needs {CLIPS_PER_SPLIT}")
            heard = [i for i, clip in enumerate(clips.judged) if not isinstance(clip, str)]
            probabilities = np.stack([tag_distribution(clips.heard(i, "logits")) for i in heard])
            outcome = SetOutcome(inception_score(probabilities, splits), clips.n, clips.missing, conditions=conditions)
        except MetricFailure as reason:
            outcome = SetOutcome(None, clips.n, clips.missing, str(reason), conditions)
        return CollectionResult(sets={self.names[0]: outcome})
