"""The step ``phonemize``: manifest lines with ``text`` get ``phonemes``; their durations are for ``align`` to find."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from unisono.data.manifest import Fields
from unisono.data.prepare.jobs import LeaveOut, LeftOut, Record
from unisono.data.prepare.steps.engine import ManifestStep, Options, StepResult, Work, run_step_on
from unisono.data.prepare.steps.pair import ManifestPair
from unisono.errors import UserError
from unisono.text.phonemes import PHONEMES, SILENCE, vocabulary_with
from unisono.text.phonemize import Phonemizer, Transcription

_SHOWN = 10
_CHUNK_ITEMS = 500


def add_phonemes(
    content: str | os.PathLike,
    options: Options,
    *,
    language: str = "en-us",
    pronunciations: Mapping[str, str] | None = None,
    audio: str | os.PathLike | None = None,
) -> StepResult:
    """Write ``content`` with ``phonemes`` of its ``text``, and ``guessed_words`` that the dictionary lacks.

    Lines that have ``phonemes`` or a ``score`` stay as they are; lines whose text cannot be read are left out.

    Args:
        content: manifest with ``text``, and optionally ``language``, in each line.
        options: output, workers …
        language: of lines without a ``language`` of their own, which they get.
        pronunciations: English words with their ARPAbet phones, before the dictionary's.
        audio: of the targets, if there are some; see :class:`ManifestPair`.

    Returns:
        What was written; the symbols that a model's vocabulary needs are in the notes.

    Raises:
        UserError: unknown language, pronunciation that is no ARPAbet, too many lines left out.
    """
    Phonemizer(language, pronunciations=pronunciations)  # wrong options are told before any work
    settings = {"language": language, "pronunciations": dict(pronunciations or {})}
    step = ManifestStep("phonemize", 2, "reading texts", _reader, settings, _CHUNK_ITEMS, batch=True)
    pair = ManifestPair(content, audio, needs_targets=False)
    symbols: set[str] = set()
    guessed: Counter[str] = Counter()
    untouched = 0

    def count(line: Record, fields: Record) -> Record:
        nonlocal untouched
        untouched += not fields
        symbols.update(fields.get("phonemes", ()))
        guessed.update(fields.get("guessed_words") or ())
        return fields

    with run_step_on(step, pair, options, partial(_text_work, language)) as run:
        return run.write(count).noted(*_notes(symbols, guessed, untouched))


def _notes(symbols: set[str], guessed: Counter[str], untouched: int) -> Iterator[str]:
    if symbols:
        yield f"{len(symbols)} symbols: {' '.join((SILENCE, *sorted(symbols - {SILENCE})))}"
        if more := sorted(symbols - set(PHONEMES)):
            yield f"{len(more)} of them are not in the default vocabulary; train with {vocabulary_with(more)}"
    if untouched:
        yield f"{untouched} lines had phonemes or a score and stay as they were"
    if guessed:
        order = sorted(guessed.items(), key=lambda item: (-item[1], item[0]))
        words = ", ".join(f"{word} ({count})" for word, count in order[:_SHOWN])
        yield f"{len(guessed)} words outside the dictionary were read by eSpeak NG: {words}"


def _text_work(language: str, line: Fields, target: Fields | None) -> Work:
    if any(line.record.get(name) is not None for name in ("phonemes", "score")):
        return Work(line.audio_id())
    try:
        data = [line.text("language", None) or language, line.text("text")]
    except UserError as error:
        raise LeaveOut("no_text", str(error)) from None
    return Work(line.audio_id(), data=data)


Reader = Callable[[Sequence[Work]], list[Record | LeftOut]]


def _reader(settings: Mapping[str, Any]) -> Reader:
    return partial(_read, settings, {})


def _read(
    settings: Mapping[str, Any], phonemizers: dict[str, Phonemizer], works: Sequence[Work]
) -> list[Record | LeftOut]:
    """Fields of each line; the texts of a language are read together, which is far faster."""
    results: list[Record | LeftOut] = [{} for _ in works]
    places: dict[str, list[int]] = {}
    for place, work in enumerate(works):
        if work.data is not None:
            places.setdefault(work.data[0], []).append(place)
    for language, group in places.items():
        texts = [works[place].data[1] for place in group]
        for place, said in zip(group, _transcriptions(settings, phonemizers, language, texts), strict=True):
            if isinstance(said, UserError):
                results[place] = LeftOut(works[place].audio_id, "bad_text", str(said))
                continue
            guessed = list(said.fallback_words) or None
            results[place] = {"phonemes": list(said.phonemes), "language": language, "guessed_words": guessed}
    return results


def _transcriptions(
    settings: Mapping[str, Any], phonemizers: dict[str, Phonemizer], language: str, texts: list[str]
) -> list[Transcription | UserError]:
    try:
        if language not in phonemizers:
            words = settings["pronunciations"] if language in ("en", "en-us") else None
            phonemizers[language] = Phonemizer(language, pronunciations=words)
    except UserError as error:
        return [error] * len(texts)
    return phonemizers[language].transcribe_many(texts)
