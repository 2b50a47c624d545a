"""Audio that libsndfile cannot read, decoded by FFmpeg through PyAV: aac, m4a, wma, the sound of videos …

Time zero is the beginning of the container: where the sound of a video starts later than its pictures, silence stands
in front of it, so that both stay together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np

from unisono.errors import UserError
from unisono.media import tolerances
from unisono.media.containers import refuse_text, zero_s
from unisono.media.locations import Location
from unisono.media.wholeness import check_raw_stream
from unisono.timing import seconds_to_samples


class _FfmpegReader:
    """An audio stream as one run of samples from the container's beginning on."""

    def __init__(self, container: Any, where: str) -> None:
        self.container, self.where = container, where
        self.stream = container.streams.audio[0]
        self.sample_rate, self.num_channels = int(self.stream.rate), int(self.stream.channels)
        self.zero_s = zero_s(container)
        self.num_frames, self.tolerance_s = self._promised_frames(), tolerances.HEADER_S
        self.position = 0
        self.blocks: Iterator[np.ndarray] = self._decoded(0)
        self.rest = np.zeros((0, self.num_channels), dtype=np.float32)

    def _promised_frames(self) -> int:
        """Length by the stream's own record, else the container's; 0 where neither tells."""
        if self.stream.duration and self.stream.time_base:
            end_s = float((self.stream.start_time or 0) + self.stream.duration) * float(self.stream.time_base)
            return seconds_to_samples(end_s - self.zero_s, self.sample_rate)
        if self.container.duration:
            return seconds_to_samples(self.container.duration / 1e6, self.sample_rate)
        return sum(len(block) for block in self._decoded(0))

    def read(self, start: int, frames: int) -> np.ndarray:
        if start != self.position:
            self.blocks = self._decoded(start)
            self.rest = self.rest[:0]
            self.position = start
        parts, found = [self.rest], len(self.rest)
        while found < frames and (block := next(self.blocks, None)) is not None:
            parts.append(block)
            found += len(block)
        data = np.concatenate(parts)
        self.rest = data[frames:]
        self.position = start + min(frames, len(data))
        return data[:frames]

    def check_all(self) -> None:
        pass  # FFmpeg tells what it knows when it decodes

    def check_part(self, part: np.ndarray, end: int) -> None:
        pass

    def _decoded(self, start: int) -> Iterator[np.ndarray]:
        """float32 ``(frames, channels)`` blocks from frame ``start`` on."""
        # Half a second early: what a codec remembers from before has then faded.
        early_s = max(0.0, start / self.sample_rate - 0.5)
        try:
            self.container.seek(int((early_s + self.zero_s) * 1e6), backward=True, any_frame=False)
            resampler = av.AudioResampler(format="fltp", layout=self.stream.layout, rate=self.sample_rate)
            position: int | None = None
            for frame in self.container.decode(self.stream):
                if position is None:
                    begin_s = 0.0 if frame.pts is None else float(frame.pts * frame.time_base) - self.zero_s
                    position = seconds_to_samples(begin_s, self.sample_rate)
                    if position > start and early_s == 0.0:
                        yield np.zeros((position - start, self.num_channels), dtype=np.float32)
                for converted in resampler.resample(frame):
                    block = converted.to_ndarray().T
                    skip = max(0, start - position)
                    position += len(block)
                    if skip < len(block):
                        yield block[skip:]
        except av.FFmpegError as error:
            raise UserError(f"{self.where}: damaged audio ({error}); re-encode it as wav or flac") from error


@contextmanager
def open_container(location: Location, binary: Any, complaint: str) -> Iterator[_FfmpegReader]:
    """Open the first audio stream of a container.

    Args:
        location: for messages.
        binary: the open file.
        complaint: what libsndfile said.

    Raises:
        UserError: FFmpeg cannot read it either, or it has no sound.
    """
    binary.seek(0)
    refuse_text(binary, str(location), "audio")
    try:
        container = av.open(binary)
    except (av.FFmpegError, ValueError, OSError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(
            f"{location}: not readable as audio (libsndfile: {complaint}; FFmpeg: {said}); re-encode it as wav or flac"
        ) from error
    with container:
        before = binary.tell()
        check_raw_stream(binary, container.format.name, str(location))
        binary.seek(before)  # FFmpeg is reading from it
        if not container.streams.audio:
            raise UserError(f"{location}: has no audio stream; give a recording")
        stream = container.streams.audio[0]
        if not stream.rate or not stream.channels:  # what FFmpeg took for sound is none
            raise UserError(f"{location}: not readable as audio ({complaint}); re-encode it as wav or flac")
        yield _FfmpegReader(container, str(location))
