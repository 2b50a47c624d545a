"""Whether English sentences are what is spoken, judged by forced alignment as ``unisono align`` does it.

Slow: about 40 times real time per core.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from unisono.errors import UserError
from unisono.media.audio import read_audio
from unisono.media.locations import Location
from unisono.text.align import SAMPLE_RATE, AlignmentFailure
from unisono.text.english import EnglishAligner

MAX_S = 60.0
"""Longer recordings are not aligned: the search's memory grows with them."""

_NOT_JUDGED = ("bad_text", "unknown_words")


@dataclass(frozen=True)
class AlignJob:
    location: Location
    text: str
    place: tuple[int, int]


@lru_cache(maxsize=1)
def _aligner() -> EnglishAligner:
    return EnglishAligner()


def align_job(job: AlignJob) -> dict[str, Any]:
    """``{}`` if the text fits; else ``kind``, ``fault``, ``value``."""
    try:
        result = _aligner().align(read_audio(job.location, SAMPLE_RATE), job.text, SAMPLE_RATE)
    except UserError as error:
        return {"kind": "unaligned_text", "fault": f"not judged: {error}", "value": "error"}
    if not isinstance(result, AlignmentFailure):
        return {}
    if result.kind in _NOT_JUDGED:
        return {"kind": "unaligned_text", "fault": f"not judged: {result.detail}", "value": result.kind}
    return {
        "kind": "misaligned_text",
        "fault": f"does {job.text[:60]!r} stand there? {result.detail} ({result.kind})",
        "value": result.kind,
    }


def is_alignable(task: str, record: dict[str, Any], duration_s: float) -> bool:
    """English speech with its text: other languages and singing have no model."""
    language, text = record.get("language"), record.get("text")
    english = language is None or (isinstance(language, str) and language.lower().startswith("en"))
    return task == "text_to_speech" and english and isinstance(text, str) and bool(text.strip()) and duration_s <= MAX_S


def require_aligner() -> None:
    """Raise before anything is read if the library is missing."""
    _aligner()
