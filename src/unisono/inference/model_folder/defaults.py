"""How a model is best asked: steps, guidance and solver, for all tasks and for single ones, in its own folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from unisono.errors import UserError
from unisono.models.generation import GenerationSettings
from unisono.models.unified import UnifiedAudioModel
from unisono.tasks import get_task

# More is a slip, or a folder that means to keep a machine busy.
_LARGEST = {"num_steps": 1000, "max_duration_s": 3600.0}


def settings_for(cfg: Mapping[str, Any], task: str | None = None) -> GenerationSettings:
    """The settings that a model's folder has for a task, which whoever generates may replace.

    Args:
        cfg: of a model folder.
        task: name or abbreviation; None, or one without settings of its own, takes those of all tasks.

    Raises:
        UserError: there is no such task.
    """
    generation = cfg.get("generation") or {}
    chosen = dict(generation.get("default") or {})
    if task is not None:
        chosen |= (generation.get("tasks") or {}).get(get_task(task).name, {})
    return GenerationSettings(**chosen)


def checked_generation(node: Any, model: UnifiedAudioModel, where: str) -> dict[str, Any]:
    """The node ``generation``, whole: ``default`` with every field, ``tasks`` with what differs from it.

    Args:
        node: from a config: ``{default: {…}, tasks: {NAME: {…}}}``, both of them optional; None for the defaults.
        model: must be able to do what the settings ask.
        where: for messages: the config's file, or what it is the config of.

    Raises:
        UserError: a field that ``GenerationSettings`` does not have, a value that it or the model cannot use.
    """
    node = {} if node is None else node
    if not isinstance(node, Mapping) or not node.keys() <= {"default", "tasks"}:
        raise UserError(f"{where}: generation is {str(node)[:200]}; it has `default` and `tasks`, and nothing else")
    # A model that never went without conditions has nothing that guidance could start from.
    own = {} if model.cfg_drop_ratio else {"guidance_scale": 1.0}
    default = own | _checked(node.get("default"), f"{where}: generation.default")
    whole = asdict(_settings(default, model, f"{where}: generation.default"))
    tasks = {}
    for name, chosen in _mapping(node.get("tasks"), f"{where}: generation.tasks").items():
        place = f"{where}: generation.tasks.{name}"
        tasks[str(name)] = _checked(chosen, place)
        _settings(default | tasks[str(name)], model, place)
    return {"default": whole, "tasks": tasks}


def _mapping(node: Any, place: str) -> Mapping[str, Any]:
    if node is not None and not isinstance(node, Mapping):
        raise UserError(f"{place} is {str(node)[:200]}; settings are expected, one a line, such as num_steps: 24")
    return node or {}


def _checked(node: Any, place: str) -> dict[str, Any]:
    kinds = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(GenerationSettings).items()}
    known = [field.name for field in fields(GenerationSettings)]
    for name, value in _mapping(node, place).items():
        if name not in known:
            raise UserError(f"{place} has {name!r}, which is no setting; choose from {', '.join(known)}")
        allowed = {NoneType, *kinds[name]} if NoneType in kinds[name] else set(kinds[name])
        if type(value) is int and float in allowed:
            value = float(value)
        if type(value) not in allowed or (isinstance(value, float) and not math.isfinite(value)):
            wanted = " or ".join(sorted("null" if kind is NoneType else kind.__name__ for kind in allowed))
            raise UserError(f"{place}.{name} is {value!r:.100}; it must be {wanted}")
        if value is not None and name in _LARGEST and value > _LARGEST[name]:
            raise UserError(f"{place}.{name} is {value}; a model folder may have at most {_LARGEST[name]:g}")
    return dict(node or {})


def _settings(chosen: dict[str, Any], model: UnifiedAudioModel, place: str) -> GenerationSettings:
    try:
        settings = GenerationSettings(**chosen)
        model.settle(settings)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    return settings
