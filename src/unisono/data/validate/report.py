"""What was found, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import IO, Any

import numpy as np

from unisono import __version__
from unisono.data.validate.corpora import common_folder
from unisono.data.validate.findings import ERROR, KINDS, WARNING
from unisono.data.validate.lines import Corpus
from unisono.data.validate.recordings import NONE
from unisono.data.validate.result import Validated
from unisono.errors import UserError
from unisono.files import replaced_file

logger = logging.getLogger(__name__)

REPORT_NAME = "validation.json"


def statistics(validated: Validated) -> list[dict[str, Any]]:
    """Per pair of manifests: items, hours, rates, channels, speakers, vocabulary."""
    return [_of_corpus(validated, corpus) for corpus in validated.corpora]


def _of_corpus(validated: Validated, corpus: Corpus) -> dict[str, Any]:
    numbers = corpus.items["audio"]
    numbers = numbers[numbers != NONE]
    numbers = numbers[validated.recordings.known[numbers]]
    measured = validated.recordings.measured
    durations_s = np.sort(validated.recordings.duration_s[numbers])
    levels = validated.findings.levels([corpus.manifests.content, corpus.manifests.audio])
    splits = {validated.splits.names[int(n)]: count for n, count in _counts(corpus.items["split"]).items()}
    return {
        "content": str(corpus.manifests.content),
        "audio": None if corpus.manifests.audio is None else str(corpus.manifests.audio),
        "task": corpus.task,
        "splits": dict(sorted(splits.items())),
        "items": len(corpus),
        "hours": round(float(durations_s.sum()) / 3600, 6),
        "shortest_s": round(float(durations_s[0]), 6) if len(numbers) else None,
        "median_s": round(float(durations_s[len(numbers) // 2]), 6) if len(numbers) else None,
        "longest_s": round(float(durations_s[-1]), 6) if len(numbers) else None,
        "sample_rates": _counts(measured["sample_rate"][numbers]),
        "channels": _counts(measured["num_channels"][numbers]),
        "degraded_on_the_fly": corpus.degrades,
        "speakers": _most_common(validated.speakers[corpus.place]),
        "phonemes": _most_common(validated.symbols[corpus.place]),
        "errors": levels[ERROR],
        "warnings": levels[WARNING],
    }


def _counts(values: np.ndarray) -> dict[str, int]:
    found, counts = np.unique(values, return_counts=True)
    return {str(value): int(count) for value, count in zip(found, counts, strict=True)}


def _most_common(counts: Counter[str]) -> dict[str, int]:
    """Equally common ones by name: which was found first depends on the processes."""
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def write_report(validated: Validated, path: Path) -> Path:
    """All findings and statistics as JSON, whole or not at all; findings are written one by one.

    Raises:
        UserError: the file cannot be written.
    """
    head = {
        "format": 1,
        "unisono": __version__,
        "errors": validated.num_errors,
        "warnings": validated.num_warnings,
        "kinds": validated.findings.kinds(),
        "notes": validated.notes,
        "corpora": statistics(validated),
    }
    try:
        with replaced_file(path) as temporary, temporary.open("w", encoding="utf-8") as out:
            _write(out, head, validated)
    except OSError as error:
        raise UserError(
            f"{path}: the report cannot be written ({error.strerror}); give another file with --json"
        ) from error
    return path


def _write(out: IO[str], head: dict[str, Any], validated: Validated) -> None:
    text = json.dumps(_printable(head), ensure_ascii=False, indent=1)
    out.write(text.removesuffix("\n}") + ',\n "findings": [')
    for number, finding in enumerate(validated.findings):
        out.write((",\n  " if number else "\n  ") + json.dumps(_printable(finding.record()), ensure_ascii=False))
    out.write("\n ]\n}\n")


def _printable(value: Any) -> Any:
    """Text that UTF-8 can hold; a file's name need not be."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_printable(key): _printable(one) for key, one in value.items()}
    return [_printable(one) for one in value] if isinstance(value, list) else value


def write_default_report(validated: Validated) -> Path | None:
    """``validation.json`` in the folder of all manifests, else in the working directory, else nowhere; says so."""
    preferred = common_folder([corpus.manifests for corpus in validated.corpora]) / REPORT_NAME
    for path in dict.fromkeys([preferred, Path.cwd() / REPORT_NAME]):
        try:
            return write_report(validated, path)
        except UserError as error:
            logger.warning("%s", error)
    return None


def table(validated: Validated, places: int = 3) -> str:
    """What was read, counts per kind, the first few places of each."""
    lines = [*_overview(validated), ""]
    counts = validated.findings.kinds()
    for level in (ERROR, WARNING):
        kinds = sorted((kind for kind in counts if KINDS[kind].level == level), key=lambda kind: (-counts[kind], kind))
        if not kinds:
            continue
        lines.append(f"{level}s:")
        for kind in kinds:
            lines.append(f"  {counts[kind]:>7}  {kind}: {KINDS[kind].meaning}")
            shown = validated.findings.of_kind(kind, places)
            lines += [f"           {finding.where}: {finding.message}" for finding in shown]
            if (hidden := counts[kind] - places) > 0 and places > 0:
                lines.append(f"           … and {hidden} more")
    lines += [f"note: {note}" for note in validated.notes]
    lines.append(f"{validated.num_errors} errors, {validated.num_warnings} warnings")
    return _printable("\n".join(lines))


def _overview(validated: Validated) -> list[str]:
    header = ("manifest", "task", "items", "hours", "rates (Hz)", "speakers", "errors", "warnings")
    rows = [header]
    for one in statistics(validated):
        rates = ", ".join(one["sample_rates"]) or "-"
        speakers = str(len(one["speakers"])) if one["speakers"] else "-"
        numbers = (str(one["items"]), f"{one['hours']:.2f}", rates, speakers, str(one["errors"]), str(one["warnings"]))
        rows.append((one["content"], one["task"], *numbers))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
