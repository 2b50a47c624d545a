"""Console commands of the steps that work on text; ``unisono.cli`` registers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def phonemize(
    manifest: Annotated[Path, typer.Argument(help="content.jsonl whose lines have `text`.")],
    output: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write, in the same folder.")],
    language: Annotated[
        str, typer.Option("--language", "-l", help="en-us, or a language of eSpeak NG (de, fr, zh, …).")
    ] = "en-us",
    pronunciations: Annotated[
        Path | None, typer.Option("--pronunciations", help="English words and their ARPAbet phones, one a line.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one per core.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    leave_out_failures: Annotated[
        bool, typer.Option("--leave-out-failures", help="Write the other lines where some cannot be read.")
    ] = False,
) -> None:
    """Add phonemes to the lines of a manifest. English by dictionary, the rest by eSpeak NG."""
    from unisono.data.prepare.steps.phonemize import phonemize_manifest, read_pronunciations

    typer.echo(
        phonemize_manifest(
            manifest,
            output,
            language=language,
            pronunciations=read_pronunciations(pronunciations) if pronunciations else None,
            workers=workers,
            overwrite=overwrite,
            leave_out_failures=leave_out_failures,
        )
    )
