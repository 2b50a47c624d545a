"""LJSpeech 1.1: 13 100 sentences of one reader, 24 hours."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from unisono.data.prepare.corpora.engine import RunOptions
from unisono.data.prepare.corpora.files import corpus_root, files_by_stem, read_table
from unisono.data.prepare.corpora.items import Found, Item
from unisono.data.prepare.corpora.speech import prepare_speech, speech_corpus
from unisono.text.align import text_to_words

NAME, VERSION = "ljspeech", 2
LICENSE = "Public domain"
SPEAKER = "ljspeech"


def prepare_ljspeech(out: Path, *, align: bool = True, **run: Unpack[RunOptions]) -> Path:
    """``text_to_speech`` from ``metadata.csv`` and ``wavs/``; with ``align=False`` without phonemes."""
    return prepare_speech(speech_corpus(NAME, VERSION, LICENSE, "text", find, align), out, align, run)


def find(source: Path) -> Found:
    root = corpus_root(source, "LJSpeech", [["metadata.csv"], ["wavs"]])
    recordings = files_by_stem(root / "wavs", (".wav", ".flac"))
    columns = ("id", "text", "normalized")
    rows, broken = read_table(root / "metadata.csv", columns, delimiter="|", header=False, quoted=False, min_fields=2)
    found = Found(left_out=broken)
    for row in rows:
        text = row.get("normalized") or row["text"]
        if row["id"] not in recordings:
            found.leave_out(row["id"], "missing_audio", f"{row.where}: no wavs/{row['id']}.wav")
        elif not text:
            found.leave_out(row["id"], "missing_text", f"{row.where}: the text is empty")
        else:
            group = " ".join(text_to_words(text)) or row["id"]
            fields = {"text": text, "speaker": SPEAKER}
            found.items.append(Item(row["id"], recordings[row["id"]][0], group, fields=fields))
    return found
