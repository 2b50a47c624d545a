"""Which task an instruction asks for, decided by rules that can be read; nothing is downloaded or learned.

1. Inputs exclude: a task needs its content and must not be given what it cannot use (`INPUTS`).
2. Words decide: each task has cues (`cues.tsv`), its own instructions and its names. What is negated does not count
   ("do not remove the noise, make it brighter"), nor what is quoted.
3. Where the words ask for an excluded task, for two tasks, for something no task does, or for nothing, `route` refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from unisono.errors import UserError
from unisono.inference.routing import cues
from unisono.inference.routing.captions import caption_kind
from unisono.inference.routing.content import Split, split_content
from unisono.inference.routing.evidence import CERTAIN, Evidence, weigh
from unisono.inference.routing.reading import is_english, read, straight
from unisono.tasks import TASKS, Task

MAX_CHARACTERS = 2000
"""Of an instruction without content after a colon; longer texts are inputs, not instructions."""


@dataclass(frozen=True)
class Route:
    """A decision.

    Attributes:
        task: name of the task.
        reason: why, in words for the user.
        content: caption or words to speak where they stood in the instruction itself; None where inputs bring them.
    """

    task: str
    reason: str
    content: str | None = None


@dataclass(frozen=True)
class Inputs:
    """What a modality needs (one of several sets), and what may come beside it."""

    needs: tuple[frozenset[str], ...]
    also: frozenset[str]
    described: str

    def fit(self, given: frozenset[str]) -> bool:
        return any(needed <= given <= needed | self.also for needed in self.needs)


def _inputs(needs: Iterable[str], also: str, described: str) -> Inputs:
    return Inputs(tuple(frozenset(one.split()) for one in needs), frozenset(also.split()), described)


INPUT_NAMES = frozenset(("text", "phonemes", "score", "f0", "audio", "video", "caption", "speaker"))
INPUTS: dict[str, Inputs] = {
    "text": _inputs(("caption", "text"), "", "a caption"),
    "phoneme": _inputs(("text", "phonemes"), "speaker", "text or phonemes"),
    "score": _inputs(("score",), "text phonemes speaker", "a score"),
    "pitch": _inputs(("f0 phonemes",), "text speaker", "F0 and phonemes"),
    "audio": _inputs(("audio",), "", "a recording (audio)"),
    "video": _inputs(("video",), "caption text", "a video"),
}
"""By modality. Content in the instruction itself counts as ``text``."""


def inputs_of(task: Task) -> Inputs:
    """What a task needs. A registered one may take anything beside it: only its data set knows."""
    base = INPUTS.get(task.modality, _inputs((task.modality,), "", task.modality))
    return base if task.name in cues.built_in() else Inputs(base.needs, base.also | INPUT_NAMES, base.described)


def route(instruction: str, inputs: Iterable[str] = frozenset()) -> Route:
    """Pick the task that an instruction in English asks for, given the names of the inputs that come with it.

    A caption without a request is itself the content: of ``text_to_music`` where it names music or an instrument first
    ("Calm piano with soft strings"), of ``text_to_audio`` where it names sounds ("A dog barks twice", "A man says hello
    while a dog barks"). Content may also follow a colon, stand in quotation marks or come after "the sound of".

    Args:
        instruction: what the user wrote.
        inputs: of ``INPUT_NAMES``, or the modality of a registered task.

    Raises:
        UserError: it is not clear; the message says why and lists the choices. This is so for other languages, for two
            tasks at once, for what no task does, and where inputs are missing or the task could not use them.
    """
    given = _checked(inputs)
    typed = straight(instruction)
    if not re.search(r"\w", typed):
        raise _refusal(typed, "it has no words", given)
    if len(typed) > MAX_CHARACTERS and not re.match(r"[^:\"]{1,80}:\s", typed):
        raise _refusal(typed, f"it is longer than {MAX_CHARACTERS} characters; give long texts as an input", given)
    named = _named(typed)
    if named is not None:
        return _settle(typed, named, "that is its name", given, None)
    split = split_content(typed, given)
    if split.conflict:
        raise _refusal(typed, split.conflict, given)
    if not split.certain and not is_english(split.request if split.request and not split.caption else typed):
        raise _refusal(typed, "it does not read as English, which is all that is understood here", given)
    return _choose(typed, split, _evidence(typed, split, given), given)


def _checked(inputs: Iterable[str]) -> frozenset[str]:
    given = frozenset((inputs,)) if isinstance(inputs, str) else frozenset(inputs)
    known = INPUT_NAMES | {task.modality for task in TASKS.values() if task.modality not in INPUTS}
    if given - known:
        raise UserError(f"unknown input {', '.join(sorted(given - known))}; inputs are {', '.join(sorted(known))}")
    return given


def _named(typed: str) -> Task | None:
    """The task whose name or abbreviation is all that was typed."""
    name = re.sub(r"[\W_]+", "_", typed.lower()).strip("_").removesuffix("_please")
    return next((task for task in TASKS.values() if name in (task.name, task.short)), None)


def _evidence(typed: str, split: Split, given: frozenset[str]) -> Evidence:
    """What words and form say."""
    evidence = weigh(split.request)
    if split.task:
        evidence.add(split.task, CERTAIN if split.certain else 3, split.said)
    if split.caption:
        kind, said = caption_kind(split.caption)
        if kind is not None:
            evidence.add(kind, 3, said)
        elif "video" not in given and not any(strength >= 3 for strength in evidence.strength.values()):
            raise _refusal(typed, said, given)
    if "video" in given and evidence.strength.get("text_to_audio", 0) < CERTAIN:
        evidence.move("text_to_audio", "video_to_audio")  # who asks for a sound here asks for the film's
    return evidence


def _choose(typed: str, split: Split, evidence: Evidence, given: frozenset[str]) -> Route:
    full = given | {"text"} if split.content else given
    possible = [task for task in TASKS.values() if inputs_of(task).fit(full)]
    strength = {name: value for name, value in evidence.strength.items() if name not in evidence.denied}
    allowed = {task.name: strength.get(task.name, 0) for task in possible if task.name not in evidence.denied}
    best, top = max(strength.values(), default=0), max(allowed.values(), default=0)
    if evidence.other and best < CERTAIN:
        raise _refusal(typed, f'no task {evidence.other[0]} ("{evidence.other[1]}")', given)
    if best > top and best >= 2:
        wanted = [TASKS[name] for name, value in strength.items() if value == best]
        why = f'"{evidence.said[wanted[0].name]}" asks for {wanted[0].name}, which {_misfit(wanted[0], full)}'
        raise _refusal(typed, why, given, wanted)
    if top == 0 and len(possible) == 1 and not evidence.denied and _is_neutral(split.request):
        return _settle(typed, possible[0], "only this task fits the inputs", given, split.content)
    if top == 0 or (top == 1 and not _is_hint_enough(typed, possible, evidence)):
        raise _refusal(typed, "it does not say which task is wanted", given, possible)
    winners = [name for name, value in allowed.items() if value == top]
    if top < CERTAIN:
        whole = [name for name, value in strength.items() if value == 3 and name not in allowed]
        winners += [name for name in whole if evidence.apart(winners[0], name)]
    if len(winners) > 1:
        said = " and ".join(f'{name} ("{evidence.said[name]}")' for name in winners)
        raise _refusal(typed, f"it asks for {said}; one at a time", given, [TASKS[name] for name in winners])
    task = TASKS[winners[0]]
    return _settle(typed, task, f'"{evidence.said[task.name]}" asks for it', given, split.content)


def _is_hint_enough(typed: str, possible: list[Task], evidence: Evidence) -> bool:
    """Whether a hint decides: nothing else is possible, or it is the only one and the sentence is no question.

    Of a recording it must also be a wish or a complaint; "sound" alone is one for a caption.
    """
    if sum(task.name not in evidence.denied for task in possible) == 1:
        return True
    if sum(evidence.strength.get(task.name, 0) > 0 for task in possible) > 1:
        return False
    plain = read(typed).plain
    modalities = {task.modality for task in possible}
    if modalities == {"text"} and "?" not in plain:
        return not any(evidence.strength.get(task.name, 0) > 1 for task in TASKS.values() if task not in possible)
    is_question = cues.compiled("<QUESTION>").match(plain)
    return modalities == {"audio"} and not evidence.denied and not is_question and _is_wish(plain)


def _is_neutral(request: str) -> bool:
    return bool(cues.form("NEUTRAL").fullmatch(read(request).plain))


def _is_wish(plain: str) -> bool:
    return bool(cues.compiled("<SIGNS>").search(plain))


def _settle(typed: str, task: Task, why: str, given: frozenset[str], content: str | None) -> Route:
    full = given | {"text"} if content else given
    if not inputs_of(task).fit(full):
        raise _refusal(typed, f"{why} ({task.name}), but it {_misfit(task, full)}", given, [task])
    brought = [*sorted(given), *(["text in the instruction"] if content else [])]
    return Route(task.name, f"{task.name} ({task.short}): {why}; inputs: {', '.join(brought)}", content)


def _misfit(task: Task, given: frozenset[str]) -> str:
    needs = inputs_of(task)
    if any(needed <= given for needed in needs.needs):
        useless = given - frozenset().union(*needs.needs) - needs.also
        return f"cannot use {', '.join(sorted(useless)) or 'all that is given at once'}"
    return f"needs {needs.described}"


def _refusal(typed: str, why: str, given: frozenset[str], among: list[Task] | None = None) -> UserError:
    """The error that says why, and what there is to choose from."""
    choices = among or list(TASKS.values())
    listed = "; ".join(f"{task.name} ({task.short}) needs {inputs_of(task).described}" for task in choices)
    shown = typed if len(typed) <= 80 else typed[:77] + "…"
    inputs = ", ".join(sorted(given)) or "no inputs"
    return UserError(f'instruction "{shown}" with {inputs}: {why}. Name the task, or say it in other words: {listed}')
