"""Compiling parts of a model, in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import nn

_MOST_PROGRAMS = 256


def compile_modules(modules: Iterable[nn.Module], options: Literal[True] | Mapping[str, Any]) -> None:
    """Compile each module by ``torch.compile`` with its options, or with none (True); names of weights stay.

    Modules of equal code share their programs: one for each combination of shapes (those of the batches, unless
    ``dynamic`` is true), of gradients or none, and of arguments that are None or not. After eight of them PyTorch would
    stop compiling with no more than a warning and be slow, so the limit is raised.
    """
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, _MOST_PROGRAMS)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, _MOST_PROGRAMS)
    for module in modules:
        module.compile(**({} if options is True else dict(options)))
