"""The manifests of a step: lines with their targets, read as they are needed, and the targets of what it writes.

``audio.jsonl`` belongs to ``content.jsonl``: each line of one has its partner in the other, or training refuses both.
So a step that leaves lines out takes their targets away too. These stay in ``audio.left_out.jsonl``, where steps look
for targets as well: the line may be mended and come back.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from unisono.data.index import ManifestFile, id_hash
from unisono.data.manifest import Fields, parse_line, rebased, scan_lines
from unisono.errors import UserError
from unisono.files import replaced_file

AUDIO = "audio.jsonl"
CONTENT = "content.jsonl"


def left_out_targets(audio: Path) -> Path:
    """Where the targets of lines that were left out are kept."""
    return audio.with_name(f"{audio.stem}.left_out.jsonl")


class _Lines:
    """The lines of a manifest by ``audio_id``: 36 bytes each."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, ManifestFile(path)
        self.offsets, self.numbers, ids = array("q"), array("i"), array("Q")
        for number, offset, raw in scan_lines(path):
            self.offsets.append(offset)
            self.numbers.append(number)
            ids.append(id_hash(Fields(path, number, parse_line(f"{path}:{number}", raw)).audio_id()))
        if not ids:
            raise UserError(f"{path}: the manifest has no items")
        self.ids = np.frombuffer(ids, np.uint64)
        self.order = np.argsort(self.ids, kind="stable")
        self.hashes = self.ids[self.order]
        if (repeated := np.flatnonzero(self.hashes[1:] == self.hashes[:-1])).size:
            first, second = (int(row) for row in self.order[repeated[0] : repeated[0] + 2])
            line = self.fields(second)
            raise line.fail(
                f"audio_id {line.audio_id()!r} was used on line {self.numbers[first]} already; ids are unique"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, wanted: np.ndarray) -> np.ndarray:
        """The row of each hash, -1 where there is none."""
        places = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return np.where(self.hashes[places] == wanted, self.order[places], -1)

    def fields(self, row: int) -> Fields:
        line = self.file.fields(self.offsets[row], self.numbers[row])
        if id_hash(line.audio_id()) != int(self.ids[row]):
            raise UserError(f"{self.path} was changed while the step ran; give the same command again")
        return line

    def raw(self) -> Iterator[bytes]:
        """All lines as they are written, each with one line end."""
        for _, _, line in scan_lines(self.path):
            yield line.rstrip(b"\r\n") + b"\n"


class ManifestPair:
    """The lines of ``content.jsonl``, each with its target; iterated over in their order.

    Args:
        content: manifest.
        audio: manifest of the targets; it may have more lines. None takes ``audio.jsonl`` beside ``content``.
        needs_targets: there must be a target for each line. Otherwise targets are passed over, all of them, where
            ``audio`` is None and a line has none.

    Attributes:
        audio: the manifest of the targets; None without targets.
        passed_over: a manifest of targets that lies there and does not fit.

    Raises:
        UserError: a manifest that cannot be read, an id used twice, a line without a target.
    """

    def __init__(
        self, content: str | os.PathLike, audio: str | os.PathLike | None = None, *, needs_targets: bool = True
    ) -> None:
        self.content = Path(content)
        self._lines = _Lines(self.content)
        beside = self.content.with_name(AUDIO)
        self.audio: Path | None = Path(audio) if audio is not None else beside
        self.passed_over: Path | None = None
        if audio is None and not needs_targets and not beside.exists():
            self.audio = None
            return
        self._targets = [_Lines(self.audio)]
        if _has_lines(kept := left_out_targets(self.audio)):
            self._targets.append(_Lines(kept))
        rows = [lines.rows(self._lines.ids) for lines in self._targets]
        self._target_row = rows[0] if len(rows) == 1 else np.where(rows[0] >= 0, rows[0], rows[1])
        self._restored = rows[0] < 0  # their targets are among those left out before
        if (missing := np.flatnonzero(self._target_row < 0)).size:
            if audio is None and not needs_targets:
                self.audio, self.passed_over = None, beside
                return
            line = self._lines.fields(int(missing[0]))
            raise line.fail(
                f"audio_id {line.audio_id()!r} has no line in {self.audio}; add it there, remove this line, or name "
                "the manifest of the targets with --audio"
            )

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[tuple[Fields, Fields | None]]:
        for row in range(len(self)):
            line, target = self._lines.fields(row), None if self.audio is None else self.target(row)
            if target is not None and target.audio_id() != line.audio_id():
                raise line.fail(f"audio_id {line.audio_id()!r} and {target.audio_id()!r} have one hash; rename one")
            yield line, target

    def line(self, row: int) -> Fields:
        return self._lines.fields(row)

    def target(self, row: int) -> Fields:
        return self._targets[int(self._restored[row])].fields(int(self._target_row[row]))

    def has(self, audio_id: str) -> bool:
        """Whether the content manifest has such a line."""
        return bool(self._lines.rows(np.array([id_hash(audio_id)], np.uint64))[0] >= 0)

    def targets_output(self, output: Path, overwrite: bool) -> TargetsOutput | None:
        """Where the targets of ``output`` go; None without targets.

        Raises:
            UserError: a manifest lies there that would be replaced unasked.
        """
        beside = output.with_name(AUDIO)
        if output.name == AUDIO or (
            self.audio is not None and os.path.realpath(output) == os.path.realpath(self.audio)
        ):
            raise UserError(f"--out {output} is where targets stand; name another manifest, such as {CONTENT}")
        if self.audio is None:
            return None
        is_own = os.path.realpath(beside) == os.path.realpath(self.audio)
        if output.name == CONTENT or not beside.exists():
            if beside.exists() and not is_own and not overwrite:
                raise UserError(
                    f"{beside} exists and is not the manifest of these targets; choose another folder, or replace it "
                    "with --overwrite"
                )
            return TargetsOutput(self, beside, is_own, output.parent)
        # Another content.jsonl may belong to the targets that lie there: they stay as they are.
        other = output.with_name(f"{output.stem}.{AUDIO}")
        if other.exists() and not overwrite:
            raise UserError(f"{other} exists; choose another output, or replace it with --overwrite")
        return TargetsOutput(self, other, False, output.parent, beside if is_own else None)


