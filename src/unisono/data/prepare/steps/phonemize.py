"""The step ``phonemize``: manifest lines with ``text`` get ``phonemes``; their durations are for ``align`` to find."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisono.data.manifest import Fields, parse_line, scan_lines, write_jsonl
from unisono.data.prepare.jobs import Record, run_step
from unisono.data.prepare.steps.engine import PATH_FIELDS
from unisono.errors import UserError
from unisono.files import locked, write_json
from unisono.text.phonemes import SILENCE
from unisono.text.phonemize import Phonemizer, Transcription
from unisono.workers import default_workers

# Raise it when the same text may give other phonemes: unfinished work of an older version is then not taken up.
_VERSION = 1
_LINES_PER_JOB = 2000
_SHOWN = 10


@dataclass(frozen=True)
class PhonemizeReport:
    """What a run of the step did.

    Attributes:
        output: the manifest that was written. The same report lies beside it as ``NAME.report.json``.
        num_lines: lines written.
        num_kept: those of them that had phonemes already and were left as they were.
        fallback_words: words that the dictionary lacks and eSpeak NG read, with how often they occur; most frequent
            first.
        failures: lines left out: ``line``, ``audio_id``, ``message``.
        symbols: the vocabulary of the lines with new phonemes, ``_`` first.
    """

    output: Path
    num_lines: int
    num_kept: int
    fallback_words: Mapping[str, int]
    failures: tuple[Record, ...]
    symbols: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.output}: {self.num_lines} lines, {len(self.symbols)} symbols"]
        if self.num_kept:
            lines.append(f"{self.num_kept} lines had phonemes and were kept as they were")
        if self.fallback_words:
            words = ", ".join(f"{word} ({count})" for word, count in list(self.fallback_words.items())[:_SHOWN])
            lines.append(f"{len(self.fallback_words)} words outside the dictionary were read by eSpeak NG: {words}")
        if self.failures:
            lines.append(f"{len(self.failures)} lines left out; see {report_path(self.output)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Chunk:
    """A stretch of lines of a manifest, read from ``start`` to ``end`` (bytes)."""

    manifest: Path
    first_line: int
    start: int
    end: int
    part: Path
    language: str
    pronunciations: tuple[tuple[str, str], ...]
    same_folder: bool

    @property
    def job_id(self) -> str:
        return f"{self.first_line:09d}"


def phonemize_manifest(
    manifest: str | os.PathLike,
    output: str | os.PathLike,
    *,
    language: str = "en-us",
    pronunciations: Mapping[str, str] | None = None,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    leave_out_failures: bool = False,
) -> PhonemizeReport:
    """Write a copy of ``manifest`` whose lines have ``phonemes``, whole or not at all.

    A run that was killed goes on where it stopped, if manifest and options are the same.

    Args:
        manifest: ``content.jsonl`` with ``text``, and optionally ``language``, in each line. Lines that have
            ``phonemes`` or a ``score`` stay as they are.
        output: the manifest to write. In another folder only if no line names a file, since paths are relative.
        language: of lines without a ``language`` of their own.
        pronunciations: English words with their ARPAbet phones, before the dictionary's.
        workers: processes; default one per core.
        progress: show a bar.
        overwrite: replace ``output``, which may be ``manifest`` itself.
        leave_out_failures: write the other lines where some cannot be read; by default that is an error.

    Raises:
        UserError: lines that cannot be read (the first ten are named), broken JSON, an output that exists.
    """
    manifest, output = Path(manifest), Path(output)
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; choose another name or replace it with --overwrite (overwrite=True)")
    Phonemizer(language, pronunciations=pronunciations)  # wrong options are told before any work
    # One run at a time: the working folder is this output's alone.
    with locked(output.with_name(f".{output.name}.phonemize.lock")):
        return _phonemize(manifest, output, language, pronunciations or {}, workers, progress, leave_out_failures)


def _phonemize(
    manifest: Path,
    output: Path,
    language: str,
    pronunciations: Mapping[str, str],
    workers: int | None,
    progress: bool,
    leave_out_failures: bool,
) -> PhonemizeReport:
    folder, chunks = _plan(manifest, output, language, pronunciations)
    records = run_step(
        _phonemize_chunk,
        chunks,
        folder / "records",
        description=f"phonemize {manifest.name}",
        workers=default_workers() if workers is None else workers,
        progress=progress,
    )
    report = _report(output, records)
    if report.failures and not leave_out_failures:
        shown = "\n".join(f"  {failure['message']}" for failure in report.failures[:_SHOWN])
        raise UserError(
            f"{manifest}: {len(report.failures)} lines cannot be phonemized; correct them, or write the others with "
            f"--leave-out-failures (leave_out_failures=True):\n{shown}"
        )
    if not report.num_lines:
        raise UserError(f"{manifest}: no line is left to write")
    _join([chunk.part for chunk in chunks], folder / "joined.jsonl", output)
    write_json(report_path(output), {**_as_json(report), "language": language})
    shutil.rmtree(folder.parent)
    return report


def report_path(output: Path) -> Path:
    """Where the report of a manifest lies."""
    return output.with_name(f"{output.name.removesuffix('.jsonl')}.report.json")


def read_pronunciations(path: str | os.PathLike) -> dict[str, str]:
    """A dictionary file: a word and its ARPAbet phones on each line; stress digits go, ``#`` begins a comment."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a dictionary ({error}); give a UTF-8 text file") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        word, *phones = line.partition("#")[0].split() or [""]
        if word and not phones:
            raise UserError(f"{path}:{number}: {word!r} has no phones; write them after it: hello HH AH L OW")
        if word:
            found[word.lower()] = " ".join(phone.rstrip("012") for phone in phones)
    return found


