"""The folder a recipe writes: held by one run at a time, resumable, complete when ``corpus.json`` is in it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from unisono.data.manifest import relative_path
from unisono.data.prepare.jobs import Record
from unisono.data.prepare.splits import SPLITS
from unisono.errors import UserError
from unisono.files import locked, replaced_file, write_json

REPORT = "corpus.json"
LEFT_OUT = "left_out.jsonl"
WORK = ".work"


def is_finished(out: Path, settings: Record) -> bool:
    """True if ``out`` holds this very corpus; another finished corpus is an error."""
    try:
        made = dict(json.loads((out / REPORT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return False
    if different := _differences(made, settings):
        raise UserError(f"{out} holds another corpus already ({different}); remove it or choose another folder")
    return True


def _differences(made: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {json.dumps(made.get(key))} instead of {json.dumps(value)}"
        for key, value in settings.items()
        if made.get(key) != value
    )


@contextmanager
def held_folder(out: Path, settings: Record) -> Iterator[Path]:
    """The working folder in ``out``, for one run at a time; an unfinished run goes on only with the same settings.

    Raises:
        UserError: ``out`` is a file, holds something else, is being worked on, or was begun with other settings.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; choose a folder")
    work = out / WORK
    if out.is_dir() and not work.is_dir() and (others := sorted(path.name for path in out.iterdir())):
        raise UserError(f"--out {out} holds other files ({', '.join(others[:3])}); choose a new or empty folder")
    refusal = f"another run is preparing {out} at this moment; wait for it, or end it"
    with locked(work / "lock", refusal=refusal):
        state = work / "state.json"
        if not state.is_file():
            write_json(state, settings)
        elif different := _differences(json.loads(state.read_text(encoding="utf-8")), settings):
            raise UserError(f"{out} holds an unfinished corpus ({different}); remove the folder or choose another")
        yield work


class ManifestWriter:
    """Both manifests of every task and split, written side by side; they get their names when the context ends well."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.clips: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.speakers: set[str] = set()
        self.phonemes: set[str] = set()
        self._files: dict[tuple[str, str], tuple[TextIO, TextIO]] = {}
        self._opened = ExitStack()

    def __enter__(self) -> ManifestWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def add(self, task: str, split: str, content: Record, audio: Record) -> None:
        """Add an item; values that are a ``Path`` become relative to the manifest, those that are None vanish."""
        folder = self.out / task / split
        if (task, split) not in self._files:
            self._files[task, split] = (self._open(folder / "content.jsonl"), self._open(folder / "audio.jsonl"))
        for file, record in zip(self._files[task, split], (content, audio), strict=True):
            line = {
                key: relative_path(value, folder) if isinstance(value, Path) else value
                for key, value in record.items()
                if value is not None
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.clips[task, split] += 1
        self.seconds[task, split] += audio["duration_s"]
        if "speaker" in content:
            self.speakers.add(content["speaker"])
        self.phonemes.update(content.get("phonemes", ()))

    def _open(self, path: Path) -> TextIO:
        temporary = self._opened.enter_context(replaced_file(path))
        return self._opened.enter_context(temporary.open("w", encoding="utf-8"))

    def counts(self, tasks: tuple[str, ...]) -> dict[str, dict[str, Record]]:
        return {
            task: {
                split: {"clips": self.clips[task, split], "minutes": round(self.seconds[task, split] / 60, 2)}
                for split in SPLITS
            }
            for task in tasks
        }


def summary_line(out: Path) -> str:
    """A corpus in one line: clips and hours of every data set, and what was left out."""
    report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    parts = []
    for task, splits in report["datasets"].items():
        sizes = ", ".join(f"{split} {n['clips']} ({n['minutes'] / 60:.2f} h)" for split, n in splits.items())
        parts.append(f"{task}: {sizes}")
    left, total = report["items_left_out"], report["items_left_out"] + report["items_kept"]
    if left:
        kinds = ", ".join(f"{kind} {count}" for kind, count in report["left_out"].items())
        parts.append(f"left out {left} of {total} ({kinds}), listed in {out / LEFT_OUT}")
    return f"{report['recipe']}: " + "; ".join(parts)
