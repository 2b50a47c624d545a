"""Are the phonemes of the text there, in their order? A proxy of intelligibility without a speech recogniser.

The project's forced aligner (`unisono.text.align`) must place every phoneme somewhere; what is counted is how many of
them fit where they were placed. It knows the text beforehand, so it is no word error rate, and no listener either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unisono.errors import UserError
from unisono.evaluation.items import EvaluationItem, Sample
from unisono.evaluation.metric import Metric, MetricCard, NotApplicable, NoValue
from unisono.evaluation.metrics.world import Which, versions, waveform_of
from unisono.text.phonemes import ARPABET_TO_IPA, SILENCE, to_arpabet_inventory

if TYPE_CHECKING:
    from unisono.text.align import ForcedAligner

_MIN_SCORE_PER_FRAME = -30.0
_SHORTEST_PHONE_S = 0.035
"""The aligner's least is 0.03 s: what is not said is squeezed into that."""
_DITHER_DB = -30.0
_PEAK = 0.5
_IPA_TO_ARPABET = {ipa: phone for phone, ipa in ARPABET_TO_IPA.items()}


@dataclass(frozen=True)
class Spoken:
    """What ought to be said.

    Attributes:
        words: as the aligner takes them.
        pronunciations: ARPAbet of those that its dictionary lacks.
    """

    words: tuple[str, ...]
    pronunciations: Mapping[str, str]


def spoken_by(item: EvaluationItem) -> Spoken:
    """The words of the item's English text; without text, its phonemes, those between two silences as one word.

    Raises:
        NotApplicable: neither is there, or it is not English.
    """
    text, phonemes = item.details.get("text"), item.details.get("phonemes")
    language = str(item.details.get("language") or "en")
    if not language.lower().startswith("en"):
        raise NotApplicable(f"the aligner's model is English, the text is {language!r}")
    if not text and not phonemes:
        raise NotApplicable("the item has neither text nor phonemes")
    try:
        spoken = _words_of(str(text)) if text else _words_of_phonemes(phonemes)
    except UserError as error:
        raise NotApplicable(f"the text cannot be aligned: {error}") from None
    if not spoken.words:
        raise NotApplicable("the text has no words")
    return spoken


def _words_of(text: str) -> Spoken:
    from unisono.text.phonemize import phonemizer

    reader = phonemizer("en-us")
    words = reader.words(text)
    unknown = _aligner().unknown_words(words)
    said = {word: _arpabet(symbols) for word, symbols in zip(unknown, reader.pronounce(unknown), strict=True)}
    return Spoken(tuple(words), said)


def _words_of_phonemes(phonemes: Any) -> Spoken:
    if not isinstance(phonemes, list) or not all(isinstance(symbol, str) for symbol in phonemes):
        raise NotApplicable("the item's phonemes are no list of symbols")
    runs: list[list[str]] = [[]]
    for symbol in to_arpabet_inventory(phonemes, "phonemes"):
        if symbol == SILENCE:
            runs.append([])
        else:
            runs[-1].append(symbol)
    spelled = {f"run{place}": _arpabet(run) for place, run in enumerate(runs) if run}
    return Spoken(tuple(spelled), spelled)


def _arpabet(symbols: Sequence[str]) -> str:
    return " ".join(_IPA_TO_ARPABET[symbol] for symbol in symbols)


@lru_cache(maxsize=1)
def _aligner() -> ForcedAligner:
    """That of the dictionary's words, kept: loading its model takes as long as aligning 10 s."""
    return _new_aligner({})


def _new_aligner(pronunciations: Mapping[str, str]) -> ForcedAligner:
    from unisono.text.align import AlignmentLimits, ForcedAligner

    # Any alignment will do: it is measured here, not believed.
    limits = AlignmentLimits(
        min_score_per_frame=-np.inf,
        min_word_score=-np.inf,
        max_silence_s=np.inf,
        max_loud_silence_s=np.inf,
        max_phone_s=np.inf,
        max_squeezed=1.0,
    )
    return ForcedAligner(pronunciations, limits)


