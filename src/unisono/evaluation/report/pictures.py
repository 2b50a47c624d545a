"""Mel spectrograms as small palette PNG files, and where their axis ticks go.

The PNG holds the plot alone. Ticks are drawn by the page as text, so that they stay sharp at every width and fit both
the light and the dark look.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unisono.features.mel import hz_to_mel
from unisono.files import replaced_file

WIDTH_PX, HEIGHT_PX = 640, 160
RANGE_DB = 70.0
_TRANSPARENT = 255
# Own colour map: lightness rises steadily from near black to pale yellow, so that it also reads in grey.
_ANCHORS = (
    (0.00, (11, 9, 30)),
    (0.18, (45, 22, 94)),
    (0.36, (111, 31, 122)),
    (0.54, (183, 48, 110)),
    (0.70, (232, 86, 78)),
    (0.85, (250, 158, 78)),
    (1.00, (253, 244, 196)),
)


def colour_palette() -> np.ndarray:
    """uint8 ``(256, 3)``: 255 colours from quiet to loud, the last entry stands for no signal."""
    positions = np.array([position for position, _ in _ANCHORS])
    colours = np.array([colour for _, colour in _ANCHORS], dtype=np.float64)
    steps = np.linspace(0.0, 1.0, _TRANSPARENT)
    palette = np.stack([np.interp(steps, positions, colours[:, channel]) for channel in range(3)], axis=1)
    return np.concatenate([palette, [[128.0, 128.0, 128.0]]]).round().astype(np.uint8)


def mel_picture(mel_db: np.ndarray, duration_s: float, span_s: float, loudest_db: float, path: Path) -> Path:
    """Draw a log-mel spectrogram.

    Args:
        mel_db: ``(T, M)`` dB.
        duration_s: length of the clip; it covers ``duration_s / span_s`` of the width, the rest is transparent.
        span_s: length of the time axis, common to the pictures that are looked at together.
        loudest_db: level of the brightest colour; 70 dB below is the darkest.
        path: PNG file, written whole or not at all.
    """
    from PIL import Image

    scaled = np.clip((mel_db - (loudest_db - RANGE_DB)) / RANGE_DB, 0.0, 1.0) * (_TRANSPARENT - 1)
    # Low frequencies at the bottom: image rows run from the top down.
    image = Image.fromarray(np.ascontiguousarray(scaled.T[::-1]).round().astype(np.uint8))
    width = min(WIDTH_PX, max(1, round(WIDTH_PX * duration_s / span_s)))
    canvas = np.full((HEIGHT_PX, WIDTH_PX), _TRANSPARENT, dtype=np.uint8)
    # The resampling filter may ring beyond the colours into the transparent one.
    canvas[:, :width] = np.minimum(
        np.asarray(image.resize((width, HEIGHT_PX), Image.Resampling.BILINEAR)), _TRANSPARENT - 1
    )
    picture = Image.fromarray(canvas)
    picture.putpalette(colour_palette().tobytes())
    with replaced_file(path) as temporary:
        picture.save(temporary, format="PNG", transparency=_TRANSPARENT, optimize=True)
    return path


@dataclass(frozen=True)
class Tick:
    """A label and its place on an axis in per cent of the axis' length, from the left or from the bottom."""

    label: str
    percent: float


def nice_step(span: float, about: int) -> float:
    """1, 2 or 5 times a power of ten that cuts ``span`` into about ``about`` parts."""
    raw = span / max(about, 1)
    power = 10.0 ** np.floor(np.log10(raw))
    return float(next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * 0.999))


def time_ticks(span_s: float, about: int = 5) -> list[Tick]:
    """Ticks of a time axis from 0 to ``span_s`` seconds."""
    step = nice_step(span_s, about)
    digits = max(0, -int(np.floor(np.log10(step))))
    ticks = [Tick(f"{k * step:.{digits}f}", 100.0 * k * step / span_s) for k in range(int(span_s / step + 1e-9) + 1)]
    # A label at the very end would be cut off.
    return [tick for tick in ticks if tick.percent < 97.0]


def frequency_ticks(sample_rate: int) -> list[Tick]:
    """Ticks of a mel axis from 0 Hz to half the sample rate."""
    top = float(hz_to_mel(sample_rate / 2))
    marks = [(500, "500 Hz"), (1000, "1 k"), (2000, "2 k"), (4000, "4 k"), (8000, "8 k"), (16000, "16 k")]
    return [
        Tick(label, 100.0 * float(hz_to_mel(frequency_hz)) / top)
        for frequency_hz, label in marks
        if frequency_hz < 0.45 * sample_rate
    ]
