"""Pictures of a video at a given rate, decoded by FFmpeg through PyAV.

Time zero is the beginning of the container, the earliest start of any of its streams, as it is for the sound of a video
(:mod:`unisono.media.av_audio`), so that pictures and sound stay together; a sound track that begins before 0 does not
move it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np

from unisono.errors import UserError
from unisono.media import tolerances
from unisono.media.containers import film_stream, refuse_text, zero_s
from unisono.media.locations import Location
from unisono.timing import frames_covering

VideoSource = str | os.PathLike | Location | BinaryIO

MAX_SIZE, MAX_RATE_HZ = 4096, 1000.0
MAX_RESULT_BYTES = 4 << 30

_FEW_SECONDS_S = 1.0  # decoded rather than passed over by a search
_FURTHER_BACK_S = (0.0, 10.0, 60.0)
_QUARTER_TURN_DEG = 90


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a header says.

    Attributes:
        duration_s: end of the last picture, from the beginning of the container.
        frame_rate_hz: on average; None where the container does not tell.
        num_frames: None where the container does not tell.
        width, height: in pixels as displayed: turned, with square pixels.
        has_audio: whether there is a sound track.
    """

    duration_s: float
    frame_rate_hz: float | None
    num_frames: int | None
    width: int
    height: int
    has_audio: bool


def video_info(source: VideoSource) -> VideoInfo:
    """Length, rate and size; decodes one picture.

    Args:
        source: path, location or seekable binary file.

    Raises:
        UserError: missing, not a video, damaged, PyAV missing.
    """
    with _open(source) as video:
        picture = next(video.pictures(None), None)
        if picture is None:
            raise video.damaged("it has no picture that can be decoded")
        width, height = _displayed_size(picture.frame, video.pixel_aspect)
        turned = _quarter_turns(picture.frame) % 2 == 1
        rate = video.stream.average_rate or video.stream.guessed_rate
        return VideoInfo(
            duration_s=video.duration_s,
            frame_rate_hz=float(rate) if rate else None,
            num_frames=video.stream.frames or None,
            width=round(height if turned else width),
            height=round(width if turned else height),
            has_audio=bool(video.container.streams.audio),
        )


def read_video_frames(
    source: VideoSource, rate_hz: float, size: int, start_s: float = 0.0, duration_s: float | None = None
) -> np.ndarray:
    """Pictures at a fixed rate, uint8 RGB ``(T, size, size, 3)``, ``T = frames_covering(duration_s, rate_hz)``.

    Picture ``k`` is the one on the screen at ``start_s + k / rate_hz``: the last whose time stamp is not later,
    whatever the video's own rate, constant or not. Before the first picture the first one is taken; the last one stays
    for up to 0.25 s after its end. The rotation that a phone recorded and pixels that are not square are heeded; the
    largest square in the middle is kept and resized (averaging when it becomes smaller). Interlaced pictures are taken
    as they are.

    Damage is found where the format lets FFmpeg see it (H.264 and its kin in mp4 and Matroska; hardly in VP8), a cut
    where the file states its length (not in MPEG transport streams).

    Raises:
        UserError: missing, without a video stream, damaged, cut off, a part that is not there, a result above 4 GiB,
            PyAV missing.
    """
    with _open(source) as video:
        times_s = _times(video, rate_hz, size, start_s, duration_s)
        if (size_bytes := len(times_s) * size * size * 3) > MAX_RESULT_BYTES:
            raise UserError(
                f"{video.where}: {len(times_s)} pictures of {size} x {size} take {size_bytes / 2**30:.1f} GiB; read it "
                "in parts (start_s, duration_s), or with a lower rate_hz or size"
            )
        frames = np.empty((len(times_s), size, size, 3), dtype=np.uint8)
        for index, picture in enumerate(_shown(video, times_s, size)):
            frames[index] = picture
        return frames


def iterate_video_frames(
    source: VideoSource, rate_hz: float, size: int, start_s: float = 0.0, duration_s: float | None = None
) -> Iterator[np.ndarray]:
    """The same pictures one at a time, uint8 ``(size, size, 3)``, in constant memory for videos of any length."""
    with _open(source) as video:
        yield from _shown(video, _times(video, rate_hz, size, start_s, duration_s), size)


