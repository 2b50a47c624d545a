"""AudioCaps: 51 000 clips of AudioSet, ten seconds each, described in words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from unisono.data.prepare.corpora.clips import ClipFinder, captioned_corpus, clips_folder, one_or_many
from unisono.data.prepare.corpora.engine import RunOptions, build_corpus
from unisono.data.prepare.corpora.files import corpus_root, read_table
from unisono.data.prepare.corpora.items import Found, Item, LeaveOut
from unisono.errors import UserError

NAME, VERSION = "audiocaps", 1
LICENSE = "captions: see AudioCaps; audio: rights of its uploaders"
TASK = "text_to_audio"
CLIP_S = 10.0
_TABLES = {"train": ("train.csv",), "val": ("val.csv", "validation.csv"), "test": ("test.csv",)}
_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")


def prepare_audiocaps(out: Path, *, clips: str | os.PathLike | None = None, **run: Unpack[RunOptions]) -> Path:
    """``text_to_audio`` from the clips that are there; ``clips`` is their folder where it is not in the source."""
    folders = clips_folder(clips)
    corpus = captioned_corpus(TASK, NAME, VERSION, LICENSE, lambda source: find(source, folders))
    return build_corpus(corpus, out, run)


def find(source: Path, clips: Sequence[Path] = ()) -> Found:
    root = corpus_root(source, "AudioCaps", [[name for names in _TABLES.values() for name in names]])
    found = Found()
    captions: dict[tuple[str, str, float], list[str]] = {}
    numbers: dict[tuple[str, str, float], list[str]] = {}
    for split, names in _TABLES.items():
        for table in (root / name for name in names if (root / name).is_file()):
            rows, broken = read_table(table, _COLUMNS)
            found.left_out += broken
            for row in rows:
                try:
                    clip = (split, row["youtube_id"], float(row["start_time"]))
                except ValueError:
                    found.leave_out(row.where, "broken_line", f"start_time is {row['start_time']!r}, not seconds")
                    continue
                if not row["youtube_id"] or not row["caption"]:
                    found.leave_out(row.where, "broken_line", "youtube_id or caption is empty")
                    continue
                captions.setdefault(clip, []).append(row["caption"])
                numbers.setdefault(clip, []).append(row["audiocap_id"])
    finder = ClipFinder([source, *clips], (video for _, video, _ in captions))
    for clip, texts in captions.items():
        split, video, start_s = clip
        audio_id = f"{video}_{start_s:g}"
        try:
            path = finder.find(video, start_s, start_s + CLIP_S, others=numbers[clip], folder_words=[split])
        except LeaveOut as reason:
            found.leave_out(audio_id, reason.kind, reason.reason)
            continue
        found.items.append(Item(audio_id, path, video, split, {"caption": one_or_many(texts)}, data=CLIP_S))
    if not captions and not found.left_out:
        raise UserError(f"{root}: the tables have no captions")
    return found
