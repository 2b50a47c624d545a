"""What of a model and its optimizer is saved, and how it comes back: by name, in full, whatever holds it now.

A sharded model (FSDP) keeps a piece of each tensor in each process. Saved is always the whole tensor, so that a
checkpoint goes on with any number of processes and any strategy. Functions that gather are called by all processes.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unisono.errors import UserError

_SHOWN = 20


def is_sharded(tensor: Tensor) -> bool:
    """Whether other processes hold parts of it: a ``DTensor``, whose module costs a second to import."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU, gathered from all processes if the tensor is sharded."""
    full: Any = tensor.detach()
    full = full.full_tensor() if is_sharded(full) else full
    # What the model holds may change before the copy is written: averaged weights are in it for a moment only.
    return full.to("cpu", copy=True).contiguous()


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole copies; a process that does not ``keep`` them takes part where tensors are sharded, and gets nothing."""
    wanted: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if keep or is_sharded(tensor)}
    found = ((name, whole(tensor) if keep else tensor.full_tensor()) for name, tensor in wanted.items())
    return {name: tensor for name, tensor in found if keep}


def share_of(tensor: Tensor, holder: Tensor) -> Tensor:
    """This process's share of a whole tensor, on the device and laid out as ``holder``."""
    if is_sharded(holder):
        from torch.distributed.tensor import distribute_tensor

        laid_out: Any = holder
        return distribute_tensor(tensor.to(holder.device), laid_out.device_mesh, laid_out.placements)
    return tensor


def frozen_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules of which nothing is trained: pretrained parts, which are not in the checkpoint.

    A module without parameters is one of them if it has a ``fingerprint`` (an autoencoder of fixed filters).
    """

    def walk(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        parameters = list(module.parameters())
        is_part = bool(parameters) or isinstance(getattr(module, "fingerprint", None), str)
        if is_part and not any(p.requires_grad for p in parameters):
            yield name, module
            return
        for child, inner in module.named_children():
            yield from walk(f"{name}.{child}" if name else child, inner)

    return walk("", model)


def _frozen_prefixes(model: nn.Module) -> tuple[str, ...]:
    return tuple(f"{name}." if name else "" for name, _ in frozen_modules(model))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters, and the buffers that go with them, as the model holds them."""
    frozen_parts = _frozen_prefixes(model)
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if isinstance(tensor, Tensor) and name not in frozen and not name.startswith(frozen_parts)
    }


