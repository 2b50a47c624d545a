"""The table of recipes. A recipe is data until it is run: where its function lives and what it makes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Of a recipe for a public corpus, beside its own options.
CORPUS_OPTIONS = ("source", "seed", "workers", "progress", "max_items", "max_left_out")


@dataclass(frozen=True)
class Recipe:
    """One row of the table.

    Attributes:
        name: what users call it.
        description: one line about what it makes.
        target: ``module:function``, imported when the recipe runs. The function takes the output folder and keyword
            options, and returns the folder.
        options: names of the keyword options.
    """

    name: str
    description: str
    target: str
    options: tuple[str, ...]

    @property
    def needs_source(self) -> bool:
        """Whether the user has to have the corpus already."""
        return "source" in self.options

    def load(self) -> Callable[..., Path]:
        module, _, function = self.target.partition(":")
        return getattr(importlib.import_module(module), function)

    def run(self, out: Path, **options: Any) -> Path:
        """Build the data sets in ``out``."""
        return self.load()(Path(out), **options)


def _corpus(name: str, description: str, *options: str) -> Recipe:
    target = f"unisono.data.prepare.corpora.{name}:prepare_{name}"
    return Recipe(name, description, target, (*CORPUS_OPTIONS, *options))


_ROWS = (
    Recipe(
        name="mini",
        description="synthetic sounds, music, speech, singing and films: all eight tasks in two minutes, no network",
        target="unisono.data.mini.corpus:build_mini_corpus",
        options=("seed", "share", "workers", "progress", "overwrite"),
    ),
    Recipe(
        name="debian",
        description="real recordings from Debian packages for all tasks: 23 minutes of one voice, sound effects, music",
        target="unisono.data.prepare.debian.corpus:prepare_debian",
        options=("seed", "workers", "progress", "cache"),
    ),
    _corpus("ljspeech", "LJSpeech 1.1, aligned: text_to_speech, one reader, 24 hours", "align"),
    _corpus("libritts", "LibriTTS or LibriTTS-R, aligned: text_to_speech, up to 2 456 readers, 585 hours", "align"),
    _corpus("vctk", "VCTK 0.92, aligned: text_to_speech, 110 accents of English, 44 hours", "align"),
    _corpus("audiocaps", "AudioCaps: text_to_audio, 51 000 clips of ten seconds", "clips"),
    _corpus("clotho", "Clotho 2.1: text_to_audio, 6 000 clips of 15 to 30 s with five captions each"),
    _corpus("musiccaps", "MusicCaps: text_to_music, 5 500 clips of ten seconds", "clips"),
    _corpus("voicebank_demand", "VoiceBank+DEMAND: speech_enhancement, 12 000 pairs of clean and noisy speech"),
    _corpus(
        "m4singer",
        "M4Singer: singing synthesis and acoustic modelling, 20 Mandarin singers, 30 hours",
        "f0",
        "f0_method",
    ),
    _corpus(
        "opencpop",
        "Opencpop: singing synthesis and acoustic modelling, one Mandarin singer, 5 hours",
        "f0",
        "f0_method",
    ),
    _corpus("vggsound", "VGGSound: video_to_audio and text_to_audio, 200 000 videos of ten seconds", "clips"),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ROWS}
