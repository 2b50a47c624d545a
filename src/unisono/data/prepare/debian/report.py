"""What the corpus is made of: ``corpus.json`` for programs, ``SOURCES.md`` for people, ``licenses/`` for the law."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from unisono.data.manifest import read_jsonl
from unisono.data.prepare.debian.packages import Package
from unisono.data.prepare.jobs import Record
from unisono.data.prepare.splits import SPLITS
from unisono.files import replaced_file, write_json

TASKS = (
    "text_to_speech",
    "speech_enhancement",
    "text_to_audio",
    "text_to_music",
    "singing_voice_synthesis",
    "singing_acoustic_modeling",
    "audio_super_resolution",
    "video_to_audio",
)
# Whose targets are recordings of the packages; those of the other tasks are derived from these.
RECORDED_TASKS = ("text_to_speech", "text_to_audio", "text_to_music")


def write_report(
    out: Path, recipe: Record, packages: list[Package], roots: dict[str, Path], left_out: list[Record]
) -> None:
    """Count what the manifests hold and write it down; ``corpus.json`` comes last and marks the corpus as complete."""
    datasets = {task: {split: _count(out / task / split) for split in SPLITS} for task in TASKS}
    sources = [_source(out, package) for package in packages]
    left_out = sorted(left_out, key=lambda entry: (entry["task"], entry["source"], entry["file"]))
    for package in packages:
        copyright_file = roots[package.name] / "usr/share/doc" / package.name / "copyright"
        if copyright_file.is_file():
            (out / "licenses").mkdir(exist_ok=True)
            shutil.copyfile(copyright_file, out / "licenses" / f"{package.name}.txt")
    _write_text(out / "SOURCES.md", _markdown(datasets, sources, left_out, recipe))
    write_json(out / "corpus.json", {**recipe, "sources": sources, "datasets": datasets, "left_out": left_out})


def _count(folder: Path) -> dict[str, Any]:
    durations_s = [line["duration_s"] for _, line in read_jsonl(folder / "audio.jsonl")]
    return {"clips": len(durations_s), "minutes": round(sum(durations_s) / 60, 2)}


def _source(out: Path, package: Package) -> dict[str, Any]:
    """Clips and minutes that are recordings of a package; what is derived from them is not counted."""
    clips: list[tuple[str, float]] = []
    for task in RECORDED_TASKS:
        for split in SPLITS:
            content = {line["audio_id"]: line for _, line in read_jsonl(out / task / split / "content.jsonl")}
            for _, line in read_jsonl(out / task / split / "audio.jsonl"):
                if content[line["audio_id"]]["source"] == package.name:
                    clips.append((line["license"], line["duration_s"]))
        if clips:  # A loop that is also music counts as the sound effect that it was first.
            break
    return {
        "package": package.name,
        "version": package.version,
        "licenses": dict(sorted(Counter(license_name for license_name, _ in clips).items())),
        "clips": len(clips),
        "minutes": round(sum(duration_s for _, duration_s in clips) / 60, 2),
    }


def _markdown(datasets: dict[str, Any], sources: list[Record], left_out: list[Record], recipe: Record) -> str:
    lines = ["# Sources", ""]
    lines += [
        f"Made by `unisono prepare debian` (recipe version {recipe['recipe_version']}, seed {recipe['seed']}) from "
        "packages of the Debian archive. The packages' own statements of copyright are in `licenses/`; whoever passes "
        "this corpus on has to pass them on too. "
        "The table counts recordings; what is derived from them carries their licence: noisy speech and singing are "
        "made of the voice prompts (CC-BY-SA-3.0). Nobody sang: the vocoder WORLD was given the prompts and drawn "
        "melodies. The narrow recordings of audio_super_resolution and the sounds of the films are made of sound "
        "effects; the films' pictures are drawn. Each line of content.jsonl has its licence.",
        "",
        "| package | version | clips | minutes | licences (clips) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for source in sources:
        licenses = ", ".join(f"{name} ({clips})" for name, clips in source["licenses"].items()) or "text only"
        row = (source["package"], source["version"], source["clips"], f"{source['minutes']:.1f}", licenses)
        lines.append("| " + " | ".join(map(str, row)) + " |")
    lines += [
        "",
        "The voice is Allison Smith's. The music of asterisk-moh-opsound-g722 is by Paul Shuler (Macroform), "
        "Manolo Camp and Reno Project.",
    ]
    lines += ["", "## Data sets", "", "| task | split | clips | minutes |"]
    lines.append("| --- | --- | --- | --- |")
    for task, splits in datasets.items():
        lines += [f"| {task} | {split} | {n['clips']} | {n['minutes']:.1f} |" for split, n in splits.items()]
    lines += [
        "",
        f"## Left out ({len(left_out)} files)",
        "",
        "| task | source | file | reason |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {entry['task']} | {entry['source']} | {entry['file']} | {_cell(entry['reason'])} |" for entry in left_out
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _write_text(path: Path, text: str) -> None:
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
