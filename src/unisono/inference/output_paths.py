"""Where sounds go: names, formats, folders that can be written to."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from unisono.errors import UserError
from unisono.files import exists, remove_abandoned
from unisono.tasks import get_task

_LONGEST_NAME = 40


def is_folder(output: Path, count_of_sounds: int) -> bool:
    """Whether the output is meant to be a folder."""
    if str(output) == "-":
        raise UserError("-o -: sounds are written to files; name one, or a folder")
    if (exists(output) and output.is_dir()) or not output.suffix:
        return True
    if count_of_sounds > 1:
        raise UserError(f"-o {output} is one file for {count_of_sounds} sounds; name a folder")
    return False


def check_extension(path: Path, video: Path | None) -> None:
    """Before anything is generated."""
    from unisono.media.audio import WRITABLE_FORMATS
    from unisono.media.sound_track import WRITABLE_VIDEOS

    writable = [f".{name.lower()}" for name in WRITABLE_FORMATS] + list(WRITABLE_VIDEOS if video is not None else ())
    if path.suffix.lower() not in writable:
        raise UserError(f"-o {path}: cannot write {path.suffix!r} here; use {', '.join(writable)}")


def extension(sound: Mapping[str, Any]) -> str:
    from unisono.media.sound_track import WRITABLE_VIDEOS

    if sound["video"] is None:
        return ".wav"
    own = Path(sound["video"]).suffix.lower()
    return own if own in WRITABLE_VIDEOS else ".mkv"  # which takes all kinds of pictures


def name_of(sound: Mapping[str, Any], has_folder: bool) -> str:
    """Of an output whose name was not given: the input's, or the words'."""
    source = sound["audio"] or sound["video"]
    if source is not None:
        return f"{source.stem}_{get_task(sound['task']).short}" if sound["task"] and not has_folder else source.stem
    words = sound["prompt"] or sound["text"] or sound["score"] or "sound"
    slug = re.sub(r"[^\w]+", "_", str(words).lower()).strip("_")
    return slug[:_LONGEST_NAME].strip("_") or "sound"


def free(path: Path, taken: set[Path], fresh: bool) -> Path:
    """``path``, numbered where another output has this name, or a file where nobody asked for it."""
    for number in count(2):
        if path not in taken and not (fresh and path.exists()):
            return path
        path = path.with_stem(f"{re.sub(r'_[0-9]+$', '', path.stem) if number > 2 else path.stem}_{number}")
    raise AssertionError


def make_writable(folder: Path) -> None:
    """Raise before the work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error}); choose another output") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written to; choose another output, or change its permissions")
    remove_abandoned(folder)
