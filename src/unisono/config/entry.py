"""The shell around every Hydra entry point: composition, check, one job after another, errors without internals."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from unisono.config.entries import EntryPoint
from unisono.config.resolvers import register_omegaconf_resolvers
from unisono.config.tree import config_dir, register_search_path, with_absolute_config_path, with_own_config
from unisono.errors import UserError
from unisono.files import replaced_file

if TYPE_CHECKING:
    from unisono.config.messages import Composition

logger = logging.getLogger(__name__)
_FULL_ERROR = "HYDRA_FULL_ERROR"


class _JobFailed(Exception):
    """A job of a sweep failed and said so; the others still run."""


def hydra_entry(entry: EntryPoint) -> Callable[[Callable[[DictConfig], object]], Callable[..., None]]:
    """Decorator of the entry points.

    What it makes takes ``config_path`` and ``config_name``: a script's own config, where the command line names none.

    The body gets a config that passed the pre-flight check, without interpolations. What a user can mend ends with one
    message and exit status 1; ``HYDRA_FULL_ERROR=1`` shows the whole traceback instead.
    """

    def decorate(body: Callable[[DictConfig], object]) -> Callable[..., None]:
        @functools.wraps(body)
        def run(config_path: str | os.PathLike[str] | None = None, config_name: str | None = None) -> None:
            import hydra

            register_omegaconf_resolvers()
            register_search_path()
            full = os.environ.get(_FULL_ERROR) == "1"
            try:
                own_path = None if config_path is None else os.fspath(config_path)
                sys.argv[1:] = with_absolute_config_path(with_own_config(sys.argv[1:], own_path, config_name))

                def job(cfg: DictConfig) -> None:
                    _run_job(body, cfg, entry, full)

                main = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=entry.config_name)
                with _errors_are_raised():
                    main(job)()
                _leave_processes()
            except _JobFailed:
                sys.exit(1)
            except Exception as error:
                if full:
                    raise
                if is_main_process():  # the same in every process: nothing was run yet
                    _report(error, _composition_of(sys.argv[1:], entry))
                sys.exit(1)

        return run

    return decorate


@contextmanager
def _errors_are_raised() -> Iterator[None]:
    """Hydra prints errors and leaves, unless this variable is set; raised, they can be explained."""
    before = os.environ.get(_FULL_ERROR)
    os.environ[_FULL_ERROR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FULL_ERROR]
        else:
            os.environ[_FULL_ERROR] = before


def _run_job(body: Callable[[DictConfig], object], cfg: DictConfig, entry: EntryPoint, full: bool) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from unisono.config.faults import ConfigError

    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if not is_main_process():
        logging.disable(logging.WARNING)  # the main process says it once for all
        warnings.simplefilter("ignore")
    try:
        if in_sweep:
            with open_dict(cfg):
                cfg[entry.job_folder] = HydraConfig.get().runtime.output_dir
        body(_checked(cfg, entry))
        return
    except Exception as error:
        if full:
            raise
        _report(error)
        # Where one of several processes fails the others wait for it; only the launcher can end them.
        goes_on = in_sweep and (isinstance(error, ConfigError) or os.environ.get("WORLD_SIZE", "1") == "1")
    if goes_on:
        raise _JobFailed  # out here it does not keep the failed job's model alive
    sys.exit(1)


def _checked(cfg: DictConfig, entry: EntryPoint) -> DictConfig:
    """The resolved config, if the pre-flight check finds nothing wrong."""
    from hydra.core.hydra_config import HydraConfig

    from unisono.config.check import check_config, debug_without_effect, overrides_without_effect
    from unisono.config.data_rules import data_warnings
    from unisono.config.faults import ConfigError

    hydra_cfg = HydraConfig.get()
    faults = check_config(cfg, entry, num_processes=int(os.environ.get("WORLD_SIZE", "1")))
    if faults:
        raise ConfigError(faults, primary_config(str(hydra_cfg.job.config_name), config_folder(hydra_cfg)))
    done = resolved(cfg)
    if is_main_process():
        given = list(hydra_cfg.overrides.task)
        own = [*overrides_without_effect(cfg, given), *debug_without_effect(cfg, given)]
        for message in [*own, *data_warnings(done)]:
            logger.warning(message)
    return done


def _leave_processes() -> None:
    """End the group of processes that training joined; torch warns about one that is left to the interpreter's end."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()  # who leaves first would end the others' connections
        distributed.destroy_process_group()


def is_main_process() -> bool:
    """Whether this is the first of the processes that a launcher started, before they are joined."""
    return os.environ.get("RANK", "0") == "0"


def config_folder(hydra_cfg: Any) -> Path:
    """The primary config folder of a composed config."""
    return next(Path(source.path) for source in hydra_cfg.runtime.config_sources if source.provider == "main")


def primary_config(config_name: str, directory: Path) -> str:
    """Path of the primary config file: in ``directory``, or in the project's tree behind it."""
    name = config_name if config_name.endswith((".yaml", ".yml")) else f"{config_name}.yaml"
    candidates = [folder / name for folder in (directory, config_dir())]
    return str(next((path for path in candidates if path.is_file()), candidates[0]))


def _report(error: Exception, composition: Composition | None = None) -> None:
    """Print an error as its user needs it: a message if it can be mended, else a traceback of code outside Hydra."""
    import hydra
    import omegaconf

    from unisono.config.faults import ConfigError
    from unisono.config.messages import explain, own_traceback

    message = explain(error, composition)
    if message is None:
        hidden = [str(Path(module.__file__ or "").parent) for module in (hydra, omegaconf)]
        message = own_traceback(error, [*hidden, __file__])
        print(message, file=sys.stderr)
    elif is_main_process() or not isinstance(error, ConfigError):
        print(f"error: {message}", file=sys.stderr)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):  # train.log: who comes later finds out why it ended
            handler.handle(
                logging.makeLogRecord(
                    {"name": __name__, "levelno": logging.ERROR, "levelname": "ERROR", "msg": message}
                )
            )


def _composition_of(arguments: list[str], entry: EntryPoint) -> Composition:
    """What the command line asked of Hydra, for suggestions."""
    from hydra._internal.utils import get_args_parser

    from unisono.config.messages import Composition

    args, _ = get_args_parser().parse_known_args(arguments)
    directory = Path(args.config_path or config_dir())
    name = (args.config_name or entry.config_name).removesuffix(".yaml")
    return Composition(directory if directory.is_dir() else config_dir(), name, tuple(args.overrides))


def resolved(cfg: DictConfig) -> DictConfig:
    """A copy without interpolations: what is run is what is saved."""
    try:
        plain = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    except RecursionError as error:
        raise UserError("the configuration refers to itself in a circle") from error
    assert isinstance(plain, DictConfig)
    return plain


def save_config(path: Path, cfg: DictConfig) -> None:
    """Write the resolved configuration, whole or not at all."""
    with replaced_file(path) as temporary:
        OmegaConf.save(cfg, temporary, resolve=True)
