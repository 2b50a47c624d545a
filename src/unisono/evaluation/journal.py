"""What an evaluation has measured so far, so that one that is interrupted goes on where it stopped.

A hidden file in the output folder gets a line for every measured item and vanishes when the evaluation ends well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import unisono
from unisono.evaluation.measure import ClipResult, ItemResult, Job
from unisono.evaluation.metric import BUG, Outcome
from unisono.evaluation.results import JOURNAL_FILE
from unisono.evaluation.summary import to_json
from unisono.media.locations import Location


class Journal:
    """Results of items by where their players' files lie.

    A result counts only while all that it came from is as it was: the item, its files (by size and time), the coded
    reference, the metrics' cards, this package's code; and while its own files are still those that it wrote.

    Args:
        output_dir: of the evaluation; held by this process (`output_folder.written`).
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / JOURNAL_FILE
        self._lines = {line["folder"]: line for line in _whole_lines(self.path)}
        self._keys: dict[str, str] = {}  # by folder, taken before measuring: a file may change meanwhile
        self._started = False

    def recall(self, job: Job) -> ItemResult | None:
        """What came out of the same job before, or None; to be asked before the job is measured."""
        line, key = self._lines.get(job.folder), _key(job)
        self._keys[job.folder] = key
        if line is None or line["key"] != key:
            return None
        try:
            result = _result(line["result"])
            return result if line["written"] == _stamps_of_clips(result, job.output_dir) else None
        except (KeyError, TypeError, AttributeError, AssertionError):  # a line that somebody changed
            return None

    def keep(self, job: Job, result: ItemResult) -> None:
        """Add a line, unless something failed by a fault of ours (such as too little memory), which may not recur."""
        outcomes = (outcome for by_metric in result.outcomes.values() for outcome in by_metric.values())
        if any(outcome.reason.startswith(BUG) for outcome in outcomes):
            return
        line = {
            "folder": job.folder,
            "key": self._keys[job.folder],
            "written": _stamps_of_clips(result, job.output_dir),
            "result": asdict(result),
        }
        # The first line begins on a line of its own, whatever a killed process left of its last.
        with self.path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(("" if self._started else "\n") + to_json(line) + "\n")
        self._started = True


def remove_journal(output_dir: Path) -> None:
    """To be called when the evaluation is written whole."""
    (output_dir / JOURNAL_FILE).unlink(missing_ok=True)


def _key(job: Job) -> str:
    """Of all that the result depends on."""
    item = job.item
    digest = hashlib.sha256(_code().encode())
    sources = [item.generated, item.reference, item.input_audio, *item.files.values()]
    stamps = [_stamp(source) for source in sources if source is not None]
    cards = [metric.cards for metric in job.metrics]
    digest.update(repr((item, stamps, job.sample_rate, cards)).encode("utf-8", "surrogatepass"))
    if job.coded is not None:
        digest.update(repr((job.coded.problem, job.coded.notes)).encode())
        digest.update(b"" if job.coded.waveform is None else job.coded.waveform.tobytes())
    return digest.hexdigest()


def _stamp(source: Path | Location) -> list[int] | str | None:
    """Size and time of a file; the digest of what came without one; None where there is none."""
    location = Location.of(source)
    if location.data is not None:
        return hashlib.sha256(location.data).hexdigest()
    try:
        status = location.path.stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def _stamps_of_clips(result: ItemResult, output_dir: Path) -> list[list[int] | str | None]:
    names = [name for clip in result.clips.values() for name in (clip.audio, clip.picture) if name is not None]
    return [_stamp(output_dir / name) for name in names]


@lru_cache(maxsize=1)
def _code() -> str:
    """Hash of this package's code."""
    digest = hashlib.sha256()
    folder = Path(unisono.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _result(stored: dict[str, Any]) -> ItemResult:
    outcomes = {
        row: {name: Outcome(**outcome) for name, outcome in by_metric.items()}
        for row, by_metric in stored["outcomes"].items()
    }
    clips = {key: ClipResult(**clip) for key, clip in stored["clips"].items()}
    return ItemResult(outcomes, clips, stored["span_s"], stored["reference_hash"], stored["source"])


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a journal, without what a killed process tore."""
    if not path.is_file():
        return
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        whole = isinstance(record, dict) and record.keys() >= {"key", "written", "result"}
        if whole and isinstance(record.get("folder"), str):
            yield record
