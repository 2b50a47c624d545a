"""Composing configurations in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unisono.config.preflight import compose_checked
from unisono.errors import UserError

ABSENT = "++data_root=absent"  # the mini corpus counts as not built yet; nothing is read


def refusal(*overrides: str, config_name: str = "default", config_path: Path | None = None, processes: int = 1) -> str:
    with pytest.raises(UserError) as caught:
        compose_checked(config_name, [*overrides, ABSENT], None if config_path is None else str(config_path), processes)
    return str(caught.value)


def composed(*overrides: str, config_name: str = "default", config_path: Path | None = None) -> Any:
    path = None if config_path is None else str(config_path)
    return compose_checked(config_name, [*overrides, ABSENT], path, with_files=False)[0]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A config folder outside the project, with a space in its name."""
    folder = tmp_path / "my configs"
    (folder / "model").mkdir(parents=True)
    (folder / "conf.yaml").write_text("defaults: [default, {override /model: wide}, _self_]\nepochs: 3\n")
    (folder / "model/wide.yaml").write_text("defaults: [tiny, _self_]\nbackbone: {dim: 384, num_heads: 6}\n")
    return folder
