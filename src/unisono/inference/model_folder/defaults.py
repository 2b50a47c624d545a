"""How a model is best asked: steps, guidance and solver, for all tasks and for single ones, in its own folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from unisono.errors import UserError
from unisono.models.generation import (
    LONGEST_AT_ONCE_S,
    SHORTEST_WINDOW_S,
    GenerationOptions,
    GenerationSettings,
)
from unisono.models.unified import UnifiedAudioModel
from unisono.tasks import get_task


def settings_for(
    cfg: Mapping[str, Any], task: str | None = None, options: GenerationOptions | None = None
) -> GenerationSettings:
    """The settings that a model's folder has for a task, but for what was asked.

    Args:
        cfg: of a model folder.
        task: name or abbreviation; None, or one without settings of its own, takes those of all tasks.
        options: what was asked.

    Raises:
        UserError: there is no such task.
    """
    generation = cfg.get("generation") or {}
    chosen = dict(generation.get("default") or {})
    if task is not None:
        chosen |= (generation.get("tasks") or {}).get(get_task(task).name, {})
    settings = GenerationSettings(**chosen)
    return settings if options is None else options.over(settings)


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


def with_windows(node: Any, training: Sequence[Mapping[str, Any]]) -> Any:
    """The node ``generation`` with windows as long as the longest clip of each task's training, where none are stated.

    Args:
        node: ``{default: {…}, tasks: {…}}`` or None; anything else is left to ``checked_generation``.
        training: what ``training_data`` found.
    """
    whole = {} if node is None else node
    default, tasks = (whole.get(name) for name in ("default", "tasks")) if isinstance(whole, Mapping) else ((), ())
    default, tasks = ({} if part is None else part for part in (default, tasks))
    if not isinstance(default, Mapping) or not isinstance(tasks, Mapping) or "window_s" in default:
        return node
    longest: dict[str, list[float | None]] = {}
    for facts in training:
        if facts.get("task") is not None:
            longest.setdefault(str(facts["task"]), []).append(facts.get("longest_s"))
    windows = {
        task: {"window_s": min(LONGEST_AT_ONCE_S, max(SHORTEST_WINDOW_S, *(clip or 0.0 for clip in clips)))}
        for task, clips in longest.items()
        if None not in clips
    }
    own = dict(tasks)
    for task, window in windows.items():
        stated = tasks.get(task) or {}
        own[task] = window | dict(stated) if isinstance(stated, Mapping) else stated
    return {**whole, "tasks": own}


def checked_options(given: Mapping[str, Any], place: str = "generation") -> GenerationOptions:
    """What somebody asks, by names of settings; None is left to the model.

    Raises:
        UserError: no such setting, or not of its kind.
    """
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in given.items()}  # numpy, torch
    return GenerationOptions(**_checked({name: value for name, value in plain.items() if value is not None}, place))


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
            wanted = f"finite {wanted}" if isinstance(value, float) and float in allowed else wanted
            raise UserError(f"{place}.{name} is {value!r:.100}; it must be {wanted}")
    return dict(node or {})


def _settings(chosen: dict[str, Any], model: UnifiedAudioModel, place: str) -> GenerationSettings:
    try:
        settings = GenerationSettings(**chosen)
        model.settle(settings)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    return settings
