"""Options that several commands take alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ContentArgument = Annotated[Path, typer.Argument(metavar="CONTENT", help="The manifest to read, content.jsonl.")]
OutputOption = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="Manifest to write, whole or not at all; its targets are written beside it as audio.jsonl "
        "(where that belongs to another manifest, as NAME.audio.jsonl).",
    ),
]
AudioOption = Annotated[
    Path | None, typer.Option("--audio", help="Manifest of the targets; default: audio.jsonl beside CONTENT.")
]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one per core.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace outputs that are there; --out may then be CONTENT itself.")
]
MaxLeftOutOption = Annotated[
    float,
    typer.Option(
        "--max-left-out",
        min=0.0,
        max=1.0,
        help="Share that may be left out; beyond it nothing is written but the reasons.",
    ),
]
PronunciationsOption = Annotated[
    Path | None,
    typer.Option("--pronunciations", help="English words and their ARPAbet phones, one a line: hello HH AH L OW."),
]
FolderOption = Annotated[
    Path | None, typer.Option("--folder", help="Of the arrays; default: as above, beside the output.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="Of the encoder: cpu, cuda …; a GPU takes --workers 1.")]
