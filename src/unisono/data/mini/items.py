"""One item of the mini corpus: its recording and its manifest lines, a function of ``(seed, task, split, index)``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unisono.media.audio import write_audio

SAMPLE_RATE = 24_000
TASKS = (
    "text_to_audio",
    "text_to_speech",
    "speech_enhancement",
    "text_to_music",
    "singing_voice_synthesis",
    "singing_acoustic_modeling",
    "audio_super_resolution",
    "video_to_audio",
)
"""Their order is part of every item's random key: add at the end."""
SPLITS = ("train", "val", "test")
SPEAKERS = ("en-us", "en-us+f1", "en-us+m4", "en-gb", "en-gb+belinda", "en-gb+m3")
"""Voices of eSpeak NG, three American and three British; none has an echo."""

_SHORT = dict(zip(TASKS, ("t2a", "tts", "se", "t2m", "svs", "sam", "sr", "v2a"), strict=True))
_RATES_WPM = dict(zip(SPEAKERS, (165, 170, 155, 160, 175, 165), strict=True))
_SPEECH_RMS = 0.05
_SNR_RANGE_DB = (0.0, 15.0)
_RT60_RANGE_S = (0.15, 0.45)
_REVERBERANT_SHARE = 0.5
_BABBLE_UTTERANCES = 4


@dataclass(frozen=True)
class Job:
    """What to make.

    Attributes:
        seed, task, split, index: key of the item's random numbers.
        folder: root of the corpus in the making.
        recording: speech tasks: index of the text_to_speech item that is spoken.
        text: speech and singing: its sentence.
        attempt: counts redraws of an item whose caption was taken.
        source: the finished item whose recording this one is made from, if it is.
    """

    seed: int
    task: str
    split: str
    index: int
    folder: str
    recording: int = 0
    text: str = ""
    attempt: int = 0
    source: Item | None = None

    @property
    def audio_id(self) -> str:
        return _audio_id(self.task, self.split, self.index)

    def path(self, name: str) -> Path:
        """Of a file that the manifests call ``../name``."""
        return Path(self.folder, self.task, name)

    def rng(self) -> np.random.Generator:
        key = (self.seed, TASKS.index(self.task), SPLITS.index(self.split), self.index, self.attempt)
        return np.random.default_rng(key)


@dataclass(frozen=True)
class Item:
    """What was made.

    Attributes:
        job: what was asked for.
        content: fields of the line of ``content.jsonl`` beside ``audio_id``.
        target: path of the target recording, relative to the manifests.
        duration_s: its length.
    """

    job: Job
    content: dict[str, Any]
    target: str
    duration_s: float

    @property
    def target_elsewhere(self) -> str:
        """Path of the target recording, relative to the manifests of another task."""
        return f"../../{self.job.task}/{self.target.removeprefix('../')}"


def make_item(job: Job) -> Item:
    """Write the files of ``job`` under ``job.folder`` and return its lines."""
    from unisono.data.mini import items_media as media
    from unisono.data.mini import items_music as music

    makers = {
        "text_to_audio": _scene_item,
        "text_to_speech": _speech_item,
        "speech_enhancement": _noisy_item,
        "text_to_music": music.music_item,
        "singing_voice_synthesis": music.sung_item,
        "singing_acoustic_modeling": music.contour_item,
        "audio_super_resolution": media.narrow_item,
        "video_to_audio": media.film_item,
    }
    return makers[job.task](job)


def speech_gain(waveform: np.ndarray) -> float:
    """The factor that brings speech or singing ``(S,)`` to the level of the corpus."""
    from unisono.data.degrade import active_power

    return float(np.float32(_SPEECH_RMS / np.sqrt(active_power(waveform))))


def _audio_id(task: str, split: str, index: int) -> str:
    return f"{_SHORT[task]}_{split}_{index:05d}"


