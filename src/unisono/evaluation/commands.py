"""The console commands `evaluate`, `compare` and `metrics`; ``unisono.cli`` registers them. Nothing heavy is imported
here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unisono.errors import UserError
from unisono.tasks import TASKS


def _task_names(incomplete: str) -> list[str]:
    return [task.short for task in TASKS.values() if task.short.startswith(incomplete)]


Task = Annotated[
    str, typer.Option("--task", "-t", help="t2a, t2m, tts, svs, sam, se, sr or v2a.", autocompletion=_task_names)
]


def evaluate(
    generated: Annotated[Path, typer.Argument(help="Folder of recordings, manifest (audio.jsonl), or one recording.")],
    reference: Annotated[
        Path | None, typer.Argument(help="The same, joined by name. None: only what needs none.")
    ] = None,
    task: Task = "",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of report.html, metrics.json, items.jsonl.")
    ] = Path("evaluation"),
    inputs: Annotated[
        Path | None, typer.Option("--inputs", help="What the model was given (noisy, narrow): folder or manifest.")
    ] = None,
    content: Annotated[
        Path | None,
        typer.Option("--content", help="content.jsonl: captions, text, notes, events. Default: beside REFERENCE."),
    ] = None,
    unpaired: Annotated[
        bool, typer.Option("--unpaired", help="REFERENCE is a set: names need not match, distances of sets only.")
    ] = False,
    network: Annotated[
        list[str] | None, typer.Option("--network", help="Weights as NAME=PATH, repeated; unisono metrics names them.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Only this one; repeated.")] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", help="Not this one; repeated.")] = None,
    sample_rate: Annotated[int, typer.Option("--sample-rate", help="Hz at which recordings are compared.")] = 24_000,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", help="Processes; default one per core, 0 none.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Of networks: auto, cpu, cuda, cuda:1.")] = "auto",
    title: Annotated[str | None, typer.Option("--title", help="Heading of the report.")] = None,
) -> None:
    """Measure recordings that came from anywhere, and write a report.

    \b
    Examples:
      unisono evaluate enhanced/ clean/ --task se --inputs noisy/ -o evaluation
      unisono evaluate run/inference data/mini/text_to_audio/test --task t2a -o evaluation
      unisono evaluate generated/ references/ --task t2a --unpaired --network clap=models/clap
      unisono evaluate speech/ --task tts --content content.jsonl
    """
    from unisono.evaluation.pairing import pair, rate_note
    from unisono.evaluation.runner import Settings
    from unisono.evaluation.runner import evaluate as run
    from unisono.evaluation.terminal import summary_text
    from unisono.inference.pipeline import choose_device
    from unisono.tasks import get_task

    if not task:
        raise UserError(f"--task is missing; it says which metrics fit: {', '.join(t.short for t in TASKS.values())}")
    paired = pair(generated, reference, task, inputs=inputs, content=content, unpaired=unpaired)
    for note in (*paired.notes, rate_note(paired.items, sample_rate)):
        if note is not None:
            typer.echo(f"note: {note}", err=True)
    settings = Settings(
        sample_rate=sample_rate,
        metrics=metric or None,
        skip=tuple(skip or ()),
        networks=dict(_name_and_path(entry) for entry in network or ()),
        device=str(choose_device(device)),
        workers=workers,
    )
    heading = title or f"{generated.resolve().name}, {get_task(task).name.replace('_', ' ')}"
    facts = {"Generated": generated.resolve().name, "Reference": reference.resolve().name if reference else "none"}
    summary = run(paired.items, output, settings, title=heading, reference_set=paired.reference_set, facts=facts)
    typer.echo(summary_text(summary))


def _name_and_path(entry: str) -> tuple[str, str]:
    name, separator, path = entry.partition("=")
    if not separator or not name or not path:
        raise UserError(f"--network {entry!r}: write NAME=PATH, such as clap=models/clap")
    return name, path


def compare(
    evaluations: Annotated[
        list[str],
        typer.Argument(help="Folders that evaluations wrote, FOLDER or NAME=FOLDER; the first is the baseline."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of report.html and comparison.json.")] = Path(
        "comparison"
    ),
    allow_different_cards: Annotated[
        bool, typer.Option("--allow-different-cards", help="Numbers made differently in one column, marked.")
    ] = False,
    title: Annotated[str | None, typer.Option("--title", help="Heading of the report.")] = None,
) -> None:
    """Put systems side by side, with differences item by item and their confidence intervals.

    Example: unisono compare baseline=runs/a/evaluation larger=runs/b/evaluation -o comparison
    """
    from unisono.evaluation.comparison import compare as run
    from unisono.evaluation.terminal import comparison_text

    typer.echo(
        comparison_text(run(named(evaluations), output, allow_different_cards=allow_different_cards, title=title))
    )


def named(evaluations: list[str]) -> dict[str, Path]:
    """Folders by the name that was given, else by as little of their path as tells them apart."""
    split = [_name_or_folder(entry) for entry in evaluations]
    result: dict[str, Path] = {}
    for place, (name, path) in enumerate(split):
        others = [other.resolve() for i, (_, other) in enumerate(split) if i != place]
        parts = path.resolve().parts
        depth = 1
        while not name and depth < len(parts) and any(other.parts[-depth:] == parts[-depth:] for other in others):
            depth += 1
        name = name or "/".join(parts[-depth:]).removeprefix("//")
        if name in result:
            raise UserError(f"two evaluations are called {name!r}; name them apart: NAME=FOLDER")
        result[name] = path
    return result


def _name_or_folder(entry: str) -> tuple[str, Path]:
    name, separator, path = entry.partition("=")
    return ("", Path(entry)) if not separator or Path(entry).exists() else (name, Path(path))


def metrics(
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Only those of this task.", autocompletion=_task_names)
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="A table with definition, blind spots and source.")
    ] = False,
) -> None:
    """List every metric: its tasks, unit, direction, and whether it can run here; and what networks take."""
    from unisono.evaluation.listing import catalogue_markdown, catalogue_text

    typer.echo(catalogue_markdown(task) if markdown else catalogue_text(task))
