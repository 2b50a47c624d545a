"""All metrics that listen through a network, in the order of the report's columns."""

from __future__ import annotations

from unisono.evaluation.collection import SOUND_TASKS, CollectionMetric
from unisono.evaluation.metrics.audio_visual import Desync, ImageBindScore
from unisono.evaluation.metrics.clap_score import ClapScore
from unisono.evaluation.metrics.frechet import FrechetDistance
from unisono.evaluation.metrics.kernel_distance import KernelDistance
from unisono.evaluation.metrics.predicted_mos import PredictedMos
from unisono.evaluation.metrics.retrieval import Retrieval
from unisono.evaluation.metrics.speaker_similarity import SpeakerSimilarity
from unisono.evaluation.metrics.tagging import InceptionScore, TagDivergence
from unisono.evaluation.metrics.word_error_rate import WordErrorRate

MUSIC = frozenset({"text_to_music"})
EFFECTS = SOUND_TASKS - MUSIC
TAGGERS = ("passt", "panns16k", "panns32k")


def collection_metrics() -> tuple[CollectionMetric, ...]:
    """What is said, by whom, how well; then what is heard against the caption and the reference, item by item; last
    the distances between whole sets, those that need no download first."""
    return (
        WordErrorRate("whisper"),
        WordErrorRate("ctc"),
        SpeakerSimilarity(),
        SpeakerSimilarity("prompt"),
        PredictedMos(),
        ClapScore(),
        ImageBindScore(),
        Desync(),
        *(TagDivergence(tagger) for tagger in TAGGERS),
        Retrieval(),
        *(InceptionScore(tagger) for tagger in TAGGERS),
        KernelDistance("mel_statistics"),
        *(KernelDistance(network) for network in (*TAGGERS, "clap")),
        KernelDistance("aisfx", tasks=EFFECTS),
        KernelDistance("mert", tasks=MUSIC),
        KernelDistance("exported"),
        # No published number is to be met here, so a distance has to be sound by itself.
        FrechetDistance("mel_statistics", full_rank=True),
        FrechetDistance("vggish", array="frames"),
        *(FrechetDistance(network) for network in (*TAGGERS, "clap")),
        FrechetDistance("aisfx", tasks=EFFECTS),
        FrechetDistance("mert", tasks=MUSIC),
        FrechetDistance("exported"),
    )
