"""A copy of the manifests without the lines that cannot be used; recordings stay where they are and as they are."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unisono.data.manifest import Fields, write_jsonl
from unisono.data.validate.corpora import AUDIO, CONTENT, common_folder
from unisono.data.validate.findings import Finding
from unisono.data.validate.lines import Corpus, Item
from unisono.data.validate.runner import Validated
from unisono.errors import UserError

REMOVED = "removed.jsonl"
_MENDED = ("wrong_duration",)


def fix(validated: Validated, out: Path) -> str:
    """Write cleaned manifests to a new folder, with their folders below the one that they have in common.

    Lines with errors are left out, with their partners; ``removed.jsonl`` says which and why. ``duration_s`` is the
    measured one. Paths are rewritten for their new place, so the copy needs the recordings where they lie.

    Returns:
        What was done, in words.

    Raises:
        UserError: ``out`` is not empty, holds the sources, or no line of any manifest is left.
    """
    sources = {os.path.realpath(corpus.manifests.content.parent) for corpus in validated.corpora}
    if os.path.realpath(out) in sources:
        raise UserError(f"{out}: the manifests that were examined lie there; give --fix a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already and not empty; give --fix a new folder")
    if len(sources) < len(validated.corpora):
        raise UserError(f"{out}: two of the manifests lie in one folder and share audio.jsonl; fix one at a time")
    bad = _bad_lines(validated)
    folder = common_folder([corpus.manifests for corpus in validated.corpora])
    kept_of = {corpus.place: _kept(corpus, bad) for corpus in validated.corpora}
    if not any(kept_of.values()):
        raise UserError(f"{out}: nothing is written, for every line has an error; see the table")
    done = []
    try:
        for corpus in validated.corpora:
            kept = kept_of[corpus.place]
            own = out / os.path.relpath(os.path.abspath(corpus.manifests.content.parent), folder)
            if not kept:
                done.append(f"{corpus.manifests.content}: every line has an error, nothing is written")
                continue
            content = write_jsonl(own / CONTENT, _contents(corpus, kept, own))
            if corpus.audio is not None:
                write_jsonl(own / AUDIO, _targets(validated, corpus, kept, own))
            done.append(f"{content}: {len(kept)} lines kept, {len(corpus.items) - len(kept)} items left out")
        removed = write_jsonl(out / REMOVED, _removed(validated))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give --fix another folder") from error
    return "\n".join([*done, f"{removed}: the lines that were left out, and why"])


def _bad_lines(validated: Validated) -> set[tuple[Path, int]]:
    return {(f.path, f.line) for f in validated.errors if f.kind not in _MENDED}


def _kept(corpus: Corpus, bad: set[tuple[Path, int]]) -> list[Item]:
    audio = corpus.manifests.audio
    return [
        item
        for item in corpus.items
        if (corpus.manifests.content, item.content_line) not in bad
        and (audio is None or (audio, item.audio_line) not in bad)
    ]


def _contents(corpus: Corpus, kept: list[Item], folder: Path) -> Iterator[dict[str, Any]]:
    for item in kept:
        line = corpus.line(item)
        files = [*corpus.dataset.input_files(line), *corpus.dataset.other_files(line)]
        yield _moved(line, [field for field, _ in files], folder)


def _targets(validated: Validated, corpus: Corpus, kept: list[Item], folder: Path) -> Iterator[dict[str, Any]]:
    for item in kept:
        line = corpus.target_line(item)
        assert line is not None and item.audio is not None, "a line without these has an error"
        yield {**_moved(line, ["audio"], folder), "duration_s": round(validated.facts[item.audio].duration_s, 6)}


def _moved(line: Fields, fields: list[str], folder: Path) -> dict[str, Any]:
    """The line with its paths as seen from another folder; absolute ones stay."""
    record = dict(line.record)
    for name in fields:
        path, separator, member = record[name].partition("::")
        if not os.path.isabs(path):
            source = os.path.realpath(line.path.parent)
            record[name] = os.path.relpath(os.path.join(source, path), os.path.realpath(folder)) + separator + member
    return record


def _removed(validated: Validated) -> Iterator[dict[str, Any]]:
    reasons: dict[tuple[Path, int], list[Finding]] = defaultdict(list)
    for finding in validated.errors:
        if finding.kind not in _MENDED:
            reasons[finding.path, finding.line].append(finding)
    for (path, number), found in reasons.items():
        yield {
            "manifest": str(path).encode("utf-8", "backslashreplace").decode(),
            "line": number or None,
            "audio_id": found[0].audio_id,
            "kinds": [finding.kind for finding in found],
            "messages": [finding.message.encode("utf-8", "backslashreplace").decode() for finding in found],
        }
