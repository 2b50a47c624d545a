"""Captioned clips: found on disk under the names that download tools give them, and measured."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unisono.data.prepare.corpora.engine import Corpus, Step
from unisono.data.prepare.corpora.files import AUDIO_SUFFIXES, files_by_stem, one_path
from unisono.data.prepare.corpora.items import Found, Item, LeaveOut
from unisono.data.prepare.jobs import Record
from unisono.errors import UserError
from unisono.media import tolerances
from unisono.media.audio import audio_info


def captioned_corpus(
    task: str, name: str, version: int, license_name: str, find: Callable[[Path], Found], groups: str = "video"
) -> Corpus:
    """A corpus of one data set whose lines are the items' fields, with the caption among them."""
    return Corpus(
        name=name,
        version=version,
        license=license_name,
        tasks=(task,),
        groups=groups,
        find=find,
        steps=(Step("measure", "reading headers", measure_clip, chunk_items=256),),
        lines=lambda item, record: {task: item.fields},
    )


def clips_folder(clips: str | os.PathLike | None) -> list[Path]:
    """The folder of the option ``clips``, if it was given, as a list."""
    return [] if clips is None else [Path(os.path.abspath(clips))]


def clip_names(video: str, start_s: float, end_s: float) -> list[str]:
    """File names without suffix under which tools save a part of a YouTube video, the part's times in the name."""
    start, end = round(start_s), round(end_s)
    names = [
        f"{video}_{start}",
        f"{video}_{start}_{end}",
        f"{video}_{start:06d}",
        f"{video}_{start:06d}_{end:06d}",
        f"{video}_{1000 * start}_{1000 * end}",
        f"{video}_{start:.1f}",
        f"{video}_{start:.3f}_{end:.3f}",
        f"{video}-{start}-{end}",
        f"{video}-[{start}-{end}]",
        f"[{video}]-[{start}-{end}]",
    ]
    return [*names, *(f"Y{name}" for name in names)]


@dataclass
class ClipFinder:
    """The recordings below some folders.

    Args:
        folders: searched with all their folders.
        videos: the YouTube id of every clip of the corpus, repeated where a video has several clips: files that carry
            nothing but the id are taken only where it is certain which clip they are.
        suffixes: of the files, the preferred first.
    """

    folders: Sequence[Path]
    videos: Iterable[str]
    suffixes: Sequence[str] = AUDIO_SUFFIXES
    found: dict[str, list[str]] = field(init=False)
    counts: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = Counter(self.videos)
        self.found = {}
        for folder in dict.fromkeys(self.folders):
            if not folder.is_dir():
                raise UserError(f"--clips {folder}: no such folder; give the folder of the downloaded clips")
            for stem, paths in files_by_stem(folder, self.suffixes).items():
                known = self.found.setdefault(stem, [])
                known.extend(path for path in paths if path not in known)

    def find(
        self, video: str, start_s: float, end_s: float, *, others: Sequence[str] = (), folder_words: Sequence[str] = ()
    ) -> str:
        """The file of a clip.

        Args:
            others: further names, tried last.
            folder_words: where several files fit, those in a folder of such a name are meant.

        Raises:
            LeaveOut: no file, or several.
        """
        names = clip_names(video, start_s, end_s)
        names += [video, f"Y{video}"] if self.counts[video] == 1 else []
        for name in (*names, *others):
            if name in self.found:
                return one_path(self.found[name], self.suffixes, folder_words)
        if self.counts[video] > 1 and video in self.found:
            raise LeaveOut(
                "ambiguous", f"{self.found[video][0]} may be any of {self.counts[video]} clips of this video"
            )
        raise LeaveOut("missing_audio", f"no file {names[0]} (or another usual name) with one of {self.suffixes}")


def measure_clip(item: Item) -> Record:
    """A clip's length; ``item.data`` is what it should be in seconds, or None.

    Raises:
        LeaveOut: much longer than it should be.
    """
    duration_s = audio_info(item.audio)[1]
    if duration_s == 0:
        raise UserError(f"{item.audio} is empty (0 samples)")
    if item.data is not None and duration_s > item.data + tolerances.CUT_S:
        raise LeaveOut(
            "too_long", f"{item.audio} lasts {duration_s:.1f} s instead of {item.data:g}: the whole video? cut it"
        )
    return {"duration_s": duration_s}


def one_or_many(captions: Sequence[str]) -> str | list[str]:
    return captions[0] if len(captions) == 1 else list(captions)
