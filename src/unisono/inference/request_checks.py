"""What each task takes, and whether a request is that."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from unisono.errors import UserError
from unisono.inference.requests import Request
from unisono.tasks import Task

# By modality: what carries the content, what may stand beside it, and what the prompt stands for.
ARGUMENTS: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "text": ("text", (), "text"),
    "phoneme": ("text", ("speaker",), "text"),
    "score": ("score", ("text", "speaker"), "score"),
    "pitch": ("content", (), "instruction"),
    "audio": ("audio", (), "instruction"),
    "video": ("video", ("text",), "text"),
}
_NEEDED = {"text": "a caption", "phoneme": "a text", "score": "a score", "audio": "a recording", "video": "a video"}
_INPUTS = ("text", "speaker", "score", "audio", "video", "content")


def check_texts(request: Request) -> None:
    """Before anything reads them."""
    for name in ("prompt", "task", "text", "instruction"):
        value = getattr(request, name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise UserError(f"{name} is {type(value).__name__}; it must be a text")
        if value != value.encode("utf-8", "ignore").decode():
            raise UserError(f"{name} is {value[:60]!a}, which is no valid text (UTF-8); write it anew")


def check_arguments(request: Request, task: Task, carrier: str, beside: tuple[str, ...]) -> None:
    """What the task needs is there, and nothing else."""
    if request.content is not None:
        carrier, beside = "content", ()
        held = [content.modality for content in request.content]
        if task.modality not in held:
            raise UserError(f"{task.name} needs content of {task.modality}, and was given {', '.join(held) or 'none'}")
    if getattr(request, carrier) is None:
        raise UserError(f"{task.name} needs {_NEEDED.get(task.modality, 'typed content')}; give it as {carrier}")
    unused = [name for name in _INPUTS if getattr(request, name) is not None and name not in (carrier, *beside)]
    if unused:
        raise UserError(
            f"{task.name} cannot use {', '.join(unused)}; it takes {', '.join((carrier, *beside))}: leave the rest "
            "out, or choose another task"
        )
    if request.duration_s is not None and task.modality in ("audio", "pitch", "video"):
        raise UserError(f"{task.name} lasts as long as its {task.modality}; leave duration_s out")
    if request.language is not None and task.modality not in ("phoneme", "score"):
        raise UserError(f"{task.name} reads no text aloud; leave language out")
    for name in ("text", "instruction"):
        value = getattr(request, name)
        if value is not None and not value.strip():
            raise UserError(f"{name} is {value!r}; write some words")


def names_of_inputs(request: Request) -> set[str]:
    """What is given, as the router calls it."""
    names = {name for name in ("text", "speaker", "score", "audio", "video") if getattr(request, name) is not None}
    modalities = {"phoneme": {"phonemes"}, "pitch": {"phonemes", "f0"}}
    for content in request.content or ():
        names |= modalities.get(content.modality, {content.modality})
    return names


def checked_seed(seed: Any) -> int:
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise UserError(f"seed is {seed!r}; it must be a whole number from 0 to 2^63 - 1")
    return number


def checked_duration(duration_s: Any) -> float | None:
    if duration_s is None:
        return None
    if isinstance(duration_s, torch.Tensor) and duration_s.dim() == 0:
        duration_s = duration_s.item()
    if isinstance(duration_s, bool) or not isinstance(duration_s, int | float | np.number) or not duration_s > 0:
        raise UserError(f"duration_s is {duration_s!r}; it must be a positive number of seconds")
    return float(duration_s)
