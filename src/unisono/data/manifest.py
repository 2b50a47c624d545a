"""Manifests: JSON Lines files, checked field by field before anything is trained on them.

A data set has one folder per split with two files joined by ``audio_id``: ``content.jsonl`` (what the model is given)
and ``audio.jsonl`` (what it has to produce). Paths are relative to the manifest that names them.
docs/data_format.md describes every field.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from unisono.errors import UserError

_AUDIO_ID = re.compile(r"[^/\\\x00-\x1f]{1,200}")


def read_jsonl(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, object)``; blank lines are allowed, anything else that is no object is an error."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such manifest; check the path, or build the data first (unisono prepare --help)")
    with path.open(encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(
                        f"{path}:{number}: not JSON ({error.msg} at column {error.colno}); "
                        "each line must be one JSON object"
                    ) from None
                if not isinstance(record, dict):
                    raise UserError(f"{path}:{number}: a {type(record).__name__}, not a JSON object {{...}}")
                yield number, record
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text ({error}); save the manifest as UTF-8") from None


def write_jsonl(path: str | os.PathLike, records: Iterable[dict[str, Any]]) -> Path:
    """Write a manifest whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    os.replace(temporary, path)
    return path


class Fields:
    """One line of a manifest, read field by field; every error names file, line, field and remedy."""

    def __init__(self, path: Path, line: int, record: dict[str, Any]) -> None:
        self.path, self.line, self.record = path, line, record

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}"

    def fail(self, message: str) -> UserError:
        return UserError(f"{self.where}: {message}")

    def get(self, name: str, kind: str, valid: Callable[[Any], bool], default: Any = ...) -> Any:
        value = self.record.get(name, default)
        if value is ...:
            have = ", ".join(sorted(self.record)) or "none"
            raise self.fail(f"field {name!r} is missing (the line has: {have}); add it, {kind}")
        if value is not default and not valid(value):
            raise self.fail(f"field {name!r} is {json.dumps(value, ensure_ascii=False)[:80]}; it must be {kind}")
        return value

    def audio_id(self) -> str:
        return self.get(
            "audio_id",
            "a text of 1 to 200 characters without slashes (it names output files)",
            lambda v: isinstance(v, str) and _AUDIO_ID.fullmatch(v) is not None and v.strip(". ") != "",
        )

    def text(self, name: str, default: Any = ...) -> Any:
        return self.get(name, "a non-empty text", lambda v: isinstance(v, str) and bool(v.strip()), default)

    def symbols(self, name: str) -> list[str]:
        return self.get(
            name,
            "a non-empty list of texts",
            lambda v: isinstance(v, list) and bool(v) and all(isinstance(s, str) and s for s in v),
        )

    def durations(self, name: str, default: Any = ...) -> Any:
        return self.get(
            name,
            "a non-empty list of seconds, none negative, not all zero",
            lambda v: (
                isinstance(v, list)
                and bool(v)
                and all(
                    isinstance(d, int | float) and not isinstance(d, bool) and math.isfinite(d) and d >= 0 for d in v
                )
                and sum(v) > 0
            ),
            default,
        )

    def seconds(self, name: str, default: Any = ...) -> Any:
        return self.get(
            name,
            "a positive number of seconds",
            lambda v: isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and v > 0,
            default,
        )

    def file(self, name: str) -> Path:
        """A path relative to the manifest's folder, which must exist."""
        value = self.get(name, "a path relative to this manifest", lambda v: isinstance(v, str) and bool(v))
        path = Path(os.path.normpath(self.path.parent / value))
        if not path.is_file():
            raise self.fail(f"field {name!r} names {path}, which does not exist; correct the path or remove the line")
        return path


def load_manifest(path: str | os.PathLike) -> dict[str, Fields]:
    """All lines of a manifest by ``audio_id``; empty files and ids used twice are errors."""
    path = Path(path)
    records: dict[str, Fields] = {}
    for line, record in read_jsonl(path):
        fields = Fields(path, line, record)
        audio_id = fields.audio_id()
        if audio_id in records:
            raise fields.fail(
                f"audio_id {audio_id!r} was used on line {records[audio_id].line} already; ids are unique"
            )
        records[audio_id] = fields
    if not records:
        raise UserError(f"{path}: the manifest has no items")
    return records
