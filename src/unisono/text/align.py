"""Forced alignment of English speech: when is each phone of a known sentence spoken?

The work is done by pocketsphinx and the English model that comes inside its wheel (nothing is downloaded). Accuracy on
clean speech is about 20 ms on a grid of 10 ms. An aligner must place *every* word *somewhere*, so a wrong transcript
gives plausible nonsense unless the result is judged; ``AlignmentLimits`` holds what is judged.

    aligner = ForcedAligner()
    result = aligner.align(waveform, text_to_words("Please try again."), sample_rate=16_000)
    if isinstance(result, Alignment):
        phonemes, durations_s = phones_to_units(result, result.duration_s)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unisono.errors import UserError
from unisono.text.phonemes import ARPABET_TO_IPA, SILENCE, checked_pronunciations

SAMPLE_RATE = 16_000  # of the acoustic model
FRAME_SAMPLES = 160  # one frame of the aligner: 10 ms
FRAME_S = FRAME_SAMPLES / SAMPLE_RATE


@dataclass(frozen=True)
class AlignedPhone:
    """One phone, or one stretch without speech.

    Attributes:
        phone: ARPAbet symbol without stress; empty for silence and noise.
        word: index of the word it belongs to; -1 for silence and noise.
        start_s: seconds from the beginning of the waveform, on the 10 ms grid.
        duration_s: seconds.
        score_per_frame: log likelihood of a frame (pocketsphinx's integer scale; higher is better).
    """

    phone: str
    word: int
    start_s: float
    duration_s: float
    score_per_frame: float

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s


@dataclass(frozen=True)
class Alignment:
    """An accepted alignment.

    Attributes:
        words: as given.
        phones: in order, from the first to the last without gaps; silences between words are entries of their own.
        duration_s: length of the waveform.
        score_per_frame: mean over the frames of speech.
    """

    words: tuple[str, ...]
    phones: tuple[AlignedPhone, ...]
    duration_s: float
    score_per_frame: float

    def word_spans(self) -> list[tuple[float, float]]:
        """``(start_s, end_s)`` of every word."""
        spans: dict[int, tuple[float, float]] = {}
        for phone in self.phones:
            if phone.phone:
                start_s, _ = spans.get(phone.word, (phone.start_s, 0.0))
                spans[phone.word] = (start_s, phone.end_s)
        return list(spans.values())


@dataclass(frozen=True)
class AlignmentFailure:
    """Why a waveform and its words do not fit together.

    Attributes:
        kind: ``too_short``, ``unknown_words``, ``no_path``, ``wrong_words``, or a limit that was passed: ``low_score``,
            ``low_word_score``, ``long_silence``, ``loud_silence``, ``long_phone``, ``squeezed``.
        detail: what was found, in words.
    """

    kind: str
    detail: str


@dataclass(frozen=True)
class AlignmentLimits:
    """What an alignment must satisfy to be believed.

    The defaults lie between what 550 prompts of one speaker gave with their right words and what they gave with words
    of another prompt, with words missing at the beginning, middle or end, or with words added.

    Attributes:
        min_score_per_frame: over all speech. Right words gave -4 to -27 (three single words less), wrong words -29 to
            -79. Other voices and synthetic speech score lower, hence the wide default; a corpus of one voice may ask
            for more.
        min_word_score: mean score per frame of the worst word; finds a single wrong word in a long text.
        max_silence_s: longest stretch without a phone. A transcript that stops early leaves one at the end.
        max_loud_silence_s: longest time within one such stretch that is nearly as loud as the speech.
        loud_db: how far below the median level of speech a frame still counts as loud.
        max_phone_s: longest phone. A word that is missing is often covered by stretching its neighbour.
        max_squeezed: largest share of phones of 30 ms, the least the model allows. A transcript that says more than the
            recording is squeezed into it.
    """

    min_score_per_frame: float = -42.0
    min_word_score: float = -90.0
    max_silence_s: float = 1.0
    max_loud_silence_s: float = 0.2
    loud_db: float = 15.0
    max_phone_s: float = 0.8
    max_squeezed: float = 0.35


def text_to_words(text: str) -> list[str]:
    """The words of an English text as the dictionary spells them: lower case, letters and inner apostrophes."""
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower().replace("’", "'"))


class ForcedAligner:
    """Keeps one loaded model, so that many utterances can be aligned (about 40 times real time).

    Args:
        pronunciations: words as ARPAbet phones, ``{"digium": "D IH JH IY AH M"}``; they go before the dictionary's.
        limits: what an alignment must satisfy.
    """

    def __init__(self, pronunciations: Mapping[str, str] | None = None, limits: AlignmentLimits | None = None) -> None:
        self.limits = limits or AlignmentLimits()
        self.pronunciations = checked_pronunciations(pronunciations or {})
        # A word that the dictionary has cannot be given other phones: it is entered under another name.
        self._names: dict[str, str] = {}
        self._decoder = self._new_decoder()

    def add_pronunciations(self, pronunciations: Mapping[str, str]) -> None:
        """Words for all that is aligned from now on."""
        added = checked_pronunciations(pronunciations)
        self.pronunciations |= added
        self._add(self._decoder, added)

    def unknown_words(self, words: Sequence[str]) -> list[str]:
        """The words that cannot be aligned because nothing says how they are pronounced, each once."""
        return [word for word in dict.fromkeys(words) if self._decoder.lookup_word(word) is None]

    def align(
        self, waveform: np.ndarray, words: Sequence[str], sample_rate: int = SAMPLE_RATE
    ) -> Alignment | AlignmentFailure:
        """Find when each phone of ``words`` is spoken.

        Args:
            waveform: mono ``(S,)``, int16 or float in [-1, 1].
            words: lower-case words in the order spoken (``text_to_words``).
            sample_rate: Hz; anything but 16 kHz is resampled.

        Returns:
            ``Alignment``, or ``AlignmentFailure`` that says why it cannot be believed. The same input always gives the
            same result, whatever was aligned before.
        """
        samples = _as_int16(waveform, sample_rate)
        if not words:
            raise UserError("no words to align; give the words that are spoken in the recording")
        if unknown := self.unknown_words(words):
            return AlignmentFailure("unknown_words", f"no pronunciation for {', '.join(unknown)}; give one")
        if len(samples) < FRAME_SAMPLES * 3 * len(words):
            return AlignmentFailure("too_short", f"{len(samples) / SAMPLE_RATE:.2f} s cannot hold {len(words)} words")
        # The model expects some silence around speech. Now and then the search fails for one length of it only.
        failure = AlignmentFailure("no_path", "no alignment found; the words are not those of the recording")
        for padding_frames in (20, 21, 23, 26):
            result = self._search(samples, [self._names.get(word, word) for word in words], padding_frames)
            if isinstance(result, AlignmentFailure):
                failure = result
                # After a failed search a decoder may fail on everything that follows.
                self._decoder = self._new_decoder()
                continue
            return _judge(samples, tuple(words), result, self.limits)
        return failure

    def _new_decoder(self) -> Any:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise UserError("forced alignment needs pocketsphinx; run: pip install 'unisono[speech]'") from error
        decoder = Decoder(
            loglevel="FATAL",
            samprate=SAMPLE_RATE,
            lm=None,
            # Wide beams: the words are known, so the search is cheap, and a pruned path is a failure.
            beam=1e-100,
            wbeam=1e-80,
            pbeam=1e-100,
            # With the lattice search on, the second pass over phones sometimes raises.
            bestpath=False,
            # Cepstral means of this utterance alone.
            cmn="batch",
        )
        self._add(decoder, self.pronunciations)
        return decoder

    def _add(self, decoder: Any, pronunciations: Mapping[str, str]) -> None:
        for word, phones in pronunciations.items():
            name = word if decoder.lookup_word(word) is None else f"{word}~{phones.replace(' ', '~')}"
            if name != word:
                self._names[word] = name
            if decoder.lookup_word(name) is None:
                decoder.add_word(name, phones, True)

    def _search(
        self, samples: np.ndarray, words: Sequence[str], padding_frames: int
    ) -> list[AlignedPhone] | AlignmentFailure:
        """Two passes: words, then phones within the words found."""
        # Not digital zero: features of exact silence are unlike anything the model was trained on.
        padding = np.random.default_rng(0).integers(-4, 5, padding_frames * FRAME_SAMPLES).astype(np.int16)
        audio = np.concatenate([padding, samples, padding]).tobytes()
        try:
            self._decoder.set_align_text(" ".join(words))
            self._process(audio)
            # A poor match may end early with a part of the words.
            found = [_base_word(segment.word) for segment in self._decoder.seg() or ()]
            found = [word for word in found if not _is_filler(word)]
            if found != list(words):
                return AlignmentFailure("wrong_words", f"only {len(found)} of {len(words)} words could be placed")
            self._decoder.set_alignment()
            self._process(audio)
            # Entries die with the alignment they came from, and asking for hyp() now would crash: copy and go.
            entries: list[AlignedPhone] = []
            word_index = -1
            for word in self._decoder.get_alignment():
                speech = not _is_filler(word.name)
                word_index += speech
                for phone in word:
                    entries.append(
                        AlignedPhone(
                            phone=phone.name if speech else "",
                            word=word_index if speech else -1,
                            start_s=(phone.start - padding_frames) * FRAME_S,
                            duration_s=phone.duration * FRAME_S,
                            score_per_frame=phone.score / max(1, phone.duration),
                        )
                    )
        except RuntimeError as error:
            return AlignmentFailure("no_path", f"no alignment found ({error}); are these the words of the recording?")
        return entries

    def _process(self, audio: bytes) -> None:
        # The front end would otherwise go on from the noise floor and the samples of the utterance before.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(audio, full_utt=True)
        self._decoder.end_utt()


def align(
    waveform: np.ndarray,
    words: Sequence[str],
    *,
    sample_rate: int = SAMPLE_RATE,
    pronunciations: Mapping[str, str] | None = None,
    limits: AlignmentLimits | None = None,
) -> Alignment | AlignmentFailure:
    """Align one utterance; ``ForcedAligner`` does the same for many without loading the model each time."""
    return ForcedAligner(pronunciations, limits).align(waveform, words, sample_rate)


def phones_to_units(phones: Sequence[AlignedPhone], duration_s: float) -> tuple[list[str], list[float]]:
    """Aligned phones as the units of a manifest: IPA symbols and seconds that cover the whole recording.

    What no phone covers becomes the silence ``_``, neighbouring silences one unit.

    Args:
        phones: in order, times from the beginning of the recording (``Alignment.phones``, or a part of them).
        duration_s: length of the recording.

    Returns:
        ``(phonemes, durations_s)``, equally long, the durations summing to ``duration_s``.
    """
    symbols: list[str] = []
    ends_s: list[float] = []
    for phone in (phone for phone in phones if phone.phone):
        start_s, end_s = max(0.0, phone.start_s), min(duration_s, phone.end_s)
        last_s = ends_s[-1] if ends_s else 0.0
        assert start_s > last_s - FRAME_S / 2, f"phones overlap: {phone} begins before {last_s} s"
        assert end_s > start_s, f"{phone} lies outside the recording of {duration_s} s"
        if start_s > last_s + FRAME_S / 2:
            symbols.append(SILENCE)
            ends_s.append(start_s)
        symbols.append(ARPABET_TO_IPA[phone.phone])
        ends_s.append(end_s)
    if not symbols or duration_s > ends_s[-1] + FRAME_S / 2:
        symbols.append(SILENCE)
        ends_s.append(duration_s)
    ends_s[-1] = duration_s
    starts_s = [0.0, *ends_s[:-1]]
    return symbols, [round(end - start, 6) for start, end in zip(starts_s, ends_s, strict=True)]


def _as_int16(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or waveform.size == 0:
        raise UserError(f"a waveform of shape {waveform.shape} cannot be aligned; give one channel, shape (S,)")
    if waveform.dtype == np.int16 and sample_rate == SAMPLE_RATE:
        return waveform
    floats = waveform.astype(np.float32) / (32768.0 if waveform.dtype == np.int16 else 1.0)
    if not np.isfinite(floats).all():
        raise UserError("the waveform holds NaN or infinite samples; re-export the recording")
    if sample_rate != SAMPLE_RATE:
        import soxr

        floats = soxr.resample(floats, sample_rate, SAMPLE_RATE, quality="HQ")
    return np.clip(np.round(floats * 32767.0), -32768, 32767).astype(np.int16)


def _base_word(name: str) -> str:
    """``the(2)`` is the second pronunciation of ``the``."""
    return re.sub(r"\(\d+\)$", "", name)


def _is_filler(word: str) -> bool:
    return word.startswith(("<", "[", "+")) or word == "(NULL)"


def _judge(
    samples: np.ndarray, words: tuple[str, ...], phones: list[AlignedPhone], limits: AlignmentLimits
) -> Alignment | AlignmentFailure:
    duration_s = len(samples) / SAMPLE_RATE
    phones = _clip(phones, duration_s)
    speech = [phone for phone in phones if phone.phone]
    if {phone.word for phone in speech} != set(range(len(words))):
        return AlignmentFailure("wrong_words", "a word was placed outside the recording; is the text too long?")
    score = _mean_score(speech)
    word_scores = [_mean_score([phone for phone in speech if phone.word == word]) for word in range(len(words))]
    worst = int(np.argmin(word_scores))
    silences = _silences(speech, duration_s)
    silence_s = max((end_s - start_s for start_s, end_s in silences), default=0.0)
    loud_s = _longest_loud_silence(samples, speech, silences, limits.loud_db)
    longest = max(speech, key=lambda phone: phone.duration_s)
    squeezed = sum(phone.duration_s < 3.5 * FRAME_S for phone in speech) / len(speech)

    def reject(kind: str, detail: str) -> AlignmentFailure:
        return AlignmentFailure(kind, f"{detail}; is the text what is said, all of it and no more?")

    if score < limits.min_score_per_frame:
        return reject("low_score", f"the words fit badly (score {score:.0f} per frame)")
    if word_scores[worst] < limits.min_word_score:
        return reject("low_word_score", f"word {worst + 1}, {words[worst]!r}, fits badly ({word_scores[worst]:.0f})")
    if silence_s > limits.max_silence_s:
        return reject("long_silence", f"{silence_s:.2f} s have no word")
    if loud_s > limits.max_loud_silence_s:
        return reject("loud_silence", f"{loud_s:.2f} s of sound between words belong to none")
    if longest.duration_s > limits.max_phone_s:
        return reject("long_phone", f"a phone of {words[longest.word]!r} lasts {longest.duration_s:.2f} s")
    if squeezed > limits.max_squeezed:
        return reject("squeezed", f"{squeezed:.0%} of the phones have the least length of 30 ms")
    return Alignment(words, tuple(phones), duration_s, score)


def _clip(phones: list[AlignedPhone], duration_s: float) -> list[AlignedPhone]:
    """Cut away what lies in the padding; a phone entirely in it keeps no length and is dropped."""
    clipped = []
    for phone in phones:
        start_s, end_s = max(0.0, phone.start_s), min(duration_s, phone.end_s)
        if end_s - start_s > FRAME_S / 2:
            clipped.append(replace(phone, start_s=start_s, duration_s=end_s - start_s))
    return clipped


def _mean_score(phones: Sequence[AlignedPhone]) -> float:
    return sum(p.score_per_frame * p.duration_s for p in phones) / sum(p.duration_s for p in phones)


def _silences(speech: Sequence[AlignedPhone], duration_s: float) -> list[tuple[float, float]]:
    starts_s = [0.0, *(phone.end_s for phone in speech)]
    ends_s = [*(phone.start_s for phone in speech), duration_s]
    return [(start, end) for start, end in zip(starts_s, ends_s, strict=True) if end - start > FRAME_S / 2]


def _longest_loud_silence(
    samples: np.ndarray, speech: Sequence[AlignedPhone], silences: list[tuple[float, float]], loud_db: float
) -> float:
    """Seconds of sound in the silence that has most of it; loud is relative to the median level of the speech."""
    frames = len(samples) // FRAME_SAMPLES
    energy = (samples[: frames * FRAME_SAMPLES].astype(np.float64).reshape(frames, -1) ** 2).mean(axis=1)
    level_db = 10 * np.log10(energy + 1.0)

    def span(start_s: float, end_s: float) -> np.ndarray:
        return level_db[math.floor(start_s / FRAME_S + 0.5) : math.floor(end_s / FRAME_S + 0.5)]

    spoken = np.concatenate([span(phone.start_s, phone.end_s) for phone in speech])
    threshold_db = float(np.median(spoken)) - loud_db
    return max((float((span(*silence) > threshold_db).sum()) * FRAME_S for silence in silences), default=0.0)
