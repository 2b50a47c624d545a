"""What was found, as a table for people and as JSON for programs."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from unisono import __version__
from unisono.data.validate.corpora import common_folder
from unisono.data.validate.findings import ERROR, KINDS, WARNING, Finding
from unisono.data.validate.lines import Corpus
from unisono.data.validate.runner import Validated
from unisono.errors import UserError
from unisono.files import write_json

logger = logging.getLogger(__name__)

REPORT_NAME = "validation.json"


def statistics(validated: Validated) -> list[dict[str, Any]]:
    """Per pair of manifests: items, hours, rates, channels, speakers, vocabulary."""
    return [_of_corpus(validated, corpus) for corpus in validated.corpora]


def _of_corpus(validated: Validated, corpus: Corpus) -> dict[str, Any]:
    facts = [known for item in corpus.items if item.audio and (known := validated.facts.get(item.audio))]
    durations_s = sorted(known.duration_s for known in facts)
    speakers, symbols = validated.speakers[corpus.place], validated.symbols[corpus.place]
    levels = Counter(
        finding.level
        for finding in validated.findings
        if finding.path in (corpus.manifests.content, corpus.manifests.audio)
    )
    return {
        "content": str(corpus.manifests.content),
        "audio": None if corpus.manifests.audio is None else str(corpus.manifests.audio),
        "task": corpus.task,
        "splits": dict(sorted(Counter(item.split for item in corpus.items).items())),
        "items": len(corpus.items),
        "hours": round(sum(durations_s) / 3600, 6),
        "shortest_s": round(durations_s[0], 6) if durations_s else None,
        "median_s": round(durations_s[len(durations_s) // 2], 6) if durations_s else None,
        "longest_s": round(durations_s[-1], 6) if durations_s else None,
        "sample_rates": {str(rate): count for rate, count in sorted(Counter(f.sample_rate for f in facts).items())},
        "channels": {str(number): count for number, count in sorted(Counter(f.num_channels for f in facts).items())},
        "degraded_on_the_fly": corpus.degrades,
        "speakers": dict(speakers.most_common()),
        "phonemes": dict(symbols.most_common()),
        "errors": levels[ERROR],
        "warnings": levels[WARNING],
    }


def write_report(validated: Validated, path: Path) -> Path:
    """All findings and statistics as JSON, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    levels = Counter(finding.level for finding in validated.findings)
    report = {
        "format": 1,
        "unisono": __version__,
        "errors": levels[ERROR],
        "warnings": levels[WARNING],
        "kinds": dict(sorted(Counter(finding.kind for finding in validated.findings).items())),
        "notes": validated.notes,
        "corpora": statistics(validated),
        "findings": [finding.record() for finding in validated.findings],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _printable(report))
    except OSError as error:
        raise UserError(
            f"{path}: the report cannot be written ({error.strerror}); give another file with --json"
        ) from error
    return path


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
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in validated.findings:
        by_kind[finding.kind].append(finding)
    for level in (ERROR, WARNING):
        kinds = sorted((kind for kind in by_kind if KINDS[kind].level == level), key=lambda k: (-len(by_kind[k]), k))
        if not kinds:
            continue
        lines.append(f"{level}s:")
        for kind in kinds:
            lines.append(f"  {len(by_kind[kind]):>7}  {kind}: {KINDS[kind].meaning}")
            lines += [f"           {finding.where}: {finding.message}" for finding in by_kind[kind][:places]]
            if (hidden := len(by_kind[kind]) - places) > 0 and places > 0:
                lines.append(f"           … and {hidden} more")
    lines += [f"note: {note}" for note in validated.notes]
    errors = len(validated.errors)
    lines.append(f"{errors} errors, {len(validated.findings) - errors} warnings")
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
