"""Every line of a pair of manifests, read on past faults; the data sets' own checks say what is one.

Training stops at the first fault (:mod:`unisono.data.index`); here all are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisono.data.datasets import DATASETS, AudioGenerationDataset
from unisono.data.datasets.restoration import RestorationDataset, degraded_elsewhere
from unisono.data.index import ManifestFile
from unisono.data.manifest import Fields, parse_line, scan_lines
from unisono.data.validate.corpora import Manifests
from unisono.data.validate.findings import Finding, of_error
from unisono.errors import UserError
from unisono.media.locations import Location

Note = Callable[[Finding], None]


@dataclass(slots=True)
class Item:
    """A pair of lines that belong together; the lines themselves stay in their files.

    Attributes:
        corpus: place of its manifests among those that are validated.
        audio_id: of both lines.
        content_offset, content_line, audio_offset, audio_line: the last are -1 and 0 without a target.
        split: of the line, else of the folder; empty where neither tells.
        audio, inputs: names of the recordings, for looking their facts up; None where the line names none.
    """

    corpus: int
    audio_id: str
    content_offset: int
    content_line: int
    audio_offset: int
    audio_line: int
    split: str
    audio: str | None = None
    inputs: tuple[tuple[str, str], ...] = ()


class Corpus:
    """A pair of manifests while it is validated."""

    def __init__(self, place: int, manifests: Manifests, note: Note) -> None:
        self.place, self.manifests, self.task, self.note = place, manifests, manifests.task, note
        self.content = ManifestFile(manifests.content)
        self.audio = None if manifests.audio is None else ManifestFile(manifests.audio)
        self.items: list[Item] = []
        self.dataset = dataset_of(self.task)
        self.degrades = False

    def read(self) -> Iterator[Location]:
        """Find the items and note what lines are none; yields the recordings they name."""
        targets = self._targets()
        contents = self._rows(self.manifests.content)
        used: set[str] = set()
        for line, offset in contents.values():
            row = targets.get(line.record["audio_id"]) if targets is not None else None
            if targets is not None and row is None:
                message = (
                    f"audio_id {line.record['audio_id']!r} has no line in {self.manifests.audio}; add it or remove this"
                )
                self.note(of_error("missing_target", line.path, line.line, message, line.record["audio_id"]))
                continue
            used.add(line.record["audio_id"])
            yield from self._add(line, offset, row)
        for audio_id in (targets or {}).keys() - used:
            offset, number = (targets or {})[audio_id]
            assert self.audio is not None
            message = f"audio_id {audio_id!r} has no line in {self.manifests.content}; add it or remove this"
            self.note(of_error("missing_content", self.audio.path, number, message, audio_id))
        if isinstance(self.dataset, RestorationDataset) and self.items and not any(i.inputs for i in self.items):
            # No line names a degraded recording: the data set makes them.
            self.degrades = True
            self.dataset = dataset_of(self.task, degrades=True)

    def _targets(self) -> dict[str, tuple[int, int]] | None:
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
        rows = self._rows(self.manifests.audio)
        return {audio_id: (offset, line.line) for audio_id, (line, offset) in rows.items()}

    def _rows(self, path: Path) -> dict[str, tuple[Fields, int]]:
        """The usable lines of a manifest by ``audio_id``, with their offsets."""
        rows: dict[str, tuple[Fields, int]] = {}
        count = 0
        try:
            for number, offset, raw in scan_lines(path):
                count += 1
                try:
                    line = Fields(path, number, parse_line(f"{path}:{number}", raw))
                except UserError as error:
                    self.note(of_error("unreadable_line", path, number, error))
                    continue
                try:
                    audio_id = line.audio_id()
                except UserError as error:
                    self.note(of_error("bad_audio_id", path, number, error))
                    continue
                if audio_id in rows:
                    message = (
                        f"field 'audio_id' is {audio_id!r}, used on line {rows[audio_id][0].line} already; ids are "
                        "unique: rename one or remove this line"
                    )
                    self.note(of_error("repeated_audio_id", path, number, message, audio_id))
                    continue
                rows[audio_id] = (line, offset)
        except OSError as error:
            self.note(
                Finding("unreadable_manifest", path, 0, f"cannot be read ({error.strerror}); see its permissions")
            )
        if not count:
            self.note(Finding("empty_manifest", path, 0, "the manifest has no items"))
        return rows

    def _add(self, line: Fields, offset: int, row: tuple[int, int] | None) -> Iterator[Location]:
        audio_offset, audio_line = row or (-1, 0)
        item = Item(self.place, line.record["audio_id"], offset, line.line, audio_offset, audio_line, "")
        target = self.target_line(item)
        item.split = self._split_of(line, target)
        if target is not None and (location := _location(target, "audio")) is not None:
            item.audio = str(location)
            yield location
        if isinstance(self.dataset, RestorationDataset):
            field = self.dataset.input_field
            if (location := _location(line, field)) is not None:
                item.inputs = ((field, str(location)),)
                yield location
        self.items.append(item)

    def _split_of(self, line: Fields, target: Fields | None) -> str:
        for fields in (line, target):
            if fields is not None:
                try:
                    if (split := fields.text("split", None)) is not None:
                        return split
                except UserError as error:
                    self.note(of_error("bad_field", fields.path, fields.line, error, line.record["audio_id"]))
        return self.manifests.split or ""

    def line(self, item: Item) -> Fields:
        return self.content.fields(item.content_offset, item.content_line)

    def target_line(self, item: Item) -> Fields | None:
        if item.audio_offset < 0 or self.audio is None:
            return None
        return self.audio.fields(item.audio_offset, item.audio_line)


def _location(line: Fields, field: str) -> Location | None:
    """None where the field is missing or wrong, which the data set's check says."""
    if line.record.get(field) is None:
        return None
    try:
        return line.location(field)
    except UserError:
        return None


def dataset_of(task: str, degrades: bool = False) -> AudioGenerationDataset:
    """A data set without manifests, for its checks; it looks for no file."""
    kind = DATASETS[task]
    if degrades:
        assert issubclass(kind, RestorationDataset)
        return kind(None, degradation=degraded_elsewhere)
    return kind(None)


def check_lines(corpus: Corpus, line: Fields, target: Fields | None, duration_s: float | None, note: Note) -> bool:
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
            corpus.dataset.check(line, duration_s if duration_s is not None else stated_s)
    except UserError as error:
        note(of_error("bad_field", line.path, line.line, error, audio_id))
        good = False
    return good
