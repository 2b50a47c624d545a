"""``manifest.jsonl``: one line for each item that is there, whole, in the order of the items.

While a run lasts, each process appends to a hidden file of its own; they become one manifest when the run ends, or, if
it was killed, when the next begins. A line is written after the audio file that it names.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Any

from unisono.data.manifest import write_jsonl
from unisono.errors import UserError
from unisono.files import remove_abandoned

logger = logging.getLogger(__name__)

Key = tuple[str, str]  # task, audio_id
Record = dict[str, Any]
FAILED = "failed"  # field of a part's line: why there is no audio


class Manifest:
    """The manifest of an output folder and the parts of it that are not merged yet.

    Args:
        folder: output folder.
        rank: of this process.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder, self.path = folder, folder / "manifest.jsonl"
        self._part = folder / f".manifest.part{rank:04d}.jsonl"

    def append(self, records: Iterable[Record]) -> None:
        """Add lines to this process's part, all of them or none."""
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        with explained(self._part), self._part.open("ab", buffering=0) as part:
            end, data = part.seek(0, 2), text.encode()
            try:
                while data:  # a full disk takes a piece first
                    data = data[part.write(data) :]
            except OSError:
                part.truncate(end)
                raise

    def read(self) -> tuple[dict[Key, Record], list[Record]]:
        """Lines of the manifest and its parts by item, the latest of each; and those of items that failed."""
        made: dict[Key, Record] = {}
        failed: dict[Key, Record] = {}
        for path in [self.path, *self._parts()]:
            for record in _whole_lines(path):
                key = (record["task"], record["audio_id"])
                (failed if FAILED in record else made)[key] = record
        return made, list(failed.values())

    def merge(self, records: Mapping[Key, Record], order: Iterable[Key]) -> None:
        """Write ``records`` as the manifest: items in ``order`` first, then the rest as they come; parts go."""
        asked = dict.fromkeys(key for key in order if key in records)
        rest = [key for key in records if key not in asked]
        with explained(self.path):
            write_jsonl(self.path, (records[key] for key in [*asked, *rest]))
            for part in self._parts():
                part.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(".manifest.part*.jsonl"))

    def remove_temporary_files(self) -> None:
        """What a process that was killed was writing."""
        folders = [self.folder, *(path for path in self.folder.iterdir() if path.is_dir())]
        for folder in folders:
            remove_abandoned(folder)


def _whole_lines(path: Path) -> Iterator[Record]:
    """Records of a file, without what a killed process tore."""
    if not path.is_file():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            record = json.loads(line)
            if isinstance(record["task"], str) and isinstance(record["audio_id"], str):
                yield record
                continue
        except (ValueError, KeyError, TypeError):
            pass
        if line:
            logger.info("%s:%d is no whole line; its item is generated again", path, number)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system says about a file that cannot be written into a message with a remedy."""
    try:
        yield
    except OSError as error:
        folder = path.parent
        free_bytes = shutil.disk_usage(folder).free if folder.is_dir() else 0
        is_full = error.errno in (ENOSPC, EDQUOT, EFBIG)
        reason = "the disk is full" if is_full else error.strerror or str(error)
        raise UserError(
            f"{path} could not be written: {reason} ({free_bytes / 1e9:.2f} GB free). Make room, or choose another "
            "output_dir that can be written to; with the same command, finished items are kept"
        ) from error
