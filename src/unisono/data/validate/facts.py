"""What one recording is like, measured in one pass over its samples, in memory that does not grow with its length.

F: frames of 50 ms; B: bands of the fingerprint.
"""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from unisono.errors import UserError
from unisono.media.audio import audio_blocks, open_audio
from unisono.media.locations import Location

SILENCE_DBFS = -60.0
_FULL_SCALE = 0.999
_FRAMES_PER_S = 20
_EXCERPT_S = 6.0
_BANDS, _SEGMENTS = 8, 16
_BAND_EDGES_HZ = np.geomspace(100.0, 3600.0, _BANDS + 1)
FINGERPRINT_BYTES = _BANDS * _SEGMENTS
_FINGERPRINT_RANGE_DB = 50.0
_EDGE_DB = 25.0
_LOUD_SHARE = 1e-4  # of the loudest frame's energy
_LOWEST_EDGE_HZ = 3000.0
_FLOOR = 1e-20


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """Measurements of a recording; levels are of the average of its channels unless said otherwise.

    Attributes:
        sample_rate, num_channels, num_samples: the last per channel.
        peak: largest magnitude in any channel, full scale 1.
        clipped_share: samples that follow two others at full scale in their channel.
        offset: median over the frames of their mean: what is there all the time, not an uneven sound.
        rms: of the samples.
        active_dbfs: 95th percentile of the levels of frames that are not silent (of all if none is).
        silent_share: of frames below -60 dBFS.
        longest_silence_s: of such frames.
        cancelling_db: how much lower the average of the channels is than the channels.
        bandwidth_hz: up to which there is content, in the loudest 6 s.
        cut_off: whether it ends there at an edge.
        tolerance_s: by which a header of this kind of file may be wrong about the length.
        non_finite: place of the first NaN or infinite sample, -1 for none.
        samples_hash: of rate and samples: equal for equal sound in whichever lossless format.
        fingerprint: uint8 ``(16 * 8)`` in base64: level over time and frequency, whatever the loudness; empty where
            there is nothing to tell by.
    """

    sample_rate: int
    num_channels: int
    num_samples: int
    peak: float
    clipped_share: float
    offset: float
    rms: float
    active_dbfs: float
    silent_share: float
    longest_silence_s: float
    cancelling_db: float
    bandwidth_hz: float
    cut_off: bool
    tolerance_s: float
    non_finite: int
    samples_hash: str
    fingerprint: str

    @property
    def duration_s(self) -> float:
        return self.num_samples / self.sample_rate

    def values(self) -> list[Any]:
        """As the store keeps them, without names."""
        return [getattr(self, name) for name in AudioFacts.__slots__]


def measure_job(location: Location) -> dict[str, Any]:
    """``{"facts": …}``, or ``{"kind": …, "fault": …}`` for what cannot be read; whatever a decoder raises is that."""
    try:
        if not location.exists():
            what = "no such file" if not location.is_file() else "the archive has no such member"
            return {"kind": "missing_file", "fault": f"{location}: {what}; correct the path or remove the line"}
    except OSError as error:  # a name that is too long, a folder that may not be entered
        return {"kind": "missing_file", "fault": f"{location}: {error.strerror or error}; correct the path"}
    except Exception as error:
        return {"kind": "unreadable_audio", "fault": _told(location, error)}
    try:
        with open_audio(location) as reader:
            if reader.num_frames == 0 and not len(reader.read(0, 1)):
                return {
                    "kind": "empty_audio",
                    "fault": f"{location}: the audio is empty (0 samples); remove the line or replace the file",
                }
            return {"facts": asdict(_measure(reader, str(location)))}
    except Exception as error:
        return {"kind": "unreadable_audio", "fault": _told(location, error)}


