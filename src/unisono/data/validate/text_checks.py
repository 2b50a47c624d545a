"""Findings from captions, sentences, phonemes and notes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from unisono.data.manifest import Fields
from unisono.data.validate.audio_checks import Found
from unisono.data.validate.limits import Limits
from unisono.errors import UserError
from unisono.text.phonemes import SILENCE, nearest_phonemes, vocabulary_with

CAPTIONED = ("text_to_audio", "text_to_music")
SUNG = ("singing_voice_synthesis", "singing_acoustic_modeling")

_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_MAX_SHOWN = 5


def texts_of(line: Fields, task: str) -> list[str]:
    """What two splits should not share: captions, or the sentence."""
    if task in CAPTIONED:
        return line.texts("caption")
    if task in ("text_to_speech", *SUNG):
        text = line.record.get("text")
        return [text] if isinstance(text, str) and text.strip() else []
    return []


def normalized(text: str) -> str:
    """Without case, punctuation and runs of blanks."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text.strip()


def caption_findings(line: Fields) -> Iterator[Found]:
    captions = [normalized(text) for text in line.texts("caption")]
    for caption, count in Counter(captions).items():
        if count > 1:
            yield "repeated_caption_in_line", f"field 'caption' says {caption!r} {count} times; keep it once", count


def repeated_caption(caption: str, having: int, items: int) -> Found:
    """That a caption stands for implausibly many items."""
    message = (
        f"the caption {caption[:60]!r} is that of {having} of {items} items; so many sounds are hardly one: describe "
        "what tells them apart"
    )
    return "repeated_caption", message, having


def rate_findings(line: Fields, task: str, sounding_s: float, limits: Limits) -> Iterator[Found]:
    """Whether a text fits the time in which it is spoken.

    Args:
        sounding_s: of the recording, without silences; the phonemes' own durations are taken where there are any.
    """
    phonemes, durations_s = line.record.get("phonemes"), line.record.get("durations_s")
    if isinstance(phonemes, list) and isinstance(durations_s, list) and len(phonemes) == len(durations_s):
        sounding_s = sum(d for p, d in zip(phonemes, durations_s, strict=True) if p != SILENCE)
        spoken = sum(p != SILENCE for p in phonemes)
    else:
        spoken = sum(p != SILENCE for p in phonemes) if isinstance(phonemes, list) else 0
    if sounding_s <= 0:
        return
    sung = task in SUNG
    if spoken >= limits.min_characters:
        yield from _rate("unlikely_phoneme_rate", "phonemes", spoken, sounding_s, limits.phonemes_per_s, sung)
    text = line.record.get("text")
    if isinstance(text, str):
        ideographs = len(_IDEOGRAPHS.findall(text))
        letters = sum(character.isalnum() for character in text)
        if letters >= limits.min_characters:
            bounds = limits.ideographs_per_s if 2 * ideographs > letters else limits.characters_per_s
            yield from _rate("unlikely_text_rate", "characters", letters, sounding_s, bounds, sung)


def _rate(kind: str, what: str, count: int, seconds: float, bounds: tuple[float, float], sung: bool) -> Iterator[Found]:
    rate = count / seconds
    if rate > bounds[1] or (rate < bounds[0] and not sung):
        yield (
            kind,
            f"{count} {what} in {seconds:.2f} s of sound are {rate:.1f} a second (plausible: {bounds[0]:g} to "
            f"{bounds[1]:g}); is it this recording's text?",
            rate,
        )


def unknown_symbols(symbols: Iterable[str], vocabulary: frozenset[str]) -> Iterator[Found]:
    """One finding for all symbols of a line outside the vocabulary."""
    unknown = Counter(symbol for symbol in symbols if symbol not in vocabulary)
    if not unknown:
        return
    shown = []
    for symbol, count in unknown.most_common(_MAX_SHOWN):
        near = [other for other in nearest_phonemes(symbol) if other in vocabulary]
        shown.append(f"{symbol!r} ({count} times{'; perhaps ' + ' or '.join(near) if near else ''})")
    more = f" and {len(unknown) - _MAX_SHOWN} more" if len(unknown) > _MAX_SHOWN else ""
    yield (
        "unknown_symbol",
        f"field 'phonemes' has {', '.join(shown)}{more} outside the vocabulary; correct them, or train with "
        f"{vocabulary_with(sorted(unknown))} (and say --vocabulary or --config here)",
        " ".join(unknown),
    )


def notes_of(line: Fields) -> list[float]:
    """The MIDI numbers that a line itself names, without rests."""
    from unisono.scores import note_number

    values = line.record.get("notes")
    if not isinstance(values, list):
        return []
    try:
        return [number for value in values if (number := float(note_number(value))) > 0]
    except (UserError, TypeError):
        return []  # the data set's check has said so


def note_findings(notes: Iterable[float], limits: Limits) -> Iterator[Found]:
    low, high = limits.notes
    unusual = sorted({note for note in notes if not low <= note <= high})
    if unusual:
        yield (
            "unusual_note",
            f"field 'notes' goes from {min(unusual):g} to {max(unusual):g} where voices sing {low:g} to {high:g} (MIDI "
            "numbers; 60 is C4); is an octave wrong?",
            unusual[0],
        )


def read_vocabulary(path: Any) -> frozenset[str]:
    """Phonemes from a text file (one a line or divided by blanks), a JSON list, or a model's or data's YAML.

    Raises:
        UserError: no such file, or nothing in it.
    """
    import json
    from pathlib import Path

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the vocabulary cannot be read ({error}); give a text file of phonemes") from error
    suffix = path.suffix.lower()
    values: Any = text.split()
    try:
        if suffix == ".json":
            values = json.loads(text)
        elif suffix in (".yaml", ".yml"):
            import yaml

            values = yaml.safe_load(text)
    except Exception as error:
        raise UserError(f"{path}: the vocabulary is not {suffix[1:]} ({error}); correct it") from error
    if isinstance(values, dict):
        values = values.get("phonemes")
    if not isinstance(values, list) or not values or not all(isinstance(v, str) and v for v in values):
        raise UserError(f"{path}: no phonemes in it; give one a line, or a list (of texts) named 'phonemes'")
    return frozenset(values)
