"""The model card: ``README.md`` of a model folder, everything in it from the config and the model beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from unisono.inference.model_folder.parts import frozen_parts
from unisono.models.unified import UnifiedAudioModel
from unisono.tasks import TASKS, get_task

_TAGS = {"text_to_speech": "text-to-speech", "speech_enhancement": "audio-to-audio"}
_USE = """```python
from unisono import Pipeline

pipe = Pipeline.from_pretrained("this folder, or its id on the Hugging Face Hub")
audio = pipe("two low knocks, then a whistle", task="text_to_audio", duration_s=2, seed=1)
audio.save("knocks.wav")
```

Nothing in this folder can run code: weights are safetensors, and `config.yaml` builds only classes that are listed."""


def tasks_of(cfg: Mapping[str, Any], model: UnifiedAudioModel) -> list[str]:
    """Tasks that a model was trained for; where nothing says, those whose content it can read."""
    return _trained_tasks(cfg) or [name for name, task in TASKS.items() if task.modality in model.content_encoders]


def _trained_tasks(cfg: Mapping[str, Any]) -> list[str]:
    trained = {entry.get("task") for entry in cfg["training"].get("data", [])}
    return [name for name in TASKS if name in trained]


def model_card(model: UnifiedAudioModel, cfg: Mapping[str, Any]) -> str:
    """Markdown with Hugging Face's front matter.

    Args:
        cfg: of the folder, whole.
    """
    ae, tasks = model.autoencoder, tasks_of(cfg, model)
    license_name = cfg.get("license")
    kinds = sorted({_TAGS[task] for task in _trained_tasks(cfg) if task in _TAGS})
    front = {
        "library_name": "unisono",
        "pipeline_tag": "text-to-audio",
        "license": license_name or "unknown",
        "tags": [
            "audio-generation",
            model.objective.tag,
            *kinds,
        ],
    }
    total = sum(p.numel() for p in model.parameters())
    stated = "" if license_name else " Whoever made this model has not stated a licence for it."
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, default_flow_style=None).strip()}
---

# A Unisono model

One network for {len(tasks)} {"task" if len(tasks) == 1 else "tasks"}, told by an instruction which of them to do.

| | |
| --- | --- |
| tasks | {_cell(", ".join(tasks))} |
| content | {_cell(", ".join(model.content_encoders))} |
| audio | mono, {ae.sample_rate} Hz |
| latent | {type(ae).__name__}, {ae.latent_dim} channels, {ae.latent_rate_hz:g} frames per second |
| objective | {model.objective.tag} |
| speakers | {_cell(_first(cfg["speakers"]))} |
| parameters | {total:,} |

## Use

{_USE}

Generation, where nothing else is asked for:

{_table(("", "settings"), _generation(cfg["generation"]))}

## Training data

{_data(cfg["training"].get("data", []))}{stated}

## Sizes

{_table(("component", "parameters", "trained"), _sizes(model))}

## Last validation

{_table(("metric", "value"), [(name, f"{value:.4f}") for name, value in _numbers(cfg["training"].get("metrics"))])}
"""


def _cell(text: Any) -> str:
    """Text that stays within its cell, and is nothing but text, whoever wrote it."""
    plain = " ".join(str(text).split())
    for character, shown in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("[", "\\["), ("`", "'")):
        plain = plain.replace(character, shown)
    return plain


def _first(names: Sequence[str], shown: int = 12) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return (", ".join(names[:shown]) + more) or "none"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *lines]) if lines else "Not recorded."


def _generation(node: Mapping[str, Any]) -> list[tuple[str, str]]:
    def shown(settings: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)

    return [("all tasks", shown(node["default"])), *((name, shown(own)) for name, own in node["tasks"].items())]


def _data(sets: Sequence[Mapping[str, Any]]) -> str:
    if not sets:
        return "Not recorded."
    rows = []
    for entry in sets:
        items, hours = entry.get("items"), entry.get("hours")
        stated: Mapping[str, int] = entry.get("licenses") or {}
        licenses = ", ".join(f"{name} ({count:,})" for name, count in stated.items()) or "not stated"
        counted = f"{items:,}" if isinstance(items, int) else "not counted"
        length = f"{hours:.2f}" if isinstance(hours, (int, float)) else "not known"
        task = entry.get("task")
        rows.append((entry.get("name"), get_task(task).short if task in TASKS else task, counted, length, licenses))
    table = _table(("data set", "task", "items", "hours", "licences of the recordings (items)"), rows)
    return (
        f"{table}\n\nItems and hours are those of the manifests, licences what they state; recordings can be in "
        "several data sets. The licences of recordings are not that of this model, but may bind whoever passes it on."
    )


def _sizes(model: UnifiedAudioModel) -> list[tuple[str, str, str]]:
    frozen = {id(p) for part in frozen_parts(model).values() for p in part.parameters()}
    parts = []
    for name, part in model.named_children():
        inner = part.named_children() if name == "content_encoders" else [("", part)]
        parts += [(f"{name}.{key}" if key else name, module) for key, module in inner]
    rows = []
    for name, module in parts:
        own = list(module.parameters())
        trained = sum(p.numel() for p in own if id(p) not in frozen)
        rows.append((name, f"{sum(p.numel() for p in own):,}", f"{trained:,}"))
    return rows


def _numbers(metrics: Any) -> list[tuple[str, float]]:
    found = metrics.items() if isinstance(metrics, Mapping) else ()
    return [(str(name), float(value)) for name, value in found if isinstance(value, (int, float))]
