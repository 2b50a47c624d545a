"""A video with a new sound: the pictures stay, the sound is where it belongs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unisono.data.mini.films import write_video
from unisono.errors import UserError
from unisono.media.audio import read_audio
from unisono.media.sound_track import write_with_sound
from unisono.media.video import read_video_frames

RATE = 24_000


@pytest.fixture
def film(tmp_path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 256, (25, 32, 32, 3), dtype=np.uint8)
    return write_video(tmp_path / "a film.mp4", frames, 25)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "mov", "m4v"])
@pytest.mark.parametrize("sound_s", [0.7, 1.0, 1.2])
def test_pictures_stay_and_the_sound_begins_in_time(film: Path, kind: str, sound_s: float) -> None:
    sound = np.zeros(round(sound_s * RATE), np.float32)
    sound[12_000:12_400] = 0.5 * np.sin(0.3 * np.arange(400))
    for source in (film, write_with_sound(film.with_name("first.mp4"), film, 0.1 + 0 * sound, RATE)):
        path = write_with_sound(film.with_name(f"out.{kind}"), source, sound, RATE)
        assert np.array_equal(read_video_frames(path, 25, 32)[:25], read_video_frames(film, 25, 32))
        heard = read_audio(path, RATE)
        assert len(heard) / RATE == pytest.approx(max(1.0, sound_s), abs=0.05)
        assert np.flatnonzero(np.abs(heard) > 0.15)[0] == pytest.approx(12_001, abs=24)  # a millisecond


def test_what_cannot_be_written_leaves_nothing(film: Path) -> None:
    sound = np.zeros(RATE, np.float32)
    for name, words in (("a.avi", "use .mp4"), ("a.webm", "try .mkv"), (film.name, "name another file")):
        with pytest.raises(UserError, match=words):
            write_with_sound(film.with_name(name), film, sound, RATE)
    with pytest.raises(UserError, match="empty"):
        write_with_sound(film.with_name("a.mp4"), film, sound[:0], RATE)
    with pytest.raises(UserError, match="no such video"):
        write_with_sound(film.with_name("a.mp4"), film.with_name("b.mp4"), sound, RATE)
    assert [path.name for path in film.parent.iterdir()] == [film.name]
