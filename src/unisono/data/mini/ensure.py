"""The mini corpus is part of the project: whoever trains on it without having built it gets it built."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

logger = logging.getLogger(__name__)


def ensure_mini_corpus(cfg: DictConfig) -> None:
    """Build ``${data_root}/mini`` if a chosen data set lies there and the corpus does not exist."""
    root = Path(cfg.data_root) / "mini"
    if (root / "corpus.json").is_file() or str(root) + "/" not in OmegaConf.to_yaml(_chosen(cfg), resolve=True):
        return
    from unisono.data.mini.corpus import build_mini_corpus

    logger.info("building the mini corpus in %s", root)
    build_mini_corpus(root)


def _chosen(cfg: DictConfig) -> DictConfig:
    nodes = {name: cfg[name] for name in ("train_dataloader", "val_dataloader", "datasets") if name in cfg}
    return OmegaConf.create({name: OmegaConf.to_container(node, resolve=True) for name, node in nodes.items()})
