"""Texts to numbers for text encoders: int64 ``(B, L)``, zero at padding."""

from __future__ import annotations

import functools
import logging as std_logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unisono.errors import UserError

Tokenizer = Callable[[Sequence[str]], Tensor]


def byte_tokens(texts: Sequence[str]) -> Tensor:
    """UTF-8 bytes plus one."""
    _refuse_empty(texts)
    return _padded([list(text.encode()) for text in texts])


class PretrainedTokenizer:
    """The tokenizer of a model of ``transformers``; its ids plus one, so that zero is padding as everywhere.

    Args:
        name: folder or Hugging Face Hub id (``id@revision`` pins a version); loaded at the first use.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, texts: Sequence[str]) -> Tensor:
        _refuse_empty(texts)
        ids = _pretrained(self.name)(list(texts), padding=False, truncation=False)["input_ids"]
        return _padded(ids)


def tokenizer(name: str | None) -> Tokenizer:
    """Bytes, or the tokenizer of the pretrained encoder ``name``."""
    return byte_tokens if name is None else PretrainedTokenizer(name)


@functools.cache
def _pretrained(name: str) -> Any:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from unisono.features.pretrained import load_pretrained

    # Texts longer than those of the encoder's training get a warning each; relative positions bear them.
    logging.get_logger("transformers.tokenization_utils_base").setLevel(std_logging.ERROR)
    return load_pretrained(AutoTokenizer.from_pretrained, name, "a tokenizer")


def _refuse_empty(texts: Sequence[str]) -> None:
    if not all(text.strip() for text in texts):
        raise UserError("an instruction or caption of the batch is empty; write one")


def _padded(ids: Sequence[Sequence[int]]) -> Tensor:
    rows = [torch.tensor(row, dtype=torch.long) + 1 for row in ids]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