def _times(video: _Video, rate_hz: float, size: int, start_s: float, duration_s: float | None) -> np.ndarray:
    """When pictures are taken, seconds from the container's beginning, float64 ``(T,)``."""
    if not 0 < rate_hz <= MAX_RATE_HZ:
        raise UserError(f"rate_hz is {rate_hz}; give pictures per second, above 0 and at most {MAX_RATE_HZ:g}")
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 1 <= size <= MAX_SIZE:
        raise UserError(f"size is {size!r}; give a number of pixels, 1 to {MAX_SIZE}")
    if not 0 <= start_s < math.inf:
        raise UserError(f"start_s is {start_s}; give seconds, at least 0")
    if duration_s is not None and not 0 < duration_s < math.inf:
        raise UserError(f"duration_s is {duration_s}; give seconds, above 0")
    whole_s = video.duration_s
    if start_s >= whole_s or start_s + (duration_s or 0.0) > whole_s + tolerances.VIDEO_TAIL_S:
        end = "its end" if duration_s is None else f"{start_s + duration_s:.3f} s"
        raise UserError(
            f"{video.where}: pictures from {start_s:.3f} s to {end} were asked for; the video lasts {whole_s:.3f} s"
        )
    length_s = whole_s - start_s if duration_s is None else duration_s
    return start_s + np.arange(frames_covering(length_s, rate_hz)) / rate_hz


def _shown(video: _Video, times_s: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The picture on the screen at each of ``times_s`` (rising), ``(size, size, 3)``."""
    current: _Picture | None = None
    taken = 0
    for picture in video.pictures(float(times_s[0])):
        # A picture stays until the next one comes; the first one is also shown before its time.
        shown = current or picture
        until = int(np.searchsorted(times_s, picture.time_s - video.rounding_s, side="left"))
        for _ in range(taken, until):
            yield shown.image(video, size)
        taken = max(taken, until)
        if taken == len(times_s):
            return
        current = picture
    if current is None:
        raise video.damaged("no picture could be decoded")
    if times_s[-1] > current.end_s + tolerances.VIDEO_TAIL_S and not video.other_streams_go_on():
        raise UserError(
            f"{video.where}: cut off (the file promises {video.duration_s:.3f} s, its pictures end at "
            f"{current.end_s:.3f} s); copy or download it again, or remove the line"
        )
    for _ in range(taken, len(times_s)):
        yield current.image(video, size)


# -- one open file ----------------------------------------------------------------------------------------------------


class _Picture:
    """A decoded picture; it is converted when first wanted."""

    def __init__(self, frame: Any, time_s: float, end_s: float) -> None:
        self.frame, self.time_s, self.end_s = frame, time_s, end_s
        self._image: np.ndarray | None = None

    def image(self, video: _Video, size: int) -> np.ndarray:
        """uint8 ``(size, size, 3)``."""
        if self._image is None:
            if self.frame.is_corrupt:
                raise video.damaged(f"the picture at {self.time_s:.3f} s")
            self._image = _square(self.frame, video.pixel_aspect, size)
        return self._image


class _Video:
    """The video stream of an open container; times are seconds from the container's beginning."""

    def __init__(self, container: Any, where: str) -> None:
        self.container, self.where = container, where
        self._at_start = True
        stream = film_stream(container)
        if stream is None:
            kinds = {"a cover picture" if s.type == "video" else s.type for s in container.streams} or {"nothing"}
            held = ", ".join(sorted(kinds))
            raise UserError(f"{where}: has no video stream (it holds {held}); give a video or remove the line")
        self.stream = stream
        # Loader workers run beside each other; threads of a decoder would only get in their way.
        self.stream.codec_context.thread_count = 1
        self.zero_s = zero_s(container)
        aspect = self.stream.sample_aspect_ratio
        self.pixel_aspect = float(aspect) if aspect else 1.0
        # Containers that keep times in milliseconds round them, up as well; pictures are hardly closer than 1 ms.
        self.rounding_s = min(0.5 * float(self.stream.time_base), 0.0005) + 1e-6

    def damaged(self, what: str) -> UserError:
        return UserError(f"{self.where}: damaged video ({what}); re-encode or replace it, or remove the line")

    @cached_property
    def _own_end_s(self) -> float | None:
        """End by the stream's own record; None where the container keeps none."""
        if self.stream.duration:
            return float(((self.stream.start_time or 0) + self.stream.duration) * self.stream.time_base) - self.zero_s
        text = self.stream.metadata.get("DURATION", "")  # of Matroska: 00:00:04.000000000, from the container's zero
        try:
            hours, minutes, seconds = text.split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - self.zero_s
        except ValueError:
            return None

    @cached_property
    def duration_s(self) -> float:
        """End of the pictures, by the stream, else the container, else by a look at all packets."""
        if self._own_end_s is not None:
            return self._own_end_s
        if self.container.duration:
            return self.container.duration / 1e6
        end_s = self._last_packet_end_s(self.stream)
        if end_s is None:
            raise UserError(
                f"{self.where}: the pictures have no time stamps; put them into a container that has them: "
                "ffmpeg -i FILE -c copy FILE.mp4"
            )
        return end_s

    def _rewind(self) -> None:
        # Not where it stands at the start anyway: streams without time stamps cannot be searched at all.
        if not self._at_start:
            self.container.seek(min(0, self.container.start_time or 0))

    def _last_packet_end_s(self, *streams: Any) -> float | None:
        """When the last packet of ``streams`` ends; reads the whole file without decoding."""
        import av

        end_s: float | None = None
        try:
            self._rewind()
            self._at_start = False
            for packet in self.container.demux(*streams):
                if packet.pts is not None:
                    packet_end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base) - self.zero_s
                    end_s = packet_end_s if end_s is None else max(end_s, packet_end_s)
        except av.FFmpegError as error:
            raise self.damaged(str(error)) from error
        return end_s

    def other_streams_go_on(self) -> bool:
        """Whether the pictures end early in a file that is whole: its length is told by a longer sound track."""
        if self._own_end_s is not None or not self.container.streams.audio:
            return False
        end_s = self._last_packet_end_s(*self.container.streams.audio)
        return end_s is not None and end_s > self.duration_s - tolerances.VIDEO_TAIL_S

    def pictures(self, from_s: float | None) -> Iterator[_Picture]:
        """Decoded pictures in the order of their times, from one at or before ``from_s`` on where there is one."""
        import av

        try:
            if from_s is not None and from_s > _FEW_SECONDS_S:
                for back_s in _FURTHER_BACK_S:
                    decoded = self._pictures_after(from_s - back_s)
                    first = next(decoded, None)
                    # A search may end behind what was sought, where a container has no index.
                    if first is not None and first.time_s <= from_s + self.rounding_s:
                        yield first
                        yield from decoded
                        return
            yield from self._pictures_after(None)
        except av.FFmpegError as error:
            raise self.damaged(str(error)) from error

    def _pictures_after(self, seek_s: float | None) -> Iterator[_Picture]:
        import av

        if seek_s is None:
            self._rewind()
        else:
            self._at_start = False
            try:
                offset = int((max(0.0, seek_s) + self.zero_s) / self.stream.time_base)
                self.container.seek(offset, stream=self.stream, backward=True)
            except av.FFmpegError:
                return  # a container that cannot be searched
        rate = self.stream.average_rate or self.stream.guessed_rate
        usual_s = 1 / float(rate) if rate else 0.0
        last_s: float | None = None
        self._at_start = False
        for frame in self.container.decode(self.stream):
            if frame.pts is not None:
                time_s = float(frame.pts * frame.time_base) - self.zero_s
            else:
                time_s = 0.0 if last_s is None else last_s + usual_s
            if last_s is not None and time_s <= last_s:
                continue  # its time is over
            last_s = time_s
            length_s = float(frame.duration * frame.time_base) if frame.duration else usual_s
            yield _Picture(frame, time_s, time_s + length_s)


