"""The nearest valid name to one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Known names that ``name`` may have meant, likeliest first."""
    lower = {candidate.lower(): candidate for candidate in reversed(list(known))}
    return [lower[match] for match in difflib.get_close_matches(name.lower(), list(lower), n=limit, cutoff=0.6)]


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "choose one of") -> str:
    """A clause for an error message: the nearest names, or all of them where none is near."""
    known = list(dict.fromkeys(known))
    near = nearest(name, known)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"{otherwise} {', '.join(known)}" if known else "there is none"


def dotted_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a nested mapping by its dotted name, inner nodes included."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            yield name
            yield from dotted_keys(value, name)


def nearest_keys(key: str, config: Any, limit: int = 4) -> list[str]:
    """Dotted names in ``config`` that ``key`` may have meant.

    A name with the same last part in another place counts as well as one that is spelled nearly the same: somebody who
    writes ``lr=1`` means ``optimizer.lr``.
    """
    keys = list(dotted_keys(config))
    last = key.rpartition(".")[2]
    same_last = [name for name in keys if name.rpartition(".")[2] == last]
    parent = key.rpartition(".")[0]
    siblings = [name.rpartition(".")[2] for name in keys if name.rpartition(".")[0] == parent]
    near = [f"{parent}.{name}" if parent else name for name in nearest(last, siblings, 2)]
    near = near or difflib.get_close_matches(key, keys, n=2, cutoff=0.75)
    near += sorted(same_last, key=lambda name: name.count("."))
    if not near:
        like = difflib.get_close_matches(last, dict.fromkeys(name.rpartition(".")[2] for name in keys), n=1, cutoff=0.8)
        near = sorted((name for name in keys if name.rpartition(".")[2] in like), key=lambda name: name.count("."))
    # Nodes of data sets repeat the same names many times over; elsewhere one rarely means them.
    near.sort(key=lambda name: name.startswith("data_dict.") and not key.startswith("data_dict."))
    return list(dict.fromkeys(near))[:limit]
