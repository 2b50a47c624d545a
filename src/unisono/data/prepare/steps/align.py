"""The step ``align``: texts or phonemes become phonemes with durations."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from unisono.data.manifest import Fields, load_manifest
from unisono.data.prepare.jobs import Record
from unisono.data.prepare.steps.engine import (
    LeaveOut,
    ManifestStep,
    Options,
    StepResult,
    Work,
    run_manifest_step,
    targets,
    work_of,
)
from unisono.errors import UserError
from unisono.files import write_json
from unisono.media.audio import read_audio
from unisono.media.locations import parse_location
from unisono.text.align import SAMPLE_RATE, AlignmentFailure, ForcedAligner, phones_to_units
from unisono.text.aligner import AlignerLimits, CorpusAligner, Pair, UnitAlignment, train_aligner
from unisono.text.phonemes import ARPABET_TO_IPA, SILENCE
from unisono.text.phonemize import Phonemizer, cmu_dictionary

_PER_PHONEME = {"notes": 0, "slurs": 0}  # besides note_durations_s; what an added silence has
_IPA_TO_ARPABET = {symbol: phone for phone, symbol in ARPABET_TO_IPA.items()}


def align_texts(
    content: str | os.PathLike,
    audio: str | os.PathLike,
    options: Options,
    *,
    pronunciations: Mapping[str, str] | None = None,
) -> StepResult:
    """Write ``content`` with ``phonemes`` and ``durations_s`` of its English ``text``, by pocketsphinx.

    Numbers and abbreviations are spelled out; words that the dictionary lacks are pronounced by eSpeak NG. Lines whose
    text does not fit the recording are left out.

    Args:
        content, audio: manifests.
        options: output, workers …
        pronunciations: words with their ARPAbet phones, which go before the dictionary's guess.

    Raises:
        UserError: a line without text, in another language, or with notes; too many lines left out.
    """
    lines = load_manifest(content)
    for line in lines.values():
        language = line.text("language", None) or "en-us"
        if not language.lower().startswith("en"):
            raise line.fail(
                f"field 'language' is {language!r}; only English is aligned from its text: phonemize the lines "
                "first, then align them by their phonemes"
            )
        line.text("text")
        if sung := [name for name in (*_PER_PHONEME, "note_durations_s") if name in line.record]:
            raise line.fail(f"has {sung[0]!r}, one per phoneme that is there already; align it by its phonemes")
    phonemizer = Phonemizer("en-us", pronunciations=pronunciations)
    said = phonemizer.transcribe_many([line.text("text") for line in lines.values()])
    works: dict[str, Work | LeaveOut] = {}
    for (audio_id, target), words in zip(targets(lines, audio).items(), said, strict=True):
        if isinstance(words, UserError):
            works[audio_id] = LeaveOut("unreadable_text", f"{lines[audio_id].where}: {words}")
        else:
            works[audio_id] = work_of(target, "audio", list(words.words))
    guessed = _guessed(phonemizer, works)
    digest = hashlib.sha256(json.dumps(guessed, sort_keys=True).encode()).hexdigest()
    # Named by its content: a run beside this one does not change it.
    table = options.work_folder("align").with_suffix(f".{digest[:12]}.words.json")
    table.parent.mkdir(parents=True, exist_ok=True)
    write_json(table, guessed)
    settings = {"pronunciations": str(table.absolute()), "digest": digest}
    try:
        step = ManifestStep("align", 1, "aligning texts", _align_text, settings, chunk_items=16)
        return run_manifest_step(step, lines, works, options)
    finally:
        table.unlink(missing_ok=True)


def align_phonemes(
    content: str | os.PathLike,
    audio: str | os.PathLike,
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
        content, audio: manifests.
        options: output, workers …
        aligner: folder of a trained one; None trains one, in ``aligner`` beside the output, where it stays.
        limits: what an alignment must satisfy.
        seed, max_training_s: of training.

    Raises:
        UserError: a line without phonemes, no aligner in the folder, too many lines left out.
    """
    lines = load_manifest(content)
    goals = targets(lines, audio)
    works = {audio_id: _phoneme_work(line, goals[audio_id]) for audio_id, line in lines.items()}
    if aligner is None:
        aligner = options.output.parent / "aligner"
        pairs = [
            Pair(work.audio_id, tuple(work.data["phonemes"]), work.source)
            for work in works.values()
            if isinstance(work, Work)
        ]
        train_aligner(
            pairs,
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
    step = ManifestStep("align", 1, "aligning phonemes", _align_phonemes, settings, chunk_items=32)
    return run_manifest_step(step, lines, works, options)


def read_pronunciations(path: str | os.PathLike) -> dict[str, str]:
    """Words with their ARPAbet phones from lines such as ``hello HH AH L OW``; stress digits are dropped."""
    path = Path(path)
    words: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as UTF-8 text ({error})") from error
    for number, line in enumerate(text.splitlines(), 1):
        word, *phones = line.split()[:1] + [phone.rstrip("012") for phone in line.split()[1:]] or [""]
        if not word or word.startswith("#"):
            continue
        if not phones or not set(phones) <= ARPABET_TO_IPA.keys():
            raise UserError(
                f"{path}:{number}: {line!r} is not a word and its ARPAbet phones, such as 'hello HH AH L OW'"
            )
        words[word.lower()] = " ".join(phones)
    return words


# -- by text ----------------------------------------------------------------------------------------------------------


def _guessed(phonemizer: Phonemizer, works: Mapping[str, Work | LeaveOut]) -> dict[str, str]:
    """ARPAbet of the words that pocketsphinx does not know."""
    known = cmu_dictionary()
    spoken = (word for work in works.values() if isinstance(work, Work) for word in work.data)
    unknown = [word for word in dict.fromkeys(spoken) if word not in known]
    said = phonemizer.pronounce(unknown) if unknown else []
    return {
        word: " ".join(_IPA_TO_ARPABET[symbol] for symbol in symbols)
        for word, symbols in zip(unknown, said, strict=True)
        if symbols
    }


@lru_cache(maxsize=1)
def _forced_aligner(pronunciations: str, digest: str) -> ForcedAligner:
    return ForcedAligner(json.loads(Path(pronunciations).read_text(encoding="utf-8")))


def _align_text(work: Work, settings: Mapping[str, Any]) -> Record:
    aligner = _forced_aligner(settings["pronunciations"], settings["digest"])
    result = aligner.align(read_audio(parse_location(work.source, None), SAMPLE_RATE), work.data)
    if isinstance(result, AlignmentFailure):
        raise LeaveOut(result.kind, result.detail)
    phonemes, durations_s = phones_to_units(result.phones, result.duration_s)
    return {"phonemes": phonemes, "durations_s": durations_s}


# -- by phonemes ------------------------------------------------------------------------------------------------------


def _phoneme_work(line: Fields, target: Fields) -> Work | LeaveOut:
    phonemes = line.symbols("phonemes")
    per_phoneme = {
        name: line.per_unit(name, "values", lambda _: True, len(phonemes))
        for name in (*_PER_PHONEME, "note_durations_s")
        if line.record.get(name) is not None
    }
    if per_phoneme and any(first == second == SILENCE for first, second in pairwise(phonemes)):
        return LeaveOut("neighbouring_silences", f"{line.where}: two silences in a row; join them, and their notes")
    return work_of(target, "audio", {"phonemes": phonemes, **per_phoneme})


@lru_cache(maxsize=1)
def _corpus_aligner(folder: str, fingerprint: str, limits: str) -> CorpusAligner:
    aligner = CorpusAligner.load(folder, AlignerLimits(**json.loads(limits)))
    if aligner.fingerprint != fingerprint:
        raise UserError(f"{folder}: the aligner was replaced while it was used; give the same command again")
    return aligner


def _align_phonemes(work: Work, settings: Mapping[str, Any]) -> Record:
    aligner = _corpus_aligner(settings["aligner"], settings["fingerprint"], json.dumps(settings["limits"]))
    result = aligner.align(work.data["phonemes"], *_samples(work))
    if isinstance(result, AlignmentFailure):
        raise LeaveOut(result.kind, result.detail)
    return {
        "phonemes": list(result.phonemes),
        "durations_s": list(result.durations_s),
        **_moved(work.data, result),
    }


def _samples(work: Work) -> tuple[Any, int]:
    return read_audio(parse_location(work.source, None), SAMPLE_RATE), SAMPLE_RATE


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
