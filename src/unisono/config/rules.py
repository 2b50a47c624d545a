"""Rules about what is built: the model and its parts, the optimizer, the trainer, generation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unisono.config.faults import UNRESOLVED, Fault, has_unresolved, join
from unisono.config.signatures import find_target
from unisono.errors import UserError


def build(plain: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[str, Any], list[Fault]]:
    """Build nodes without memory for weights; what their constructors refuse are faults.

    The parts of a node are built one by one first, so that each reports its own fault; then the whole, which sees
    whether they fit together. Parameters lie on the meta device, everything else is real, so that constructors may
    look at their numbers.
    """
    from accelerate import init_empty_weights

    built: dict[str, Any] = {}
    faults: list[Fault] = []
    with init_empty_weights(include_buffers=False):
        for name in names:
            node = plain.get(name)
            if not isinstance(node, Mapping) or "_target_" not in node or has_unresolved(node):
                continue
            parts = node.items() if node.get("_recursive_", True) else ()
            found = [fault for key, part in parts for fault in try_building(part, join(name, key))[1]]
            if not found:
                built[name], found = try_building(node, name)
            faults += found
    return {name: value for name, value in built.items() if value is not None}, faults


def try_building(node: Any, place: str) -> tuple[Any, list[Fault]]:
    """The object of a node, or why its constructor refuses."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if not isinstance(node, Mapping):
        return node, []
    if "_target_" not in node:
        parts = {key: try_building(value, join(place, key)) for key, value in node.items()}
        return {key: part for key, (part, _) in parts.items()}, [f for _, found in parts.values() for f in found]
    try:
        return instantiate(dict(node)), []
    except Exception as error:
        cause = error.__cause__ or error if isinstance(error, InstantiationException) else error
        if not isinstance(cause, (ValueError, TypeError, AssertionError)):
            return None, []  # a fault in code; building it in earnest shows where
        return None, [Fault(place, f"{node['_target_'].rpartition('.')[2]}: {_first_line(cause)}")]


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def check_trainer(plain: Mapping[str, Any]) -> list[Fault]:
    """Numbers that the trainer refuses, without a trainer."""
    from unisono.training.settings import refused_settings
    from unisono.training.trainer import Trainer

    node = plain.get("trainer")
    if not isinstance(node, Mapping) or has_unresolved(node):
        return []
    target = find_target(node["_target_"])
    if not isinstance(target, type) or not issubclass(target, Trainer):
        return []
    return [Fault(f"trainer.{name}", message) for name, message in refused_settings(node)]


def check_inference(plain: Mapping[str, Any]) -> Iterator[Fault]:
    """Settings of ``inference.py`` that are read by its code."""
    from unisono.inference.checkpoints import WEIGHT_SETS
    from unisono.inference.pipeline import DTYPES, choose_device

    try:
        choose_device(str(plain.get("device", "auto")))
    except UserError as error:
        yield Fault("device", str(error))
    dtype = plain.get("dtype")
    if dtype not in (*DTYPES, UNRESOLVED):
        yield Fault("dtype", f"is {dtype!r}; use {' or '.join(DTYPES)}")
    for name in ("batch_size", "max_batch_frames"):
        value = plain.get(name)
        if value is not UNRESOLVED and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            yield Fault(name, f"is {value!r}; a batch holds at least 1 {'item' if name == 'batch_size' else 'frame'}")
    if plain.get("weights") not in (*WEIGHT_SETS, UNRESOLVED):
        yield Fault("weights", f"is {plain.get('weights')!r}; use {' or '.join(WEIGHT_SETS)}")
    checkpoint, allow = plain.get("checkpoint"), plain.get("allow")
    if not isinstance(checkpoint, str | None) and checkpoint is not UNRESOLVED:
        yield Fault("checkpoint", f"is {checkpoint!r}; use null, best, last, step_00001000, a path or an id on the Hub")
    if allow is not UNRESOLVED and not (isinstance(allow, list) and all(isinstance(name, str) for name in allow)):
        yield Fault("allow", f"is {allow!r}; give a list of classes, such as [mine.MyEncoder]")


def check_optimizer(plain: Mapping[str, Any]) -> list[Fault]:
    """Settings that the optimizer refuses, such as a negative learning rate."""
    import torch
    from hydra.utils import instantiate

    node = plain.get("optimizer")
    if not isinstance(node, Mapping) or not node.get("_partial_") or has_unresolved(node):
        return []
    try:
        instantiate(dict(node))([torch.nn.Parameter(torch.zeros(2, 2))])
    except ValueError as error:
        return [Fault("optimizer", _first_line(error))]
    except Exception:  # a factory that needs the real parameters
        return []
    return []
