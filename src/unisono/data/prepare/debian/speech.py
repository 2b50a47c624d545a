"""English voice prompts with transcripts: packages asterisk-core-sounds-en (text) and …-en-g722 (sound, 16 kHz).

A prompt is decoded, freed of silence at its ends, force-aligned, and if it is long cut at pauses into utterances.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from unisono.data.prepare.debian.tables import first_match, load_table
from unisono.data.prepare.jobs import Record
from unisono.errors import UserError
from unisono.media.audio import write_audio
from unisono.text.align import (
    FRAME_S,
    FRAME_SAMPLES,
    SAMPLE_RATE,
    AlignedPhone,
    Alignment,
    AlignmentLimits,
    ForcedAligner,
    phones_to_units,
    text_to_words,
)

TEXT_PACKAGE = "asterisk-core-sounds-en"
SOUND_PACKAGE = "asterisk-core-sounds-en-g722"
LICENSE = "CC-BY-SA-3.0"
SPEAKER = "allison"
TARGET_SAMPLE_RATE = 24_000

_TRANSCRIPTS = "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
_SOUNDS = "usr/share/asterisk/sounds/en_US_f_Allison"
# The prompts peak at 0.7. This brings their active level near the usual -26 dBFS and leaves room for noise on top.
_GAIN = 10 ** (-10 / 20)
_TRIM_BELOW_DB = 45.0
_MARGIN_FRAMES = 5
_LONGEST_FRAMES = 1000
_MIN_PAUSE_FRAMES = 12
_PAUSE_KEPT_FRAMES = 15
_SHORTEST_FRAMES = 40
# Wrong words of this voice score -29 at best.
_MIN_SCORE = -32.0

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@dataclass(frozen=True)
class PromptJob:
    """One recording and what is said in it."""

    name: str
    path: Path
    text: str
    audio_folder: Path

    @property
    def job_id(self) -> str:
        return "asterisk_" + self.name.replace("/", "_")


def prompt_jobs(text_root: Path, sound_root: Path, audio_folder: Path) -> tuple[list[PromptJob], list[Record]]:
    """Jobs for the prompts that hold speech with a known text, and what is left out."""
    transcripts = read_transcripts(text_root / _TRANSCRIPTS)
    table = load_table(TEXT_PACKAGE)
    jobs: list[PromptJob] = []
    left_out: list[Record] = []
    sounds = sound_root / _SOUNDS
    for path in sorted(sounds.rglob("*.g722")):
        name = path.relative_to(sounds).with_suffix("").as_posix()
        reason = first_match(table["left_out"], name)
        if reason is None and name not in transcripts:
            reason = "no transcript"
        if reason is None:
            text = spoken_text(transcripts[name], table["replace"].get(name, {}), table["respell"])
            jobs.append(PromptJob(name, path, text, audio_folder))
        else:
            left_out.append({"task": "text_to_speech", "source": SOUND_PACKAGE, "file": name, "reason": reason})
    if not jobs:
        raise UserError(f"{sounds} holds no prompt with a transcript; this version of {SOUND_PACKAGE} is not supported")
    return jobs, left_out


def read_transcripts(path: Path) -> dict[str, str]:
    """``name: text`` lines; ``;`` starts a comment."""
    if not path.is_file():
        raise UserError(f"{path} is missing; this version of {TEXT_PACKAGE} is not supported")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if line.strip() and not line.startswith(";"))
    return {name.strip(): text.strip() for name, colon, text in pairs if colon}


def spoken_text(transcript: str, replacements: Mapping[str, str], respelled: Mapping[str, str]) -> str:
    """What is said, in words: corrected, without remarks in brackets, numbers and abbreviations spelled out."""
    text = transcript
    for wrong, right in replacements.items():
        text = text.replace(wrong, right)
    text = re.sub(r"\(.*?\)|\[.\]", "", text)
    for written, said in respelled.items():
        # \b only where the sign is a letter: "#" has no word boundary.
        start, end = (r"\b" if written[edge].isalnum() else "" for edge in (0, -1))
        text = re.sub(start + re.escape(written) + end, said, text)
    text = re.sub(r"\.{3,}", " ", text)
    text = re.sub(r"\d+", lambda digits: number_in_words(digits.group()), text)
    return re.sub(r"\s+", " ", text).strip()


def number_in_words(digits: str) -> str:
    """0 to 99 as a number, longer ones digit by digit, as telephone prompts say them."""
    number = int(digits)
    if len(digits) > 2:
        return " ".join(_ONES[int(digit)] for digit in digits)
    if number < 20:
        return _ONES[number]
    ones = "" if number % 10 == 0 else f"-{_ONES[number % 10]}"
    return _TENS[number // 10 - 2] + ones


def prepare_prompt(job: PromptJob) -> Record:
    """Decode, trim, align, cut, write. The record holds ``utterances`` and, with reasons, what is ``left_out``."""
    samples = trim_silence(decode_g722(job.path))
    words = text_to_words(job.text)
    result = _aligner().align(samples, words)
    if not isinstance(result, Alignment):
        return {"utterances": [], "left_out": [_left_out(job.name, f"alignment: {result.kind}, {result.detail}")]}
    parts = split_at_pauses(job.text, result)
    record: Record = {"utterances": [], "left_out": []}
    for number, part in enumerate(parts, 1):
        audio_id = job.job_id if len(parts) == 1 else f"{job.job_id}_{number}"
        if part.end_frame - part.start_frame < _SHORTEST_FRAMES:
            record["left_out"].append(_left_out(job.name, f"utterance {number} is shorter than 0.4 s"))
            continue
        record["utterances"].append(_write_utterance(job, audio_id, samples, part))
    return record


@dataclass(frozen=True)
class Part:
    """A stretch of a prompt: its text, its frames of 10 ms, its phones timed from the prompt's beginning."""

    text: str
    start_frame: int
    end_frame: int
    phones: tuple[AlignedPhone, ...]


