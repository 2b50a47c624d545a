"""Models of ``transformers`` as networks: loaded without foreign code and without a part left at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unisono.errors import UserError
from unisono.features.pretrained import is_harmless, load_pretrained, quiet, weights_fingerprint


def load_model(model_class: Any, source: str, wanted: str) -> Any:
    """A model with all its weights and no others, from safetensors, or from ``pytorch_model.bin`` by ``weights_only``.

    Args:
        model_class: of ``transformers``.
        source: folder, or id on the Hub, ``id@revision`` to pin a version.
        wanted: for the messages: what is expected there.

    Raises:
        UserError: nothing there, something else there, or weights that are missing, unknown or of other shapes.
    """
    from transformers import AutoConfig
    from transformers.utils import logging

    config = load_pretrained(AutoConfig.from_pretrained, source, wanted)
    expected = getattr(model_class, "config_class", None)  # classes that choose by the settings have none
    if expected is not None and not isinstance(config, expected):
        raise UserError(f"{source}: is a {config.model_type!r} model, not {wanted}")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of missing weights: the same is said below, as an error
    try:
        model, report = load_pretrained(
            model_class.from_pretrained, source, wanted, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        logging.set_verbosity(verbosity)
    faults = []
    for kind, what in (("missing_keys", "missing"), ("unexpected_keys", "unknown"), ("mismatched_keys", "misshapen")):
        names = sorted(key if isinstance(key, str) else key[0] for key in report[kind])
        names = [name for name in names if not is_harmless(name)]
        if names:
            faults.append(f"{len(names)} {what}, such as {names[0]}")
    if faults:
        raise UserError(f"{source}: weights of something else than {wanted} ({'; '.join(faults)})")
    return quiet(model).float().eval().requires_grad_(False)


def model_parameters(model: Any, source: str) -> dict[str, Any]:
    """What the cards say of a model: hash of settings and weights, and the id on the Hub where it came from one."""
    names = {} if Path(source).exists() else {"hub_id": source}
    return {"weights_hash": weights_fingerprint(model), "architecture": type(model).__name__, **names}


def check_rate(extractor: Any, source: str, expected: int) -> None:
    """Raise if a feature extractor is for another sample rate."""
    rate = getattr(extractor, "sampling_rate", None)
    if rate != expected:
        raise UserError(f"{source}: takes audio at {rate} Hz; a model for {expected} Hz is wanted")


def quiet_parts(waveform: np.ndarray, longest_samples: int, sample_rate: int) -> list[np.ndarray]:
    """Consecutive parts of at most ``longest_samples``, each cut at the quietest tenth of a second of its last third,
    so that as few words as possible are cut in two."""
    parts, window = [], sample_rate // 10
    while len(waveform) > longest_samples:
        first = longest_samples * 2 // 3
        power = np.cumsum(np.square(waveform[first:longest_samples], dtype=np.float64))
        energy = power[window - 1 :] - np.concatenate([[0.0], power[:-window]])
        end = first + int(np.argmin(energy)) + window // 2
        parts.append(waveform[:end])
        waveform = waveform[end:]
    return [*parts, waveform]
