"""The records of jobs in one file, so that what was done before a kill is not done again."""

from __future__ import annotations

import json
import os
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class RecordFile:
    """The records of jobs, appended to one file as they come.

    A line is the checksum of the rest, the job's id and its record as JSON (null: it is to be done again). From a line
    that does not fit its checksum on, which is what a kill or a power cut leaves, jobs count as not done.
    """

    NAME = "records.log"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / self.NAME
        self._file = self.path.open("ab", buffering=0)
        self._places: dict[str, int] = {}
        self._end = 0
        with self.path.open("rb") as lines:
            for line in lines:
                checksum, _, rest = line.partition(b"\t")
                if checksum != _checksum(rest):
                    break
                self._note(*rest.split(b"\t", 1))
                self._end += len(line)
        os.truncate(self.path, self._end)

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._places

    def _note(self, job_id: bytes, record: bytes) -> None:
        if record == b"null\n":
            self._places.pop(job_id.decode(), None)
        else:
            self._places[job_id.decode()] = self._end

    def add(self, job_id: str, record: Record | None) -> None:
        """Append a record; None forgets the job's last one."""
        rest = f"{job_id}\t{json.dumps(record, ensure_ascii=False)}\n".encode("utf-8", "surrogatepass")
        line = _checksum(rest) + b"\t" + rest
        written = self._file.write(line)
        if written != len(line):
            raise OSError(f"{self.path}: the disk is full")
        self._note(*rest.split(b"\t", 1))
        self._end += len(line)

    def results(self, order: Sequence[str]) -> Results:
        return Results(self.path, array("q", (self._places[job_id] for job_id in order)))


def _checksum(data: bytes) -> bytes:
    return b"%08x" % zlib.crc32(data)


@dataclass(frozen=True)
class Results:
    """Records of jobs in order, read from their file as they are asked for.

    Attributes:
        path: of the file.
        places: where each job's line begins, in bytes.
    """

    path: Path
    places: array[int]

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Record]:
        for _, record in self._lines():
            yield json.loads(record.decode("utf-8", "surrogatepass"))

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        with self.path.open("rb") as file:
            for place in self.places:
                file.seek(place)
                _, job_id, record = file.readline().split(b"\t", 2)
                yield job_id.decode(), record

    def items(self) -> Iterator[Record]:
        """Of :func:`finish_items`: for each item ``{"record": …}`` or ``{"left_out": [kind, reason]}``."""
        for record in self:
            yield from record["results"]

    def forget_left_out(self) -> None:
        """Have the next run look again at the chunks with items that were left out."""
        again = [
            job_id for job_id, record in self._lines() if any("left_out" in r for r in json.loads(record)["results"])
        ]
        with RecordFile(self.path.parent) as records:
            for job_id in again:
                records.add(job_id, None)
