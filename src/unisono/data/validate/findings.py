"""What can be wrong with a corpus: the kinds of findings, one finding, and all of them."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from unisono.data.validate.spool import Spool

ERROR, WARNING = "error", "warning"


class Kind(NamedTuple):
    """An error cannot be trained on, or makes an evaluation worthless; a warning is for a person to judge."""

    level: str
    meaning: str


KINDS: dict[str, Kind] = {
    # lines
    "empty_manifest": Kind(ERROR, "a manifest without lines"),
    "no_targets": Kind(WARNING, "no audio.jsonl beside content.jsonl: good for generating only"),
    "unreadable_line": Kind(ERROR, "a line that is no JSON object in UTF-8"),
    "bad_audio_id": Kind(ERROR, "audio_id missing, or not usable as a file's name"),
    "repeated_audio_id": Kind(ERROR, "an audio_id used twice in one manifest; the first line counts"),
    "missing_target": Kind(ERROR, "a line of content.jsonl without one in audio.jsonl"),
    "missing_content": Kind(ERROR, "a line of audio.jsonl without one in content.jsonl"),
    "bad_field": Kind(ERROR, "a field missing, of a wrong type or value, or that contradicts another or the recording"),
    "unreadable_manifest": Kind(ERROR, "a manifest that the system does not let read"),
    # recordings
    "missing_file": Kind(ERROR, "a file, or a member of an archive, that is not there or cannot be reached"),
    "unreadable_audio": Kind(ERROR, "damaged, cut off, or in no known format"),
    "empty_audio": Kind(ERROR, "a recording of 0 samples"),
    "non_finite_audio": Kind(ERROR, "NaN or infinite samples"),
    "too_short_audio": Kind(ERROR, "shorter than a latent frame"),
    "long_audio": Kind(WARNING, "longer than is read at once: needs crop_s or max_duration_s"),
    "wrong_duration": Kind(ERROR, "duration_s is not the recording's; --fix corrects it"),
    "unequal_lengths": Kind(ERROR, "a degraded recording that is not as long as its target"),
    "silent_audio": Kind(ERROR, "a target without sound"),
    "silent_input": Kind(WARNING, "a degraded recording without sound"),
    "mostly_silent": Kind(WARNING, "hardly any sound in it"),
    "long_silence": Kind(WARNING, "a long pause in speech or singing"),
    "quiet_audio": Kind(WARNING, "very low level"),
    "clipping": Kind(WARNING, "samples that stay at full scale"),
    "dc_offset": Kind(WARNING, "samples that lie off zero throughout"),
    "cancelling_channels": Kind(WARNING, "channels that cancel each other when averaged to mono"),
    "narrow_bandwidth": Kind(WARNING, "cut off far below half the sample rate, as if it had been resampled"),
    "insufficient_bandwidth": Kind(ERROR, "a target below --min-bandwidth-hz"),
    "duplicate_audio": Kind(WARNING, "the same samples more than once in a split of a task"),
    "near_duplicate_audio": Kind(WARNING, "nearly the same sound: another level, format or rate"),
    # content
    "unreadable_content": Kind(ERROR, "an array, score or video that cannot be read, or does not fit the recording"),
    "repeated_caption": Kind(WARNING, "one caption for very many items"),
    "repeated_caption_in_line": Kind(WARNING, "the same caption twice in one line's list"),
    "unlikely_text_rate": Kind(WARNING, "more or fewer characters a second than anybody speaks"),
    "unlikely_phoneme_rate": Kind(WARNING, "more or fewer phonemes a second than anybody speaks"),
    "misaligned_text": Kind(WARNING, "the text is not what is spoken, by forced alignment (--align)"),
    "unaligned_text": Kind(WARNING, "words without a pronunciation: alignment could not judge (--align)"),
    "unknown_symbol": Kind(ERROR, "a phoneme outside the vocabulary"),
    "unknown_speaker": Kind(ERROR, "a speaker that the model does not have (--config)"),
    "wrong_embedding_size": Kind(ERROR, "a speaker embedding of another size than the model takes (--config)"),
    "unusual_note": Kind(WARNING, "a note that hardly any voice can sing"),
    "no_pitch": Kind(WARNING, "an F0 contour that is unvoiced throughout"),
    # train and test
    "shared_audio": Kind(ERROR, "the same recording in two splits, of whichever tasks"),
    "near_shared_audio": Kind(WARNING, "nearly the same sound in two splits"),
    "shared_audio_id": Kind(WARNING, "the same audio_id in two splits of a task"),
    "shared_text": Kind(WARNING, "the same caption or sentence in two splits of a task"),
}
"""Every kind with its level; docs/validate.md shows the same table."""

_FIELD = re.compile(r"field '([^']+)'")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: of ``KINDS``.
        path, line: the manifest and the line in it; 0 where it concerns the whole manifest.
        message: what was found, what is expected, what to do.
        audio_id, field: where there is one.
        value: what was measured or read, as JSON can hold it.
    """

    kind: str
    path: Path
    line: int
    message: str
    audio_id: str | None = None
    field: str | None = None
    value: Any = None

    def __post_init__(self) -> None:
        assert self.kind in KINDS, f"{self.kind} is not in KINDS"

    @property
    def level(self) -> str:
        return KINDS[self.kind].level

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}" if self.line else str(self.path)

    def record(self) -> dict[str, Any]:
        """As it stands in the JSON report."""
        return {
            "kind": self.kind,
            "level": self.level,
            "manifest": str(self.path),
            "line": self.line or None,
            "audio_id": self.audio_id,
            "field": self.field,
            "message": self.message,
            "value": self.value,
        }


