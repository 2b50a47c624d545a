"""Which manifests are meant, and of which task and split they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unisono.errors import UserError
from unisono.tasks import TASKS, get_task

CONTENT, AUDIO = "content.jsonl", "audio.jsonl"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Manifests:
    """A pair of manifests.

    Attributes:
        content, audio: paths; ``audio`` is None where there is no such file.
        task: its name.
        split: name of the folder where that is a split's; lines may say another.
    """

    content: Path
    audio: Path | None
    task: str
    split: str | None


def find_manifests(paths: Sequence[Path], task: str | None = None) -> list[Manifests]:
    """All pairs of manifests that are named, or lie in folders that are named, each once.

    Args:
        paths: ``content.jsonl`` files, folders of splits, of data sets or of whole corpora.
        task: of those in whose path no folder has a task's name.

    Raises:
        UserError: nothing there, or a task that cannot be told.
    """
    default = None if task is None else get_task(task).name
    found: dict[str, Manifests] = {}
    for path in paths:
        for content in _contents(path):
            own = content.with_name(f"{content.stem}.{AUDIO}")  # what a step wrote with NAME.jsonl
            audio = own if own.exists() else content.with_name(AUDIO)
            folder = task_folder(content)
            named = folder.name if folder is not None else default
            if named is None:
                raise UserError(
                    f"{content}: no folder above it has a task's name; say which it is with --task ({', '.join(TASKS)})"
                )
            split = content.parent.name if content.parent.name in SPLITS else None
            found.setdefault(
                os.path.realpath(content), Manifests(content, audio if audio.exists() else None, named, split)
            )
    return list(found.values())


def _contents(path: Path) -> list[Path]:
    if path.is_file():
        if path.name == AUDIO:
            raise UserError(f"{path}: give {CONTENT} or its folder; {AUDIO} is found beside it")
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; give folders with {CONTENT}, or such files")
    contents = []
    for folder, names, files in os.walk(path):
        names[:] = [name for name in names if not name.startswith(".")]
        if CONTENT in files:
            contents.append(Path(folder) / CONTENT)
    if not contents:
        raise UserError(f"{path}: no {CONTENT} in it or below; see docs/data_format.md")
    return sorted(contents, key=_order)


def _order(content: Path) -> tuple:
    split = content.parent.name
    return (content.parent.parent, SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def task_folder(content: Path) -> Path | None:
    """The nearest folder above a manifest that has a task's name."""
    return next((folder for folder in content.absolute().parents if folder.name in TASKS), None)


def common_folder(manifests: Sequence[Manifests]) -> Path:
    """The deepest folder that holds all of them."""
    folders = [os.path.abspath(one.content.parent) for one in manifests]
    return Path(os.path.commonpath(folders))