def share_found(waveform: np.ndarray, sample_rate: int, spoken: Spoken) -> float:
    """Share of the phonemes that are found in ``(S,)``, 0 to 1; 0 where not even a bad alignment exists."""
    from unisono.text.align import Alignment

    aligner = _new_aligner(spoken.pronunciations) if spoken.pronunciations else _aligner()
    found = aligner.align(_prepared(waveform), spoken.words, sample_rate)
    if not isinstance(found, Alignment):
        assert found.kind != "unknown_words", found.detail
        return 0.0
    fits = [
        phone.score_per_frame >= _MIN_SCORE_PER_FRAME and phone.duration_s >= _SHORTEST_PHONE_S
        for phone in found.phones
        if phone.phone
    ]
    return float(np.mean(fits))


def _prepared(waveform: np.ndarray) -> np.ndarray:
    """At one level, with weak noise that is always the same: the aligner's model never heard digital silence, and
    clean synthetic speech would score below the same with noise."""
    noise = np.random.default_rng(0).standard_normal(len(waveform))
    noisy = waveform + noise * np.sqrt(np.mean(waveform**2)) * 10 ** (_DITHER_DB / 20)
    return (noisy * (_PEAK / np.abs(noisy).max())).astype(np.float32)


@dataclass(frozen=True)
class PhonemeAlignment(Metric):
    """Share of the phonemes of the text that forced alignment finds, and how far that is below the reference's."""

    tasks = frozenset({"text_to_speech"})
    libraries = ("pocketsphinx",)

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        blind_to = (
            "What is said besides the text, naturalness, the right vowel if it is near enough. The acoustic model is "
            "of American English read aloud: accents and synthetic voices score lower, and neither is near 1 for a "
            "perfect recording. No measure of listeners."
        )
        return (
            self._card(
                "phoneme_alignment_score",
                "Phonemes found",
                "higher",
                "0 to 1; good speech 0.7 to 0.95, another text 0 to 0.2",
                "Share of the phonemes of the text that fit where forced alignment places them; 0 where none is "
                "possible. A proxy of intelligibility, needs no reference.",
                blind_to + " Compare it with the row of the coded reference.",
            ),
            self._card(
                "phoneme_alignment_drop",
                "Phonemes lost",
                "lower",
                "-1 to 1; below 0 where it is clearer than the reference",
                "phoneme_alignment_score of the reference less that of the output, which takes out what the aligner "
                "makes of voice and text.",
                blind_to,
            ),
        )

    def _card(
        self,
        name: str,
        title: str,
        direction: Literal["lower", "higher"],
        value_range: str,
        definition: str,
        blind_to: str,
    ) -> MetricCard:
        return MetricCard(
            name=name,
            title=title,
            unit="",
            direction=direction,
            value_range=value_range,
            definition=definition,
            blind_to=blind_to,
            source="this project",
            implementation="unisono.text.align.ForcedAligner on pocketsphinx",
            version=versions("pocketsphinx", "espeakng-loader"),
            parameters={
                "acoustic_model": "en-us of the pocketsphinx wheel, 16 kHz",
                "pronunciations": "text by its dictionary, other words by eSpeak NG; without text the item's phonemes "
                "in ARPAbet, those between two silences as one word",
                "found": f"log likelihood per frame {_MIN_SCORE_PER_FRAME:g} at least, and longer than 0.03 s",
                "no_alignment": "counts as 0",
                "noise_added_db": _DITHER_DB,
                "prepared": f"mean removed, peak at {_PEAK}",
            },
            decimals=3,
        )

    def __call__(self, sample: Sample) -> Mapping[str, float | NoValue]:
        spoken = sample.once("spoken", lambda: spoken_by(sample.item))

        def score(which: Which) -> float:
            waveform = waveform_of(sample, which)
            return sample.once(("phonemes_found", which), lambda: share_found(waveform, sample.sample_rate, spoken))

        judged = score("judged")
        drop: float | NoValue
        try:
            reference = score("reference")
            drop = reference - judged if reference else NotApplicable("the reference cannot be aligned with its text")
        except NotApplicable as reason:
            drop = reason
        return {"phoneme_alignment_score": judged, "phoneme_alignment_drop": drop}
