"""How many threads computing libraries take in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch computes on one thread within: sums of several end in other digits where there are more or fewer, and
    processes or threads that share the processors would wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """`one_torch_thread`, and one for NumPy and SciPy as well: their threads spin while they wait, and take the
    processors from workers or threads of ours."""
    from threadpoolctl import threadpool_limits

    with one_torch_thread(), threadpool_limits(1):
        yield
