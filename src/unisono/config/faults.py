"""Faults of a configuration, and interpolations: all that do not resolve, not only the first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException, UnsupportedInterpolationType

from unisono.config.data_set_files import data_set_hint
from unisono.errors import UserError
from unisono.suggest import did_you_mean, nearest_keys

_REFERENCE = re.compile(r"\$\{([^:${}]+)\}")
_INNERMOST = re.compile(r"\$\{([^{}]*)\}")
_NAME = re.compile(r"[\w-]+(?:\.[\w-]+)*")
_TOO_DEEP = 40


@dataclass(frozen=True)
class Fault:
    """One fault: where (dotted name, or a file) and what."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class ConfigError(UserError):
    """All faults of a configuration; the same in every process that composed it."""

    def __init__(self, faults: Sequence[Fault], source: str) -> None:
        self.faults = list(dict.fromkeys(faults))
        many = f"{len(self.faults)} faults" if len(self.faults) > 1 else "a fault"
        super().__init__(
            f"the configuration ({source}) has {many}:\n" + "\n".join(f"  {fault}" for fault in self.faults)
        )


class Unresolved:
    """Stands for a value whose interpolation failed; its fault is reported where it is written."""

    def __repr__(self) -> str:
        return "(unresolved)"


UNRESOLVED = Unresolved()


def has_unresolved(node: Any) -> bool:
    """Whether anything in a plain resolved node failed to resolve."""
    if isinstance(node, (Mapping, list)):
        return any(has_unresolved(value) for _, value in items(node))
    return node is UNRESOLVED


def join(prefix: str, key: Any) -> str:
    """Dotted name of ``key`` in the node ``prefix``."""
    return f"{prefix}[{key}]" if isinstance(key, int) else f"{prefix}.{key}" if prefix else str(key)


def items(node: Mapping[Any, Any] | Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Keys and values of a mapping or a list."""
    return iter(node.items()) if isinstance(node, Mapping) else enumerate(node)


def written_references(raw: Any) -> set[str]:
    """Every name inside an interpolation of an unresolved config.

    More than what is really referred to: nested and relative interpolations and arguments of resolvers count as well.
    """
    if isinstance(raw, str):
        # From the innermost braces outwards, so that ${a.${b}.c} gives a, b and c.
        inside: list[str] = []
        while innermost := _INNERMOST.search(raw):
            inside += _NAME.findall(innermost[1])
            raw = raw[: innermost.start()] + " " + raw[innermost.end() :]
        return set(inside)
    if isinstance(raw, (Mapping, list)):
        return {name for _, value in items(raw) for name in written_references(value)}
    return set()


def resolve_all(cfg: DictConfig) -> tuple[dict[str, Any], list[Fault]]:
    """Plain resolved copy of ``cfg`` with ``UNRESOLVED`` in the place of what fails, and one fault per failure."""
    failed: dict[str, Fault] = {}
    texts: dict[str, str] = {}

    def plain(node: Any, place: str, report: bool, depth: int) -> Any:
        if not isinstance(node, (DictConfig, ListConfig)):
            return node
        result = []
        keys: list[Any] = list(node.keys()) if isinstance(node, DictConfig) else list(range(len(node)))
        for key in keys:
            where = join(place, key)
            inner: Any = node._get_node(key)
            pointer = inner is not None and inner._is_interpolation()
            try:
                value = node[key]
                if depth > _TOO_DEEP:
                    raise RecursionError("circular")
            except (OmegaConfBaseException, RecursionError) as error:
                if report or depth > _TOO_DEEP:
                    texts[where] = str(inner._value()) if inner is not None else ""
                    failed.setdefault(where, Fault(where, _message(error, where, texts[where], cfg)))
                result.append((key, UNRESOLVED))
                continue
            # Faults inside what a pointer leads to are reported where they are written.
            result.append((key, plain(value, where, report and not pointer, depth + 1)))
        return dict(result) if isinstance(node, DictConfig) else [value for _, value in result]

    resolved = plain(cfg, "", True, 0)
    causes = [fault for place, fault in failed.items() if not _is_consequence(place, texts)]
    return resolved, list({fault.message: fault for fault in reversed(causes)}.values())[::-1]


def _is_consequence(place: str, texts: Mapping[str, str]) -> bool:
    """Whether a failed interpolation only points at another failed one, and is not part of a circle itself."""

    def targets(name: str) -> set[str]:
        return {target for target in _REFERENCE.findall(texts[name]) if target in texts}

    reached: set[str] = set()
    frontier = targets(place)
    while frontier:
        reached |= frontier
        frontier = {further for name in frontier for further in targets(name)} - reached
    return bool(reached) and place not in reached


def _message(error: Exception, place: str, text: str, cfg: DictConfig) -> str:
    """What went wrong with the interpolation ``text`` at ``place``."""
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    if text == "???" or "Missing mandatory value" in first:
        return f"has no value yet (???); give one: {place}=VALUE"
    if isinstance(error, RecursionError) or "Recursive interpolation" in first or "parent node" in first:
        return f"{text} leads back to itself; write a value somewhere in the circle"
    if isinstance(error, InterpolationKeyError):
        missing = re.search(r"'([^']+)'", first)
        name = missing[1] if missing else text
        if (known := data_set_hint(name, cfg)) is not None:
            return f"{text} points to nothing; {known}"
        near = nearest_keys(name, OmegaConf.to_container(cfg, resolve=False))
        return f"{text} points to nothing" + (f"; did you mean {' or '.join(near)}?" if near else "")
    if isinstance(error, UnsupportedInterpolationType):
        name = first.rpartition(" ")[2]
        return f"{text}: there is no resolver {name!r}; {did_you_mean(name, BaseContainer._resolvers)}"
    first = first.replace(" raised while resolving interpolation", "").removeprefix("UserError: ")
    return f"{text}: {first}"
