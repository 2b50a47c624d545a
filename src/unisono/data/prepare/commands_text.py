"""Console commands of the steps that work on text; ``unisono.cli`` registers them."""

from __future__ import annotations

from typing import Annotated

import typer

from unisono.data.prepare.commands_options import (
    AudioOption,
    ContentArgument,
    MaxLeftOutOption,
    OutputOption,
    OverwriteOption,
    PronunciationsOption,
    WorkersOption,
)


def phonemize(
    content: ContentArgument,
    out: OutputOption,
    audio: AudioOption = None,
    language: Annotated[
        str,
        typer.Option("--language", "-l", help="Of lines without one: en-us, or a language of eSpeak NG (de, fr, …)."),
    ] = "en-us",
    pronunciations: PronunciationsOption = None,
    workers: WorkersOption = None,
    overwrite: OverwriteOption = False,
    max_left_out: MaxLeftOutOption = 0.5,
) -> None:
    """Write phonemes of each line's text: American English by dictionary, the rest by eSpeak NG.

    Lines with text get phonemes, language, and guessed_words where eSpeak NG read words that the dictionary lacks.
    Lines that have phonemes or a score stay as they are. Lines whose text is missing or cannot be read are left out.
    """
    from unisono.data.prepare.steps.engine import Options
    from unisono.data.prepare.steps.phonemize import add_phonemes
    from unisono.text.phonemize import read_pronunciations

    words = read_pronunciations(pronunciations) if pronunciations else None
    options = Options(out, workers, True, overwrite, max_left_out)
    typer.echo(add_phonemes(content, options, language=language, pronunciations=words, audio=audio))
