"""What the lines of a ``content.jsonl`` ask of a model; no recording is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from unisono.data.manifest import Fields, parse_line, scan_lines
from unisono.errors import UserError

LINES_READ = 50_000
"""Of a manifest, at most: a second or two. Training itself reads all."""

_ARRAYS = ("speaker_embedding", "video_features")
_ARRAY_FOLDERS = 64


@dataclass
class ManifestFacts:
    """What is in a manifest, each thing with the line on which it comes first.

    Attributes:
        path: the manifest.
        num_lines: lines that were read.
        is_whole: whether there are no more than these.
        phonemes, speakers: line by symbol or name.
        given: line by field that has a value.
        lacking: line by field that has none.
        arrays: of the fields that name arrays, the first line of every folder or archive that they lie in, 64 at most:
            those of one were made together.
    """

    path: Path
    num_lines: int = 0
    is_whole: bool = True
    phonemes: dict[str, int] = field(default_factory=dict)
    speakers: dict[str, int] = field(default_factory=dict)
    given: dict[str, int] = field(default_factory=dict)
    lacking: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, dict[str, Fields]] = field(default_factory=dict)

    def where(self, line: int) -> str:
        return f"{self.path}:{line}"

    def add(self, line: int, record: Mapping[str, Any], fields_of_interest: tuple[str, ...]) -> None:
        """Take one line in. Values of a wrong type are left to the data set, which names them."""
        self.num_lines += 1
        for symbol in record["phonemes"] if isinstance(record.get("phonemes"), list) else ():
            if isinstance(symbol, str):
                self.phonemes.setdefault(symbol, line)
        speaker = record.get("speaker")
        if isinstance(speaker, str) and speaker:
            self.speakers.setdefault(speaker, line)
        for name in fields_of_interest:
            (self.lacking if record.get(name) is None else self.given).setdefault(name, line)
        for name in _ARRAYS:
            place = record.get(name)
            if isinstance(place, str) and place:
                archive, separator, _ = place.partition("::")
                made_together = archive if separator else str(Path(place).parent)
                held = self.arrays.setdefault(name, {})
                if made_together not in held and len(held) < _ARRAY_FOLDERS:
                    held[made_together] = Fields(self.path, line, dict(record))


def facts_of(content: Path, split: str | None, max_samples: int | None, interest: tuple[str, ...]) -> ManifestFacts:
    """Read a manifest, at most its first ``LINES_READ`` lines; the same one only once.

    Args:
        content: ``content.jsonl``.
        split: only lines that name this split or none.
        max_samples: stop after so many.
        interest: fields to tell apart lines with and without.

    Raises:
        UserError: a manifest that cannot be read, a line that is no JSON object, with file and line.
    """
    try:
        status = content.stat()
        return _read(content, split, max_samples, interest, (status.st_size, status.st_mtime_ns))
    except OSError as error:
        raise UserError(f"{content} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=64)
def _read(
    content: Path, split: str | None, max_samples: int | None, interest: tuple[str, ...], stamp: tuple[int, int]
) -> ManifestFacts:
    facts = ManifestFacts(content)
    limit = LINES_READ if max_samples is None else min(LINES_READ, max_samples)
    for read, (number, _, raw) in enumerate(scan_lines(content)):
        if facts.num_lines >= limit or read >= LINES_READ:
            facts.is_whole = max_samples is not None and facts.num_lines >= max_samples
            break
        record = parse_line(f"{content}:{number}", raw)
        if split is None or record.get("split", split) == split:
            facts.add(number, record, interest)
    return facts
