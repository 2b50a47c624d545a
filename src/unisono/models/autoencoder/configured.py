"""The autoencoder of a configuration, without the rest of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unisono.config import compose
from unisono.errors import UserError
from unisono.models.autoencoder.base import Autoencoder


def configured_autoencoder(overrides: Sequence[str] = ()) -> tuple[Autoencoder, dict[str, Any]]:
    """The autoencoder of ``configs/default.yaml`` with Hydra overrides, and its node as it is written.

    Raises:
        UserError: overrides that do not compose, settings or weights that the autoencoder refuses.
    """
    from hydra.errors import HydraException, InstantiationException
    from hydra.utils import instantiate

    given = f"--set {' '.join(overrides) or '(nothing)'}"
    try:
        cfg = compose("default", list(overrides))
        settings = OmegaConf.to_container(cfg.model.autoencoder)
        autoencoder = instantiate(cfg.model.autoencoder)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from error
        raise UserError(f"{given}: {str(cause).splitlines()[0]}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{given}: {str(error).splitlines()[0]}") from error
    assert isinstance(settings, dict)
    return autoencoder, {str(key): value for key, value in settings.items()}
