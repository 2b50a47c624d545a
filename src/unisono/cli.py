"""The console command `unisono`: what is not a Hydra application. Nothing heavy is imported for `--help`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from unisono import __version__
from unisono.data import commands
from unisono.data.prepare import commands_features, commands_text
from unisono.data.prepare.commands import prepare_app
from unisono.errors import UserError
from unisono.evaluation import commands as evaluation
from unisono.inference.commands import generate

app = typer.Typer(
    name="unisono",
    help="Train, run and evaluate one instruction-conditioned model for audio generation.\n\n"
    "Training, inference and evaluation are Hydra applications: python train.py, inference.py, evaluate.py.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(prepare_app, name="prepare")
_COMMANDS: dict[str, Callable[..., None]] = {
    "generate": generate,
    "evaluate": evaluation.evaluate,
    "compare": evaluation.compare,
    "metrics": evaluation.metrics,
    "align": commands_features.align,
    "phonemize": commands_text.phonemize,
    "f0": commands_features.f0,
    "speaker": commands_features.speaker,
    "video-features": commands_features.video_features,
    "cache": commands.cache,
    "shard": commands.shard,
    "validate": commands.validate,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)


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
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Mean and standard deviation per latent channel over the audio of manifests."""
    from unisono.models.autoencoder.statistics import write_statistics

    typer.echo(write_statistics(manifests, output, overrides or [], device))


@app.command("reconstruct")
def reconstruct(
    files: Annotated[list[Path], typer.Argument(help="Recordings.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the decoded recordings and of reconstruction.json.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Hydra override, such as model/autoencoder=oobleck.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Encode and decode recordings, and measure what the autoencoder alone loses.

    Example: unisono reconstruct a.wav b.flac --set model/autoencoder=log_mel -o reconstructed
    """
    from unisono.evaluation.reconstruction import reconstruction_report
    from unisono.inference.pipeline import choose_device
    from unisono.models.autoencoder.configured import configured_autoencoder

    autoencoder, _ = configured_autoencoder(overrides or [])
    typer.echo(reconstruction_report(autoencoder.eval().to(choose_device(device)), files, output).table())


def main() -> None:
    """Run the command; what a user can mend is printed without a traceback."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
