"""Opencpop: one Mandarin singer, 100 songs, 5.2 hours, with scores and phonemes labelled by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from unisono.data.prepare.corpora.engine import RunOptions, build_corpus
from unisono.data.prepare.corpora.files import corpus_root, files_by_stem, read_table
from unisono.data.prepare.corpora.items import Found, Item
from unisono.data.prepare.corpora.singing import singing_corpus

NAME, VERSION = "opencpop", 2
LICENSE = "CC-BY-NC-ND-4.0"
SPEAKER = "opencpop"
_COLUMNS = ("id", "text", "phonemes", "notes", "note_durations_s", "durations_s", "slurs")
_SONG_DIGITS = 4


def prepare_opencpop(out: Path, *, f0: bool = True, f0_method: str = "harvest", **run: Unpack[RunOptions]) -> Path:
    """``singing_voice_synthesis``, and unless ``f0=False`` ``singing_acoustic_modeling`` by ``harvest`` or ``dio``."""
    return build_corpus(singing_corpus(NAME, VERSION, LICENSE, find, out, f0, f0_method), out, run)


def find(source: Path) -> Found:
    root = corpus_root(source, "Opencpop", [["transcriptions.txt"], ["wavs"]])
    recordings = files_by_stem(root / "wavs", (".wav", ".flac"))
    rows, broken = read_table(root / "transcriptions.txt", _COLUMNS, delimiter="|", header=False, quoted=False)
    found = Found(left_out=broken)
    splits = {name: split for split in ("train", "test") for name in _listed(root / f"{split}.txt")}
    for row in rows:
        name = row["id"]
        if name not in recordings:
            found.leave_out(name, "missing_audio", f"{row.where}: no wavs/{name}.wav")
            continue
        labels = {column: row[column].split() for column in _COLUMNS[2:]}
        fields = {"speaker": SPEAKER, **({"text": row["text"]} if row["text"] else {})}
        found.items.append(Item(name, recordings[name][0], name[:_SONG_DIGITS], splits.get(name), fields, data=labels))
    return found


def _listed(path: Path) -> list[str]:
    """The utterances of ``train.txt`` or ``test.txt``; a copy of the corpus may lack them."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return [line.split("|")[0].strip() for line in lines if line.strip()]
