"""The table of recipes. A recipe is data until it is run: where its function lives and what it makes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """One row of the table.

    Attributes:
        name: what users call it.
        description: one line about what it makes.
        target: ``module:function``, imported when the recipe runs. The function takes the output folder and keyword
            options, and returns the folder.
    """

    name: str
    description: str
    target: str

    def load(self) -> Callable[..., Path]:
        module, _, function = self.target.partition(":")
        return getattr(importlib.import_module(module), function)

    def run(self, out: Path, **options: Any) -> Path:
        """Build the data sets in ``out``."""
        return self.load()(Path(out), **options)


_ROWS = (
    Recipe(
        name="mini",
        description="synthetic sounds and synthetic speech for all tasks, made in about a minute without a network",
        target="unisono.data.mini.corpus:build_mini_corpus",
    ),
    Recipe(
        name="debian",
        description="real recordings from Debian packages: 23 minutes of one voice, the same in noise, sound effects",
        target="unisono.data.prepare.debian:prepare_debian",
    ),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ROWS}
