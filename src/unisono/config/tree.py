"""Where the YAML files lie, and how Hydra finds them from anywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from unisono.config.resolvers import register_omegaconf_resolvers
from unisono.errors import UserError
from unisono.suggest import did_you_mean

# Folders of the tree that hold files for other programs.
NOT_GROUPS = ("accelerate",)


def config_dir() -> Path:
    """The project's config tree: inside an installed wheel, or ``configs/`` of a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "configs", package.parents[1] / "configs"):
        if (candidate / "default.yaml").is_file():
            return candidate
    raise UserError(f"no config tree beside {package}; reinstall the package")


def project_dir() -> Path:
    """The checkout that the package runs from; where it is installed from a wheel, the working directory."""
    tree = config_dir()
    return Path.cwd() if tree.parent.name == "unisono" else tree.parent


def register_search_path() -> None:
    """Let Hydra find the project's groups behind those of any ``--config-path``; harmless when called twice."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class UnisonoSearchPath(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            own = f"file://{config_dir()}"
            if all(element.path != own for element in search_path.get_path()):
                search_path.append("unisono", own)

    if all(plugin.__name__ != UnisonoSearchPath.__name__ for plugin in Plugins.instance().discover(SearchPathPlugin)):
        Plugins.instance().register(UnisonoSearchPath)


def locate_config_path(given: str) -> str:
    """A ``--config-path`` as Hydra can use it from anywhere.

    Relative ones are looked for in the working directory, then beside the started script, which is Hydra's own rule.
    """
    given = given.removeprefix("file://")
    if "://" in given:
        return given
    if not given:
        raise UserError("--config-path is empty; name a folder, or leave the option out")
    bases = [Path.cwd(), Path(sys.argv[0]).resolve().parent]
    tried = [Path(os.path.abspath(base / Path(given).expanduser())) for base in bases]
    for candidate in tried:
        if candidate.is_dir():
            return str(candidate)
    for candidate in tried:
        if candidate.is_file():
            name = f"--config-path {candidate.parent} --config-name {candidate.stem}"
            raise UserError(f"--config-path {given} is a file; folder and name are given apart: {name}")
    parent = tried[0].parent
    siblings = [str(path) for path in sorted(parent.iterdir()) if path.is_dir()] if parent.is_dir() else []
    looked = " and ".join(map(str, dict.fromkeys(tried)))
    raise UserError(
        f"--config-path {given}: no such folder (looked for {looked}); {did_you_mean(str(tried[0]), siblings)}"
    )


def with_absolute_config_path(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments with the values of ``--config-path`` and ``--config-dir`` made absolute."""
    done = list(arguments)
    for index, argument in enumerate(done):
        name, equals, value = argument.partition("=")
        if name not in ("--config-path", "-cp", "--config-dir", "-cd"):
            continue
        if equals:
            done[index] = f"{name}={locate_config_path(value)}"
        elif index + 1 < len(done):
            done[index + 1] = locate_config_path(done[index + 1])
    return done


def with_own_config(arguments: Sequence[str], config_path: str | None, config_name: str | None) -> list[str]:
    """Command-line arguments with a script's own config, unless they name one."""
    done = list(arguments)
    for flag, short, value in (("--config-name", "-cn", config_name), ("--config-path", "-cp", config_path)):
        if value is not None and not any(argument.partition("=")[0] in (flag, short) for argument in done):
            done = [flag, str(value), *done]
    return done


@contextmanager
def hydra_in(directory: str | Path) -> Iterator[None]:
    """Hydra's compose API with ``directory`` as the primary config folder and the project's tree behind it."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    register_omegaconf_resolvers()
    register_search_path()
    outer = GlobalHydra.instance().hydra  # of the running application, which this must not end
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(directory)):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def compose(config_name: str = "default", overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a config of the project's tree from Python (tests, notebooks), without interpolations."""
    import hydra

    from unisono.config.entry import resolved

    with hydra_in(config_dir()):
        return resolved(hydra.compose(config_name, overrides=list(overrides)))
