"""The step ``align``: texts or phonemes become phonemes with durations."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from unisono.data.manifest import Fields
from unisono.data.prepare.jobs import LeaveOut, Record
from unisono.data.prepare.steps.engine import ManifestStep, Options, StepResult, Work, run_step_on, work_of
from unisono.data.prepare.steps.pair import ManifestPair
from unisono.errors import UserError
from unisono.media.audio import read_audio
from unisono.media.locations import parse_location
from unisono.text.align import SAMPLE_RATE, AlignmentFailure
from unisono.text.aligner import AlignerLimits, CorpusAligner, Pair, UnitAlignment, train_aligner
from unisono.text.english import EnglishAligner
from unisono.text.phonemes import SILENCE

_PER_PHONEME = {"notes": 0, "slurs": 0}  # besides note_durations_s; what an added silence has
_MAX_CANDIDATES = 20_000
"""Lines that recordings to train on are chosen from: some twenty hours of speech, of which one is used."""


def align_texts(
    content: str | os.PathLike,
    audio: str | os.PathLike | None,
    options: Options,
    *,
    pronunciations: Mapping[str, str] | None = None,
) -> StepResult:
    """Write ``content`` with ``phonemes`` and ``durations_s`` of its English ``text``, by pocketsphinx.

    Numbers and abbreviations are spelled out; words that the dictionary lacks are pronounced by eSpeak NG and named in
    ``guessed_words``. Lines whose text does not fit the recording are left out.

    Args:
        content, audio: see :class:`ManifestPair`.
        options: output, workers …
        pronunciations: words with their ARPAbet phones, which go before the dictionary's.

    Raises:
        UserError: a line without text, in another language, or with notes; too many lines left out.
    """
    settings = {"pronunciations": dict(pronunciations or {})}
    EnglishAligner(pronunciations)  # what is missing or wrong is told before any work
    step = ManifestStep("align", 2, "aligning texts", _text_aligner, settings, chunk_items=16)
    with run_step_on(step, ManifestPair(content, audio), options, _text_work, check=_check_text) as run:
        return run.write()


def align_phonemes(
    content: str | os.PathLike,
    audio: str | os.PathLike | None,
    options: Options,
    *,
    aligner: Path | None = None,
    limits: AlignerLimits | None = None,
    seed: int = 0,
    max_training_s: float = 3_600.0,
) -> StepResult:
    """Write ``content`` with ``durations_s`` of its ``phonemes``, by an aligner that learns from these lines.

    Silences (``_``) that are not made are dropped, those at the ends that are made are added; ``notes``,
    ``note_durations_s`` and ``slurs`` follow. Lines whose phonemes do not fit the recording are left out.

    Args:
        content, audio: see :class:`ManifestPair`.
        options: output, workers …
        aligner: folder of a trained one; None trains one, in ``aligner`` beside the output, where it stays.
        limits: what an alignment must satisfy.
        seed, max_training_s: of training. Of more than 20 000 lines, so many are drawn to choose from.

    Raises:
        UserError: a line without phonemes, no aligner in the folder, too many lines left out.
    """
    pair = ManifestPair(content, audio)
    if aligner is None:
        aligner = options.output.parent / "aligner"
        train_aligner(
            _training_pairs(pair, seed),
            aligner,
            seed=seed,
            max_training_s=max_training_s,
            workers=options.num_workers,
            progress=options.progress,
        )
    trained = CorpusAligner.load(aligner, limits)
    settings = {
        "aligner": str(aligner.absolute()),
        "fingerprint": trained.fingerprint,
        "limits": asdict(trained.limits),
    }
    step = ManifestStep("align", 2, "aligning phonemes", _phoneme_aligner, settings, chunk_items=32)
    with run_step_on(step, pair, options, _phoneme_work) as run:
        return run.write()


def _training_pairs(pair: ManifestPair, seed: int) -> list[Pair]:
    """What an aligner may be trained on: all lines, or of very many a draw."""
    rows = np.arange(len(pair))
    if len(pair) > _MAX_CANDIDATES:
        rows = np.sort(np.random.default_rng(seed).choice(len(pair), _MAX_CANDIDATES, replace=False))
    pairs = []
    for row in rows:
        try:
            work = _phoneme_work(pair.line(int(row)), pair.target(int(row)))
        except LeaveOut:
            continue
        pairs.append(Pair(work.audio_id, tuple(work.data["phonemes"]), work.source))
    return pairs


# -- by text ----------------------------------------------------------------------------------------------------------


def _check_text(line: Fields) -> None:
    language = line.text("language", None) or "en-us"
    if not language.lower().startswith("en"):
        raise line.fail(
            f"field 'language' is {language!r}; only English is aligned from its text: phonemize the lines "
            "first, then align them by their phonemes"
        )
    line.text("text")
    if sung := [name for name in (*_PER_PHONEME, "note_durations_s") if line.record.get(name) is not None]:
        raise line.fail(f"has {sung[0]!r}, one per phoneme that is there already; align it by its phonemes")


def _text_work(line: Fields, target: Fields | None) -> Work:
    assert target is not None
    return work_of(target, "audio", line.text("text"))


def _text_aligner(settings: Mapping[str, Any]) -> Callable[[Work], Record]:
    return partial(_align_text, EnglishAligner(settings["pronunciations"]))


def _align_text(aligner: EnglishAligner, work: Work) -> Record:
    result = aligner.align(read_audio(parse_location(work.source, None), SAMPLE_RATE), work.data, SAMPLE_RATE)
    if isinstance(result, AlignmentFailure):
        raise LeaveOut(result.kind, result.detail)
    guessed = list(result.guessed_words) or None  # None removes those of an earlier run
    return {
        "phonemes": list(result.phonemes),
        "durations_s": list(result.durations_s),
        "guessed_words": guessed,
    }


# -- by phonemes ------------------------------------------------------------------------------------------------------


def _phoneme_work(line: Fields, target: Fields | None) -> Work:
    assert target is not None
    phonemes = line.symbols("phonemes")
    per_phoneme = {
        name: line.per_unit(name, "values", lambda _: True, len(phonemes))
        for name in (*_PER_PHONEME, "note_durations_s")
        if line.record.get(name) is not None
    }
    if per_phoneme and any(first == second == SILENCE for first, second in pairwise(phonemes)):
        raise LeaveOut("neighbouring_silences", f"{line.where}: two silences in a row; join them, and their notes")
    return work_of(target, "audio", {"phonemes": phonemes, **per_phoneme})


def _phoneme_aligner(settings: Mapping[str, Any]) -> Callable[[Work], Record]:
    aligner = CorpusAligner.load(settings["aligner"], AlignerLimits(**settings["limits"]))
    if aligner.fingerprint != settings["fingerprint"]:
        raise UserError(
            f"{settings['aligner']}: the aligner was replaced while it was used; give the same command again"
        )
    return partial(_align_phonemes, aligner)


def _align_phonemes(aligner: CorpusAligner, work: Work) -> Record:
    waveform = read_audio(parse_location(work.source, None), SAMPLE_RATE)
    result = aligner.align(work.data["phonemes"], waveform, SAMPLE_RATE)
    if isinstance(result, AlignmentFailure):
        raise LeaveOut(result.kind, result.detail)
    return {
        "phonemes": list(result.phonemes),
        "durations_s": list(result.durations_s),
        **_moved(work.data, result),
    }


def _moved(data: Mapping[str, Any], result: UnitAlignment) -> Record:
    """Lists with one value per phoneme, for the phonemes that were found."""
    moved: Record = {}
    for name, added in _PER_PHONEME.items():
        if name in data:
            moved[name] = [added if source < 0 else data[name][source] for source in result.sources]
    if "note_durations_s" in data:
        moved["note_durations_s"] = [
            duration_s if source < 0 else data["note_durations_s"][source]
            for source, duration_s in zip(result.sources, result.durations_s, strict=True)
        ]
    return moved
