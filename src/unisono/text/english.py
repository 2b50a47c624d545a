"""English text and its recording: what is said, and when; the one way in which recipes and steps align texts.

aligner = EnglishAligner()
result = aligner.align(waveform, "Dr. Zorb paid $5.", sample_rate=24_000)
if isinstance(result, AlignedText):
    result.phonemes, result.durations_s, result.guessed_words    # …, …, ("zorb",)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unisono.errors import UserError
from unisono.text.align import AlignmentFailure, AlignmentLimits, ForcedAligner, phones_to_units
from unisono.text.phonemes import ARPABET_TO_IPA
from unisono.text.phonemize import Phonemizer

_IPA_TO_ARPABET = {symbol: phone for phone, symbol in ARPABET_TO_IPA.items()}


@dataclass(frozen=True)
class AlignedText:
    """A text that fits its recording.

    Attributes:
        phonemes: IPA symbols, ``_`` for silences.
        durations_s: seconds, one per phoneme; they cover the recording.
        words: that were said.
        guessed_words: those of them that the dictionary lacks and eSpeak NG read, each once.
    """

    phonemes: tuple[str, ...]
    durations_s: tuple[float, ...]
    words: tuple[str, ...]
    guessed_words: tuple[str, ...]


class EnglishAligner:
    """Numbers and abbreviations are spelled out, unknown words read by eSpeak NG, the words aligned by pocketsphinx.

    Args:
        pronunciations: words with their ARPAbet phones, which go before the dictionary's (``read_pronunciations``).
        limits: what an alignment must satisfy.

    Raises:
        UserError: a pronunciation that is no ARPAbet, a missing package.
    """

    def __init__(self, pronunciations: Mapping[str, str] | None = None, limits: AlignmentLimits | None = None) -> None:
        self.phonemizer = Phonemizer("en-us", pronunciations=pronunciations)
        self.aligner = ForcedAligner(self.phonemizer.pronunciations, limits)

    def align(
        self, waveform: np.ndarray, text: str, sample_rate: int, duration_s: float | None = None
    ) -> AlignedText | AlignmentFailure:
        """Find when each phoneme of ``text`` is spoken; the same input always gives the same result.

        Args:
            waveform: mono ``(S,)``, int16 or float in [-1, 1].
            text: English, as written.
            sample_rate: Hz.
            duration_s: what the durations sum to, where it is known better than by the samples (of a file that was
                resampled); they end there.

        Returns:
            ``AlignmentFailure`` where the text does not fit; of kind ``bad_text`` where it cannot be read.
        """
        try:
            said = self.phonemizer.transcribe(text)
            unknown = self.aligner.unknown_words(said.words)
            if unknown:
                self.aligner.add_pronunciations(self._guessed(unknown))
        except UserError as error:
            return AlignmentFailure("bad_text", str(error))
        result = self.aligner.align(waveform, said.words, sample_rate)
        if isinstance(result, AlignmentFailure):
            return result
        phonemes, durations_s = phones_to_units(result.phones, duration_s or result.duration_s)
        return AlignedText(tuple(phonemes), tuple(durations_s), said.words, said.fallback_words)

    def _guessed(self, words: list[str]) -> dict[str, str]:
        pronounced = self.phonemizer.pronounce(words)
        return {
            word: " ".join(_IPA_TO_ARPABET[symbol] for symbol in symbols)
            for word, symbols in zip(words, pronounced, strict=True)
            if symbols
        }
