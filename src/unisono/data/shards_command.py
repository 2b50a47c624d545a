"""``unisono shard``: manifests to tar shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def shard(
    content: Annotated[Path, typer.Argument(help="content.jsonl")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the shards.")],
    task: Annotated[str | None, typer.Option("--task", help="Default: the name of the folder above the split.")] = None,
    audio: Annotated[Path | None, typer.Option("--audio", help="audio.jsonl; default: beside the content.")] = None,
    max_mb: Annotated[float, typer.Option("--max-mb", min=0.01, help="Megabytes of a shard at most.")] = 1000.0,
    name: Annotated[str, typer.Option("--name", help="First name of the shards.")] = "shard",
) -> None:
    """Write a data set as WebDataset tar shards, to be streamed (docs/data_format.md).

    Example: unisono shard data/mini/text_to_audio/train/content.jsonl -o shards
    """
    from unisono.data.datasets import DATASETS
    from unisono.data.shards import write_shards
    from unisono.tasks import get_task

    chosen = get_task(task or content.resolve().parent.parent.name).name
    dataset = DATASETS[chosen](content, audio or content.with_name("audio.jsonl"))
    for path in write_shards(dataset, out, max_bytes=round(max_mb * 1e6), name=name):
        typer.echo(path)
