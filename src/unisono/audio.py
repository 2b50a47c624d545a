"""Reading and writing waveforms. In memory audio is mono float32 in [-1, 1] at the model's ``sample_rate``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from unisono.errors import UserError

WRITABLE_FORMATS = ("WAV", "FLAC", "OGG")
# Some formats (mp3) only estimate their length; a file that ends earlier than this was cut off.
_HEADER_TOLERANCE_S = 0.05
_BLOCK_FRAMES = 1 << 20


def check_sample_rate(sample_rate: int, where: str) -> None:
    if not isinstance(sample_rate, int | np.integer) or not 1_000 <= sample_rate <= 768_000:
        raise UserError(f"{where}: sample rate {sample_rate!r} is not a whole number of Hz between 1000 and 768000")


def check_waveform(waveform: np.ndarray, where: str) -> None:
    """Raise if a waveform is empty or holds NaN or infinite samples."""
    if waveform.size == 0:
        raise UserError(f"{where}: the audio is empty (0 samples); remove the line or replace the file")
    if not np.isfinite(waveform).all():
        bad = int(np.flatnonzero(~np.isfinite(waveform))[0])
        raise UserError(f"{where}: sample {bad} is NaN or infinite; re-export the file")


def audio_info(path: str | os.PathLike) -> tuple[int, float]:
    """``(sample_rate, duration_s)`` from the header alone."""
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such audio file; check the path (relative paths are read from the manifest's folder)"
        )
    try:
        info = sf.info(str(path))
    except (sf.LibsndfileError, TypeError) as error:
        raise UserError(f"{path}: not readable as audio ({error}); re-encode it as wav or flac") from error
    check_sample_rate(info.samplerate, str(path))
    return info.samplerate, info.frames / info.samplerate


def read_audio(path: str | os.PathLike, sample_rate: int) -> np.ndarray:
    """Read a file as mono float32 ``(S,)`` at ``sample_rate`` Hz; channels are averaged, rates converted by soxr."""
    path = Path(path)
    native_rate, duration_s = audio_info(path)
    try:
        data, _ = sf.read(str(path), dtype="float32", always_2d=True)
    except sf.LibsndfileError as error:
        raise _damaged(path, error) from error
    waveform = data.mean(axis=1)
    check_waveform(waveform, str(path))
    _check_whole(path, len(data) / native_rate, duration_s)
    if native_rate != sample_rate:
        check_sample_rate(sample_rate, "sample_rate")
        waveform = soxr.resample(waveform, native_rate, sample_rate, quality="HQ")
        if waveform.size == 0:
            raise UserError(
                f"{path}: {len(data)} samples at {native_rate} Hz are none at {sample_rate} Hz; "
                "remove the line or replace the file"
            )
    return np.ascontiguousarray(waveform, dtype=np.float32)


def verify_audio_file(path: str | os.PathLike) -> None:
    """Decode a whole file, in constant memory, and raise for what ``read_audio`` would refuse."""
    path = Path(path)
    native_rate, duration_s = audio_info(path)
    frames = 0
    try:
        with sf.SoundFile(str(path)) as file:
            # Not file.blocks(): it fills up a block that ends early.
            while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                # A sum is finite unless a sample is not; only then is it worth looking for the sample.
                if not np.isfinite(block.sum(dtype=np.float64)):
                    bad = frames + int(np.argwhere(~np.isfinite(block))[0, 0])
                    raise UserError(f"{path}: sample {bad} is NaN or infinite; re-export the file")
                frames += len(block)
    except sf.LibsndfileError as error:
        raise _damaged(path, error) from error
    if frames == 0:
        raise UserError(f"{path}: the audio is empty (0 samples); remove the line or replace the file")
    _check_whole(path, frames / native_rate, duration_s)


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: damaged audio ({error}); re-encode it as wav or flac")


def _check_whole(path: Path, decoded_s: float, header_s: float) -> None:
    if header_s - decoded_s > _HEADER_TOLERANCE_S:
        raise UserError(
            f"{path}: damaged audio (the header promises {header_s:.3f} s, {decoded_s:.3f} s can be decoded); "
            "replace the file or re-encode it as wav or flac"
        )


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
        raise UserError(f"{path}: cannot write audio of the kind {path.suffix!r}; use .wav, .flac or .ogg")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A temporary file in the same folder, then a rename: a killed run never leaves half a file.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        sf.write(
            temporary, waveform, sample_rate, format=file_format, subtype="PCM_16" if file_format != "OGG" else None
        )
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
