"""A video with another sound: its pictures as they are, bit for bit, and a new sound track."""

from __future__ import annotations

import errno
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from unisono.errors import UserError
from unisono.files import replaced_file
from unisono.media.audio import check_waveform
from unisono.media.containers import film_stream, zero_s
from unisono.media.video import video_info
from unisono.timing import seconds_to_samples

# What players take in each container, and the rate its coder runs at.
_CODECS = {
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".mkv"), ("aac", 48_000)),
    ".webm": ("libopus", 48_000),
}
WRITABLE_VIDEOS = tuple(_CODECS)
_CHUNK_SAMPLES = 1024
_NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EPERM}


def write_with_sound(
    path: str | os.PathLike, source: str | os.PathLike, waveform: np.ndarray, sample_rate: int
) -> Path:
    """Write the pictures of ``source`` with ``waveform (S,)`` for their sound; other streams are left out.

    Args:
        path: .mp4, .m4v, .mov, .mkv or .webm; the pictures are copied, so the container has to take their coding.
        source: a video that ``read_video_frames`` reads; the waveform begins where its container does.

    Raises:
        UserError: another kind of file, pictures that do not fit into the container, ``path`` is ``source``.
    """
    path, source = Path(path), Path(source)
    if path.suffix.lower() not in _CODECS:
        raise UserError(f"{path}: cannot write a video of the kind {path.suffix!r}; use {', '.join(_CODECS)}")
    if path.exists() and path.samefile(source):
        raise UserError(f"{path} is the video that is read; name another file")
    check_waveform(waveform, str(path))
    lacks = seconds_to_samples(video_info(source).duration_s, sample_rate) - len(waveform)
    # Silent to the end of the pictures: some containers state one length for all their streams.
    waveform = np.pad(waveform, (0, max(lacks, 0))) / max(1.0, float(np.abs(waveform).max()))
    import av

    try:
        with replaced_file(path) as temporary:
            named = temporary.with_suffix(path.suffix.lower())  # the extension tells FFmpeg the kind of container
            try:
                with av.open(str(source)) as given, av.open(str(named), "w") as made:
                    _copy(given, made, waveform.astype(np.float32), sample_rate, *_CODECS[path.suffix.lower()])
                os.replace(named, temporary)
            finally:
                named.unlink(missing_ok=True)
    except (av.FFmpegError, ValueError, OSError) as error:
        if getattr(error, "errno", None) in _NO_PLACE:
            raise UserError(f"{path}: cannot be written ({error}); make room, or choose another folder") from error
        raise UserError(
            f"{path}: the pictures of {source} cannot be written there ({error}); try .mkv, which takes all kinds"
        ) from error
    return path


def _copy(given: Any, made: Any, waveform: np.ndarray, sample_rate: int, codec: str, codec_rate: int) -> None:
    import av

    pictures = film_stream(given)
    assert pictures is not None, "video_info found one"
    copied = made.add_stream_from_template(pictures)
    sound = made.add_stream(codec, rate=codec_rate)
    sound.layout = "mono"
    resampler = av.AudioResampler(format=sound.format, layout="mono", rate=codec_rate, frame_size=_CHUNK_SAMPLES)
    begin = round(zero_s(given) * sample_rate)
    frame = av.AudioFrame.from_ndarray(waveform[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, begin, Fraction(1, sample_rate)
    encoded = [packet for part in resampler.resample(frame) for packet in sound.encode(part)]
    encoded += [packet for part in resampler.resample(None) for packet in sound.encode(part)]
    encoded += sound.encode(None)
    # Interleaved by time: players read both side by side.
    waiting = iter(encoded)
    packet = next(waiting, None)
    for picture in given.demux(pictures):
        if picture.dts is None:
            continue
        while packet is not None and _seconds(packet) <= _seconds(picture):
            made.mux(packet)
            packet = next(waiting, None)
        picture.stream = copied
        made.mux(picture)
    while packet is not None:
        made.mux(packet)
        packet = next(waiting, None)


def _seconds(packet: Any) -> float:
    return float((packet.dts if packet.dts is not None else packet.pts or 0) * packet.time_base)
