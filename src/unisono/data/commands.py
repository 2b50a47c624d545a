"""The console commands that work on whole data sets; ``unisono.cli`` registers them. Nothing heavy is imported here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from unisono.errors import UserError


def cache(
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides, as given to train.py.")] = None,
    config_name: Annotated[
        str, typer.Option("--config-name", "-cn", help="default (training), or your own.")
    ] = "default",
    config_path: Annotated[str | None, typer.Option("--config-path", "-cp", help="Folder of your own configs.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the cache; default: feature_cache.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one per core.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda; a GPU encodes in one process.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is cached and what is missing.")] = False,
) -> None:
    """Compute the latents of a training's recordings once, and whatever else its frozen encoders make of its data.

    What is in the cache already is left as it is; a run that was killed goes on. Example:
    unisono cache feature_cache=data/cache model=base, then python train.py feature_cache=data/cache model=base
    """
    from unisono.config.entries import TRAINING
    from unisono.config.preflight import compose_checked
    from unisono.data.feature_cache.command import fill_cache

    sys.path.insert(0, str(Path.cwd()))  # as `python train.py` finds modules beside the script
    cfg, entry, warnings = compose_checked(config_name, overrides or [], config_path)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    if entry is not TRAINING:
        raise UserError(f"{config_name} is a configuration for {entry.purpose}; the cache is made for training")
    folder = out or cfg.get("feature_cache")
    if folder is None:
        raise UserError("there is no folder for the cache; say feature_cache=FOLDER, as to train.py, or --out FOLDER")
    typer.echo(fill_cache(cfg, Path(folder), workers, device, dry_run))


def shard(
    content: Annotated[Path, typer.Argument(help="content.jsonl")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the shards.")],
    task: Annotated[str | None, typer.Option("--task", help="Default: the name of the folder above the split.")] = None,
    audio: Annotated[Path | None, typer.Option("--audio", help="audio.jsonl; default: beside the content.")] = None,
    max_mb: Annotated[
        float | None,
        typer.Option("--max-mb", min=0.01, help="Megabytes of a shard at most; default: 32 shards, or more of 1000."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="First name of the shards.")] = "shard",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one per core.")] = None,
) -> None:
    """Write a data set as WebDataset tar shards, to be streamed (docs/data_format.md).

    A run that was killed goes on where it was: give the same command again.

    Example: unisono shard data/mini/text_to_audio/train/content.jsonl -o shards
    """
    from unisono.data.datasets import DATASETS
    from unisono.data.datasets.restoration import RestorationDataset, degraded_elsewhere
    from unisono.data.manifest import read_jsonl
    from unisono.data.tar_shards import write_shards
    from unisono.tasks import get_task

    chosen = get_task(task or content.resolve().parent.parent.name).name
    kind = DATASETS[chosen]
    options: dict[str, Any] = {}
    first = next((record for _, record in read_jsonl(content)), {})
    if issubclass(kind, RestorationDataset) and first.get(kind.input_field) is None:
        options["degradation"] = degraded_elsewhere  # the shards' targets are degraded where they are read
    dataset = kind(content, audio or content.with_name("audio.jsonl"), **options)
    max_bytes = None if max_mb is None else round(max_mb * 1e6)
    for path in write_shards(dataset, out, max_bytes=max_bytes, name=name, workers=workers):
        typer.echo(path)


ManifestsArgument = Annotated[
    list[Path], typer.Argument(help="content.jsonl files, or folders of splits, of data sets or of whole corpora.")
]
ManifestTaskOption = Annotated[
    str | None, typer.Option("--task", help="Of manifests that lie in no folder with a task's name.")
]
ReportOption = Annotated[
    Path | None, typer.Option("--json", help="The report; default: validation.json in the manifests' folder.")
]
FixOption = Annotated[
    Path | None, typer.Option("--fix", help="New folder for manifests without the lines that have errors.")
]
AlignOption = Annotated[bool, typer.Option("--align", help="Compare English sentences with their recordings; slow.")]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", help="Compare with its phonemes and speakers: a name, or a run's config.yaml."),
]
ConfigPathOption = Annotated[str | None, typer.Option("--config-path", "-cp", help="Folder of your own configs.")]
VocabularyOption = Annotated[
    Path | None, typer.Option("--vocabulary", help="Phonemes that are allowed: a text, JSON or YAML file.")
]
MinBandwidthOption = Annotated[
    float | None, typer.Option("--min-bandwidth-hz", help="A target that does not reach it is an error.")
]
PlacesOption = Annotated[int, typer.Option("--places", min=0, help="Shown of each kind of finding.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one per core.")]
CacheOption = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Keep measurements; only what has changed is read again.")
]


def validate(
    manifests: ManifestsArgument,
    task: ManifestTaskOption = None,
    json_file: ReportOption = None,
    fix_folder: FixOption = None,
    align: AlignOption = False,
    config: ConfigOption = None,
    config_path: ConfigPathOption = None,
    vocabulary: VocabularyOption = None,
    min_bandwidth_hz: MinBandwidthOption = None,
    places: PlacesOption = 3,
    workers: WorkersOption = None,
    cache: CacheOption = True,
) -> None:
    """Read every line and file of a corpus once and report what is wrong; exit status 1 if there are errors.

    With --fix it is 0 if each manifest has a clean copy. Example: unisono validate data/mini --fix data/mini_clean
    """
    from unisono.data.validate import Limits, fix, read_model_inputs, table, write_report
    from unisono.data.validate import validate as examine
    from unisono.data.validate.report import write_default_report
    from unisono.data.validate.text_checks import read_vocabulary

    if config is not None and vocabulary is not None:
        raise UserError("--config and --vocabulary both say which phonemes are allowed; give one of them")
    if config is not None:
        sys.path.insert(0, str(Path.cwd()))  # as `python train.py` finds modules beside the script
    validated = examine(
        manifests,
        task=task,
        limits=Limits(min_bandwidth_hz=min_bandwidth_hz),
        vocabulary=None if vocabulary is None else read_vocabulary(vocabulary),
        model=None if config is None else read_model_inputs(config, config_path),
        align=align,
        workers=workers,
        store="default" if cache else None,
    )
    typer.echo(table(validated, places))
    written = write_report(validated, json_file) if json_file is not None else write_default_report(validated)
    if written is not None:
        typer.echo(f"report: {written}")
    good = not validated.num_errors
    if fix_folder is not None:
        fixed = fix(validated, fix_folder)
        typer.echo(fixed.text)
        good = fixed.complete
    if not good:
        raise typer.Exit(1)