def _scene_item(job: Job) -> Item:
    from unisono.data.mini.scenes import make_scene

    scene = make_scene(job.rng(), job.split)
    path = f"audio/{job.audio_id}.flac"
    write_audio(job.path(path), scene.waveform, SAMPLE_RATE)
    content = {"caption": scene.caption, "events": [plain(event) for event in scene.events]}
    return Item(job, content, f"../{path}", len(scene.waveform) / SAMPLE_RATE)


def plain(value: Any) -> Any:
    """Dataclasses and numpy values as JSON; numbers to six decimals."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return round(value, 6) if isinstance(value, float) else value


def _speech_item(job: Job) -> Item:
    speaker = _speaker(job.recording)
    waveform, phonemes, durations_s = _speak(job.text, speaker)
    path = f"audio/{job.audio_id}.flac"
    write_audio(job.path(path), waveform, SAMPLE_RATE)
    content = {
        "phonemes": phonemes,
        "durations_s": [round(duration_s, 6) for duration_s in durations_s],
        "speaker": speaker,
        "language": speaker.partition("+")[0],
        "text": job.text,
    }
    return Item(job, content, f"../{path}", len(waveform) / SAMPLE_RATE)


def _noisy_item(job: Job) -> Item:
    """The recording of a text_to_speech item in noise, every other time in a room.

    It is spoken again here instead of read, so that the item depends on no other one.
    """
    from unisono.data.degrade import NOISE_KINDS, make_noise, mix_at_snr, reverberate

    rng = job.rng()
    speaker = _speaker(job.recording)
    clean, _, _ = _speak(job.text, speaker)
    kind = NOISE_KINDS[job.index % len(NOISE_KINDS)]
    snr_db = round(float(rng.uniform(*_SNR_RANGE_DB)), 1)
    rt60_s = round(float(rng.uniform(*_RT60_RANGE_S)), 2) if rng.random() < _REVERBERANT_SHARE else None
    heard = clean if rt60_s is None else reverberate(rng, clean, SAMPLE_RATE, rt60_s)
    others = _other_talkers(rng, job.split) if kind == "babble" else []
    noise = make_noise(rng, kind, len(clean), SAMPLE_RATE, speech=others)
    noisy = mix_at_snr(heard, noise, snr_db)
    # Loud mixtures are turned down instead of clipped; the target keeps its level, so the gain is recorded.
    gain = min(1.0, 0.99 / float(np.abs(noisy).max()))
    path = f"noisy/{job.audio_id}.flac"
    write_audio(job.path(path), noisy * np.float32(gain), SAMPLE_RATE)
    content = {
        "noisy_audio": f"../{path}",
        "snr_db": snr_db,
        "noise_kind": kind,
        "rt60_s": rt60_s,
        "gain_db": round(20 * float(np.log10(gain)), 3),
        "speaker": speaker,
        "text": job.text,
    }
    target = f"../../text_to_speech/audio/{_audio_id('text_to_speech', job.split, job.recording)}.flac"
    return Item(job, content, target, len(clean) / SAMPLE_RATE)


def _speaker(recording: int) -> str:
    return SPEAKERS[recording % len(SPEAKERS)]


def _speak(text: str, speaker: str) -> tuple[np.ndarray, list[str], list[float]]:
    """``(waveform, phonemes, durations_s)`` at the corpus's rate and level."""
    from unisono.text.espeak import synthesize

    utterance = synthesize(text, speaker, rate_wpm=_RATES_WPM[speaker]).resampled(SAMPLE_RATE)
    waveform = utterance.waveform * np.float32(speech_gain(utterance.waveform))
    return waveform, utterance.phonemes, utterance.durations_s


def _other_talkers(rng: np.random.Generator, split: str) -> list[np.ndarray]:
    """Sentences of the same split for babble."""
    from unisono.data.mini.sentences import draw_sentences

    sentences = draw_sentences(rng, split, _BABBLE_UTTERANCES)
    return [_speak(sentence, str(rng.choice(SPEAKERS)))[0] for sentence in sentences]
