"""The console commands `unisono prepare RECIPE`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from unisono.data.prepare.commands_options import MaxLeftOutOption, WorkersOption
from unisono.data.prepare.recipes import RECIPES, Recipe

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder of the corpus; default: data/NAME.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Of everything random.")]
SourceOption = Annotated[Path, typer.Option("--source", help="Folder of the corpus as it was downloaded.")]
MaxItemsOption = Annotated[int | None, typer.Option("--max-items", min=1, help="Of each split, for a first look.")]
ClipsOption = Annotated[Path | None, typer.Option("--clips", help="Folder of the clips; default: found in --source.")]

prepare_app = typer.Typer(help="Build a corpus in the documented format (docs/data_format.md).", no_args_is_help=True)


@prepare_app.command("mini", help="Synthesise the mini corpus: all eight tasks, without a download.")
def prepare_mini(
    out: OutOption = None,
    seed: SeedOption = 0,
    share: Annotated[float, typer.Option("--share", help="Of the items, for a quick look: 0.25 is a quarter.")] = 1.0,
    workers: WorkersOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a corpus made with other settings.")] = False,
) -> None:
    _run(RECIPES["mini"], out, seed=seed, share=share, workers=workers, overwrite=overwrite)


@prepare_app.command("debian", help="Real recordings from Debian packages, with free licences.")
def prepare_debian(
    out: OutOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="Where downloads are kept; default OUT/.cache.")] = None,
) -> None:
    _run(RECIPES["debian"], out, seed=seed, workers=workers, cache=cache)


def _run(recipe: Recipe, out: Path | None, **options: Any) -> None:
    folder = recipe.run(out or Path("data", recipe.name), **options)
    if recipe.needs_source:
        from unisono.data.prepare.corpora.output import summary_line

        typer.echo(summary_line(folder))
    typer.echo(folder)


_OPTIONS: dict[str, tuple[Any, Any]] = {
    "source": (SourceOption, inspect.Parameter.empty),
    "out": (OutOption, None),
    "seed": (SeedOption, 0),
    "workers": (WorkersOption, None),
    "max_items": (MaxItemsOption, None),
    "max_left_out": (MaxLeftOutOption, 0.5),
    "align": (Annotated[bool, typer.Option(help="Find phonemes and durations; without, the text alone.")], True),
    "clips": (ClipsOption, None),
    "f0": (Annotated[bool, typer.Option(help="Estimate F0 and write singing_acoustic_modeling too.")], True),
    "f0_method": (Annotated[str, typer.Option(help="harvest (finds more) or dio (faster).")], "harvest"),
}
"""Type and default of every option that a recipe for a public corpus may have."""


def _command(recipe: Recipe) -> Callable[..., None]:
    """A function with just the recipe's options, for typer to read."""

    def prepare(out: Path | None, **options: Any) -> None:
        _run(recipe, out, **options)

    names = [name for name in _OPTIONS if name == "out" or name in recipe.options]
    kind = inspect.Parameter.KEYWORD_ONLY
    prepare.__annotations__ = {name: _OPTIONS[name][0] for name in names}
    prepare.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind, annotation=_OPTIONS[name][0], default=_OPTIONS[name][1]) for name in names]
    )
    return prepare


for _recipe in RECIPES.values():
    if _recipe.needs_source:
        _help = f"{_recipe.description[0].upper()}{_recipe.description[1:]}."
        prepare_app.command(_recipe.name, help=_help)(_command(_recipe))
