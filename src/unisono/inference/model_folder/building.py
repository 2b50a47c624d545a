"""From the nodes of a config to a model: first without memory, then with the weights that fit it.

Sizes come from a text that anybody may have written, so nothing is allocated for them: what is trained is made on
torch's "meta" device, compared with the header of ``model.safetensors`` name by name, and takes the tensors that are
read as they are. Frozen parts are compared with the headers of their own files first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unisono.errors import UserError
from unisono.inference.model_folder.allowed import Node
from unisono.inference.model_folder.parts import own_tensors
from unisono.inference.model_folder.pretrained_files import check_sizes
from unisono.models.autoencoder import Autoencoder

_SHOWN = 20
_FLOATS = {"F64", "F32", "F16", "BF16"}


def build(root: Node, config: str) -> nn.Module:
    """The model of a config; what is trained is on the meta device, frozen parts have their weights.

    Raises:
        UserError: settings that a constructor refuses, frozen parts that their files do not fit.
    """
    return _build(root, config)


def _build(node: Node, config: str) -> Any:
    kind = node.cls.__name__ if node.file_setting else ""
    if kind in ("OobleckAutoencoder", "VocoderAutoencoder"):
        if node.arguments.get("trainable"):
            raise UserError(f"{config}: {node.place}.trainable is true; a model folder's autoencoder is trained: false")
        with _without_memory():  # compares all shapes with those in the file
            _call_all(node, config)
        return _call_all(node, config)
    if kind == "CodecAutoencoder":
        _check_pretrained(node, _codec_class)
    # Without weights, or with its own, or vouched for by the caller.
    has_memory = not issubclass(node.cls, nn.Module) or issubclass(node.cls, Autoencoder) or not node.is_listed
    held = None
    if kind == "PretrainedTextEncoder":
        from unisono.models.content_encoder.pretrained_text import _frozen_encoder

        _check_pretrained(node, _text_encoder_class)
        with _explained(node, config):
            held = _frozen_encoder(str(node.arguments.get("pretrained")))  # with weights; known to what follows
    arguments = {key: _trained(value, config) for key, value in node.arguments.items()}
    with nullcontext() if has_memory else _without_values():
        made = _call(node, arguments, config)
    del held
    return made


@contextmanager
def _without_values() -> Iterator[None]:
    """Everything on the meta device."""
    with torch.device("meta"), _NoInitialValues():
        yield


class _NoInitialValues(TorchFunctionMode):
    """Leaves out what gives tensors their first values: without memory it does nothing, but loads torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FILLERS:
            return args[0] if args else kwargs["tensor"]
        if func is Tensor.mul and isinstance(args[1], float):  # a scaled draw
            return args[0]
        if func is torch.eye:
            return torch.empty(args[0], args[0], **kwargs)
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


_FILLERS = {
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, nn.init.constant_),
    *(Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_, Tensor.copy_),
}


def _trained(value: Any, config: str) -> Any:
    if isinstance(value, dict) and any(isinstance(inner, Node) for inner in value.values()):
        return {key: _build(inner, config) for key, inner in value.items()}
    return _build(value, config) if isinstance(value, Node) else value


def _call_all(node: Node, config: str) -> Any:
    """A class with the nodes among its arguments, in whatever memory there is around it."""
    arguments = {
        key: _call_all(value, config) if isinstance(value, Node) else value for key, value in node.arguments.items()
    }
    return _call(node, arguments, config)


def _call(node: Node, arguments: dict[str, Any], config: str) -> Any:
    with _explained(node, config):
        return node.cls(**arguments)


@contextmanager
def _explained(node: Node, config: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a constructor makes of settings it was not written for
        place = f"{config}: {node.place} ({node.target})"
        raise UserError(
            f"{place}: {'' if isinstance(error, UserError) else type(error).__name__ + ': '}{error}"
        ) from error


def _without_memory() -> AbstractContextManager[Any]:
    """Parameters without memory; filters and windows are real, as constructors compute with them."""
    from accelerate import init_empty_weights

    return init_empty_weights(include_buffers=False)


def _check_pretrained(node: Node, class_of: Any) -> None:
    folder = Path(str(node.arguments.get("pretrained")))
    if folder.is_absolute():  # else an id on the Hub: resolve_parts lets nothing else through
        check_sizes(folder, class_of)


def _text_encoder_class(config: Any) -> Any:
    from transformers import AutoModelForTextEncoding

    return AutoModelForTextEncoding.from_config(config)


def _codec_class(config: Any) -> Any:
    from transformers import DacModel, EncodecModel

    classes: dict[str, Any] = {"encodec": EncodecModel, "dac": DacModel}
    if config.model_type not in classes:
        raise UserError(f"is a model of the kind {config.model_type!r}; a codec is encodec or dac")
    return classes[config.model_type](config)


# -- weights -------------------------------------------------------------------------------------------------------


def check_header(model: nn.Module, path: Path) -> None:
    """Compare names, shapes and types in a safetensors file with a model, before any of it is read.

    Raises:
        UserError: no such file, cut off, or weights that are missing, unknown, of another shape, or too large for here.
    """
    own = own_tensors(model)
    with _safetensors(path), safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(piece.get_shape()) for name, piece in slices.items()}
        types = {name: str(piece.get_dtype()) for name, piece in slices.items()}
    faults = [f"missing: {name}" for name in own.keys() - shapes.keys()]
    faults += [f"unknown: {name}" for name in shapes.keys() - own.keys()]
    for name in own.keys() & shapes.keys():
        if shapes[name] != tuple(own[name].shape):
            faults.append(f"shape of {name}: {shapes[name]} in the file, {tuple(own[name].shape)} in the model")
        elif own[name].is_floating_point() != (types[name] in _FLOATS):
            faults.append(f"type of {name}: {types[name]} in the file, {own[name].dtype} in the model")
    if faults:
        more = [f"… and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        listed = "\n  ".join(sorted(faults)[:_SHOWN] + more)
        raise UserError(f"{path}: the weights do not fit the configured model:\n  {listed}")
    needed = sum(4 * prod(shape) for shape in shapes.values())
    if needed > (present := _memory_bytes()):
        raise UserError(
            f"{path}: the model needs {needed / 1e9:.1f} GB, this machine has {present / 1e9:.1f} GB of memory"
        )


def _memory_bytes() -> float:
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # no POSIX system
        return float("inf")


def load_weights(model: nn.Module, path: Path) -> None:
    """Put the weights of a file that ``check_header`` passed in the place of those without memory."""
    own = own_tensors(model)
    with _safetensors(path):
        weights = load_file(path)
    model.load_state_dict({name: weights[name].to(own[name].dtype) for name in own}, strict=False, assign=True)
    empty = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not empty, f"left without weights: {empty[:5]}"


@contextmanager
def _safetensors(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; export the model again")
    try:
        yield
    except SafetensorError as error:
        raise UserError(f"{path}: damaged weights ({error}); download or export the model again") from error
