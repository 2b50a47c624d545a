"""VoiceBank+DEMAND: clean speech of VCTK and the same in noise; 28 (and 56) speakers to train, two to test."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Unpack

from unisono.data.prepare.corpora.engine import Corpus, RunOptions, Step, build_corpus
from unisono.data.prepare.corpora.files import corpus_root, files_by_stem, read_text
from unisono.data.prepare.corpora.items import Found, Item, LeaveOut
from unisono.data.prepare.jobs import Record
from unisono.errors import UserError
from unisono.media import tolerances
from unisono.media.audio import audio_info

NAME, VERSION = "voicebank_demand", 1
LICENSE = "CC-BY-4.0"
TASK = "speech_enhancement"
# Left out of the 28 training speakers by custom, to validate with.
VALIDATION_SPEAKERS = ("p226", "p287")
_SUFFIXES = (".wav", ".flac")
_PARTS = {"train": "train", "trainset": "train", "valid": "val", "val": "val", "dev": "val", "test": "test"}


def prepare_voicebank_demand(out: Path, **run: Unpack[RunOptions]) -> Path:
    """``speech_enhancement`` from the pairs of clean and noisy recordings."""
    corpus = Corpus(
        name=NAME,
        version=VERSION,
        license=LICENSE,
        tasks=(TASK,),
        groups="speaker",
        find=find,
        steps=(Step("measure", "reading headers", measure_pair, chunk_items=256),),
        lines=lines,
    )
    return build_corpus(corpus, out, run)


def lines(item: Item, record: Record) -> dict[str, Record]:
    return {TASK: {"noisy_audio": Path(item.data), **item.fields}}


def measure_pair(item: Item) -> Record:
    clean_s, noisy_s = audio_info(item.audio)[1], audio_info(item.data)[1]
    if clean_s == 0:
        raise UserError(f"{item.audio} is empty (0 samples)")
    if abs(clean_s - noisy_s) > tolerances.LENGTH_S:
        raise LeaveOut("lengths_differ", f"the noisy recording lasts {noisy_s:.3f} s, the clean one {clean_s:.3f} s")
    return {"duration_s": clean_s}


def find(source: Path) -> Found:
    root = corpus_root(source, "VoiceBank+DEMAND", [["clean_*set*", "train/clean", "test/clean"]])
    conditions, texts = _conditions(root), _texts(root)
    found = Found()
    for clean_folder, noisy_folder, split in _folders(root):
        clean, noisy = files_by_stem(clean_folder, _SUFFIXES), files_by_stem(noisy_folder, _SUFFIXES)
        for stem in sorted(clean.keys() | noisy.keys()):
            if stem not in clean or stem not in noisy:
                lacking = noisy_folder if stem in clean else clean_folder
                found.leave_out(stem, "missing_audio", f"no recording of that name in {lacking}")
                continue
            speaker = stem.split("_")[0]
            fields = {"speaker": f"vctk_{speaker}", **conditions.get(stem, {})}
            if stem in texts:
                fields["text"] = texts[stem]
            item = Item(stem, clean[stem][0], speaker, split, fields, data=noisy[stem][0])
            found.items.append(item)
    _set_validation_aside(found.items)
    return found


def _folders(root: Path) -> list[tuple[Path, Path, str]]:
    """Pairs of clean and noisy folders with their split.

    ``clean_trainset_28spk_wav`` goes with ``noisy_trainset_28spk_wav``; a copy at another rate
    (``clean_trainset_28spk_wav_16k``) is taken only where the original is missing. ``train/clean`` goes with
    ``train/noisy``.
    """
    pairs = []
    originals = {path.name for path in root.glob("clean_*set*") if path.is_dir()}
    for clean in sorted(path for path in root.glob("clean_*set*") if path.is_dir()):
        if (original := re.sub(r"_\d+k(hz)?$", "", clean.name)) != clean.name and original in originals:
            continue
        part = "test" if "test" in clean.name else "val" if "val" in clean.name or "dev" in clean.name else "train"
        pairs.append((clean, clean.with_name(clean.name.replace("clean_", "noisy_", 1)), part))
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name in _PARTS):
        if (folder / "clean").is_dir():
            pairs.append((folder / "clean", folder / "noisy", _PARTS[folder.name]))
    for _, noisy, _ in pairs:
        if not noisy.is_dir():
            raise UserError(f"{noisy}: no such folder; unpack the noisy recordings too")
    return pairs


def _set_validation_aside(items: list[Item]) -> None:
    """The customary validation speakers; without them the hash of the speaker decides."""
    if any(item.split == "val" for item in items):
        return
    for item in items:
        if item.split == "train" and item.group in VALIDATION_SPEAKERS:
            item.split = "val"


def _conditions(root: Path) -> dict[str, Record]:
    """Noise and ratio of each recording from the lines ``p232_001 bus 17.5`` of the log files, where they are there."""
    conditions: dict[str, Record] = {}
    for path in sorted({*root.glob("log_*set*.txt"), *root.glob("log*/log_*set*.txt")}):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            fields = line.split()
            if len(fields) == 3 and re.fullmatch(r"-?\d+(\.\d+)?", fields[2]):
                stem = os.path.splitext(fields[0])[0]
                conditions[stem] = {"noise": fields[1], "snr_db": float(fields[2])}
    return conditions


def _texts(root: Path) -> dict[str, str]:
    """What is said, where ``testset_txt`` and the like were unpacked."""
    texts = {}
    for folder in sorted(path for path in root.glob("*set*_txt") if path.is_dir()):
        for stem, paths in files_by_stem(folder, (".txt",)).items():
            try:
                texts[stem] = " ".join(read_text(paths[0]).split())
            except LeaveOut:
                continue  # the text is not needed
    return texts
