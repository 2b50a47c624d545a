"""Films of the mini corpus for video_to_audio: things that strike one another at times that are known exactly.

One or two actors, side by side, strike something a few times; each strike sounds, and nothing else does. Frame k shows
the scene at the time k / ``FRAME_RATE_HZ``. The bigger what is struck (or drips, or clinks), the lower it sounds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from unisono.data.mini.actors import ACTORS, COLOURS, SIZES, Box, Canvas, paint
from unisono.data.mini.captions import NUMBERS, TIMES, WORDINGS
from unisono.data.mini.compositions import held_out_split
from unisono.data.mini.events import KINDS, PITCH_FACTORS
from unisono.data.mini.synthesis import SAMPLE_RATE, Take, fade, peak_normalised
from unisono.errors import UserError
from unisono.timing import seconds_to_samples

FRAME_RATE_HZ = 25
PICTURE_PIXELS = 96
FIRST_S = (0.40, 0.80)
INTERVAL_S = (0.40, 0.85)
AFTER_LAST_S = 0.7
SHORTEST_S, LONGEST_S = 3.0, 4.0
MAX_STRIKES = 4
_LOUDEST_RMS = 0.3
_PEAK = (0.70, 0.95)
_TOGETHER_SHARE = 0.3


@dataclass(frozen=True)
class Part:
    """What one actor does.

    Attributes:
        actor: a key of ``ACTORS``.
        colour: a key of ``COLOURS``.
        size: a key of ``SIZES``; "" is the middle one.
        strikes: how often it strikes.
    """

    actor: str
    colour: str
    size: str
    strikes: int


@dataclass(frozen=True)
class Strike:
    """One audible event: what it sounds like (a key of ``events.KINDS``) and when."""

    kind: str
    start_s: float


@dataclass(frozen=True)
class Film:
    """A film and its sound.

    Attributes:
        caption: what is seen and heard.
        frames: uint8 ``(T, H, W, 3)``, ``FRAME_RATE_HZ`` a second.
        waveform: float32 ``(S,)`` at ``SAMPLE_RATE``, as long as the frames.
        parts: who acts, from left to right.
        times_s: strikes of each part.
    """

    caption: str
    frames: np.ndarray
    waveform: np.ndarray
    parts: tuple[Part, ...]
    times_s: tuple[tuple[float, ...], ...]

    @property
    def events(self) -> list[Strike]:
        """All strikes in order of time."""
        strikes = [
            Strike(ACTORS[part.actor].kind, time_s)
            for part, times_s in zip(self.parts, self.times_s, strict=True)
            for time_s in times_s
        ]
        return sorted(strikes, key=lambda strike: strike.start_s)


def make_film(rng: np.random.Generator, split: str) -> Film:
    """A random film of 3 to 4 s; the splits ("train", "val", "test") share no cast and so no caption."""
    while True:
        parts = _draw_parts(rng)
        if held_out_split(repr(parts)) == split:
            break
    while True:
        times_s = tuple(ACTORS[part.actor].draw_times(rng, part.strikes, FIRST_S, INTERVAL_S) for part in parts)
        end_s = max(times[-1] for times in times_s) + AFTER_LAST_S
        if end_s <= LONGEST_S:
            break
    frames = int(np.floor(rng.uniform(max(end_s, SHORTEST_S), LONGEST_S) * FRAME_RATE_HZ))
    pictures = draw_frames(rng, parts, times_s, frames)
    return Film(caption(rng, parts), pictures, _sound(rng, parts, times_s, frames / FRAME_RATE_HZ), parts, times_s)


def _draw_parts(rng: np.random.Generator) -> tuple[Part, ...]:
    """One part, or two of different actors and colours."""
    count = 2 if rng.random() < _TOGETHER_SHARE else 1
    actors, colours = rng.permutation(list(ACTORS))[:count], rng.permutation(list(COLOURS))[:count]
    parts = []
    for actor, colour in zip(actors, colours, strict=True):
        size = str(rng.choice(list(SIZES))) if ACTORS[str(actor)].has_size else ""
        parts.append(Part(str(actor), str(colour), size, int(rng.integers(1, MAX_STRIKES + 1))))
    return tuple(parts)


# ---------------------------------------------------------------------------------------------- words


def caption(rng: np.random.Generator, parts: Sequence[Part]) -> str:
    """A caption of the film in one of several wordings."""
    if len(parts) == 1:
        part = parts[0]
        wording = WORDINGS[ACTORS[part.actor].kind]
        sounds = f"a {wording.noun}" if part.strikes == 1 else f"{NUMBERS[part.strikes]} {wording.plural}"
        wordings = [_clause(part), f"{sounds} as {_clause(part, counted=False)}"]
        return str(rng.choice(wordings))
    left, right = map(_clause, parts)
    return str(rng.choice([f"{left} while {right}", f"on the left {left}, on the right {right}"]))


def _clause(part: Part, counted: bool = True) -> str:
    actor = ACTORS[part.actor]
    size = f"{part.size} " if part.size else ""
    if actor.several:
        pattern, times = (actor.clause if part.strikes == 1 else actor.several), ""
    else:
        pattern, times = actor.clause, f" {TIMES[part.strikes]}" if counted else ""
    return pattern.format(colour=part.colour, size=size, number=NUMBERS.get(part.strikes, "")) + times


# ---------------------------------------------------------------------------------------------- sound and picture


def _sound(
    rng: np.random.Generator, parts: Sequence[Part], times_s: Sequence[Sequence[float]], duration_s: float
) -> np.ndarray:
    """Every strike at its time, none cut off louder than its decay would be."""
    waveform = np.zeros(seconds_to_samples(duration_s, SAMPLE_RATE))
    for part, strikes_s in zip(parts, times_s, strict=True):
        kind = KINDS[ACTORS[part.actor].kind]
        assert kind.duration_s is not None, f"{kind.name} is no single event"
        pitch = rng.uniform(*PITCH_FACTORS[SIZES[part.size][0]])
        for time_s in strikes_s:
            event = kind.render(rng, Take(rng.uniform(*kind.duration_s), pitch))
            event *= min(1.0, _LOUDEST_RMS / np.sqrt(np.mean(event**2))) * rng.uniform(0.85, 1.0)
            start = seconds_to_samples(time_s, SAMPLE_RATE)
            waveform[start : start + len(event)] += event[: len(waveform) - start]
    return peak_normalised(fade(waveform, out_s=0.1), rng.uniform(*_PEAK)).astype(np.float32)


def draw_frames(
    rng: np.random.Generator, parts: Sequence[Part], times_s: Sequence[Sequence[float]], frames: int
) -> np.ndarray:
    """The pictures, uint8 ``(frames, H, W, 3)``, on a dark background."""
    backdrop = Canvas(
        np.zeros((PICTURE_PIXELS, PICTURE_PIXELS, 3), np.float32) + rng.uniform(15, 40, 3).astype(np.float32)
    )
    width = PICTURE_PIXELS / len(parts)
    boxes = [Box(index * width, (index + 1) * width, PICTURE_PIXELS) for index in range(len(parts))]
    for part, box in zip(parts, boxes, strict=True):
        ACTORS[part.actor].still(backdrop, box, SIZES[part.size][1], COLOURS[part.colour])
    pictures = np.empty((frames, PICTURE_PIXELS, PICTURE_PIXELS, 3), np.uint8)
    for index in range(frames):
        canvas = Canvas(backdrop.picture.copy())
        for part, box, strikes_s in zip(parts, boxes, times_s, strict=True):
            factor, now_s = SIZES[part.size][1], index / FRAME_RATE_HZ
            paint(canvas, ACTORS[part.actor], box, factor, tuple(strikes_s), now_s, COLOURS[part.colour])
        pictures[index] = np.clip(canvas.picture + 0.5, 0, 255)
    return pictures


def write_video(path: str | os.PathLike, frames: np.ndarray, rate_hz: int) -> Path:
    """Write pictures uint8 ``(T, H, W, 3)``, H and W even, as mp4 without sound.

    They are encoded as H.264, or MPEG-4 where PyAV comes without libx264. The same pictures give the same bytes: one
    thread, no version strings, and none of x264's assembly, whose choices depend on the processor.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(f"writing video needs PyAV ({error}); run pip install 'unisono[video]'") from error

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    has_h264 = "libx264" in av.codecs_available
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264" if has_h264 else "mpeg4", rate=Fraction(rate_hz))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "20", "preset": "veryfast", "x264-params": "asm=0"} if has_h264 else {"qscale": "3"}
        for planes in _planes(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())
    return path


def _planes(frames: np.ndarray) -> np.ndarray:
    """RGB pictures ``(T, H, W, 3)`` as planes of brightness and of halved colour (BT.601), ``(T, 3 * H / 2, W)``.

    In whole numbers, so that it comes out the same everywhere.
    """
    count, height, width, _ = frames.shape
    red, green, blue = np.moveaxis(frames.astype(np.int32), -1, 0)
    brightness = (66 * red + 129 * green + 25 * blue + 128) // 256 + 16
    planes = [brightness.reshape(count, -1)]
    for weights in ((-38, -74, 112), (112, -94, -18)):
        colour = weights[0] * red + weights[1] * green + weights[2] * blue
        # Each value stands for a square of four pixels.
        of_four = colour.reshape(count, height // 2, 2, width // 2, 2).sum(axis=(2, 4))
        planes.append(((of_four + 512) // 1024 + 128).reshape(count, -1))
    return np.concatenate(planes, axis=1).astype(np.uint8).reshape(count, 3 * height // 2, width)
