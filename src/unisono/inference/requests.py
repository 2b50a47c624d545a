"""What somebody asks for, in natural arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from unisono.errors import UserError
from unisono.types import Content


class Recording(Protocol):
    """Anything with samples and their rate, such as a ``GeneratedAudio``."""

    waveform: np.ndarray
    sample_rate: int


@dataclass(frozen=True)
class Request:
    """One sound that is wanted. What is None was not given.

    Attributes:
        prompt: the caption, the text to speak or the score, where the task has one; else the instruction. Without a
            task, the instruction that tells it.
        task: name or abbreviation; None picks it from the prompt and from what else is given.
        text: to be spoken, or lyrics in the place of the score's, or a caption.
        speaker: a name the model was trained with, the path of a recording of a voice, or its vector.
        score: MIDI or MusicXML file, a line like ``C4:0.5:la D4:1:la``, or a ``Score``.
        audio: recording to be changed: a path, ``(waveform, sample_rate)``, or a ``GeneratedAudio``.
        video: path of a video, or ``(pictures uint8 (T, H, W, 3), rate_hz)``.
        content: typed contents, for whatever has no argument of its own.
        instruction: in the words the model reads; None takes the task's first.
        language: of ``text`` and lyrics, see ``Phonemizer``; None is the one that the speaker was trained on.
        duration_s: wanted length; None predicts it.
        original: a recording, given as ``audio`` is, of which parts are kept while the rest is made anew.
        keep_s: what of it is kept, ``((start, end), …)`` in seconds, None for its end; all of it where this is None:
            with a longer ``duration_s``, that continues it.
        seed: of the noise. The same request with the same seed is the same sound, whatever stands beside it.
    """

    prompt: str | None = None
    task: str | None = None
    text: str | None = None
    speaker: Any = None
    score: Any = None
    audio: Any = None
    video: Any = None
    content: tuple[Content, ...] | None = None
    instruction: str | None = None
    language: str | None = None
    duration_s: float | None = None
    original: Any = None
    keep_s: tuple[tuple[float, float | None], ...] | None = None
    seed: int = 0
    name: str = "the request"


def _contents_of(given: Any) -> Any:
    """One content, or a list of them, as those of one request; a list of tuples is for several."""
    if isinstance(given, Content):
        return (given,)
    if isinstance(given, list) and given and all(isinstance(one, Content) for one in given):
        return tuple(given)
    for own in given if isinstance(given, list) else [given]:
        if own is not None and not (isinstance(own, tuple) and all(isinstance(one, Content) for one in own)):
            raise UserError(f"content is {type(own).__name__}; give typed contents (unisono.types) in a tuple")
    return given


def _is_pairs(value: Any) -> bool:
    """Whether a list is the spans of one request, not those of several."""
    return isinstance(value, list) and all(
        isinstance(pair, tuple | list) and not any(isinstance(end, tuple | list) for end in pair) for pair in value
    )


def requests_of(arguments: Mapping[str, Any]) -> tuple[list[Request], bool]:
    """Requests from arguments each of which is one value for all, or a list with one for each; and whether any was.

    Raises:
        UserError: lists of different lengths, or empty ones.
    """
    names = {field.name for field in fields(Request)}
    arguments = {**arguments, "content": _contents_of(arguments.get("content"))}
    if _is_pairs(arguments.get("keep_s")):
        arguments["keep_s"] = tuple(arguments["keep_s"])
    lists = {name: value for name, value in arguments.items() if isinstance(value, list)}
    assert arguments.keys() <= names
    counts = {name: len(value) for name, value in lists.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        shown = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise UserError(f"lists must be equally long, and not empty, but {shown}")
    count = next(iter(counts.values()), 1)
    requests = []
    for index in range(count):
        own = {name: value[index] if name in lists else value for name, value in arguments.items()}
        name = f"request {index + 1} of {count}" if lists else "the request"
        requests.append(Request(**own, name=name))
    return requests, bool(lists)
