"""Up to which frequency a recording has content."""

from __future__ import annotations

import numpy as np

from unisono.data.degrade.settings import checked_waveform

# Mean square of the 16-bit quantisation error with the usual (triangular) dither, full scale being 1.
_DITHER_POWER = 2.0**-32
_ABOVE_DITHER_DB = 10.0
_SIDE_LOBES_DB = 90.0  # of the window, below a tone
_ACTIVE_RANGE_DB = 50.0
_FRAME_S = 0.043
_MAX_FRAMES = 2000
_PERCENTILE = 95
_BANDS_PER_OCTAVE = 24
_LOWEST_HZ = 50.0
_EDGE_LOWEST_HZ = 800.0
# What makes an edge: (bands of 1/24 octave, fall in dB).
_EDGES = ((4, 25.0), (12, 40.0))
_EDGE_LEVEL_DB = 6.0


def effective_bandwidth_hz(waveform: np.ndarray, sample_rate: int) -> float:
    """Up to which frequency a recording has content, Hz; 0 if it is silent.

    A file of 48 kHz may hold speech from a telephone. Definition, on the level of bands of 1/24 octave in the loud
    frames (within 50 dB of the loudest; 95th percentile over time):

    - where the level falls by 25 dB within a sixth of an octave, or by 40 dB within half an octave, above 800 Hz, and
      stays down, the bandwidth ends at this edge, 6 dB below what lies under it: low-pass filters, sample rate
      conversions and codecs leave such edges, whatever noise fills the rest;
    - otherwise it is the highest frequency above the noise of 16-bit dither and within 90 dB of the loudest. Content
      that fades gently, as that of most instruments does, counts down to there; so does hiss, and dither whose noise is
      shaped towards high frequencies.

    Half the sample rate is the most it can be. Steep filters on noise, music and speech are found within 5 % typically;
    those of 48 dB per octave and less are no edges.

    Args:
        waveform: ``(S,)``, full scale 1.
        sample_rate: Hz.

    Raises:
        UserError: the waveform is empty, not mono, or holds NaN.
    """
    waveform = checked_waveform("effective_bandwidth_hz", waveform)
    frequency_hz, power, floor = _long_term_spectrum(waveform, sample_rate)
    audible = np.flatnonzero(power > max(floor, float(power.max()) * 10 ** (-_SIDE_LOBES_DB / 10)))
    if len(audible) == 0:
        return 0.0
    highest_hz = float(frequency_hz[audible[-1]])
    band_hz, level_db = _bands(frequency_hz, np.maximum(power, floor * 0.1))
    edge_hz = _edge_hz(band_hz, level_db)
    found_hz = highest_hz if edge_hz is None else min(edge_hz, highest_hz)
    # The last bands lie within the resolution of half the sample rate.
    return sample_rate / 2 if found_hz >= band_hz[-1] else found_hz


def _long_term_spectrum(waveform: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Frequencies, power per bin in the loud frames, and the power that 16-bit dither would have with 10 dB more."""
    from scipy.signal import medfilt
    from scipy.signal.windows import blackmanharris

    length = 2 ** max(5, round(np.log2(_FRAME_S * sample_rate)))
    # Its side lobes are 92 dB down: what is read as content at high frequencies has not leaked there from the bass.
    window = blackmanharris(length, sym=False).astype(np.float32)
    padded = np.pad(waveform, (0, max(0, length - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[:: length // 2]
    energy = np.array([np.dot(frame, frame) for frame in frames], dtype=np.float64)
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (-_ACTIVE_RANGE_DB / 10))
    chosen = loud[np.linspace(0, len(loud) - 1, min(len(loud), _MAX_FRAMES)).astype(int)]
    spectra = np.abs(np.fft.rfft(frames[chosen] * window, axis=1)) ** 2
    power = np.percentile(spectra, _PERCENTILE, axis=0).astype(np.float64)
    # A tone is wider than three bins of this window; what sticks out of noise by chance is one.
    power = medfilt(power, 3)
    floor = _DITHER_POWER * float(np.sum(window.astype(np.float64) ** 2)) * 10 ** (_ABOVE_DITHER_DB / 10)
    return np.fft.rfftfreq(length, 1 / sample_rate), power, floor


def _bands(frequency_hz: np.ndarray, power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres of bands of 1/24 octave and their mean level per bin, dB; where bins are wider, levels between them."""
    count = int(np.log2(frequency_hz[-1] / _LOWEST_HZ) * _BANDS_PER_OCTAVE)
    centres = frequency_hz[-1] * 2 ** (-(np.arange(count, 0, -1) - 0.5) / _BANDS_PER_OCTAVE)
    half = 2 ** (0.5 / _BANDS_PER_OCTAVE)
    total = np.concatenate([[0.0], np.cumsum(power)])
    bin_hz = frequency_hz[1]
    low, high = centres / half / bin_hz, centres * half / bin_hz
    middle = (low + high) / 2
    low, high = np.minimum(low, middle - 0.5) + 0.5, np.maximum(high, middle + 0.5) + 0.5
    edges = np.arange(len(total))
    mean = (np.interp(high, edges, total) - np.interp(low, edges, total)) / (high - low)
    return centres, 10 * np.log10(mean)


def _edge_hz(band_hz: np.ndarray, level_db: np.ndarray) -> float | None:
    """The highest frequency where the level falls off for good, or None."""
    half_octave = _BANDS_PER_OCTAVE // 2
    first = max(half_octave, int(np.searchsorted(band_hz, _EDGE_LOWEST_HZ)))
    bands = np.arange(first, len(band_hz) - 2)
    if len(bands) == 0:
        return None
    under_db = np.median(np.lib.stride_tricks.sliding_window_view(level_db, half_octave), axis=1)[bands - half_octave]
    most_from_db = np.maximum.accumulate(level_db[::-1])[::-1]
    found: list[int] = []
    for span, fall_db in _EDGES:
        # Near the top there is less room to fall in.
        beyond = np.minimum(bands + span, (bands + len(band_hz)) // 2)
        drop_db = under_db - most_from_db[beyond]
        steep = np.flatnonzero(drop_db >= fall_db)
        if len(steep):
            # A slope satisfies the rule all along: its steepest place within the octave below is where it begins.
            octave = slice(max(0, int(steep[-1]) - _BANDS_PER_OCTAVE), int(steep[-1]) + 1)
            best = octave.start + int(np.argmax(drop_db[octave]))
            start = int(bands[best]) - half_octave
            above = level_db[start : beyond[best]] >= under_db[best] - _EDGE_LEVEL_DB
            found.append(start + int(np.flatnonzero(above)[-1]))
    return float(band_hz[max(found)]) if found else None