def _plan(manifest: Path, output: Path, language: str, pronunciations: Mapping[str, str]) -> tuple[Path, list[_Chunk]]:
    """``(folder of the work, what is to be done)``; the folder's name stands for manifest and options."""
    extra = tuple(sorted(pronunciations.items()))
    same_folder = output.parent.resolve() == manifest.parent.resolve()
    digest, spans = _scan(manifest, json.dumps([_VERSION, language, extra, same_folder]))
    work = output.with_name(f".{output.name}.phonemize")
    folder = work / digest
    folder.mkdir(parents=True, exist_ok=True)
    for other in work.iterdir():
        if other != folder:
            shutil.rmtree(other)
    chunks = [
        _Chunk(manifest, line, start, end, folder / f"{line:09d}.jsonl", language, extra, same_folder)
        for line, start, end in spans
    ]
    return folder, chunks


def _scan(manifest: Path, options: str) -> tuple[str, list[tuple[int, int, int]]]:
    """``(fingerprint, [(first line, start byte, end byte)])``; one pass, nothing kept but the spans."""
    digest = hashlib.sha256(options.encode())
    spans: list[tuple[int, int, int]] = []
    for count, (number, start, line) in enumerate(scan_lines(manifest)):
        digest.update(b"%d:" % number + line)
        if count % _LINES_PER_JOB == 0:
            spans.append((number, start, start))
        first_line, begin, _ = spans[-1]
        spans[-1] = (first_line, begin, start + len(line))
    if not spans:
        raise UserError(f"{manifest}: the manifest has no items")
    return digest.hexdigest()[:24], spans


@functools.lru_cache(maxsize=8)
def _phonemizer(language: str, pronunciations: tuple[tuple[str, str], ...]) -> Phonemizer:
    return Phonemizer(language, pronunciations=dict(pronunciations) if language in ("en", "en-us") else None)


def _phonemize_chunk(chunk: _Chunk) -> Record:
    fields = list(_lines(chunk))
    waiting = [one for one in fields if "phonemes" not in one.record and "score" not in one.record]
    texts: dict[str, list[Fields]] = {}
    failures: list[Record] = []
    done: dict[int, dict[str, Any]] = {one.line: one.record for one in fields}
    for one in fields:
        named = [name for name in PATH_FIELDS if one.record.get(name) is not None]
        if named and not chunk.same_folder:
            raise one.fail(
                f"field {named[0]!r} is a path relative to this manifest; write the output into the same folder"
            )
    for one in waiting:
        try:
            one.audio_id(), one.text("text")
            texts.setdefault(one.text("language", None) or chunk.language, []).append(one)
        except UserError as error:
            failures.append(_failure(one, error))
    fallbacks: Counter[str] = Counter()
    symbols: set[str] = set()
    for language, group in sorted(texts.items()):
        for one, result in zip(group, _results(language, group, chunk), strict=True):
            if isinstance(result, UserError):
                failures.append(_failure(one, one.fail(f"field 'text': {result}")))
                continue
            fallbacks.update(result.fallback_words)
            symbols.update(result.phonemes)
            done[one.line] = {**one.record, "phonemes": list(result.phonemes), "language": language}
    failed = {failure["line"] for failure in failures}
    write_jsonl(chunk.part, (record for line, record in sorted(done.items()) if line not in failed))
    return {
        "num_lines": len(done) - len(failed),
        "num_kept": len(fields) - len(waiting),
        "fallback_words": dict(fallbacks),
        "failures": sorted(failures, key=lambda failure: failure["line"]),
        "symbols": sorted(symbols),
    }


def _results(language: str, group: list[Fields], chunk: _Chunk) -> list[Transcription | UserError]:
    try:
        phonemizer = _phonemizer(language, chunk.pronunciations)
    except UserError as error:
        return [error] * len(group)
    return phonemizer.transcribe_many([one.record["text"] for one in group])


def _failure(fields: Fields, error: UserError) -> Record:
    return {"line": fields.line, "audio_id": str(fields.record.get("audio_id", "")), "message": str(error)}


def _lines(chunk: _Chunk) -> Iterator[Fields]:
    with chunk.manifest.open("rb") as file:
        file.seek(chunk.start)
        data = file.read(chunk.end - chunk.start)
    for number, line in enumerate(data.split(b"\n"), chunk.first_line):
        if line.strip():
            yield Fields(chunk.manifest, number, parse_line(f"{chunk.manifest}:{number}", line))


def _join(parts: list[Path], temporary: Path, output: Path) -> None:
    with temporary.open("wb") as joined:
        for part in parts:
            with part.open("rb") as lines:
                shutil.copyfileobj(lines, joined)
        joined.flush()
        os.fsync(joined.fileno())
    os.replace(temporary, output)


def _report(output: Path, records: list[Record]) -> PhonemizeReport:
    fallbacks: Counter[str] = Counter()
    for record in records:
        fallbacks.update(record["fallback_words"])
    symbols = {symbol for record in records for symbol in record["symbols"]} - {SILENCE}
    return PhonemizeReport(
        output,
        sum(record["num_lines"] for record in records),
        sum(record["num_kept"] for record in records),
        dict(sorted(fallbacks.items(), key=lambda item: (-item[1], item[0]))),
        tuple(failure for record in records for failure in record["failures"]),
        (SILENCE, *sorted(symbols)),
    )


def _as_json(report: PhonemizeReport) -> Record:
    return {
        "num_lines": report.num_lines,
        "num_kept": report.num_kept,
        "fallback_words": dict(report.fallback_words),
        "left_out": list(report.failures),
        "symbols": list(report.symbols),
    }
