"""A copy of the manifests without the lines that cannot be used; recordings stay where they are and as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from unisono.data.manifest import Fields, rebased, write_jsonl
from unisono.data.validate.corpora import AUDIO, CONTENT, SPLITS, common_folder, task_folder
from unisono.data.validate.findings import ERROR, WARNING
from unisono.data.validate.lines import Corpus
from unisono.data.validate.recordings import NONE
from unisono.data.validate.result import Validated
from unisono.errors import UserError

REMOVED = "removed.jsonl"
_MENDED = ("wrong_duration",)
_SHOWN = 5


@dataclass(frozen=True)
class Fixed:
    """What was written.

    Attributes:
        text: in words, what is left at the end.
        complete: each pair of manifests has a cleaned one; where none of its lines is good, it has not.
    """

    text: str
    complete: bool


def fix(validated: Validated, out: Path) -> Fixed:
    """Write cleaned manifests to a new folder, each in a folder with its task's name.

    Lines with errors are left out, with their partners; ``removed.jsonl`` says which and why. ``duration_s`` is the
    measured one. Paths are rewritten for their new place, so the copy needs the recordings where they lie.

    Raises:
        UserError: ``out`` is not empty, holds the sources, or no line of any manifest is left.
    """
    corpora = validated.corpora
    sources = {os.path.realpath(corpus.manifests.content.parent) for corpus in corpora}
    if os.path.realpath(out) in sources:
        raise UserError(f"{out}: the manifests that were examined lie there; give --fix a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already and not empty; give --fix a new folder")
    if len(sources) < len(corpora):
        raise UserError(f"{out}: two of the manifests lie in one folder and share audio.jsonl; fix one at a time")
    common = common_folder([corpus.manifests for corpus in corpora])
    folders = [_new_folder(corpus, out, common) for corpus in corpora]
    if len(set(folders)) < len(folders):
        raise UserError(f"{out}: two of the manifests would lie in {_first_twice(folders)}; fix one at a time")
    kept = [_kept(validated, corpus) for corpus in corpora]
    if not any(map(len, kept)):
        raise UserError(f"{out}: nothing is written, for every line has an error; see the table")
    try:
        done = [_write(validated, *one) for one in zip(corpora, kept, folders, strict=True)]
        removed = write_jsonl(out / REMOVED, _removed(validated))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give --fix another folder") from error
    complete = all(map(len, kept))
    warnings = _warnings_left(validated, kept)
    left = f"{out}: no errors are left" if complete else f"{out}: some manifests have no good line and are not there"
    text = "\n".join([*done, f"{removed}: the lines that were left out, and why", f"{left}; {warnings} warnings stay"])
    return Fixed(text, complete)


def _new_folder(corpus: Corpus, out: Path, common: Path) -> Path:
    """Where the cleaned manifests go: below a folder with the task's name, in one with the split's if they were."""
    source = Path(os.path.abspath(corpus.manifests.content.parent))
    own = out / os.path.relpath(source, common)
    if _says_task(own, corpus.task) and _split(own) == _split(source):
        return own
    above = task_folder(source / CONTENT)
    if above is not None and above.name == corpus.task:
        below = source.relative_to(above)
    else:  # --task said what it is
        below = Path(_split(source)) if source == common else source.relative_to(common)
    return (out if _says_task(out, corpus.task) else out / corpus.task) / below


def _says_task(folder: Path, task: str) -> bool:
    named = task_folder(folder / CONTENT)
    return named is not None and named.name == task


def _split(folder: Path) -> str:
    return folder.name if folder.name in SPLITS else ""


def _first_twice(folders: list[Path]) -> Path:
    return next(folder for place, folder in enumerate(folders) if folder in folders[:place])


def _kept(validated: Validated, corpus: Corpus) -> np.ndarray:
    """Numbers of the items without errors."""
    good = np.ones(len(corpus), dtype=bool)
    for path, column in ((corpus.manifests.content, "content_line"), (corpus.manifests.audio, "audio_line")):
        if path is not None:
            good &= ~np.isin(corpus.items[column], validated.findings.lines_of_level(path, ERROR, _MENDED))
    return np.flatnonzero(good)


def _write(validated: Validated, corpus: Corpus, kept: np.ndarray, folder: Path) -> str:
    """Write a pair of manifests; says how many of its lines are left."""
    if not len(kept):
        return f"{corpus.manifests.content}: every line has an error, nothing is written"
    content = write_jsonl(folder / CONTENT, _contents(corpus, kept, folder))
    counts = [f"{len(kept)} of {corpus.num_lines[0]} lines kept"]
    if corpus.audio is not None:
        write_jsonl(folder / AUDIO, _targets(validated, corpus, kept, folder))
        counts.append(f"{len(kept)} of {corpus.num_lines[1]} of {AUDIO}")
    ids = _ids_left_out(validated, corpus)
    return f"{content}: {', '.join(counts)}{'; left out: ' + ids if ids else ''}"


def _ids_left_out(validated: Validated, corpus: Corpus) -> str:
    """The first few."""
    ids: dict[str, None] = {}
    for finding in validated.findings.of_level(ERROR):
        if finding.path in (corpus.manifests.content, corpus.manifests.audio) and finding.kind not in _MENDED:
            ids.setdefault(repr(finding.audio_id) if finding.audio_id else f"line {finding.line}")
            if len(ids) > _SHOWN:
                break
    return ", ".join(list(ids)[:_SHOWN]) + (" …" if len(ids) > _SHOWN else "")


def _contents(corpus: Corpus, kept: np.ndarray, folder: Path) -> Iterator[dict[str, Any]]:
    for item in kept:
        yield _moved(corpus.line(item), folder)


def _targets(validated: Validated, corpus: Corpus, kept: np.ndarray, folder: Path) -> Iterator[dict[str, Any]]:
    for item in kept:
        line, number = corpus.target_line(item), int(corpus.items["audio"][item])
        duration_s = validated.recordings.duration_s_of(number)
        assert line is not None and number != NONE and duration_s is not None, "a line without these has an error"
        yield {**_moved(line, folder), "duration_s": round(duration_s, 6)}


def _moved(line: Fields, folder: Path) -> dict[str, Any]:
    try:
        return rebased(line.record, line.path.parent, folder)
    except UserError as error:  # of a field that the task does not read
        raise line.fail(str(error)) from error


def _removed(validated: Validated) -> Iterator[dict[str, Any]]:
    """A row for each line with errors, which names its partner, left out with it."""
    errors = (finding for finding in validated.findings.of_level(ERROR) if finding.kind not in _MENDED)
    for (path, number), group in groupby(errors, key=lambda finding: (finding.path, finding.line)):
        found = list(group)
        yield {
            "manifest": _text(path),
            "line": number or None,
            "audio_id": found[0].audio_id,
            "partner": _partner(validated, path, number),
            "kinds": [finding.kind for finding in found],
            "messages": [_text(finding.message) for finding in found],
        }


def _partner(validated: Validated, path: Path, number: int) -> str | None:
    for corpus in validated.corpora:
        if path in (corpus.manifests.content, corpus.manifests.audio) and corpus.manifests.audio is not None:
            item = corpus.item_of(path, number)
            if item is None:
                return None
            if path == corpus.manifests.content:
                return _text(f"{corpus.manifests.audio}:{corpus.items['audio_line'][item]}")
            return _text(f"{corpus.manifests.content}:{corpus.items['content_line'][item]}")
    return None


def _warnings_left(validated: Validated, kept: list[np.ndarray]) -> int:
    """Warnings of the lines that are kept, and of whole manifests."""
    left = 0
    for corpus, items in zip(validated.corpora, kept, strict=True):
        for path, column in ((corpus.manifests.content, "content_line"), (corpus.manifests.audio, "audio_line")):
            if path is not None:
                lines = validated.findings.lines_of_level(path, WARNING)
                left += int(np.isin(lines, corpus.items[column][items]).sum() + (lines == 0).sum())
    return left


def _text(value: str | Path) -> str:
    """Text that UTF-8 can hold; a file's name need not be."""
    return str(value).encode("utf-8", "backslashreplace").decode()