@dataclass(frozen=True)
class TargetsOutput:
    """The manifest of an output's targets.

    Attributes:
        pair: what the step reads.
        path: of the manifest to write.
        in_place: it is the one that is read: lines are only taken away or brought back.
        folder: of the output.
        whole: the manifest that is read, if it lies beside the output and need not be copied while it fits.
    """

    pair: ManifestPair
    path: Path
    in_place: bool
    folder: Path
    whole: Path | None = None

    def write(self, kept: np.ndarray) -> str:
        """Write the targets of the kept lines (bool, one per line), whole or not at all; says what was done."""
        wanted = np.sort(self.pair._lines.ids[kept])
        targets = self.pair._targets
        if self.whole is not None and len(targets[0]) == len(wanted) and not self.pair._restored[kept].any():
            self.path.unlink(missing_ok=True)  # of a run before, which left lines out
            return f"targets: {self.whole}"
        if not self.in_place:
            moved = self._replace(kept, wanted) if self.path.name == AUDIO else self._copy(kept)
            return f"targets: {self.path}{moved}"
        here = _are_in(targets[0].ids, wanted)
        restored = np.flatnonzero(kept & self.pair._restored)
        if here.all() and not restored.size:
            self._tidy(wanted)  # a killed run may not have come to it
            return f"targets: {self.path}"
        with replaced_file(self.path) as temporary:
            with temporary.open("wb") as out:
                out.writelines(raw for raw, stays in zip(targets[0].raw(), here, strict=True) if stays)
                out.writelines(_encoded(self.pair.target(int(row))) for row in restored)
            moved = self._keep(wanted, targets)
        self._tidy(wanted)
        return f"targets: {self.path}{moved}"

    def _copy(self, kept: np.ndarray) -> str:
        with replaced_file(self.path) as temporary, temporary.open("w", encoding="utf-8") as out:
            self._write_rebased(out, kept)
        return ""

    def _replace(self, kept: np.ndarray, wanted: np.ndarray) -> str:
        before = [_Lines(path) for path in (self.path, left_out_targets(self.path)) if _has_lines(path)]
        with replaced_file(self.path) as temporary:
            with temporary.open("w", encoding="utf-8") as out:
                self._write_rebased(out, kept)
            moved = self._keep(wanted, before)
        self._tidy(wanted)
        return moved

    def _write_rebased(self, out: TextIO, kept: np.ndarray) -> None:
        for row in np.flatnonzero(kept):
            target = self.pair.target(int(row))
            line = rebased(target.record, target.path.parent, self.folder)
            out.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _keep(self, wanted: np.ndarray, before: list[_Lines]) -> str:
        """Put the targets that lose their line beside those that did so earlier; says how many there are now.

        Those that come back stay there too until they have their place.
        """
        path = left_out_targets(self.path)
        seen, count = wanted, 0
        with replaced_file(path) as temporary, temporary.open("wb") as out:
            for lines in before:
                hashes = lines.ids
                leaves = ~_are_in(hashes, seen)
                count += int(leaves.sum())
                stays = leaves | (_are_in(hashes, wanted) if lines.path == path else False)
                out.writelines(raw for raw, goes in zip(lines.raw(), stays, strict=True) if goes)
                seen = np.sort(np.concatenate([seen, hashes[leaves]]))
        return f"; {count} that have no line in the output are kept in {path}" if count else ""

    def _tidy(self, wanted: np.ndarray) -> None:
        """Take away what came back."""
        path = left_out_targets(self.path)
        if not _has_lines(path):
            path.unlink(missing_ok=True)
            return
        lines = _Lines(path)
        stays = ~_are_in(lines.ids, wanted)
        if not stays.any():
            path.unlink()
        elif not stays.all():
            with replaced_file(path) as temporary, temporary.open("wb") as out:
                out.writelines(raw for raw, left in zip(lines.raw(), stays, strict=True) if left)


def _has_lines(path: Path) -> bool:
    return path.is_file() and next(scan_lines(path), None) is not None


def _are_in(hashes: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    if not len(ordered):
        return np.zeros(len(hashes), bool)
    places = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    return ordered[places] == hashes


def _encoded(line: Fields) -> bytes:
    return json.dumps(line.record, ensure_ascii=False).encode() + b"\n"
