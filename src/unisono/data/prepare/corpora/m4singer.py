"""M4Singer: 20 Mandarin singers, 700 songs, 29.8 hours, with scores and phonemes labelled by hand."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any, Unpack

from unisono.data.prepare.corpora.engine import RunOptions, build_corpus
from unisono.data.prepare.corpora.files import corpus_root
from unisono.data.prepare.corpora.items import Found, Item
from unisono.data.prepare.corpora.singing import singing_corpus
from unisono.errors import UserError

NAME, VERSION = "m4singer", 1
LICENSE = "CC-BY-NC-SA-4.0"
# Names in meta.json by names here.
_LISTS = {
    "phonemes": "phs", "durations_s": "ph_dur", "notes": "notes", "note_durations_s": "notes_dur", "slurs": "is_slur",
}  # fmt: skip


def prepare_m4singer(out: Path, *, f0: bool = True, f0_method: str = "harvest", **run: Unpack[RunOptions]) -> Path:
    """``singing_voice_synthesis``, and unless ``f0=False`` ``singing_acoustic_modeling`` by ``harvest`` or ``dio``."""
    return build_corpus(singing_corpus(NAME, VERSION, LICENSE, find, out, f0, f0_method), out, run)


def find(source: Path) -> Found:
    root = corpus_root(source, "M4Singer", [["meta.json"]])
    try:
        meta = json.loads((root / "meta.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{root / 'meta.json'} cannot be read ({error}); unpack the corpus again") from error
    if not isinstance(meta, list):
        raise UserError(f"{root / 'meta.json'} holds a {type(meta).__name__}, not the list of M4Singer")
    folders = {_folder_key(entry.name): entry.path for entry in os.scandir(root) if entry.is_dir()}
    found = Found()
    for number, entry in enumerate(meta):
        where = f"meta.json, entry {number}"
        name, fault = _checked(entry)
        if fault:
            found.leave_out(name or where, "broken_line", f"{where}: {fault}")
            continue
        singer, song, sentence = name.split("#")
        folder = folders.get(_folder_key(f"{singer}#{song}"))
        if folder is None or not os.path.isfile(path := os.path.join(folder, f"{sentence}.wav")):
            found.leave_out(name, "missing_audio", f"no {singer}#{song}/{sentence}.wav")
            continue
        fields = {"speaker": f"{NAME}_{singer}"}
        if isinstance(entry.get("txt"), str) and entry["txt"].strip():
            fields["text"] = entry["txt"].strip()
        labels = {ours: entry[theirs] for ours, theirs in _LISTS.items()}
        found.items.append(Item(name, path, song, fields=fields, data=labels))
    return found


def _checked(entry: Any) -> tuple[str, str]:
    """``(item name, what is wrong with it or nothing)``."""
    if not isinstance(entry, dict) or not isinstance(entry.get("item_name"), str):
        return "", "no object with an item_name"
    name = unicodedata.normalize("NFC", entry["item_name"])
    if name.count("#") != 2 or "/" in name:
        return name, "the item_name is not SINGER#SONG#SENTENCE"
    lacking = [theirs for theirs in _LISTS.values() if not isinstance(entry.get(theirs), list)]
    return name, f"no list {lacking[0]}" if lacking else ""


def _folder_key(name: str) -> str:
    """Some unzip programs write ``#U7ae5`` for a character, others decompose it."""
    plain = re.sub(r"#U([0-9a-fA-F]{4,5})", lambda found: chr(int(found[1], 16)), name)
    return unicodedata.normalize("NFC", plain)
