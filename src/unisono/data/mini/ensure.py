"""The mini corpus is part of the project: whoever trains on it without having built it gets it built."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

logger = logging.getLogger(__name__)


def ensure_mini_corpus(cfg: DictConfig) -> None:
    """Build ``${data_root}/mini`` if a chosen data set lies there and the corpus does not exist."""
    if cfg.get("data_root") is None:
        return
    root = Path(cfg.data_root, "mini").absolute()
    if (root / "corpus.json").is_file():
        return
    chosen = [cfg[name] for name in ("train_dataloader", "val_dataloader", "datasets") if name in cfg]
    if not any(root in Path(value).absolute().parents for value in _texts(chosen)):
        return
    from unisono.data.mini.corpus import build_mini_corpus

    logger.warning("%s does not exist: building the mini corpus there", root)
    build_mini_corpus(root)


def _texts(node: Any) -> Iterator[str]:
    """Every text in a nested configuration."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, Sequence):
        for value in node:
            yield from _texts(value)
