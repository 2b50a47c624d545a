"""Whether a sound file is whole, told by its container: decoders read on quietly where the end or a header is gone.

Only a few bytes at the beginning and the end are looked at; the one look at a whole file is for joined Ogg files.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, NamedTuple

from unisono.errors import UserError
from unisono.media import tolerances

_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # at most
_OGG_LAST, _OGG_FIRST = 4, 2  # flags of a page
_XING_AT_MOST = 4 + 32 + 2  # from the beginning of the first frame: its header, checksum and side information
_MPEG_SYNC = 0xFFE0
# A FLAC frame holds at most 65535 samples in at least 10 bytes.
_FLAC_FRAMES_PER_BYTE = 6553.5
# What writers to a pipe put where a length belongs; sox rounds it down to a whole frame.
_UNKNOWN_32 = (range(0x7FFF0000, 0x80000001), range(0xFFFF0000, 0x100000000))
# Formats of FFmpeg that are searched for their mark rather than begin with it.
_RAW_MARKS = {"flac": (b"fLaC",), "mp3": (b"\xff",), "aac": (b"\xff",), "ac3": (b"\x0b\x77",), "eac3": (b"\x0b\x77",)}


class _Chunks(NamedTuple):
    """How a chunked format writes its chunks: where the first lies, bytes of names and sizes, their alignment."""

    first: int
    name_bytes: int
    size: struct.Struct
    data: bytes
    alignment: int
    size_has_header: bool = False


def _chunks_of(head: bytes) -> _Chunks | None:
    form, kind = head[:4], head[8:12]
    if form in (b"RIFF", b"RF64", b"BW64", b"RIFX") and kind == b"WAVE":
        return _Chunks(12, 4, struct.Struct(">I" if form == b"RIFX" else "<I"), b"data", 2)
    if form == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return _Chunks(12, 4, struct.Struct(">I"), b"SSND", 2)
    if form == b"riff" and head[24:28] == b"wave":
        return _Chunks(40, 16, struct.Struct("<Q"), b"data", 8, size_has_header=True)
    return None


def check_container(file: BinaryIO, kind: str, frames: int, sample_rate: int, where: str) -> None:
    """Refuse what libsndfile opened although its container shows that a part is missing.

    Args:
        file: the open file; its position is changed.
        kind: libsndfile's name of the format.
        frames: length that libsndfile tells.
        sample_rate: Hz.
        where: for messages.

    Raises:
        UserError: cut off; of unknown length (FLAC); two files in one (MP3).
    """
    size = file.seek(0, os.SEEK_END)
    if kind in ("WAV", "WAVEX", "RF64", "W64", "AIFF"):
        _check_chunks(file, size, frames / sample_rate, where)
    elif kind == "OGG":
        _check_ogg_end(file, size, where)
    elif kind == "MP3":
        _check_mp3(file, size, where)
    elif kind == "FLAC" and frames > max(1, size) * _FLAC_FRAMES_PER_BYTE:
        raise UserError(f"{where}: its length is unknown (the header does not tell it); re-encode it: flac or ffmpeg")


def check_raw_stream(file: BinaryIO, format_name: str, where: str) -> None:
    """Refuse what FFmpeg found by searching: its beginning is damaged, nobody knows how much is lost.

    Args:
        file: the open file; its position is changed.
        format_name: FFmpeg's name of the format.
        where: for messages.
    """
    marks = _RAW_MARKS.get(format_name)
    if marks and not _at(file, _after_id3(file, 0), 4).startswith(marks):
        raise _broken_beginning(where, format_name)


def check_joined_ogg(file: BinaryIO, where: str) -> None:
    """Refuse an Ogg file in which another begins: only the first would be read. Looks at the whole file."""
    file.seek(0)
    mark, overlap = b"OggS\0" + bytes([_OGG_FIRST]), 5
    others, kept, position = False, b"", 0
    while block := file.read(1 << 20):
        data = kept + block
        place = data.find(b"OggS\0")
        while place >= 0 and place + len(mark) <= len(data):
            begins = data[place : place + len(mark)] == mark
            if begins and others:
                raise UserError(
                    f"{where}: several recordings in one file (another begins at byte {position + place}), of which "
                    "only the first would be read; store them apart"
                )
            others = others or not begins
            place = data.find(b"OggS\0", place + 1)
        kept = data[-overlap:]
        position += len(data) - len(kept)


def _check_chunks(file: BinaryIO, size: int, length_s: float, where: str) -> None:
    layout = _chunks_of(_at(file, 0, 40))
    if layout is None:
        return
    place, header_bytes, long_size = layout.first, layout.name_bytes + layout.size.size, 0
    while len(header := _at(file, place, header_bytes)) == header_bytes:
        name, begin = header[:4], place + header_bytes
        promised = layout.size.unpack(header[layout.name_bytes :])[0] - header_bytes * layout.size_has_header
        if name == b"ds64":  # RF64: 64-bit lengths of the file and of its samples
            long_size = int.from_bytes(_at(file, begin + 8, 8), "little")
        if name == layout.data:
            if promised == 0xFFFFFFFF and long_size:
                promised = long_size
            if promised >= 1 << 62 or any(promised in unknown for unknown in _UNKNOWN_32):
                return
            missing, there = begin + promised - size, size - begin
            if missing > 0 and missing * length_s > tolerances.HEADER_S * there:
                raise _cut(where, f"{promised} bytes of samples promised, {max(0, there)} there")
            return
        if promised < 0:
            return
        place = begin + -(-promised // layout.alignment) * layout.alignment


def _check_ogg_end(file: BinaryIO, size: int, where: str) -> None:
    begin = max(0, size - 2 * _OGG_PAGE_BYTES)
    tail = _at(file, begin, size - begin)
    place = tail.rfind(b"OggS\0")
    if place < 0:
        raise _cut(where, "no Ogg page at its end")
    page = tail[place:]
    segments = page[26] if len(page) > 26 else 0
    page_bytes = 27 + segments + sum(page[27 : 27 + segments])
    if len(page) < max(27, page_bytes):
        raise _cut(where, "its last page is not whole")
    if not page[5] & _OGG_LAST:
        raise _cut(where, "its last page is not marked as the last; a whole stream without the mark gains it by ffmpeg")


def _check_mp3(file: BinaryIO, size: int, where: str) -> None:
    """Compare the file with the length in bytes that a Xing or Info header tells; without one nothing can be told."""
    start = _after_id3(file, 0)
    first = _at(file, start, 4 + _XING_AT_MOST + 12)
    if first[:4] in (b"RIFF", b"FORM"):
        return
    if not first.startswith(b"\xff"):
        if any(first):
            return  # padding or junk that players pass over
        raise _broken_beginning(where, "mp3")
    place = max(first.find(b"Xing"), first.find(b"Info"))
    if not 4 <= place <= _XING_AT_MOST:
        return
    flags = int.from_bytes(first[place + 4 : place + 8], "big")
    if not flags & 2:
        return
    field = place + 8 + 4 * (flags & 1)
    audio_bytes = int.from_bytes(_at(file, start + field, 4), "big")
    num_frames = int.from_bytes(first[place + 8 : place + 12], "big") if flags & 1 else 0
    missing = start + audio_bytes - size
    # Encoders differ in whether they count the header's own frame.
    if missing > 2 * (audio_bytes / num_frames if num_frames else 1500):
        raise _cut(where, f"{audio_bytes} bytes promised, {size - start} there")
    if -missing > max(8192, audio_bytes // 100):
        end = _after_id3(file, start + audio_bytes)
        follows = int.from_bytes(_at(file, end, 2), "big")
        if follows & _MPEG_SYNC == _MPEG_SYNC and follows & 0x06:
            raise UserError(
                f"{where}: several recordings in one file (another begins at byte {end}), of which only the first "
                "would be read; store them apart"
            )


def _after_id3(file: BinaryIO, place: int) -> int:
    """Where what follows ID3v2 tags begins."""
    while len(head := _at(file, place, 10)) == 10 and head[:3] == b"ID3":
        tag_bytes = 0
        for byte in head[6:10]:
            tag_bytes = tag_bytes << 7 | byte & 0x7F
        place += 10 + tag_bytes + (10 if head[5] & 0x10 else 0)
    return place


def _at(file: BinaryIO, place: int, length: int) -> bytes:
    file.seek(place)
    return file.read(length)


def _cut(where: str, what: str) -> UserError:
    return UserError(
        f"{where}: damaged audio, cut off ({what}); replace the file, or re-encode what is left as wav or flac"
    )


def _broken_beginning(where: str, kind: str) -> UserError:
    return UserError(f"{where}: damaged audio (the {kind} does not begin with its header); replace the file")