def of_error(kind: str, path: Path, line: int, error: Exception | str, audio_id: str | None = None) -> Finding:
    """The finding that an error's message tells: its place is not said twice, its field is taken from it."""
    message = str(error).removeprefix(f"{path}:{line}: ")
    field = _FIELD.match(message)
    return Finding(kind, path, line, message, audio_id, field[1] if field else None)


_NAMES = tuple(KINDS)
_NUMBERS = {name: number for number, name in enumerate(_NAMES)}


class Findings(Sequence[Finding]):
    """Findings in the order of manifests and lines; 17 bytes of memory each, the rest lies in a temporary file.

    Args:
        paths: of the manifests, in the order in which their findings come.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = list(dict.fromkeys(paths))
        self._places = {path: place for place, path in enumerate(self._paths)}
        self._spool = Spool()
        self._path, self._line, self._kind, self._at = array("I"), array("I"), array("B"), array("q")
        self._order: np.ndarray | None = None

    def add(self, finding: Finding) -> None:
        told = [finding.message, finding.audio_id, finding.field, finding.value]
        self._at.append(self._spool.add(json.dumps(told).encode()))
        self._path.append(self._places[finding.path])
        self._line.append(finding.line)
        self._kind.append(_NUMBERS[finding.kind])
        self._order = None

    def __len__(self) -> int:
        return len(self._at)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> list[Finding]: ...
    def __getitem__(self, index: int | slice) -> Finding | list[Finding]:
        if isinstance(index, slice):
            return [self._read(row) for row in self._rows()[index]]
        return self._read(self._rows()[index])

    def __iter__(self) -> Iterator[Finding]:
        return (self._read(row) for row in self._rows())

    def of_kind(self, kind: str, most: int) -> list[Finding]:
        """The first so many of a kind."""
        rows = self._rows()
        return [self._read(row) for row in rows[np.asarray(self._kind)[rows] == _NUMBERS[kind]][:most]]

    def of_level(self, level: str) -> Iterator[Finding]:
        """Errors, or warnings."""
        return (self._read(row) for row in self._rows() if KINDS[_NAMES[self._kind[row]]].level == level)

    def kinds(self) -> dict[str, int]:
        """How many of each kind, by name."""
        counts = np.bincount(np.asarray(self._kind, dtype=np.int64), minlength=len(_NAMES))
        return {name: int(count) for name, count in sorted(zip(_NAMES, counts, strict=True)) if count}

    def levels(self, paths: Iterable[Path | None] | None = None) -> Counter[str]:
        """How many errors and warnings, of all manifests or of some."""
        kinds = np.asarray(self._kind, dtype=np.int64)
        if paths is not None:
            kinds = kinds[np.isin(np.asarray(self._path), [self._places[path] for path in paths if path is not None])]
        counts: Counter[str] = Counter()
        for name, count in zip(_NAMES, np.bincount(kinds, minlength=len(_NAMES)), strict=True):
            counts[KINDS[name].level] += int(count)
        return counts

    def lines_of_level(self, path: Path, level: str, besides: Sequence[str] = ()) -> np.ndarray:
        """Line numbers of a manifest's errors, or warnings: one for each; those of the kinds ``besides`` aside."""
        own = np.asarray(self._path) == self._places[path]
        wanted = [n for name, n in _NUMBERS.items() if KINDS[name].level == level and name not in besides]
        return np.asarray(self._line)[own & np.isin(np.asarray(self._kind), wanted)]

    def _rows(self) -> np.ndarray:
        if self._order is None:  # stable: of one line they come as they were added
            self._order = np.lexsort((np.asarray(self._line), np.asarray(self._path))).astype(np.uint32)
        return self._order

    def _read(self, row: int) -> Finding:
        message, audio_id, field, value = json.loads(self._spool.read(self._at[row]))
        return Finding(
            _NAMES[self._kind[row]], self._paths[self._path[row]], self._line[row], message, audio_id, field, value
        )