def _told(location: Location, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"{location}: cannot be read ({type(error).__name__}: {error}); replace the file"


def _measure(reader: Any, where: str) -> AudioFacts:
    rate, channels = int(reader.sample_rate), int(reader.num_channels)
    frames, excerpt = _Frames(rate), _Excerpt(rate)
    digest = hashlib.blake2b(rate.to_bytes(4, "little"), digest_size=16)
    clipped = _Clipped(channels)
    count, squares, channel_squares, peak, non_finite = 0, 0.0, 0.0, 0.0, -1
    for block in audio_blocks(reader, where):
        if not np.isfinite(block.sum(dtype=np.float64)) and not (finite := np.isfinite(block)).all():
            if non_finite < 0:
                non_finite = count + int(np.argwhere(~finite)[0, 0])
            block = np.where(finite, block, 0.0).astype(np.float32)
        mono = block.mean(axis=1, dtype=np.float32) + np.float32(0.0)  # no negative zeros
        digest.update(np.ascontiguousarray(mono).tobytes())
        count += len(block)
        squares += float(np.square(mono, dtype=np.float64).sum())
        channel_squares += float(np.square(block, dtype=np.float64).sum()) / channels
        peak = max(peak, float(np.abs(block).max()))
        clipped.add(block)
        excerpt.add(mono)
        frames.add(mono)
    power, means, bands = frames.finish()
    level_dbfs = 10 * np.log10(np.maximum(power, _FLOOR))
    silent = level_dbfs < SILENCE_DBFS
    bandwidth_hz, cut_off = excerpt.bandwidth()
    return AudioFacts(
        sample_rate=rate,
        num_channels=channels,
        num_samples=count,
        peak=peak,
        clipped_share=clipped.count / (count * channels),
        offset=float(np.median(means)),
        rms=math.sqrt(squares / count),
        active_dbfs=float(np.percentile(level_dbfs[~silent] if not silent.all() else level_dbfs, 95)),
        silent_share=float(np.mean(silent)),
        longest_silence_s=_longest_run(silent) / _FRAMES_PER_S,
        cancelling_db=10 * math.log10(max(channel_squares, _FLOOR) / max(squares, _FLOOR)) if channel_squares else 0.0,
        bandwidth_hz=bandwidth_hz,
        cut_off=cut_off,
        tolerance_s=float(reader.tolerance_s),
        non_finite=non_finite,
        samples_hash=digest.hexdigest(),
        fingerprint=_fingerprint(bands),
    )


class _Clipped:
    """Counts samples that are at least the third in a row at full scale, over the edges of blocks."""

    def __init__(self, channels: int) -> None:
        self.before = np.zeros((2, channels), dtype=bool)
        self.count = 0

    def add(self, block: np.ndarray) -> None:
        full = np.concatenate([self.before, np.abs(block) >= _FULL_SCALE])
        if full.any():
            self.count += int(np.sum(full[2:] & full[1:-1] & full[:-2]))
        self.before = full[-2:]


class _Excerpt:
    """The loudest stretch of up to 6 s."""

    def __init__(self, rate: int) -> None:
        self.rate, self.length = rate, round(_EXCERPT_S * rate)
        self.energy, self.samples = -1.0, np.zeros(0, dtype=np.float32)

    def add(self, mono: np.ndarray) -> None:
        for start in range(0, len(mono), self.length):
            part = mono[start : start + self.length]
            energy = float(np.dot(part, part))
            if energy > self.energy:
                self.energy, self.samples = energy, part.copy()

    def bandwidth(self) -> tuple[float, bool]:
        """``(effective bandwidth in Hz, whether it ends at an edge)``."""
        from unisono.data.degrade.spectrum import effective_bandwidth_hz

        if not self.samples.any():
            return 0.0, False
        found_hz = effective_bandwidth_hz(self.samples, self.rate)
        return found_hz, self._has_edge(found_hz)

    def _has_edge(self, found_hz: float) -> bool:
        """Whether the spectrum falls at once there; content that fades, and most sums of harmonics, have no edge.

        In half of the loud frames nearly all of the half octave below, gaps between harmonics included, must be far
        above what comes a sixth of an octave later. No rate in use is as low as twice 3 kHz.
        """
        length = 2048
        if not _LOWEST_EDGE_HZ <= found_hz < 0.95 * self.rate / 2 or len(self.samples) < 2 * length:
            return False
        frames = np.lib.stride_tricks.sliding_window_view(self.samples, length)[:: length // 2]
        energy = np.einsum("ij,ij->i", frames, frames)
        frames = frames[energy >= energy.max() * _LOUD_SHARE]
        power = np.abs(np.fft.rfft(frames * np.blackman(length), axis=1)) ** 2
        frequency_hz = np.fft.rfftfreq(length, 1 / self.rate)
        below = power[:, (frequency_hz > found_hz / 2**0.5) & (frequency_hz < found_hz / 1.06)]
        above = power[:, frequency_hz > found_hz * 1.12]
        if not below.shape[1] or not above.shape[1]:
            return False
        # Quantisation noise is no content: what lies above digital silence is compared with it.
        noise = length * 0.3 * 2.0**-32
        ratio = np.percentile(below, 15, axis=1) / np.maximum(np.percentile(above, 99, axis=1), noise)
        return float(np.median(ratio)) > 10 ** (_EDGE_DB / 10)


class _Frames:
    """Power, and power in bands, of frames of 50 ms."""

    def __init__(self, rate: int) -> None:
        self.length = max(1, rate // _FRAMES_PER_S)
        self.rest = np.zeros(0, dtype=np.float32)
        self.power: list[np.ndarray] = []
        self.means: list[np.ndarray] = []
        self.bands: list[np.ndarray] = []
        edges = np.ceil(_BAND_EDGES_HZ * self.length / rate).astype(int)
        self.edges = np.minimum(edges, self.length // 2 + 1)
        self.window = np.hanning(self.length).astype(np.float32)

    def add(self, mono: np.ndarray) -> None:
        joined = np.concatenate([self.rest, mono])
        whole = len(joined) // self.length
        self._take(joined[: whole * self.length].reshape(whole, self.length))
        self.rest = joined[whole * self.length :]

    def _take(self, frames: np.ndarray) -> None:
        # A few thousand at a time: spectra take more room than samples.
        for first in range(0, len(frames), 4096):
            part = frames[first : first + 4096]
            self.power.append(np.mean(np.square(part), axis=1))
            self.means.append(part.mean(axis=1))
            spectra = np.abs(np.fft.rfft(part * self.window, axis=1)) ** 2
            summed = np.concatenate([np.zeros((len(part), 1)), np.cumsum(spectra, axis=1)], axis=1)
            self.bands.append(np.diff(summed[:, self.edges], axis=1).astype(np.float32))

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Power ``(F,)``, means ``(F,)``, power in bands ``(F, B)``; half a frame at the end counts as one."""
        if len(self.rest) * 2 >= self.length or not self.power:
            padded = np.zeros(self.length, dtype=np.float32)
            padded[: len(self.rest)] = self.rest
            self._take(padded[None])
            # Of the samples that are there, without the zeros.
            share = self.length / max(1, len(self.rest))
            self.power[-1], self.means[-1] = self.power[-1] * share, self.means[-1] * share
        return np.concatenate(self.power), np.concatenate(self.means), np.concatenate(self.bands)


def _longest_run(flags: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _fingerprint(bands: np.ndarray) -> str:
    """Mean level in 16 equal parts and 8 bands, relative to the loudest, in steps of 0.2 dB."""
    if len(bands) < _SEGMENTS or not bands.any():
        return ""
    edges = np.linspace(0, len(bands), _SEGMENTS + 1).round().astype(int)
    power = np.stack([bands[a:b].mean(axis=0) for a, b in pairwise(edges)])
    level_db = 10 * np.log10(np.maximum(power, _FLOOR))
    steps = (np.clip(level_db - level_db.max(), -_FINGERPRINT_RANGE_DB, 0) + _FINGERPRINT_RANGE_DB) * 5
    return base64.b64encode(steps.round().astype(np.uint8).tobytes()).decode()


def fingerprint_vectors(fingerprints: np.ndarray) -> np.ndarray:
    """Of uint8 ``(N, 128)``: float32 ``(N, 128)``, each of mean 0 and length 1; zeros where all is alike."""
    values = fingerprints.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)
