"""Checkpoint files of networks that this project builds itself: read without running code, loaded without a rest."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import unisono
from unisono.errors import UserError

if TYPE_CHECKING:
    import torch

    from unisono.evaluation.networks.network import AudioNetwork

_SHOWN = 3


@dataclass(frozen=True)
class Checkpoint:
    """What a file held.

    Attributes:
        path: the file.
        sha256: of its bytes.
        content: what was stored, tensors on the CPU.
    """

    path: Path
    sha256: str
    content: Any


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(network: AudioNetwork) -> str:
    """Of what decides a network's arrays: its code and that of its front end, each with its version, and its card
    parameters, the checkpoint hash among them."""
    said = [unisono.__version__, network.front_end_version, network.implementation, network.version, network.parameters]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_checkpoint(source: str, takes: str) -> Checkpoint:
    """Read a ``.safetensors`` file or one of ``torch.save``, the latter with ``weights_only=True``.

    Args:
        source: path of the file.
        takes: what is expected there, for the messages.

    Raises:
        UserError: no such file, or none that holds plain weights.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(source).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path}: {what}; give the {takes}")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            # Training state beside the weights may hold plain numbers and arrays of NumPy (PANNs 16k, aisfx).
            with torch.serialization.safe_globals(_numpy_globals()):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, *_UNREADABLE) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
        raise UserError(f"{path}: cannot be read as weights alone ({reason}); give the {takes}") from error
    return Checkpoint(path, file_sha256(path), content)


# What torch raises for a file that is none of its own depends on its first bytes.
_UNREADABLE = (
    pickle.UnpicklingError, OSError, RuntimeError, ValueError, KeyError, EOFError, AttributeError, TypeError,
)  # fmt: skip


def _numpy_globals() -> list[Any]:
    """Names that NumPy pickles its numbers and arrays by, before and after 2.0; none of them runs code."""
    core = np._core.multiarray  # type: ignore[attr-defined]
    names: list[Any] = [np.dtype, np.ndarray, *(getattr(np.dtypes, f"{kind}DType") for kind in _NUMBER_KINDS)]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names += [(core.scalar, f"{module}.scalar"), (core._reconstruct, f"{module}._reconstruct")]
    return names


_NUMBER_KINDS = (
    "Bool",
    "Int8",
    "UInt8",
    "Int16",
    "Int32",
    "Int64",
    "UInt32",
    "UInt64",
    "Float16",
    "Float32",
    "Float64",
)


def weights_of(checkpoint: Checkpoint, takes: str, *wrappers: str) -> dict[str, torch.Tensor]:
    """The weights by name, taken out of the first of ``wrappers`` that is there; ``module.`` of data parallelism cut.

    Raises:
        UserError: no weights in it.
    """
    import torch

    content = checkpoint.content
    for wrapper in wrappers:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    weights = content if isinstance(content, Mapping) else {}
    named = {str(k).removeprefix("module."): v for k, v in weights.items() if isinstance(v, torch.Tensor)}
    if not named:
        raise UserError(f"{checkpoint.path}: holds no weights by name; give the {takes}")
    for name, tensor in named.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{checkpoint.path}: weight {name} holds NaN or infinite values; fetch the file again")
    return named


def fill(
    module: torch.nn.Module,
    weights: Mapping[str, torch.Tensor],
    checkpoint: Checkpoint,
    takes: str,
    unused: Callable[[str], bool] = lambda name: False,
    optional: Collection[str] = (),
) -> None:
    """Give a module its weights: all of them, of the right shapes, and no others.

    Args:
        module: its ``state_dict`` says what is wanted.
        weights: by the names of that.
        checkpoint: they come from, for the message.
        takes: what was expected, for the message.
        unused: which names may be there all the same.
        optional: last parts of names that may be missing, as nothing depends on them.

    Raises:
        UserError: a weight is missing, unknown or of another shape: a checkpoint of another network.
    """
    wanted = module.state_dict()
    missing = [k for k in wanted if k not in weights and k.rpartition(".")[2] not in {*optional, "num_batches_tracked"}]
    unknown = [k for k in weights if k not in wanted and not unused(k)]
    misshapen = [
        f"{k} {tuple(weights[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in wanted
        if k in weights and weights[k].shape != wanted[k].shape
    ]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{' …' if len(names) > _SHOWN else ''}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise UserError(f"{checkpoint.path}: weights of another network ({'; '.join(faults)}); give the {takes}")
    module.load_state_dict({k: v for k, v in weights.items() if k in wanted}, strict=False)
