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
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from unisono.errors import UserError

_AUDIO_ID = re.compile(r"[^/\\\x00-\x1f]+")
_MAX_ID_BYTES = 200  # file systems allow 255 for a name; an extension and a temporary suffix come on top


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
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}:{number}: not usable JSON ({error})") from None
                if "\\u" in line and _has_lone_surrogate(record):
                    raise UserError(
                        f"{path}:{number}: a \\ud800 to \\udfff escape without its other half is no character; "
                        "write the text as UTF-8"
                    )
                if not isinstance(record, dict):
                    raise UserError(f"{path}:{number}: a {type(record).__name__}, not a JSON object {{...}}")
                yield number, record
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text ({error}); save the manifest as UTF-8") from None


def _has_lone_surrogate(record: Any) -> bool:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def write_jsonl(path: str | os.PathLike, records: Iterable[dict[str, Any]]) -> Path:
    """Write a manifest whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as out:
            for record in records:
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
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
            f"a text of 1 to {_MAX_ID_BYTES} bytes without slashes, not '.' or '..' (it names output files)",
            lambda v: (
                isinstance(v, str)
                and _AUDIO_ID.fullmatch(v) is not None
                and v.strip(". ") != ""
                and len(v.encode()) <= _MAX_ID_BYTES
            ),
        )

    def text(self, name: str, default: Any = ...) -> Any:
        return self.get(name, "a non-empty text", lambda v: isinstance(v, str) and bool(v.strip()), default)

    def symbols(self, name: str) -> list[str]:
        return self.get(
            name,
            "a non-empty list of texts",
            lambda v: isinstance(v, list) and bool(v) and all(isinstance(s, str) and s for s in v),
        )

    def any_text(self, name: str) -> str:
        """An optional text that may be empty."""
        return self.get(name, "a text", lambda v: isinstance(v, str), None) or ""

    def durations(self, name: str, default: Any = ...) -> Any:
        return self.get(
            name,
            "a non-empty list of seconds, none negative, not all zero",
            lambda v: (
                isinstance(v, list)
                and bool(v)
                and all(_is_finite_number(d) and d >= 0 for d in v)
                and 0 < sum(map(float, v)) < math.inf
            ),
            default,
        )

    def seconds(self, name: str, default: Any = ...) -> Any:
        return self.get(
            name,
            "a positive number of seconds",
            lambda v: _is_finite_number(v) and v > 0,
            default,
        )

    def file(self, name: str) -> Path:
        """A path relative to the manifest's folder, which must exist."""
        value = self.get(name, "a path relative to this manifest", lambda v: isinstance(v, str) and bool(v))
        path = Path(os.path.normpath(self.path.parent / value))
        try:
            is_file = path.is_file()
        except OSError as error:  # a name that is too long, a folder that may not be entered
            raise self.fail(f"field {name!r} names {path}: {error.strerror}; correct the path") from error
        if not is_file:
            raise self.fail(f"field {name!r} names {path}, which is no file; correct the path or remove the line")
        return path


def _is_finite_number(value: Any) -> bool:
    """JSON numbers that a float can hold (JSON itself allows whole numbers of any size, Python reads NaN as well)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


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
