"""MusicCaps: 5 521 clips of music from AudioSet, ten seconds each, described by musicians."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from unisono.data.prepare.corpora.clips import ClipFinder, captioned_corpus, clips_folder
from unisono.data.prepare.corpora.engine import RunOptions, build_corpus
from unisono.data.prepare.corpora.files import corpus_root, read_table
from unisono.data.prepare.corpora.items import Found, Item, LeaveOut

NAME, VERSION = "musiccaps", 1
LICENSE = "captions: CC-BY-SA-4.0; audio: rights of its uploaders"
TASK = "text_to_music"
_TABLES = ("musiccaps-public.csv", "*[mM]usic[cC]aps*.csv")


def prepare_musiccaps(out: Path, *, clips: str | os.PathLike | None = None, **run: Unpack[RunOptions]) -> Path:
    """``text_to_music`` from the clips that are there; ``clips`` is their folder where it is not in the source."""
    folders = clips_folder(clips)
    corpus = captioned_corpus(TASK, NAME, VERSION, LICENSE, lambda source: find(source, folders))
    return build_corpus(corpus, out, run)


def find(source: Path, clips: Sequence[Path] = ()) -> Found:
    root = corpus_root(source, "MusicCaps", [_TABLES])
    table = next(path for pattern in _TABLES for path in sorted(root.glob(pattern)))
    rows, broken = read_table(table, ("ytid", "start_s", "end_s", "caption", "is_audioset_eval"))
    found = Found(left_out=broken)
    finder = ClipFinder([source, *clips], (row["ytid"] for row in rows))
    for row in rows:
        evaluation = row["is_audioset_eval"].lower()
        try:
            start_s, end_s = float(row["start_s"]), float(row["end_s"])
            if evaluation not in ("true", "false") or end_s <= start_s or not row["caption"] or not row["ytid"]:
                raise ValueError("a field is empty, or no truth value, or the clip ends before it begins")
        except ValueError as error:
            found.leave_out(row.where, "broken_line", str(error))
            continue
        audio_id = f"{row['ytid']}_{start_s:g}"
        try:
            path = finder.find(row["ytid"], start_s, end_s)
        except LeaveOut as reason:
            found.leave_out(audio_id, reason.kind, reason.reason)
            continue
        fields = {"caption": row["caption"]}
        if aspects := row.get("aspect_list"):
            fields["aspects"] = aspects
        split = "test" if evaluation == "true" else "train"
        found.items.append(Item(audio_id, path, row["ytid"], split, fields, data=end_s - start_s))
    return found
