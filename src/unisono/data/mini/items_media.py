"""Items of the mini corpus whose content is a recording or a film: audio super-resolution and video to audio."""

from __future__ import annotations

import numpy as np

from unisono.data.mini.items import SAMPLE_RATE, Item, Job, plain
from unisono.media.audio import read_audio, write_audio


def narrow_item(job: Job) -> Item:
    """A finished recording of another task without its treble."""
    from unisono.data.mini.narrowing import narrow

    source = job.source
    assert source is not None, f"{job.audio_id} has no recording to be made from"
    wide = read_audio(source.job.path(source.target.removeprefix("../")), SAMPLE_RATE)
    narrowed, filter_ = narrow(job.rng(), wide, SAMPLE_RATE)
    # A steep filter may overshoot; the target keeps its level, so the gain is recorded.
    gain = min(1.0, 0.99 / float(np.abs(narrowed).max()))
    path = f"narrow/{job.audio_id}.flac"
    write_audio(job.path(path), narrowed * np.float32(gain), SAMPLE_RATE)
    content = {
        "narrow_audio": f"../{path}",
        "bandwidth_hz": round(filter_.bandwidth_hz),
        "filter": filter_.kind,
        "gain_db": round(20 * float(np.log10(gain)), 3),
    }
    return Item(job, content, source.target_elsewhere, source.duration_s)


def film_item(job: Job) -> Item:
    """A film and the sound of its strikes. The video file has no sound track."""
    from unisono.data.mini.films import FRAME_RATE_HZ, make_film, write_video

    film = make_film(job.rng(), job.split)
    audio, video = f"audio/{job.audio_id}.flac", f"video/{job.audio_id}.mp4"
    write_audio(job.path(audio), film.waveform, SAMPLE_RATE)
    write_video(job.path(video), film.frames, FRAME_RATE_HZ)
    content = {
        "video": f"../{video}",
        "caption": film.caption,
        "events": [plain(event) for event in film.events],
    }
    return Item(job, content, f"../{audio}", len(film.waveform) / SAMPLE_RATE)