def trainable_state(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Trained parameters, and the buffers that go with them, whole; frozen pretrained parts stay out."""
    return gathered(_tensors(model), keep)


def trained_buffers(model: nn.Module) -> list[Tensor]:
    """Buffers that are saved: running statistics of what is trained."""
    parameters = {id(p) for p in model.parameters()}
    return [tensor for tensor in _tensors(model).values() if id(tensor) not in parameters]


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load weights; anything missing, unknown or of another shape is listed in one ``UserError``."""
    faults = _misfits(_tensors(model), weights)
    if faults:
        raise UserError(f"{where}: the weights do not fit the configured model:\n  {_listed(faults)}")
    _load(model, weights)


def load_what_fits(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> list[str]:
    """Load the weights that have the name and the shape of one of the model's; returns what was left out."""
    own = _tensors(model)
    fitting = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise UserError(f"{where}: none of its {len(weights)} tensors has name and shape of one of the model's")
    _load(model, fitting)
    return _misfits(own, weights)


def _misfits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    faults = [f"missing: {name}" for name in own.keys() - weights.keys()]
    faults += [f"unknown: {name}" for name in weights.keys() - own.keys()]
    faults += [
        f"shape of {name}: {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own.keys() & weights.keys()
        if weights[name].shape != own[name].shape
    ]
    return sorted(faults)


def _listed(faults: list[str]) -> str:
    more = [f"… and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
    return "\n  ".join(faults[:_SHOWN] + more)


def _load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = _tensors(model)
    model.load_state_dict({name: share_of(tensor, own[name]) for name, tensor in weights.items()}, strict=False)


# -- frozen parts ---------------------------------------------------------------------------------------------------


def frozen_fingerprints(model: nn.Module) -> dict[str, str]:
    """Name of each frozen part -> hash of what it computes with: its own ``fingerprint``, or its tensors."""
    found = {}
    for name, module in frozen_modules(model):
        own = getattr(module, "fingerprint", None)
        found[name or "model"] = own if isinstance(own, str) else _hash(module.state_dict())
    covered = _frozen_prefixes(model)
    single = {name: p for name, p in model.named_parameters() if not p.requires_grad and not name.startswith(covered)}
    return found | {name: _hash({name: p}) for name, p in single.items()}


def _hash(tensors: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            full = whole(tensor)
            digest.update(f"{name} {tuple(full.shape)} {full.dtype}".encode())
            digest.update(full.reshape(-1).view(torch.uint8).numpy().data)  # as bytes: numpy has no bfloat16
    return digest.hexdigest()[:16]


def check_fingerprints(saved: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
    """Raise ``UserError`` if a frozen part is not the one that the weights were trained with."""
    changed = [
        f"{name}: {saved.get(name, 'not frozen')} there, {now.get(name, 'not frozen')} now"
        for name in sorted(saved.keys() | now.keys())
        if saved.get(name) != now.get(name)
    ]
    if changed:
        raise UserError(
            f"{where}: the weights were trained beside other frozen parts; bring back their settings and weights, or "
            "begin anew with trainer.initial_weights and trainer.partial_loading=true. Fingerprints:\n  "
            f"{_listed(changed)}"
        )


# -- the optimizer --------------------------------------------------------------------------------------------------


def _names_by_index(optimizer: Optimizer, model: nn.Module) -> dict[int, str]:
    """Index of each parameter in the optimizer's own state -> its name in the model."""
    names = {id(p): name for name, p in model.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {index: names.get(id(p), f"parameter {index}") for index, p in enumerate(parameters)}


def optimizer_state(optimizer: Optimizer, model: nn.Module, keep: bool = True) -> dict[str, Any]:
    """The optimizer's state with the names of parameters for their indices, and whole tensors (``gathered``)."""
    names = _names_by_index(optimizer, model)
    state = optimizer.state_dict()
    return {
        "state": {
            names[index]: {key: value for key, value in entry.items() if not isinstance(value, Tensor)}
            | gathered({key: value for key, value in entry.items() if isinstance(value, Tensor)}, keep)
            for index, entry in state["state"].items()
        },
        "param_groups": [
            {**group, "params": [names[index] for index in group["params"]]} for group in state["param_groups"]
        ],
    }


def load_optimizer_state(optimizer: Optimizer, model: nn.Module, saved: Mapping[str, Any], where: str) -> None:
    """Take back what ``optimizer_state`` gave; other parameters or groups raise ``UserError``."""
    names = _names_by_index(optimizer, model)
    indices = {name: index for index, name in names.items()}
    own_groups = optimizer.state_dict()["param_groups"]
    there = [sorted(group["params"]) for group in saved["param_groups"]]
    here = [sorted(names[index] for index in group["params"]) for group in own_groups]
    if there != here:
        before, now = {n for group in there for n in group}, {n for group in here for n in group}
        faults = [f"missing: {name}" for name in sorted(now - before)]
        faults += [f"unknown: {name}" for name in sorted(before - now)]
        raise UserError(f"{where}: its optimizer trained other parameters:\n  {_listed(faults or ['groups differ'])}")
    for own, group in zip(own_groups, saved["param_groups"], strict=True):
        if own.keys() != group.keys():
            faults = [f"unknown: {name}" for name in sorted(group.keys() - own.keys())]
            faults += [f"missing: {name}" for name in sorted(own.keys() - group.keys())]
            raise UserError(
                f"{where}: its optimizer or learning-rate schedule is of another kind; bring back the same, or begin "
                f"anew with trainer.initial_weights. Settings of a group of parameters:\n  {_listed(faults)}"
            )
    parameters = dict(model.named_parameters())

    def share(name: str, value: Any) -> Any:
        is_per_weight = isinstance(value, Tensor) and value.shape == parameters[name].shape
        return share_of(value, parameters[name]) if is_per_weight else value

    optimizer.load_state_dict(
        {
            "state": {
                indices[name]: {key: share(name, value) for key, value in entry.items()}
                for name, entry in saved["state"].items()
            },
            # In the order of now: torch matches by position, and a model may name its parts in another order than then.
            "param_groups": [
                {**group, "params": own["params"]} for own, group in zip(own_groups, saved["param_groups"], strict=True)
            ],
        }
    )
