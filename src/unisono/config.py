"""Where configurations live, their resolvers, and the shell around every Hydra entry point."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from unisono.errors import UserError

_REQUIRED_FOR_TRAINING = {
    "train_dataloader": "_target_: unisono.data.loader.train_dataloader",
    "val_dataloader": "_target_: unisono.data.loader.eval_dataloader",
    "model": "_target_: unisono.models.unified.UnifiedAudioModel",
    "optimizer": "_target_: torch.optim.AdamW",
    "lr_scheduler": "_target_: unisono.training.schedules.cosine_with_warmup",
    "loss_fn": "_target_: unisono.training.losses.AudioGenerationLoss",
    "trainer": "_target_: unisono.training.audio_generation_trainer.AudioGenerationTrainer",
}


def config_dir() -> Path:
    """The config tree: inside an installed wheel, or ``configs/`` of a checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "configs", package.parents[1] / "configs"):
        if (candidate / "default.yaml").is_file():
            return candidate
    raise UserError(f"no config tree beside {package}; reinstall the package")


def _phoneme_inventory() -> list[str]:
    from unisono.text.phonemes import PHONEMES

    return list(PHONEMES)


def _mini_speakers() -> list[str]:
    from unisono.data.mini.corpus import SPEAKERS

    return list(SPEAKERS)


def _quotient(a: float, b: float) -> float:
    return a / b


def register_omegaconf_resolvers() -> None:
    """Register the project's resolvers; harmless when called twice, and resolvers of the user's own stay."""
    resolvers: dict[str, Callable[..., Any]] = {
        "add": lambda *values: sum(values),
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": _quotient,
        "floordiv": lambda a, b: a // b,
        "len": lambda value: len(value),
        "latent_rate_hz": _quotient,  # ${latent_rate_hz:${sample_rate},${hop_samples}}
        "phoneme_inventory": _phoneme_inventory,
        "mini_speakers": _mini_speakers,
    }
    for name, function in resolvers.items():
        if not OmegaConf.has_resolver(name):
            OmegaConf.register_new_resolver(name, function)


def check_training_nodes(cfg: DictConfig) -> None:
    """Every top-level node that training needs must be there and say what to build."""
    faults = []
    for name, example in _REQUIRED_FOR_TRAINING.items():
        node = cfg.get(name)
        if node is None or "_target_" not in node:
            what = "is missing" if node is None else "lacks _target_"
            faults.append(
                f"`{name}` {what}; set it in your config (see configs/default.yaml), e.g. {name}: {{{example}}}"
            )
    if faults:
        raise UserError("the configuration is incomplete:\n  " + "\n  ".join(faults))


def mendable_message(error: Exception) -> str | None:
    """What to tell the user about an exception that Hydra may have wrapped; None if it is no error of the user's.

    A ValueError of a constructor that a configuration names is one about a value in that configuration.
    """
    place = next((line for line in str(error).splitlines() if line.startswith("full_key: ")), "")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, ValueError) and place:
            return f"{place.removeprefix('full_key: ')}: {cause}"
        cause = cause.__cause__ or cause.__context__
    return None


def hydra_entry(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Decorator of the entry points: Hydra with our config tree, and user errors without a traceback."""

    def decorate(body: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(body)
        def run() -> None:
            import hydra
            from hydra.errors import InstantiationException

            register_omegaconf_resolvers()

            def guarded(cfg: DictConfig) -> None:
                try:
                    body(resolved(cfg))
                except (UserError, InstantiationException) as error:
                    mendable = mendable_message(error)
                    if mendable is None or os.environ.get("HYDRA_FULL_ERROR"):
                        raise
                    print(f"error: {mendable}", file=sys.stderr)
                    sys.exit(1)

            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(guarded)()

        return run

    return decorate


def resolved(cfg: DictConfig) -> DictConfig:
    """A copy without interpolations: what is run is what is saved, and a dangling reference fails here."""
    plain = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    assert isinstance(plain, DictConfig)
    return plain


def compose(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a config of the project's tree from Python (tests, notebooks)."""
    import hydra

    register_omegaconf_resolvers()
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        return resolved(hydra.compose(config_name, overrides=list(overrides)))
