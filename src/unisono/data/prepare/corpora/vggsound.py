"""VGGSound: 200 000 clips of YouTube videos, ten seconds each, in 309 classes of what is heard and seen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from unisono.data.prepare.corpora.clips import ClipFinder, clips_folder, measure_clip
from unisono.data.prepare.corpora.engine import Corpus, RunOptions, Step, build_corpus
from unisono.data.prepare.corpora.files import VIDEO_SUFFIXES, corpus_root, read_table
from unisono.data.prepare.corpora.items import Found, Item, LeaveOut
from unisono.data.prepare.jobs import Record
from unisono.errors import UserError
from unisono.media import tolerances
from unisono.media.video import video_info

NAME, VERSION = "vggsound", 1
LICENSE = "labels: CC-BY-4.0; videos: rights of their uploaders"
V2A, T2A = "video_to_audio", "text_to_audio"
CLIP_S = 10.0


def prepare_vggsound(out: Path, *, clips: str | os.PathLike | None = None, **run: Unpack[RunOptions]) -> Path:
    """``video_to_audio`` and ``text_to_audio`` from the videos that are there.

    Args:
        out: where the data sets go.
        clips: folder of the videos where it is not in the source.
    """
    _check_installed()
    folders = clips_folder(clips)
    corpus = Corpus(
        name=NAME,
        version=VERSION,
        license=LICENSE,
        tasks=(V2A, T2A),
        groups="video",
        find=lambda source: find(source, folders),
        steps=(Step("measure", "reading headers", measure_video, chunk_items=128),),
        lines=lines,
    )
    return build_corpus(corpus, out, run)


def lines(item: Item, record: Record) -> dict[str, Record]:
    return {V2A: {"video": Path(item.audio), **item.fields}, T2A: item.fields}


def measure_video(item: Item) -> Record:
    """The length of the sound.

    Raises:
        LeaveOut: no sound in the file, or it ends long before or after the pictures.
        UserError: no video.
    """
    video = video_info(item.audio)
    if not video.has_audio:
        raise LeaveOut("no_audio", f"{item.audio} has no audio stream")
    record = measure_clip(item)
    if abs(video.duration_s - record["duration_s"]) > tolerances.VIDEO_S:
        reason = f"{item.audio}: pictures of {video.duration_s:.2f} s, sound of {record['duration_s']:.2f} s"
        raise LeaveOut("lengths_differ", reason)
    return record


def find(source: Path, clips: Sequence[Path] = ()) -> Found:
    root = corpus_root(source, "VGGSound", [["vggsound.csv", "*[vV][gG][gG][sS]ound*.csv"]])
    table = next(path for pattern in ("vggsound.csv", "*.csv") for path in sorted(root.glob(pattern)))
    rows, broken = read_table(table, ("id", "start", "label", "split"), header=False)
    found = Found(left_out=broken)
    finder = ClipFinder([source, *clips], (row["id"] for row in rows), VIDEO_SUFFIXES)
    for number, row in enumerate(rows):
        if not row["start"].replace(".", "", 1).isdigit() or row["split"] not in ("train", "test") or not row["label"]:
            if number > 0 or row["start"].strip().isdigit():  # else a line with the names of the columns
                fault = f"start {row['start']!r}, label {row['label']!r}, split {row['split']!r}"
                found.leave_out(row.where, "broken_line", f"{fault}: expected seconds, a text, train or test")
            continue
        start_s = float(row["start"])
        audio_id = f"{row['id']}_{round(start_s):06d}"
        try:
            path = finder.find(row["id"], start_s, start_s + CLIP_S)
        except LeaveOut as reason:
            found.leave_out(audio_id, reason.kind, reason.reason)
            continue
        found.items.append(Item(audio_id, path, row["id"], row["split"], {"caption": row["label"]}, data=CLIP_S))
    return found


def _check_installed() -> None:
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError(f"videos are read with PyAV ({error}); run: pip install 'unisono[video]'") from error
