"""Items of the mini corpus that have notes: music, songs, and the pitch contours of the songs."""

from __future__ import annotations

import os

import numpy as np

from unisono.data.mini.items import SAMPLE_RATE, SPEAKERS, Item, Job, plain, speech_gain
from unisono.media.audio import write_audio


def music_item(job: Job) -> Item:
    """A piece of music, with a MIDI file of the notes that are played in it."""
    from unisono.data.mini.music import make_music
    from unisono.data.mini.notes import write_midi

    music = make_music(job.rng(), job.split)
    audio, midi = f"audio/{job.audio_id}.flac", f"midi/{job.audio_id}.mid"
    write_audio(job.path(audio), music.waveform, SAMPLE_RATE)
    brief = music.brief
    write_midi(job.path(midi), music.parts, music.tempo, brief.beats_per_bar, brief.key)
    content = {
        "caption": music.caption,
        "instruments": brief.instruments,
        "key": brief.key.name,
        "tempo_bpm": music.bpm,
        "beats_per_bar": brief.beats_per_bar,
        "score_midi": f"../{midi}",
    }
    return Item(job, content, f"../{audio}", len(music.waveform) / SAMPLE_RATE)


def sung_item(job: Job) -> Item:
    """A sung sentence, with a MIDI file of its melody and lyrics, and the contour it was sung with."""
    from unisono.data.mini.notes import write_midi
    from unisono.data.mini.songs import BEATS_PER_BAR, make_song
    from unisono.data.singing_synthesis.synthesis import F0_RATE_HZ

    singer = SPEAKERS[job.index % len(SPEAKERS)]
    song = make_song(job.rng(), job.text, singer, SAMPLE_RATE)
    phrase = song.phrase
    audio, midi, f0 = (f"{folder}/{job.audio_id}" for folder in ("audio", "midi", "f0"))
    gain = min(speech_gain(phrase.waveform), 0.99 / float(np.abs(phrase.waveform).max()))
    write_audio(job.path(f"{audio}.flac"), phrase.waveform * np.float32(gain), SAMPLE_RATE)
    write_midi(job.path(f"{midi}.mid"), [song.part], song.tempo, BEATS_PER_BAR, song.key)
    os.makedirs(job.path("f0"), exist_ok=True)
    np.save(job.path(f"{f0}.npy"), phrase.f0_hz, allow_pickle=False)
    content = {
        "phonemes": phrase.phonemes,
        "durations_s": plain(phrase.durations_s),
        "notes": phrase.notes,
        "note_durations_s": plain(phrase.note_durations_s),
        "slurs": phrase.slurs,
        "speaker": singer,
        "language": singer.partition("+")[0],
        "text": job.text,
        "score_midi": f"../{midi}.mid",
        "f0_hz": f"../{f0}.npy",
        "f0_rate_hz": F0_RATE_HZ,
        "key": song.key.name,
        "tempo_bpm": song.bpm,
    }
    return Item(job, content, f"../{audio}.flac", len(phrase.waveform) / SAMPLE_RATE)


def contour_item(job: Job) -> Item:
    """A recording of singing_voice_synthesis, given by its phonemes and its contour instead of its notes."""
    song = job.source
    assert song is not None, f"{job.audio_id} has no recording to be taken from"
    kept = ("phonemes", "durations_s", "f0_rate_hz", "speaker", "text")
    content = {name: song.content[name] for name in kept}
    content["f0_hz"] = f"../../{song.job.task}/{song.content['f0_hz'].removeprefix('../')}"
    return Item(job, content, song.target_elsewhere, song.duration_s)
