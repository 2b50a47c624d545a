"""Reading and writing waveforms. In memory audio is mono float32 in [-1, 1] at the model's ``sample_rate``.

Files are read by libsndfile, what it cannot read (aac, m4a, the sound of videos …) by FFmpeg through PyAV, arrays of
samples from HDF5. A source is a path or a ``Location`` in an archive.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import soundfile as sf
import soxr

from unisono.errors import UserError
from unisono.files import replaced_file
from unisono.media import tolerances
from unisono.media.locations import Location, hdf5_dataset
from unisono.media.wholeness import check_container, check_joined_ogg
from unisono.timing import seconds_to_samples

AudioPath = str | os.PathLike | Location

WRITABLE_FORMATS = ("WAV", "FLAC", "OGG", "MP3")
_BLOCK_FRAMES = 1 << 20
_COMPARED_FRAMES = 64
_WRITTEN_FRAMES = 1 << 16
_EVERYTHING = 1 << 40  # more than a header promises: some only estimate
_SAMPLE_TYPES = tuple(map(np.dtype, ("int16", "int32", "float16", "float32", "float64")))
# A part of a recording is resampled with its surroundings, so that it sounds as it does within the whole.
_RESAMPLING_MARGIN_S = 0.05


class AudioInfo(NamedTuple):
    """What a header says.

    Attributes:
        sample_rate: Hz.
        duration_s: length.
        num_channels: they are averaged when read.
        tolerance_s: by how much the length may be wrong.
    """

    sample_rate: int
    duration_s: float
    num_channels: int
    tolerance_s: float


class AudioReader(Protocol):
    """An open recording."""

    sample_rate: int
    num_frames: int
    num_channels: int
    tolerance_s: float

    def read(self, start: int, frames: int) -> np.ndarray:
        """float32 ``(at most frames, channels)`` from frame ``start`` on; fewer at the end or before damage."""
        ...

    def check_all(self) -> None:
        """Raise for damage that only a look at the whole file tells; for who reads all of it."""
        ...

    def check_part(self, part: np.ndarray, end: int) -> None:
        """Raise if ``part``, just read and ending before frame ``end``, was decoded across a hole."""
        ...


def check_sample_rate(sample_rate: int, where: str) -> None:
    if not isinstance(sample_rate, int | np.integer) or not 1_000 <= sample_rate <= 768_000:
        raise UserError(f"{where}: sample rate {sample_rate!r} is not a whole number of Hz between 1000 and 768000")


def check_waveform(waveform: np.ndarray, where: str) -> None:
    """Raise if a waveform is empty or holds NaN or infinite samples."""
    if waveform.size == 0:
        raise UserError(f"{where}: the audio is empty (0 samples); remove the line or replace the file")
    # A sum is finite unless a sample is not; only then is it worth looking for the sample.
    if not np.isfinite(waveform.sum(dtype=np.float64)):
        bad = int(np.argwhere(~np.isfinite(waveform))[0, 0])
        raise UserError(f"{where}: sample {bad} is NaN or infinite; re-export the file")


# -- opening ----------------------------------------------------------------------------------------------------------


class _SndfileReader:
    def __init__(self, file: sf.SoundFile, binary: BinaryIO, where: str) -> None:
        self.file, self.binary, self.where = file, binary, where
        self.sample_rate, self.num_frames, self.num_channels = file.samplerate, file.frames, file.channels
        self.tolerance_s = tolerances.MP3_HEADER_S if file.format == "MP3" else tolerances.HEADER_S

    def read(self, start: int, frames: int) -> np.ndarray:
        if start != self.file.tell():
            self.file.seek(min(start, self.num_frames))
        return self.file.read(frames, dtype="float32", always_2d=True)

    def check_all(self) -> None:
        if self.file.format == "OGG":
            before = self.binary.tell()
            check_joined_ogg(self.binary, self.where)
            self.binary.seek(before)  # libsndfile itself may be reading from it

    def check_part(self, part: np.ndarray, end: int) -> None:
        # Vorbis goes on behind a hole with what comes later; a search, which is exact, then finds other samples at the
        # end. Within the last page it does so in whole files too: what can be decoded in all decides.
        if self.file.subtype != "VORBIS":
            return
        tail = part[-_COMPARED_FRAMES:]
        if np.array_equal(tail, self.read(end - len(tail), len(tail))):
            return
        decoded, frames = 0, _BLOCK_FRAMES
        while frames == _BLOCK_FRAMES:
            frames = len(self.read(decoded, _BLOCK_FRAMES))
            decoded += frames
        _check_whole(self.where, self, decoded)


class _ArrayReader:
    """Samples in an HDF5 data set ``(S,)`` or ``(S, channels)`` with an attribute ``sample_rate``."""

    tolerance_s = tolerances.HEADER_S

    def __init__(self, location: Location) -> None:
        self.data = hdf5_dataset(location)
        rate = self.data.attrs.get("sample_rate")
        if not isinstance(rate, int | float | np.integer | np.floating) or not np.isfinite(rate) or rate != int(rate):
            raise UserError(f"{location}: samples need an attribute sample_rate, whole Hz; it is {rate!r}")
        if self.data.dtype not in _SAMPLE_TYPES:
            raise UserError(f"{location}: samples are {self.data.dtype}; store int16, int32 or floats from -1 to 1")
        check_sample_rate(int(rate), str(location))
        shape = self.data.shape
        if self.data.ndim not in (1, 2) or (self.data.ndim == 2 and shape[1] > 64):
            raise UserError(
                f"{location}: an array of shape {shape} is no audio; store (samples,) or (samples, channels)"
            )
        self.sample_rate, self.num_frames = int(rate), int(shape[0])
        self.num_channels = 1 if self.data.ndim == 1 else int(shape[1])

    def read(self, start: int, frames: int) -> np.ndarray:
        part = np.asarray(self.data[start : start + frames]).reshape(-1, self.num_channels)
        if part.dtype.kind == "i":
            return part.astype(np.float32) / float(np.iinfo(part.dtype).max + 1)
        return part.astype(np.float32)

    def check_all(self) -> None:
        pass  # HDF5 tells when it reads

    def check_part(self, part: np.ndarray, end: int) -> None:
        pass


@contextmanager
def open_audio(source: AudioPath) -> Iterator[AudioReader]:
    """Open a recording for reading parts of it.

    Raises:
        UserError: missing, damaged, in a format that neither libsndfile nor PyAV reads.
    """
    location = Location.of(source)
    if not location.is_file():
        raise UserError(
            f"{location.path}: no such audio file; check the path (relative paths are read from the manifest's folder)"
        )
    if location.is_hdf5 and hdf5_dataset(location).dtype != np.uint8:
        yield _ArrayReader(location)
        return
    with location.open() as binary:
        try:
            # libsndfile reads a file by its name faster than through Python.
            file = sf.SoundFile(str(location.path) if location.member is None else binary)
        except (sf.LibsndfileError, TypeError) as error:
            with _open_with_ffmpeg(location, binary, error) as reader:
                yield reader
            return
        with file:
            check_sample_rate(file.samplerate, str(location))
            before = binary.tell()
            check_container(binary, file.format, file.frames, file.samplerate, str(location))
            binary.seek(before)  # libsndfile itself may be reading from it
            yield _SndfileReader(file, binary, str(location))


@contextmanager
def _open_with_ffmpeg(location: Location, binary: Any, error: Exception) -> Iterator[AudioReader]:
    """What libsndfile refuses; its own complaint is told where FFmpeg cannot read it either."""
    try:
        from unisono.media.av_audio import open_container
    except ImportError:
        remedy = "re-encode it as wav or flac, or read more formats with: pip install 'unisono[video]'"
        raise UserError(f"{location}: not readable as audio ({_reason(error)}); {remedy}") from error
    with open_container(location, binary, _reason(error)) as reader:
        check_sample_rate(reader.sample_rate, str(location))
        yield reader


# -- reading ----------------------------------------------------------------------------------------------------------


def audio_info(source: AudioPath) -> AudioInfo:
    """Rate, length and channels from the header alone."""
    with open_audio(source) as reader:
        duration_s = reader.num_frames / reader.sample_rate
        return AudioInfo(reader.sample_rate, duration_s, reader.num_channels, reader.tolerance_s)


def read_audio(
    source: AudioPath, sample_rate: int, start_s: float = 0.0, duration_s: float | None = None
) -> np.ndarray:
    """Read mono float32 ``(S,)`` at ``sample_rate`` Hz; channels are averaged, rates converted by soxr.

    Args:
        source: path or location.
        sample_rate: wanted rate.
        start_s, duration_s: a part of the recording, read without decoding the rest where the format allows; it has
            exactly ``seconds_to_samples(duration_s)`` samples, silent after the recording's end. None reads the whole.

    Raises:
        UserError: missing, damaged, empty, cut off, NaN, a part that begins after the end.
    """
    where = str(source)
    with open_audio(source) as reader:
        if duration_s is None:
            reader.check_all()
            data = _read(reader, 0, _EVERYTHING, where)
            check_waveform(data, where)
            _check_whole(where, reader, len(data))
            return _resampled(data.mean(axis=1), reader.sample_rate, sample_rate, where)
        return _read_part(reader, sample_rate, start_s, duration_s, where)


def _read_part(reader: AudioReader, sample_rate: int, start_s: float, duration_s: float, where: str) -> np.ndarray:
    rate = reader.sample_rate
    begin, end = seconds_to_samples(start_s, rate), seconds_to_samples(start_s + duration_s, rate)
    if begin >= reader.num_frames:
        raise UserError(
            f"{where}: a part from {start_s:.3f} s on was asked for; it ends at {reader.num_frames / rate:.3f} s"
        )
    margin = 0 if rate == sample_rate else seconds_to_samples(_RESAMPLING_MARGIN_S, rate)
    # Begin at a sample that both rates have, so that the part is not shifted by a fraction of one.
    common = rate // np.gcd(rate, sample_rate)
    first = max(0, begin - margin) // common * common
    data = _read(reader, first, end - first + margin, where)
    check_waveform(data, where)
    if len(data) < end - first + margin:  # the recording's end, or that of a file that was cut off
        _check_whole(where, reader, first + len(data))
    else:
        reader.check_part(data, first + len(data))
    whole = _resampled(data.mean(axis=1), rate, sample_rate, where)
    offset = seconds_to_samples(start_s - first / rate, sample_rate)
    samples = seconds_to_samples(duration_s, sample_rate)
    part = whole[offset : offset + samples]
    return np.pad(part, (0, samples - len(part)))


def _read(reader: AudioReader, start: int, frames: int, where: str) -> np.ndarray:
    try:
        return reader.read(start, frames)
    except (sf.LibsndfileError, OSError) as error:
        raise _damaged(where, error) from error


def _resampled(waveform: np.ndarray, rate: int, sample_rate: int, where: str) -> np.ndarray:
    if rate != sample_rate:
        check_sample_rate(sample_rate, "sample_rate")
        samples = len(waveform)
        waveform = soxr.resample(waveform, rate, sample_rate, quality="HQ")
        if waveform.size == 0:
            raise UserError(
                f"{where}: {samples} samples at {rate} Hz are none at {sample_rate} Hz; "
                "remove the line or replace the file"
            )
    return np.ascontiguousarray(waveform, dtype=np.float32)


def audio_blocks(reader: AudioReader, where: str) -> Iterator[np.ndarray]:
    """The whole recording, float32 ``(frames, channels)`` at a time, in constant memory.

    Raises:
        UserError: damaged, cut off or empty.
    """
    reader.check_all()
    position = 0
    while len(block := _read(reader, position, _BLOCK_FRAMES, where)):
        position += len(block)
        yield block
        # Behind a hole a decoder would go on, and what is behind it would move to the front.
        if len(block) < _BLOCK_FRAMES:
            break
    if position == 0:
        raise UserError(f"{where}: the audio is empty (0 samples); remove the line or replace the file")
    _check_whole(where, reader, position)


def verify_audio_file(source: AudioPath) -> None:
    """Decode a whole file, in constant memory, and raise for what ``read_audio`` would refuse."""
    frames = 0
    with open_audio(source) as reader:
        for block in audio_blocks(reader, str(source)):
            if not np.isfinite(block.sum(dtype=np.float64)):
                bad = frames + int(np.argwhere(~np.isfinite(block))[0, 0])
                raise UserError(f"{source}: sample {bad} is NaN or infinite; re-export the file")
            frames += len(block)


def _damaged(where: str, error: Exception) -> UserError:
    return UserError(f"{where}: damaged audio ({_reason(error)}); re-encode it as wav or flac")


def _reason(error: Exception) -> str:
    """What libsndfile complains about, without the name of the file or of the object in memory."""
    return error.error_string if isinstance(error, sf.LibsndfileError) else str(error)


def _check_whole(where: str, reader: AudioReader, decoded: int) -> None:
    decoded_s, header_s = decoded / reader.sample_rate, reader.num_frames / reader.sample_rate
    if header_s - decoded_s > reader.tolerance_s:
        raise UserError(
            f"{where}: damaged audio (the header promises {header_s:.3f} s, {decoded_s:.3f} s can be decoded); "
            "replace the file or re-encode it as wav or flac"
        )


# -- writing ----------------------------------------------------------------------------------------------------------


def write_audio(path: str | os.PathLike, waveform: np.ndarray, sample_rate: int) -> Path:
    """Write mono audio ``(S,)``, 16-bit PCM (Vorbis for ogg), format by extension; whole or not at all.

    Samples beyond [-1, 1] would wrap or clip: the waveform is scaled down to a peak of 1 instead.
    """
    path = Path(path)
    waveform = np.asarray(waveform, dtype=np.float32)
    assert waveform.ndim == 1, f"{path}: mono audio has one dimension, not shape {waveform.shape}"
    check_sample_rate(sample_rate, str(path))
    check_waveform(waveform, str(path))
    peak = float(np.abs(waveform).max())
    if peak > 1.0:
        waveform = waveform / peak
    file_format = path.suffix[1:].upper()
    if file_format not in WRITABLE_FORMATS:
        raise UserError(f"{path}: cannot write audio of the kind {path.suffix!r}; use .wav, .flac, .ogg or .mp3")
    try:
        with replaced_file(path) as temporary:
            subtype = "PCM_16" if file_format in ("WAV", "FLAC") else None
            with sf.SoundFile(temporary, "w", sample_rate, 1, subtype, format=file_format) as file:
                # In parts: libsndfile's Vorbis coder overflows the stack when it is given two minutes at once.
                for begin in range(0, len(waveform), _WRITTEN_FRAMES):
                    file.write(waveform[begin : begin + _WRITTEN_FRAMES])
    except (OSError, sf.LibsndfileError) as error:  # the latter where the disk is full, too
        raise UserError(f"{path}: cannot be written ({error}); make room, or choose another folder") from error
    return path
