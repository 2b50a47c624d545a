"""VCTK 0.92 (and 0.80): 110 speakers with accents of English, about 400 sentences each."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Unpack

from unisono.data.prepare.corpora.engine import RunOptions
from unisono.data.prepare.corpora.files import corpus_root, files_by_stem, read_text
from unisono.data.prepare.corpora.items import Found, Item, LeaveOut
from unisono.data.prepare.corpora.speech import prepare_speech, speech_corpus
from unisono.text.align import text_to_words

NAME, VERSION = "vctk", 2
LICENSE = "CC-BY-4.0"
_RECORDINGS = ("wav48_silence_trimmed", "wav48")
_SECOND_MICROPHONE = "_mic2"


def prepare_vctk(out: Path, *, align: bool = True, **run: Unpack[RunOptions]) -> Path:
    """``text_to_speech`` from the first microphone; with ``align=False`` without phonemes."""
    return prepare_speech(speech_corpus(NAME, VERSION, LICENSE, "text", find, align), out, align, run)


def find(source: Path) -> Found:
    root = corpus_root(source, "VCTK", [_RECORDINGS, ["txt"]])
    folder = next(root / name for name in _RECORDINGS if (root / name).is_dir())
    about = _speakers(root / "speaker-info.txt")
    found = Found()
    for stem, paths in files_by_stem(folder, (".flac", ".wav")).items():
        if stem.endswith(_SECOND_MICROPHONE):
            continue
        audio_id = stem.removesuffix("_mic1")
        speaker = audio_id.split("_")[0]
        try:
            text = " ".join(read_text(root / "txt" / speaker / f"{audio_id}.txt").split())
        except LeaveOut as reason:
            found.leave_out(audio_id, reason.kind, reason.reason)
            continue
        fields = {"text": text, "speaker": f"{NAME}_{speaker}", **about.get(speaker.removeprefix("p"), {})}
        group = " ".join(text_to_words(text)) or audio_id
        found.items.append(Item(audio_id, paths[0], group, fields=fields))
    known = {item.audio_id for item in found.items} | {entry.item for entry in found.left_out}
    for stem in sorted(files_by_stem(root / "txt", (".txt",))):
        if stem not in known:
            missing = f"no {os.path.join(folder.name, stem.split('_')[0], stem)}_mic1.flac"
            found.leave_out(stem, "missing_audio", missing)
    return found


def _speakers(path: Path) -> dict[str, dict[str, str]]:
    """Gender and accent by number; 0.92 writes ``p225``, 0.80 only ``225``. The file may be missing."""
    if not path.is_file():
        return {}
    about = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = re.match(r"p?(\w+)\s+\d+\s+([FM])\s+(\S+)", line)
        if fields:
            about[fields[1]] = {"gender": fields[2], "accent": fields[3]}
    return about
