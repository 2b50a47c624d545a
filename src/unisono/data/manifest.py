"""Manifests: JSON Lines files, checked field by field before anything is trained on them.

A data set has one folder per split with two files joined by ``audio_id``: ``content.jsonl`` (what the model is given)
and ``audio.jsonl`` (what it has to produce). Paths are relative to the manifest that names them.
docs/data_format.md describes every field.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from unisono.errors import UserError
from unisono.files import replaced_file
from unisono.media.locations import Location, parse_location

PATH_FIELDS = (
    *("audio", "noisy_audio", "narrow_audio", "video", "video_features", "f0_hz", "voicing", "score"),
    *("speaker_embedding", "speaker_audio"),
    # What steps and recipes keep of a field that they replaced.
    *("video_file", "speaker_audio_file", "score_midi"),
)
"""Fields that hold a path relative to the manifest, of whatever task."""

_AUDIO_ID = re.compile(r"[^/\\\x00-\x1f]+")
_MAX_ID_BYTES = 200  # file systems allow 255 for a name; an extension and a temporary suffix come on top
MAX_LINE_BYTES = 64 * 2**20
"""A longer line is no item, but a file that is no manifest, or one that lost its line ends."""
LONGEST_S = 1e5
"""More seconds than any recording, unit or note lasts; what is longer was written in another unit, or is damage."""


def read_jsonl(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, object)``; blank lines are allowed, anything else that is no object is an error."""
    for number, _, line in scan_lines(Path(path)):
        yield number, parse_line(f"{path}:{number}", line)


def scan_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield ``(line number, offset in bytes, line)`` of what is not blank; a byte order mark is passed over.

    Raises:
        UserError: there is no such file, or a line of it is longer than ``MAX_LINE_BYTES``.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such manifest; check the path, or build the data first (unisono prepare --help)")
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(iter(partial(lines.readline, MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise too_long_line(f"{path}:{number}")
            begin, offset = offset, offset + len(line)
            if number == 1 and line.startswith(codecs.BOM_UTF8):
                begin, line = begin + len(codecs.BOM_UTF8), line[len(codecs.BOM_UTF8) :]
            if line.strip():
                yield number, begin, line


def too_long_line(where: str) -> UserError:
    return UserError(
        f"{where}: the line has more than {MAX_LINE_BYTES} bytes; each item must be one line: is this a manifest, and "
        "are its line ends there?"
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {repeated!r} is there twice; keep one of them")
    return record


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)


def parse_line(where: str, line: bytes) -> dict[str, Any]:
    """One line as an object.

    Raises:
        UserError: it is none, or has a key twice; ``where`` (file:line) is named.
    """
    try:
        text = line.decode("utf-8")
        record = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error}); save the manifest as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); each line must be one JSON object"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not usable JSON ({error})") from None
    if "\\u" in text and _has_lone_surrogate(record):
        raise UserError(
            f"{where}: a \\ud800 to \\udfff escape without its other half is no character; write the text as UTF-8"
        )
    if not isinstance(record, dict):
        raise UserError(f"{where}: a {type(record).__name__}, not a JSON object {{...}}")
    return record


def _has_lone_surrogate(record: Any) -> bool:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def write_jsonl(path: str | os.PathLike, records: Iterable[dict[str, Any]]) -> Path:
    """Write a manifest whole or not at all."""
    path = Path(path)
    with replaced_file(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


def relative_path(path: str | os.PathLike, folder: str | os.PathLike) -> str:
    """A path as a manifest in ``folder`` names it: joined as text, as :func:`parse_location` does, links unresolved."""
    return Path(os.path.relpath(os.path.abspath(path), os.path.abspath(folder))).as_posix()


def rebased(record: dict[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """A line of a manifest in ``old`` as one in ``new`` has to read: the same files; absolute paths stay as they are.

    Raises:
        UserError: a path that cannot be one.
    """
    moved = dict(record)
    if os.path.abspath(old) == os.path.abspath(new):
        return moved
    for name in PATH_FIELDS:
        value = record.get(name)
        if isinstance(value, str) and value and not os.path.isabs(value):
            location = parse_location(value, old)
            moved[name] = str(type(location)(Path(relative_path(location.path, new)), location.member))
    return moved


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

    def texts(self, name: str) -> list[str]:
        """One text or several."""
        value = self.get(
            name,
            "a non-empty text, or a list of such",
            lambda v: (
                (isinstance(v, str) and bool(v.strip()))
                or (isinstance(v, list) and bool(v) and all(isinstance(t, str) and t.strip() for t in v))
            ),
        )
        return [value] if isinstance(value, str) else value

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
            f"a non-empty list of seconds, none negative, not all zero, at most {LONGEST_S:g} in all",
            lambda v: (
                isinstance(v, list)
                and bool(v)
                and all(is_seconds(d) for d in v)
                and 0 < sum(map(float, v)) <= LONGEST_S
            ),
            default,
        )

    def per_unit(self, name: str, kind: str, valid: Callable[[Any], bool], count: int) -> list[Any]:
        """A list with one value for each of ``count`` phonemes."""
        values = self.get(
            name, f"a list of {kind}, one per phoneme", lambda v: isinstance(v, list) and all(valid(x) for x in v)
        )
        if len(values) != count:
            raise self.fail(
                f"field {name!r} has {len(values)} values for {count} phonemes; there must be one per phoneme"
            )
        return values

    def seconds(self, name: str, default: Any = ...) -> Any:
        return self.get(
            name, f"a positive number of seconds, at most {LONGEST_S:g}", lambda v: is_seconds(v) and v > 0, default
        )

    def positive(self, name: str, kind: str, default: Any = ...) -> Any:
        return self.get(name, kind, lambda v: is_finite_number(v) and v > 0, default)

    def named_path(self, name: str) -> str:
        """A path as it is written, of a form that ``location`` takes; a fifth of its time, for millions of lines."""
        value = self.get(name, "a path relative to this manifest", lambda v: isinstance(v, str) and bool(v))
        if "::" in value:
            self.location(name)
        return value

    def location(self, name: str) -> Location:
        """A path relative to the manifest's folder, of a file or an archive's member; it is not looked for."""
        value = self.get(name, "a path relative to this manifest", lambda v: isinstance(v, str) and bool(v))
        try:
            return parse_location(value, self.path.parent)
        except (UserError, ValueError) as error:
            raise self.fail(f"field {name!r}: {error}") from error

    def file(self, name: str) -> Location:
        """The same; it must exist."""
        location = self.location(name)
        try:
            exists = location.exists()
        except UserError as error:
            raise self.fail(f"field {name!r}: {error}") from error
        except (OSError, ValueError) as error:  # a name that is too long, a folder that may not be entered
            reason = getattr(error, "strerror", None) or str(error)
            raise self.fail(f"field {name!r} names {location}: {reason}; correct the path") from error
        if not exists:
            kind = "which is no file" if location.member is None else "and there is no such member"
            raise self.fail(f"field {name!r} names {location}, {kind}; correct the path or remove the line")
        return location


def is_finite_number(value: Any) -> bool:
    """JSON numbers that a float can hold (JSON itself allows whole numbers of any size, Python reads NaN as well)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def is_seconds(value: Any) -> bool:
    """A time that something can last: 0 to ``LONGEST_S``."""
    return is_finite_number(value) and 0 <= value <= LONGEST_S


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
