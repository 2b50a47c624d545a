"""LibriTTS and LibriTTS-R: audiobooks cut into sentences, 2 456 readers, 585 hours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

from unisono.data.prepare.corpora.engine import RunOptions
from unisono.data.prepare.corpora.files import corpus_root, walk_files
from unisono.data.prepare.corpora.items import Found, Item
from unisono.data.prepare.corpora.speech import prepare_speech, speech_corpus

NAME, VERSION = "libritts", 2
LICENSE = "CC-BY-4.0"
_SPLITS = {"train": "train", "dev": "val", "test": "test"}
_TEXT_SUFFIX = ".normalized.txt"


def prepare_libritts(out: Path, *, align: bool = True, **run: Unpack[RunOptions]) -> Path:
    """``text_to_speech`` from the subsets that are there; with ``align=False`` without phonemes."""
    return prepare_speech(speech_corpus(NAME, VERSION, LICENSE, "speaker", find, align), out, align, run)


def find(source: Path) -> Found:
    root = corpus_root(source, "LibriTTS", [["train-*", "dev-*", "test-*"]])
    genders = _genders(root)
    found = Found()
    for subset in sorted(path for path in root.iterdir() if path.is_dir()):
        split = _SPLITS.get(subset.name.split("-")[0])
        if split is None:
            continue
        texts = {path[: -len(_TEXT_SUFFIX)] for path in walk_files(subset, (_TEXT_SUFFIX,))}
        for path in walk_files(subset, (".wav", ".flac")):
            stem, _ = os.path.splitext(path)
            audio_id = os.path.basename(stem)
            speaker = audio_id.split("_")[0]
            if stem not in texts:
                found.leave_out(audio_id, "missing_text", f"no {audio_id}{_TEXT_SUFFIX} beside {path}")
                continue
            texts.discard(stem)
            fields = {"speaker": f"{NAME}_{speaker}"}
            if speaker in genders:
                fields["gender"] = genders[speaker]
            found.items.append(Item(audio_id, path, speaker, split, fields, data=stem + _TEXT_SUFFIX))
        for stem in sorted(texts):
            found.leave_out(os.path.basename(stem), "missing_audio", f"no recording beside {stem}{_TEXT_SUFFIX}")
    return found


def _genders(root: Path) -> dict[str, str]:
    """``F`` or ``M`` by reader, from ``SPEAKERS.txt`` (``|``) or ``speakers.tsv`` (tabs); a corpus may lack both."""
    genders: dict[str, str] = {}
    for name, separator in (("SPEAKERS.txt", "|"), ("speakers.tsv", "\t")):
        if not (root / name).is_file():
            continue
        for line in (root / name).read_text(encoding="utf-8", errors="replace").splitlines():
            fields = [field.strip() for field in line.split(separator)]
            if len(fields) > 1 and fields[0].isdigit() and fields[1] in ("F", "M"):
                genders[fields[0]] = fields[1]
    return genders
