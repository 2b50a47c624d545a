"""The console command `unisono`: what is not a Hydra application. Nothing heavy is imported for `--help`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from unisono import __version__
from unisono.errors import UserError

app = typer.Typer(
    name="unisono",
    help="Train, run and evaluate one instruction-conditioned model for audio generation.\n\n"
    "Training, inference and evaluation are Hydra applications: python train.py, inference.py, evaluate.py.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
prepare_app = typer.Typer(help="Build a corpus in the documented format (docs/data_format.md).", no_args_is_help=True)
app.add_typer(prepare_app, name="prepare")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"unisono {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


OutOption = Annotated[Path, typer.Option("--out", help="Folder of the corpus.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Of everything random.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one per core.")]


@prepare_app.command("mini")
def prepare_mini(
    out: OutOption = Path("data/mini"),
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a corpus made with other settings.")] = False,
) -> None:
    """Synthesise the mini corpus: sound events with captions, eSpeak NG speech, noisy speech."""
    from unisono.data.prepare import RECIPES

    typer.echo(RECIPES["mini"].run(out, seed=seed, workers=workers, overwrite=overwrite))


@prepare_app.command("debian")
def prepare_debian(
    out: OutOption = Path("data/debian"),
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="Where downloads are kept; default OUT/.cache.")] = None,
) -> None:
    """Real recordings from Debian packages: voice prompts, their noisy versions, captioned sound effects."""
    from unisono.data.prepare import RECIPES

    typer.echo(RECIPES["debian"].run(out, cache=cache, seed=seed, workers=workers))


@app.command("check")
def check(
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides, as given to train.py.")] = None,
    config_name: Annotated[
        str, typer.Option("--config-name", "-cn", help="default (training), inference, evaluate, or your own.")
    ] = "default",
    config_path: Annotated[str | None, typer.Option("--config-path", "-cp", help="Folder of your own configs.")] = None,
    accelerate_config: Annotated[
        Path | None, typer.Option("--accelerate-config", help="File for `accelerate launch --config_file`.")
    ] = None,
    num_processes: Annotated[int | None, typer.Option("--num-processes", min=1, help="That train together.")] = None,
    duration_s: Annotated[
        float | None, typer.Option("--duration-s", min=0.1, help="Length of the clips; default: the longest.")
    ] = None,
) -> None:
    """Check a configuration without running it: all faults at once, then parameters, memory and time of a step.

    Example: unisono check model=base train_dataloader.batch_size=12 --num-processes 8
    """
    from unisono.config.entries import TRAINING
    from unisono.config.preflight import Launch, compose_checked, describe, read_launch

    sys.path.insert(0, str(Path.cwd()))  # as `python train.py` finds modules beside the script
    launch = read_launch(accelerate_config) if accelerate_config else Launch()
    if num_processes is not None:
        launch = Launch(num_processes, launch.mixed_precision)
    cfg, entry, warnings = compose_checked(config_name, overrides or [], config_path, launch.num_processes)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"no faults in the configuration for {entry.purpose}")
    if entry is TRAINING:
        typer.echo(describe(cfg, launch, duration_s))


@app.command("latent-statistics")
def latent_statistics(
    manifests: Annotated[list[Path], typer.Argument(help="audio.jsonl manifests.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="YAML file: the autoencoder's config with its statistics.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Hydra override, such as model/autoencoder=log_mel.")
    ] = None,
) -> None:
    """Mean and standard deviation per latent channel over the audio of manifests."""
    from unisono.models.autoencoder.statistics import write_statistics

    typer.echo(write_statistics(manifests, output, overrides or []))


def main() -> None:
    """Run the command; what a user can mend is printed without a traceback."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