def split_at_pauses(text: str, alignment: Alignment, longest_frames: int = _LONGEST_FRAMES) -> list[Part]:
    """Cut a prompt into parts of at most ``longest_frames`` at pauses of 120 ms, if possible at punctuation.

    Of a long pause each side keeps 150 ms. A stretch without a pause stays as long as it is.
    """
    tokens = text.split()
    spans = [(round(start_s / FRAME_S), round(end_s / FRAME_S)) for start_s, end_s in alignment.word_spans()]
    total_frames = round(alignment.duration_s / FRAME_S)
    if total_frames <= longest_frames:
        return [Part(text, 0, total_frames, alignment.phones)]
    places = _pauses(tokens, spans)
    cuts = [_Place(0, 0, True)]
    while spans[-1][1] - spans[cuts[-1].words][0] > longest_frames - 2 * _PAUSE_KEPT_FRAMES:
        start = spans[cuts[-1].words][0]
        ahead = [place for place in places if place.words > cuts[-1].words]
        near = [p for p in ahead if spans[p.words - 1][1] - start <= longest_frames - 2 * _PAUSE_KEPT_FRAMES]
        punctuated = [place for place in near if place.punctuated]
        if not ahead:
            break
        cuts.append((punctuated or near or ahead[:1])[-1])
    cuts.append(_Place(len(tokens), len(spans), True))
    parts = []
    for first, end in pairwise(cuts):
        begin_frame, end_frame = 0, total_frames
        if first.words > 0:
            pause_start, pause_end = spans[first.words - 1][1], spans[first.words][0]
            begin_frame = max((pause_start + pause_end) // 2, pause_end - _PAUSE_KEPT_FRAMES)
        if end.words < len(spans):
            pause_start, pause_end = spans[end.words - 1][1], spans[end.words][0]
            end_frame = min((pause_start + pause_end) // 2, pause_start + _PAUSE_KEPT_FRAMES)
        phones = tuple(phone for phone in alignment.phones if first.words <= phone.word < end.words)
        parts.append(Part(" ".join(tokens[first.tokens : end.tokens]), begin_frame, end_frame, phones))
    return parts


@dataclass(frozen=True)
class _Place:
    """Where a text may be cut: how many tokens and words lie before it, and whether punctuation does."""

    tokens: int
    words: int
    punctuated: bool


def _pauses(tokens: list[str], spans: list[tuple[int, int]]) -> list[_Place]:
    places = []
    words = 0
    for index, token in enumerate(tokens, 1):
        words += len(text_to_words(token))
        if 0 < words < len(spans) and spans[words][0] - spans[words - 1][1] >= _MIN_PAUSE_FRAMES:
            places.append(_Place(index, words, token[-1] in ".,!?;:"))
    assert words == len(spans), f"{words} words in the text, {len(spans)} in the alignment"
    return places


def decode_g722(path: Path) -> np.ndarray:
    """int16 ``(S,)`` at 16 kHz; the files are raw G.722 without a header."""
    try:
        import av
    except ImportError as error:
        raise UserError("decoding the voice prompts needs PyAV; run: pip install 'unisono[speech]'") from error
    try:
        with av.open(str(path), format="g722") as container:
            blocks = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    except av.FFmpegError as error:
        raise UserError(f"{path} cannot be decoded ({error}); remove the cache folder and run again") from error
    return np.concatenate(blocks) if blocks else np.zeros(0, np.int16)


def trim_silence(samples: np.ndarray) -> np.ndarray:
    """Cut what lies 45 dB below the loudest 10 ms off both ends, but for a margin of 50 ms; whole frames remain."""
    frames = len(samples) // FRAME_SAMPLES
    energy = (samples[: frames * FRAME_SAMPLES].astype(np.float64).reshape(frames, -1) ** 2).mean(axis=1)
    loud = np.flatnonzero(energy > energy.max(initial=0.0) * 10 ** (-_TRIM_BELOW_DB / 10))
    if len(loud) == 0:
        return samples[: frames * FRAME_SAMPLES]
    first, last = max(0, loud[0] - _MARGIN_FRAMES), min(frames, loud[-1] + 1 + _MARGIN_FRAMES)
    return samples[first * FRAME_SAMPLES : last * FRAME_SAMPLES]


@lru_cache(maxsize=1)
def _aligner() -> ForcedAligner:
    """One model per process."""
    return ForcedAligner(load_table(TEXT_PACKAGE)["pronunciations"], AlignmentLimits(min_score_per_frame=_MIN_SCORE))


def _write_utterance(job: PromptJob, audio_id: str, samples: np.ndarray, part: Part) -> Record:
    start, end = part.start_frame * FRAME_SAMPLES, part.end_frame * FRAME_SAMPLES
    waveform = soxr.resample(samples[start:end].astype(np.float32) / 32768 * _GAIN, SAMPLE_RATE, TARGET_SAMPLE_RATE)
    duration_s = len(waveform) / TARGET_SAMPLE_RATE
    offset_s = part.start_frame * FRAME_S
    shifted = [replace(phone, start_s=phone.start_s - offset_s) for phone in part.phones]
    phonemes, durations_s = phones_to_units(shifted, duration_s)
    write_audio(job.audio_folder / f"{audio_id}.flac", waveform, TARGET_SAMPLE_RATE)
    return {
        "audio_id": audio_id,
        "prompt": job.name,
        "text": part.text,
        "phonemes": phonemes,
        "durations_s": durations_s,
        "duration_s": duration_s,
    }


def _left_out(name: str, reason: str) -> dict[str, Any]:
    return {"task": "text_to_speech", "source": SOUND_PACKAGE, "file": name, "reason": reason}
