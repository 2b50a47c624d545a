"""Writing tar shards in the WebDataset convention, which ``unisono.data.streaming`` reads."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile as sf
from tqdm import tqdm

from unisono.data.datasets.base import AudioGenerationDataset
from unisono.errors import UserError
from unisono.files import replaced_file
from unisono.media.audio import open_audio
from unisono.media.locations import Location, hdf5_dataset, read_array

_HEADER_BYTES = 1024  # of a member: its header and what fills it up to whole blocks


def write_shards(
    dataset: AudioGenerationDataset,
    folder: Path,
    *,
    max_bytes: int = 1 << 30,
    name: str = "shard",
    progress: bool = True,
) -> list[Path]:
    """Write a data set's items as tar shards ``NAME-000000.tar`` …, the files as they are.

    Args:
        dataset: made from manifests.
        folder: for the shards; made if it is not there. Shards of that name must not be in it.
        max_bytes: a shard is ended before it exceeds this, unless a single item does.
        name: the shards' first name.
        progress: show a bar.

    Returns:
        The shards' paths; each is there whole or not at all.

    Raises:
        UserError: there are shards of that name already; two items whose names in a shard would be one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if present := sorted(folder.glob(f"{name}-*.tar")):
        raise UserError(f"{present[0]} is there already; remove it, or choose another folder or name")
    _refuse_equal_keys(dataset)
    paths: list[Path] = []
    with tqdm(total=len(dataset), unit="item", desc="shards", disable=not progress, dynamic_ncols=True) as bar:
        for items in _dealt(dataset, max_bytes):
            paths.append(folder / f"{name}-{len(paths):06d}.tar")
            with replaced_file(paths[-1]) as temporary, tarfile.open(temporary, "w") as archive:
                for index in items:
                    _add(archive, dataset, index)
                    bar.update()
    return paths


def _refuse_equal_keys(dataset: AudioGenerationDataset) -> None:
    seen: dict[str, int] = {}
    for index in range(len(dataset)):
        other = seen.setdefault(_key(dataset.audio_id(index)), index)
        if other != index:
            raise dataset.line(index).fail(
                f"audio_id {dataset.audio_id(index)!r} and {dataset.audio_id(other)!r} would have one name in a shard, "
                "where dots become underscores; rename one"
            )


def _key(audio_id: str) -> str:
    return audio_id.replace(".", "_")


def _dealt(dataset: AudioGenerationDataset, max_bytes: int) -> Iterator[list[int]]:
    """Items of each shard, in order."""
    items: list[int] = []
    used = 0
    for index in range(len(dataset)):
        _, files = _parts(dataset, index)
        size = _HEADER_BYTES + 4096 + sum(_HEADER_BYTES + _size(location) for location in files.values())
        if items and used + size > max_bytes:
            yield items
            items, used = [], 0
        items.append(index)
        used += size
    if items:
        yield items


def _size(location: Location) -> int:
    return os.stat(location.path).st_size if location.member is None else len(location.read_bytes())


def _parts(dataset: AudioGenerationDataset, index: int) -> tuple[dict, dict[str, Location]]:
    """An item's line without its files, and its files by field."""
    line = dataset.line(index)
    files = dict([*dataset.input_files(line), *dataset.other_files(line)])
    record = dict(line.record)
    if dataset.has_targets:
        recording = dataset.target_line(index)
        record = {**recording.record, **record}
        files["audio"] = recording.location("audio")
    return {name: value for name, value in record.items() if name not in files}, files


def _file_of(location: Location, is_recording: bool) -> tuple[str, bytes]:
    """Ending and bytes of a file of its own; what lies as numbers in another archive becomes wav or npy."""
    if location.member is None or location.is_tar:
        return location.suffix, location.read_bytes()
    if location.is_hdf5 and hdf5_dataset(location).dtype == np.uint8:
        return (".flac" if is_recording else location.suffix or ".bin"), location.read_bytes()  # read by its content
    buffer = io.BytesIO()
    if is_recording:
        with open_audio(location) as reader:
            sf.write(buffer, reader.read(0, reader.num_frames), reader.sample_rate, format="WAV", subtype="FLOAT")
        return ".wav", buffer.getvalue()
    np.save(buffer, read_array(location))
    return ".npy", buffer.getvalue()


def _add(archive: tarfile.TarFile, dataset: AudioGenerationDataset, index: int) -> None:
    record, files = _parts(dataset, index)
    key = _key(record["audio_id"])
    members = {f"{key}.json": json.dumps(record, ensure_ascii=False).encode()}
    recordings = {"audio", *(name for name, _ in dataset.input_files(dataset.line(index)))}
    for field, location in files.items():
        ending, data = _file_of(location, field in recordings)
        members[f"{key}{ending}" if field == "audio" else f"{key}.{field}{ending}"] = data
    for member, data in members.items():
        info = tarfile.TarInfo(member)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
