"""A data set that a list points to, and its file: what is missing between the two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

GROUP = "data/datasets"


def data_set_hint(name: str, cfg: Mapping[str, Any]) -> str | None:
    """What to do where ``data_dict.NAME…`` points to nothing, though a file of ``data/datasets`` is about it.

    Args:
        name: what was pointed to, with dots.
        cfg: the composed configuration.
    """
    root, _, rest = name.partition(".")
    wanted = rest.partition(".")[0]
    composed = cfg.get("data_dict")
    if root != "data_dict" or not wanted or not isinstance(composed, Mapping) or wanted in composed:
        return None
    for path in _files():
        keys = _top_keys(path)
        if path.stem == wanted and keys == ["data_dict"]:
            return f"{path} begins with data_dict:, which is where the file is put already; remove that line"
        if path.stem == wanted and wanted not in keys:
            return f"{path} names its data set {', '.join(keys) or 'nothing'}; name it {wanted}"
        if wanted in keys:
            return (
                f"{path} has it, but no defaults list takes it: add `- {path.stem}` to the list in data/all.yaml, "
                f"or `- {GROUP}@data_dict: {path.stem}` to the defaults of a config of your own, or say "
                f"+{GROUP}@data_dict={path.stem}"
            )
    return None


def _files() -> Iterator[Path]:
    """Files of data sets, in the folders that the configuration was composed from."""
    from hydra.core.hydra_config import HydraConfig

    from unisono.config.tree import config_dir

    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    for folder in dict.fromkeys([*folders, config_dir()]):
        yield from sorted((folder / GROUP).glob("*.yaml"))


def _top_keys(path: Path) -> list[str]:
    """Top-level names of a YAML file; none where it is no mapping, which is reported when it is composed."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return []
    return [str(key) for key in content] if isinstance(content, dict) else []
