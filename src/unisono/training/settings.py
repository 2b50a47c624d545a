"""Settings of a trainer that no training can be made of; the trainer and the pre-flight check refuse the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_AT_LEAST_ONE = (
    "epochs",
    "epoch_length",
    "gradient_accumulation_steps",
    "max_nonfinite_steps",
    "log_every_n_steps",
    "val_every_n_steps",
    "val_every_n_epochs",
    "save_every_n_steps",
    "save_every_n_epochs",
    "save_last_k",
    "keep_every_n_steps",
)


def refused_settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names of settings that a trainer cannot use, with what is wrong; those not given are fine."""
    found = []
    for name in _AT_LEAST_ONE:
        value = settings.get(name)
        if value is not None and value < 1:
            found.append((name, f"is {value}; it must be at least 1"))
    seed = settings.get("seed")
    if seed is not None and seed < 0:
        found.append(("seed", f"is {seed}; it must not be negative"))
    norm, decay = settings.get("max_grad_norm"), settings.get("ema_decay")
    if norm is not None and not norm > 0:
        found.append(("max_grad_norm", f"is {norm}; it must be positive, or null for no clipping"))
    if decay is not None and not 0 <= decay < 1:
        found.append(("ema_decay", f"is {decay}; it must lie in [0, 1), or be null for no averaged weights"))
    return found + _refused_warmup(settings.get("warmup_params") or {})


def _refused_warmup(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    given = {name: value for name, value in params.items() if value is not None}
    unknown = sorted(given.keys() - {"warmup_steps", "warmup_epochs"})
    if unknown:
        return [("warmup_params", f"has {', '.join(unknown)}; give warmup_steps or warmup_epochs")]
    if len(given) > 1:
        return [("warmup_params", f"is {given}; give warmup_steps or warmup_epochs and set the other to null")]
    return [("warmup_params", f"is {given}; warm-up cannot be negative") for value in given.values() if not value >= 0]
