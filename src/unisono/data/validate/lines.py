"""Every line of a pair of manifests, read on past faults; the data sets' own checks say what is one.

Training stops at the first fault (:mod:`unisono.data.index`); here all are wanted. Of a line only numbers are kept, its
place among them; it is read again when it is needed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unisono.data.datasets import DATASETS, AudioGenerationDataset
from unisono.data.datasets.restoration import RestorationDataset, degraded_elsewhere
from unisono.data.index import ManifestFile
from unisono.data.manifest import Fields, parse_line, scan_lines
from unisono.data.validate.corpora import Manifests
from unisono.data.validate.findings import Finding, of_error
from unisono.data.validate.spool import Digests, digest_of, group_numbers, repeated
from unisono.data.validate.store import audio_key
from unisono.errors import UserError

Note = Callable[[Finding], None]

_NONE = -1
_NO_KEYS = np.zeros((0, 2), dtype=np.uint64)


class SplitNames:
    """Numbers for the names of splits; 0 is that of none."""

    def __init__(self) -> None:
        self.names = [""]
        self._numbers = {"": 0}

    def number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.names)
            self.names.append(name)
        return self._numbers[name]


class _Lines:
    """The usable lines of one manifest: where they lie, their ids, the recordings they name, their splits."""

    def __init__(self) -> None:
        self.count = 0  # with those that are not usable
        self.offset, self.line, self.split = array("q"), array("I"), array("i")
        self.ids, self.recordings = Digests(), Digests()

    def columns(self) -> dict[str, np.ndarray]:
        numbers = {"offset": (self.offset, np.int64), "line": (self.line, np.uint32), "split": (self.split, np.int32)}
        found = {name: np.frombuffer(values, dtype=kind) for name, (values, kind) in numbers.items()}
        found["id"] = self.ids.keys()
        return {**found, "recording": self.recordings.keys()} if len(self.recordings) else found


class Corpus:
    """A pair of manifests while it is validated.

    Args:
        place: of it among those that are validated.
        manifests: which.
        splits: names that all corpora share.
        note: takes what is found.

    Attributes:
        dataset: of the task, without manifests, for its checks.
        degrades: no line names an input: the data set has to make it.
        items: columns ``(N,)`` of pairs of lines that belong together, in the order of ``content.jsonl``:
            ``content_offset``, ``content_line``, ``audio_offset``, ``audio_line`` (the last two -1 and 0 without a
            target), ``split`` (number of the line's split, else of the folder's), ``audio`` and ``input`` (numbers of
            recordings, -1 for none), ``id`` ``(N, 2)`` (digest of the ``audio_id``).
        num_lines: of ``content.jsonl`` and ``audio.jsonl``, blank ones aside.
    """

    def __init__(self, place: int, manifests: Manifests, splits: SplitNames, note: Note) -> None:
        self.place, self.manifests, self.task, self.note = place, manifests, manifests.task, note
        self.content = ManifestFile(manifests.content)
        self.audio = None if manifests.audio is None else ManifestFile(manifests.audio)
        self.dataset = dataset_of(self.task)
        self.degrades = False
        self.items: dict[str, np.ndarray] = {}
        self.num_lines = (0, 0)
        self._splits = splits
        self._recordings: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.items["content_offset"])

    @property
    def input_field(self) -> str | None:
        """Name of the field of a degraded recording."""
        return self.dataset.input_field if isinstance(self.dataset, RestorationDataset) else None

    def read(self) -> None:
        """Find the items and note what lines are none."""
        targets = self._scan_targets()
        contents = self._scan(self.manifests.content, self.input_field)
        self.num_lines = (contents.pop("count"), targets.pop("count") if targets is not None else 0)
        match = np.full(len(contents["id"]), _NONE, dtype=np.int64)
        if targets is not None:
            match = _matches(contents["id"], targets["id"])
            self._note_alone(contents, targets, match)
            kept = match != _NONE
            match = match[kept]
            contents = {name: column[kept] for name, column in contents.items()}
        self.items = {"content_offset": contents["offset"], "content_line": contents["line"], "id": contents["id"]}
        split = contents["split"]
        if targets is None:
            self.items["audio_offset"] = match
            self.items["audio_line"] = np.zeros(len(match), dtype=np.uint32)
            self._recordings = [_NO_KEYS]
        else:
            self.items["audio_offset"], self.items["audio_line"] = targets["offset"][match], targets["line"][match]
            self._recordings = [targets["recording"][match] if len(match) else _NO_KEYS]
            split = np.where(split == _NONE, targets["split"][match], split)
        self._recordings.append(contents.get("recording", _NO_KEYS))
        self.items["split"] = np.where(split == _NONE, self._splits.number(self.manifests.split or ""), split)
        if self.input_field is not None and len(self) and not self._recordings[1].any():
            self.degrades = True
            self.dataset = dataset_of(self.task, degrades=True)

    def take_recordings(self) -> list[np.ndarray]:
        """Keys of the targets and of the inputs, ``(N, 2)`` each, zeros for none, or ``(0, 2)``; not kept here."""
        taken, self._recordings = self._recordings, []
        return taken

    # -- reading ------------------------------------------------------------------------------------------------------

    def _scan_targets(self) -> dict[str, Any] | None:
        if self.manifests.audio is None:
            self.note(
                Finding(
                    "no_targets",
                    self.manifests.content,
                    0,
                    "there is no audio.jsonl beside it: it can be used for generating, not for training",
                )
            )
            return None
        return self._scan(self.manifests.audio, "audio")

    def _scan(self, path: Path, field: str | None) -> dict[str, Any]:
        """The usable lines of a manifest as columns, and ``count``, that of all; ``field`` names a recording."""
        found = _Lines()
        try:
            for number, offset, raw in scan_lines(path):
                found.count += 1
                self._add(found, path, field, number, offset, raw)
        except OSError as error:
            self.note(
                Finding("unreadable_manifest", path, 0, f"cannot be read ({error.strerror}); see its permissions")
            )
        if not found.count:
            self.note(Finding("empty_manifest", path, 0, "the manifest has no items"))
        return {**self._without_repeated(ManifestFile(path), found.columns()), "count": found.count}

    def _add(self, found: _Lines, path: Path, field: str | None, number: int, offset: int, raw: bytes) -> None:
        try:
            line = Fields(path, number, parse_line(f"{path}:{number}", raw))
        except UserError as error:
            self.note(of_error("unreadable_line", path, number, error))
            return
        try:
            audio_id = line.audio_id()
        except UserError as error:
            self.note(of_error("bad_audio_id", path, number, error))
            return
        split = None
        try:
            split = line.text("split", None)
        except UserError as error:
            self.note(of_error("bad_field", path, number, error, audio_id))
        found.offset.append(offset)
        found.line.append(number)
        found.split.append(_NONE if split is None else self._splits.number(split))
        found.ids.add(digest_of(audio_id))
        if field is not None:
            found.recordings.add(_recording(line, field))

    def _without_repeated(self, file: ManifestFile, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of lines with one id only the first."""
        kept = np.ones(len(columns["id"]), dtype=bool)
        for rows in repeated(group_numbers(columns["id"])):
            kept[rows[1:]] = False
            for row in map(int, rows[1:]):
                number = int(columns["line"][row])
                audio_id = _read(file, columns, row).record["audio_id"]
                message = (
                    f"field 'audio_id' is {audio_id!r}, used on line {columns['line'][rows[0]]} already; ids are "
                    "unique: rename one or remove this line"
                )
                self.note(of_error("repeated_audio_id", file.path, number, message, audio_id))
        return columns if kept.all() else {name: column[kept] for name, column in columns.items()}

    def _note_alone(self, contents: dict[str, Any], targets: dict[str, Any], match: np.ndarray) -> None:
        """Lines of one manifest without one in the other."""
        assert self.audio is not None
        used = np.zeros(len(targets["id"]), dtype=bool)
        used[match[match != _NONE]] = True
        for file, columns, alone, kind, other in (
            (self.content, contents, match == _NONE, "missing_target", self.audio),
            (self.audio, targets, ~used, "missing_content", self.content),
        ):
            for row in map(int, np.flatnonzero(alone)):
                line = _read(file, columns, row)
                audio_id = line.record["audio_id"]
                message = f"audio_id {audio_id!r} has no line in {other.path}; add it or remove this"
                self.note(of_error(kind, file.path, line.line, message, audio_id))

    # -- lines --------------------------------------------------------------------------------------------------------

    def line(self, item: int) -> Fields:
        """The item's line of ``content.jsonl``.

        Raises:
            UserError: it is another than when the manifest was read.
        """
        return self._checked(self.content, "content", item)

    def target_line(self, item: int) -> Fields | None:
        """The item's line of ``audio.jsonl``; None where there is no such file."""
        return None if self.audio is None else self._checked(self.audio, "audio", item)

    def _checked(self, file: ManifestFile, which: str, item: int) -> Fields:
        changed = f"{file.path} was changed while it was examined; start again"
        try:
            line = file.fields(int(self.items[f"{which}_offset"][item]), int(self.items[f"{which}_line"][item]))
            audio_id = line.audio_id()
        except UserError as error:
            raise UserError(changed) from error
        if digest_of(audio_id) != self.items["id"][item].tobytes():
            raise UserError(changed)
        return line

    def item_of(self, path: Path, line: int) -> int | None:
        """The item that a line of one of the manifests belongs to."""
        is_content = path == self.manifests.content
        lines = self.items["content_line" if is_content else "audio_line"]
        order = None if is_content else self._audio_order()
        row = int(np.searchsorted(lines, line, sorter=order))
        row = row if order is None or row == len(order) else int(order[row])
        return row if row < len(lines) and int(lines[row]) == line else None

    def _audio_order(self) -> np.ndarray:
        if "audio_order" not in self.items:
            self.items["audio_order"] = np.argsort(self.items["audio_line"], kind="stable").astype(np.int32)
        return self.items["audio_order"]


