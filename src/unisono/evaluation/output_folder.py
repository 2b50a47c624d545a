"""The folder that an evaluation or a comparison writes: held while it is written, with a safe place for every item."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from unisono.errors import UserError
from unisono.evaluation.items import EvaluationItem
from unisono.evaluation.results import ITEMS_FILE, METRICS_FILE, REPORT_FILE
from unisono.files import locked


@contextmanager
def written(output_dir: Path) -> Iterator[None]:
    """Hold a folder of results while they are written: nobody else may, and what its disk refuses is one error."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for name in (METRICS_FILE, ITEMS_FILE, REPORT_FILE):
            if (output_dir / name).is_dir():
                raise UserError(f"{output_dir / name} is a folder; name another output folder")
        with locked(output_dir / ".lock", refusal=f"{output_dir}: another evaluation is writing there; wait for it"):
            yield
    except OSError as error:
        raise UserError(
            f"{output_dir}: cannot be written ({error}); name another output folder, or make room"
        ) from error


def remove_results(output_dir: Path) -> None:
    """To be called before players are written: should this evaluation be killed, an older one's numbers and page must
    not lie beside them."""
    for name in (METRICS_FILE, ITEMS_FILE, REPORT_FILE):
        (output_dir / name).unlink(missing_ok=True)


def folder_names(items: Sequence[EvaluationItem]) -> list[str]:
    """``TASK/ITEM`` for every item: letters, digits, "-" and "_" only, so that any file system and any URL takes it.

    An id that had to be changed carries a hash of the original, and so do ids that would differ in case alone.
    """
    taken: set[str] = set()
    names = []
    for item in items:
        task, name = safe_name(item.task), safe_name(item.audio_id)
        if f"{task}/{name}".casefold() in taken:
            name = f"{name}-{short_hash(item.audio_id)}"
        assert f"{task}/{name}".casefold() not in taken, "two ids with one hash"
        taken.add(f"{task}/{name}".casefold())
        names.append(f"{task}/{name}")
    return names


def safe_name(text: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:60]
    # Windows cannot have files of these names.
    reserved = re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", plain)
    return plain if plain == text and not reserved else f"{plain}-{short_hash(text)}"


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:12]
