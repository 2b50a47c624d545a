"""Clotho 2.1 (and 1.0): sounds from Freesound of 15 to 30 s, each described five times."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Unpack

from unisono.data.prepare.corpora.clips import captioned_corpus, one_or_many
from unisono.data.prepare.corpora.engine import RunOptions, build_corpus
from unisono.data.prepare.corpora.files import AUDIO_SUFFIXES, corpus_root, files_by_stem, one_path, read_table
from unisono.data.prepare.corpora.items import Found, Item, LeaveOut

NAME, VERSION = "clotho", 1
LICENSE = "captions: Tampere University licence; audio: the Freesound licence of each file"
TASK = "text_to_audio"
_SPLITS = {"development": "train", "validation": "val", "evaluation": "test"}
_TABLE = "clotho_captions_{}.csv"
_METADATA = "clotho_metadata_{}.csv"
_CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))


def prepare_clotho(out: Path, **run: Unpack[RunOptions]) -> Path:
    """``text_to_audio`` from the parts that are there, five captions a clip."""
    return build_corpus(captioned_corpus(TASK, NAME, VERSION, LICENSE, find, groups="recording"), out, run)


def find(source: Path) -> Found:
    root = corpus_root(source, "Clotho", [[_TABLE.format(part) for part in _SPLITS]])
    found = Found()
    recordings = files_by_stem(source, AUDIO_SUFFIXES)
    for part, split in _SPLITS.items():
        if not (root / _TABLE.format(part)).is_file():
            continue
        rows, broken = read_table(root / _TABLE.format(part), ("file_name", *_CAPTIONS))
        found.left_out += broken
        licenses = _licenses(root / _METADATA.format(part))
        for row in rows:
            stem = _stem(row["file_name"])
            audio_id = f"{part}_{stem}"
            captions = [row[name] for name in _CAPTIONS if row[name]]
            if not captions:
                found.leave_out(audio_id, "missing_text", f"{row.where}: no caption")
                continue
            try:
                if stem not in recordings:
                    raise LeaveOut("missing_audio", f"{row.where}: no file {row['file_name']} below {source}")
                path = one_path(recordings[stem], AUDIO_SUFFIXES, [part])
            except LeaveOut as reason:
                found.leave_out(audio_id, reason.kind, reason.reason)
                continue
            fields = {"caption": one_or_many(captions)}
            found.items.append(Item(audio_id, path, stem, split, fields, licenses.get(stem)))
    return found


def _stem(file_name: str) -> str:
    return unicodedata.normalize("NFC", os.path.splitext(file_name)[0]).strip()


def _licenses(path: Path) -> dict[str, str]:
    """The licence of each recording, where the metadata were downloaded too."""
    if not path.is_file():
        return {}
    rows, _ = read_table(path, ("file_name", "license"))
    return {_stem(row["file_name"]): row["license"] for row in rows if row["license"]}