@contextmanager
def _open(source: VideoSource) -> Iterator[_Video]:
    try:
        import av
    except ImportError as error:
        raise UserError(f"reading videos needs PyAV ({error}); run pip install 'unisono[video]'") from error
    with _binary(source) as (file, where):
        refuse_text(file, where, "a video")
        try:
            container = av.open(file)
        except (av.FFmpegError, ValueError, OSError) as error:
            raise UserError(
                f"{where}: not readable as a video ({getattr(error, 'strerror', None) or error}); "
                "re-encode it as mp4, or replace it"
            ) from error
        with container:
            yield _Video(container, where)


@contextmanager
def _binary(source: VideoSource) -> Iterator[tuple[BinaryIO, str]]:
    """The open file and its name for messages."""
    if isinstance(source, str | os.PathLike | Location):
        location = Location.of(source)
        if not location.path.is_file():
            raise UserError(f"{location.path}: no such video file; check the path (relative to the manifest's folder)")
        with location.open() as file:
            yield file, str(location)
        return
    where = str(getattr(source, "name", "video"))
    if not source.seekable():
        raise UserError(f"{where}: this stream cannot be searched; read it into io.BytesIO first")
    source.seek(0)
    yield source, where


# -- pictures ---------------------------------------------------------------------------------------------------------


def _displayed_size(frame: Any, pixel_aspect: float) -> tuple[float, float]:
    """Width and height in square pixels, before it is turned."""
    return frame.width * pixel_aspect, float(frame.height)


def _quarter_turns(frame: Any) -> int:
    """Counter-clockwise quarter turns that bring a picture upright."""
    return round(frame.rotation / _QUARTER_TURN_DEG) % 4


def _square(frame: Any, pixel_aspect: float, size: int) -> np.ndarray:
    """The largest square in the middle, resized and turned upright, uint8 ``(size, size, 3)``."""
    width, height = _displayed_size(frame, pixel_aspect)
    scale = size / min(width, height)
    columns, rows = max(size, round(width * scale)), max(size, round(height * scale))
    interpolation = "AREA" if scale < 1 else "BICUBIC"
    image = frame.to_ndarray(format="rgb24", width=columns, height=rows, interpolation=interpolation)
    top, left = (rows - size) // 2, (columns - size) // 2
    return np.rot90(image[top : top + size, left : left + size], _quarter_turns(frame))
