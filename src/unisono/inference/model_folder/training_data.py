"""What a model was trained on, as its configuration and the manifests tell: for its card."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from unisono.data.manifest import read_jsonl
from unisono.errors import UserError

logger = logging.getLogger(__name__)


def training_data(cfg: Any) -> list[dict[str, Any]]:
    """The training sets of a configuration: ``name``, ``task``, ``items``, ``hours``, ``longest_s``, ``licenses``
    (name -> items), and ``languages`` (speaker -> language of most lines; "" of those without) where lines say it.

    Items are those of the manifests after ``split`` and ``max_samples``; ones that ``max_duration_s`` left out count.
    Items and hours are None where there is nothing to count: streams, and manifests that are gone.
    """
    resolved: Any = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg
    names = _names(resolved.get("data_dict"))
    return [_facts(node, names) for node in listed_datasets(resolved) if isinstance(node, Mapping)]


def _names(data_dict: Any) -> dict[str, str]:
    """Manifest -> the name of the data set that it belongs to, in ``configs/data/datasets``."""
    return {
        str(node["content"]): str(name)
        for name, splits in (data_dict.items() if isinstance(data_dict, Mapping) else ())
        for node in (splits.values() if isinstance(splits, Mapping) else ())
        if isinstance(node, Mapping) and node.get("content")
    }


def listed_datasets(cfg: Any) -> list[Any]:
    """The nodes of the training's data sets, of a resolved configuration."""
    loader = cfg.get("train_dataloader") if isinstance(cfg, Mapping) else None
    if not isinstance(loader, Mapping):
        return []
    dataset = loader.get("dataset")
    found = dataset.get("datasets") if isinstance(dataset, Mapping) else loader.get("datasets")
    return list(found) if isinstance(found, (list, tuple)) else []


def _facts(node: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    inner = node["dataset"] if isinstance(node.get("dataset"), Mapping) else node  # a stream of tar shards
    content, audio = inner.get("content"), inner.get("audio")
    name = names.get(str(content)) or _folder_name(content or node.get("shards"))
    facts = {"name": name, "task": _task_of(inner)}
    unknown: dict[str, Any] = {"items": None, "hours": None, "longest_s": _least(inner), "licenses": {}}
    if not content:
        return facts | unknown
    try:
        counted = _counted(Path(content), audio and Path(audio), inner.get("split"), inner.get("max_samples"))
        return facts | counted | {"longest_s": _least(inner, counted["longest_s"])}
    except (UserError, OSError) as error:
        logger.warning("the model card cannot say how much of %s there was: %s", facts["name"], error)
        return facts | unknown


def _least(node: Mapping[str, Any], longest_s: float | None = None) -> float | None:
    """The longest clip that is shown, as far as settings and recordings tell."""
    known = [value for value in (longest_s, node.get("crop_s"), node.get("max_duration_s")) if value]
    return round(float(min(known)), 3) if known else None


def _folder_name(path: Any) -> str:
    """The last folders of a path: a card is for others, and says nothing of where things lie on this machine."""
    parts = Path(path).parent.parts if isinstance(path, str) else ()
    return "/".join(parts[-2:]) or "unnamed"


def _task_of(node: Mapping[str, Any]) -> str | None:
    from hydra.utils import get_object

    try:
        task = getattr(get_object(str(node.get("_target_"))), "task", None)
    except Exception:  # Hydra's own, for whatever it meets
        return None
    return task if isinstance(task, str) else None


def _counted(content: Path, audio: Path | None, split: str | None, max_samples: int | None) -> dict[str, Any]:
    ids: set[str] | None = set() if split is not None or max_samples is not None else None
    items, stated = 0, Counter[str]()
    spoken: dict[str, Counter[str]] = {}
    lines = (line for _, line in read_jsonl(content) if split is None or line.get("split") == split)
    for line in islice(lines, max_samples):
        items += 1
        stated[str(line.get("license") or "")] += 1
        if isinstance(language := line.get("language"), str):
            spoken.setdefault(str(line.get("speaker") or ""), Counter())[language] += 1
        if ids is not None:
            ids.add(str(line.get("audio_id")))
    seconds, longest_s, of_audio = 0.0, 0.0, Counter[str]()
    for _, line in read_jsonl(audio) if audio else ():
        if ids is None or line.get("audio_id") in ids:
            duration_s = line.get("duration_s")
            seconds += duration_s if isinstance(duration_s, (int, float)) else 0.0
            longest_s = max(longest_s, duration_s if isinstance(duration_s, (int, float)) else 0.0)
            of_audio[str(line.get("license") or "")] += 1
    # A recording's licence counts; that of a caption, of another name, is named besides.
    licenses = Counter({name: count for name, count in of_audio.items() if name})
    licenses.update({name: count for name, count in stated.items() if name and name not in licenses})
    hours = round(seconds / 3600, 3) if seconds else None
    languages = {speaker: counts.most_common(1)[0][0] for speaker, counts in spoken.items()}
    counted = {"items": items, "hours": hours, "longest_s": longest_s or None, "licenses": dict(licenses)}
    return counted | ({"languages": languages} if languages else {})
