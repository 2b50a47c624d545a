"""Threads that computing libraries take."""

from __future__ import annotations

import pytest
import torch
from threadpoolctl import threadpool_info

from unisono.threads import one_thread, one_torch_thread


def library_threads() -> list[tuple[str, int]]:
    return [(library["filepath"], library["num_threads"]) for library in threadpool_info()]


def test_one_thread_is_one_in_every_library_and_as_many_as_before_come_back() -> None:
    original = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = library_threads()
        with one_thread():
            assert torch.get_num_threads() == 1
            assert {number for _, number in library_threads()} == {1}
        assert torch.get_num_threads() == 2
        assert library_threads() == before
        with pytest.raises(ValueError, match="within"), one_torch_thread():
            raise ValueError("within")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(original)
