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
    from unisono.inference.pipeline import choose_device

    try:
        choose_device(str(plain.get("device", "auto")))
    except UserError as error:
        yield Fault("device", str(error))
    precision, batch_size = plain.get("mixed_precision"), plain.get("batch_size")
    if precision not in ("no", "bf16", UNRESOLVED):
        quoted = '; YAML takes a bare no for false, so write "no"' if precision is False else ""
        yield Fault("mixed_precision", f"is {precision!r}; use no or bf16{quoted}")
    if batch_size is not UNRESOLVED and (not isinstance(batch_size, int) or batch_size < 1):
        yield Fault("batch_size", f"is {batch_size!r}; a batch holds at least 1 item")


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