def _recording(line: Fields, field: str) -> bytes | None:
    """Key of the recording that a line names; None where the field is missing or wrong, which the check says."""
    if line.record.get(field) is None:
        return None
    try:
        return audio_key(line.location(field))
    except UserError:
        return None


def _read(file: ManifestFile, columns: dict[str, np.ndarray], row: int) -> Fields:
    line = file.fields(int(columns["offset"][row]), int(columns["line"][row]))
    if digest_of(line.audio_id()) != columns["id"][row].tobytes():
        raise UserError(f"{file.path} was changed while it was examined; start again")
    return line


def _matches(ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Row of ``targets`` ``(T, 2)`` that equals each of ``ids`` ``(N, 2)``, -1 for none; each has no row twice."""
    numbers = group_numbers(np.concatenate([targets, ids]))
    row_of = np.full(len(numbers), _NONE, dtype=np.int32)
    row_of[numbers[: len(targets)]] = np.arange(len(targets), dtype=np.int32)
    return row_of[numbers[len(targets) :]].astype(np.int64)


def dataset_of(task: str, degrades: bool = False) -> AudioGenerationDataset:
    """A data set without manifests, for its checks; it looks for no file."""
    kind = DATASETS[task]
    if degrades:
        assert issubclass(kind, RestorationDataset)
        return kind(None, degradation=degraded_elsewhere)
    return kind(None)


def check_lines(
    dataset: AudioGenerationDataset, line: Fields, target: Fields | None, duration_s: float | None, note: Note
) -> bool:
    """Ask the data set's own checks whether a pair of lines is good; what is not is noted.

    Args:
        duration_s: of the recording as measured; None where it could not be, and then a stated one counts.
    """
    audio_id = line.record["audio_id"]
    good = True
    stated_s: Any = None
    if target is not None:
        try:
            target.location("audio")
            stated_s = target.seconds("duration_s", None)
        except UserError as error:
            note(of_error("bad_field", target.path, target.line, error, audio_id))
            good = False
    for fields in (line, target):
        if fields is not None:
            try:
                fields.text("license", None)
            except UserError as error:
                note(of_error("bad_field", fields.path, fields.line, error, audio_id))
                good = False
    try:
        line.text("instruction", None)
        if line.record.get("score") is None:  # a score's units are checked where it is read
            dataset.check(line, duration_s if duration_s is not None else stated_s)
    except UserError as error:
        note(of_error("bad_field", line.path, line.line, error, audio_id))
        good = False
    return good
