"""Lossy codecs, there and back in memory, their delay taken out."""

from __future__ import annotations

import io
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from unisono.data.degrade.settings import checked_waveform
from unisono.errors import UserError


class _Codec(NamedTuple):
    """How a codec is used.

    Attributes:
        rates: sample rates in Hz that it takes.
        bit_rates: lowest and highest bits per second that degrade without ruining; None where there is no choice.
        encoder, decoder: FFmpeg's names; empty for what libsndfile does.
        sample_format: of the encoder.
        hidden_delay: samples that decoding delays beyond what the encoder declares.
    """

    rates: tuple[int, ...]
    bit_rates: tuple[int, int] | None
    encoder: str = ""
    decoder: str = ""
    sample_format: str = "fltp"
    hidden_delay: int = 0


_MPEG_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_CODECS: dict[str, _Codec] = {
    "mp3": _Codec(_MPEG_RATES, (16_000, 64_000), "libmp3lame", "mp3float"),
    "aac": _Codec((*_MPEG_RATES, 64_000, 88_200, 96_000), (16_000, 64_000), "aac", "aac"),
    "opus": _Codec((48_000,), (12_000, 48_000), "libopus", "opus", "flt"),
    "vorbis": _Codec((*_MPEG_RATES, 96_000), None),
    "g722": _Codec((16_000,), None, "g722", "g722", "s16"),
    "mulaw": _Codec((8_000,), None, "pcm_mulaw", "pcm_mulaw", "s16"),
}
CODECS: tuple[str, ...] = tuple(_CODECS)
_FRAME_SAMPLES = 4096  # for codecs that take frames of any length
_FLUSH_SAMPLES = 8192  # silence behind the end, longer than the delay of any of them
_VORBIS_LEVEL = 1.0  # libsndfile's compression level of the lowest quality


def codec_bit_rates(codec: str) -> tuple[int, int] | None:
    """Usual low bit rates of a codec, bits per second; None where it has but one.

    Raises:
        UserError: unknown codec.
    """
    return _row(codec).bit_rates


def through_codec(waveform: np.ndarray, sample_rate: int, codec: str, bit_rate: int | None = None) -> np.ndarray:
    """``waveform`` encoded and decoded, float32, same length, its delay removed.

    The delay is what the encoder itself declares; the result is aligned within 0.06 ms, one sample at 16 kHz
    (opus below 9 kbit/s, where it works in another way, 0.2 ms). The codec runs at its lowest sample rate that is not
    below ``sample_rate``, or at its highest; ``g722`` runs at 16 kHz and ``mulaw`` at 8 kHz as in telephones. Peaks
    above 1 are scaled down before and up after, so that none of them clips.

    Args:
        waveform: ``(S,)``.
        sample_rate: Hz.
        codec: one of :data:`CODECS`.
        bit_rate: bits per second; codecs take the nearest they know. None: the middle of :func:`codec_bit_rates`.

    Raises:
        UserError: unknown codec, a bit rate it does not take, an encoder that is not installed, bad waveform.
    """
    row = _row(codec)
    waveform = checked_waveform("through_codec", waveform)
    if row.bit_rates is None and bit_rate is not None:
        raise UserError(f"through_codec: {codec} has no choice of bit_rate ({bit_rate}); leave it away")
    if row.bit_rates is not None:
        bit_rate = round(np.sqrt(row.bit_rates[0] * row.bit_rates[1])) if bit_rate is None else bit_rate
        if not 4_000 <= bit_rate <= 512_000:
            raise UserError(f"through_codec: bit_rate is {bit_rate}; give 4000 to 512000 bits per second")
    rate = min((r for r in row.rates if r >= sample_rate), default=max(row.rates))
    level = max(1.0, float(np.abs(waveform).max()))
    narrow = _converted(waveform / np.float32(level), sample_rate, rate)
    padded = np.pad(narrow, (0, _FLUSH_SAMPLES))
    decoded = _by_libsndfile(padded, rate) if not row.encoder else _by_ffmpeg(padded, rate, codec, row, bit_rate)
    back = _converted(decoded, rate, sample_rate)
    assert len(back) >= len(waveform), f"{codec}: {len(back)} of {len(waveform)} samples came back"
    return (back[: len(waveform)] * np.float32(level)).astype(np.float32, copy=False)


def _row(codec: str) -> _Codec:
    if codec not in _CODECS:
        raise UserError(f"codec {codec!r} is unknown; choose one of {', '.join(CODECS)}")
    return _CODECS[codec]


def _converted(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    import soxr

    return waveform if rate == wanted else soxr.resample(waveform, rate, wanted, quality="HQ")


def _by_libsndfile(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Ogg Vorbis; FFmpeg's own encoder for it is an experiment, for stereo alone."""
    import soundfile as sf

    encoded = io.BytesIO()
    with sf.SoundFile(encoded, "w", rate, 1, format="OGG", subtype="VORBIS", compression_level=_VORBIS_LEVEL) as file:
        # In pieces: libvorbis takes its working memory for a whole call from the stack.
        for start in range(0, len(waveform), _FRAME_SAMPLES):
            file.write(waveform[start : start + _FRAME_SAMPLES])
    encoded.seek(0)
    return sf.read(encoded, dtype="float32")[0]


def _by_ffmpeg(waveform: np.ndarray, rate: int, codec: str, row: _Codec, bit_rate: int | None) -> np.ndarray:
    """Packets handed from the encoder to the decoder without a container."""
    av = _pyav(codec)
    try:
        encoder = av.CodecContext.create(row.encoder, "w")
        decoder = av.CodecContext.create(row.decoder, "r")
    except av.codec.codec.UnknownCodecError as error:
        raise UserError(f"{codec} needs FFmpeg's {error.args[0]}, which this PyAV is built without") from error
    encoder.sample_rate, encoder.layout, encoder.format = rate, "mono", row.sample_format
    encoder.time_base = Fraction(1, rate)
    if bit_rate is not None:
        encoder.bit_rate = bit_rate
    try:
        encoder.open()
        packets = _encoded(av, encoder, waveform, rate)
    except av.FFmpegError as error:
        raise UserError(f"{codec} at {rate} Hz does not take bit_rate {bit_rate} ({error}); give another") from error
    decoder.sample_rate, decoder.layout = rate, "mono"
    if encoder.extradata:
        decoder.extradata = encoder.extradata
    # The decoders that know of the delay would remove some of it, in their own ways; here all of it is removed below.
    decoder.flags2 |= av.codec.context.Flags2.skip_manual
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    assert {frame.sample_rate for frame in frames} == {rate}, f"{codec} decodes to another sample rate"
    decoded = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])
    if decoded.dtype == np.int16:
        decoded = decoded.astype(np.float32) / 32768
    # Packets are stamped so that the first sample of the input has the time 0.
    return decoded[-packets[0].pts + row.hidden_delay :]


def _encoded(av: Any, encoder: Any, waveform: np.ndarray, rate: int) -> list[Any]:
    if encoder.format.name == "s16":
        waveform = np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.int16)
    step = encoder.frame_size or _FRAME_SAMPLES
    packets = []
    for start in range(0, len(waveform), step):
        block = np.ascontiguousarray(waveform[None, start : start + step])
        frame = av.AudioFrame.from_ndarray(block, format=encoder.format.name, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        packets += encoder.encode(frame)
    return packets + encoder.encode(None)


@lru_cache(maxsize=len(CODECS))
def _pyav(codec: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError(f"the codec {codec} needs PyAV ({error}); run pip install 'unisono[speech]'") from error
    return av
