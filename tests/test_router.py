"""The router of instructions: `router_instructions.tsv` was written by hand, line by line.

Part ``held`` was set aside while cues were made: at the first run 122 of its first 125 lines were right, and 65 of the
last 70, and no unclear line was taken for a task; some were mended since. Of the 416 last lines of ``design``,
harder ones, 328 (79 %) were right at their first run, 17 mistaken and the others refused, before cues were made for
them. So expect nine in ten of plain new wordings to be understood, and most of the others to be refused.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from unisono.errors import UserError
from unisono.inference.routing import Route, route
from unisono.inference.routing.router import INPUT_NAMES, MAX_CHARACTERS, inputs_of
from unisono.tasks import TASKS, Task, register_task

UNCLEAR = "unclear"
INPUTS_OF_MODALITY = {
    "text": ("caption", "text"),
    "phoneme": ("text", "phonemes"),
    "score": ("score",),
    "pitch": ("f0,phonemes",),
    "audio": ("audio",),
    "video": ("video",),
}


@dataclass(frozen=True)
class Case:
    part: str
    inputs: frozenset[str]
    expected: str
    instruction: str
    content: str


def read_cases() -> list[Case]:
    lines = (Path(__file__).parent / "router_instructions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    cases = []
    for line in lines:
        part, inputs, expected, instruction, content = [*line.split("\t"), ""][:5]
        given = frozenset() if inputs == "-" else frozenset(inputs.split(","))
        cases.append(Case(part, given, expected, instruction, content))
    return cases


CASES = read_cases()


def routed(instruction: str, inputs: frozenset[str] = frozenset()) -> Route | None:
    """The route; None where it was refused."""
    try:
        return route(instruction, inputs)
    except UserError:
        return None


def short(found: Route | None) -> str:
    return TASKS[found.task].short if found else UNCLEAR


@pytest.fixture
def extraction() -> Iterator[Task]:
    """A task from outside, as in docs/add_a_task.md."""
    task = register_task(
        Task(
            "sound_extraction",
            "sx",
            "audio",
            ("Keep only the sound that is described.", "Take this sound out of the mixture."),
        )
    )
    yield task
    del TASKS[task.name]


@pytest.mark.parametrize("part", ["design", "held"])
def test_at_least_97_percent_of_written_instructions_are_right(part: str) -> None:
    cases = [case for case in CASES if case.part == part]
    wrong = [
        f"{sorted(case.inputs)} {case.instruction!r}: {short(found)}, not {case.expected}"
        for case in cases
        if short(found := routed(case.instruction, case.inputs)) != case.expected
        or (case.content and found is not None and found.content != case.content)
    ]
    assert len(wrong) <= 0.03 * len(cases), "\n".join(wrong)


def test_none_is_silently_wrong() -> None:
    picked = [(case, found) for case in CASES if (found := routed(case.instruction, case.inputs)) is not None]
    mistaken = [(case.instruction, found.task) for case, found in picked if short(found) != case.expected]
    assert not mistaken


def test_the_written_instructions_are_varied() -> None:
    count = Counter(case.expected for case in CASES)
    assert sum(count.values()) >= 240 and set(count) == {task.short for task in TASKS.values()} | {UNCLEAR}
    assert min(count.values()) >= 20 and 3 * sum(case.part == "held" for case in CASES) >= 240
    assert len({(case.instruction, case.inputs) for case in CASES}) == len(CASES)


def test_whatever_is_picked_can_use_all_inputs() -> None:
    for case, size in itertools.product(CASES[::4], (1, 2)):
        for inputs in map(frozenset, itertools.combinations(sorted(INPUT_NAMES), size)):
            found = routed(case.instruction, inputs)
            if found is not None:
                given = inputs | {"text"} if found.content else inputs
                assert inputs_of(TASKS[found.task]).fit(given), (case.instruction, inputs, found)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.short)
def test_own_instructions_ask_for_their_task_and_never_for_another(task: Task) -> None:
    for instruction in task.instructions:
        for inputs in INPUTS_OF_MODALITY[task.modality]:
            assert route(instruction, inputs.split(",")).task == task.name
        for inputs in itertools.chain.from_iterable(
            itertools.combinations(sorted(INPUT_NAMES), size) for size in (0, 1, 2)
        ):
            found = routed(instruction, frozenset(inputs))
            assert found is None or found.task == task.name, (instruction, inputs, found)


@pytest.mark.parametrize("name", [*TASKS, *(task.short for task in TASKS.values())])
def test_a_name_or_an_abbreviation_is_an_instruction(name: str) -> None:
    task = next(task for task in TASKS.values() if name in (task.name, task.short))
    inputs = INPUTS_OF_MODALITY[task.modality][0].split(",")
    assert route(name, inputs).task == route(name.upper().replace("_", " "), inputs).task == task.name


def test_the_reason_quotes_the_words_and_names_the_inputs() -> None:
    reason = route("Could you get rid of the hiss?", ["audio"]).reason
    assert all(part in reason for part in ("speech_enhancement", "se", '"get rid of the hiss"', "audio"))


@pytest.mark.parametrize(
    ("instruction", "inputs", "expected"),
    [
        ("remove the noise", [], ["speech_enhancement", "needs a recording"]),
        ("remove the noise", ["audio", "speaker"], ["cannot use speaker"]),
        (
            "remove the noise and bring back the treble",
            ["audio"],
            ["speech_enhancement", "audio_super_resolution", "one at a"],
        ),
        ("transcribe this", ["audio"], ["no task transcribes"]),
        ("make it nice", ["audio"], ["speech_enhancement (se)", "audio_super_resolution (sr)"]),
        ("entferne das Rauschen", ["audio"], ["English"]),
        ("remove the noise", ["audoi"], ["audoi", "audio, caption"]),
        ("say 'a' and 'b'", [], ["several texts"]),
        ("say 'a'", ["text"], ["quotes a text"]),
        (" \n", ["audio"], ["no words"]),
        ("remove the noise " * 200, ["audio"], [str(MAX_CHARACTERS)]),
    ],
)
def test_a_refusal_says_why_and_what_there_is(instruction: str, inputs: list[str], expected: list[str]) -> None:
    with pytest.raises(UserError) as error:
        route(instruction, inputs)
    assert all(part in str(error.value) for part in expected), error.value
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    ("instruction", "content"),
    [
        ("say: Schöne Grüße, 12:30 Uhr!", "Schöne Grüße, 12:30 Uhr!"),
        ("speech: Guten Abend", "Guten Abend"),
        ('Read aloud "remove the noise: now"', "remove the noise: now"),
        ("Say 'don't'", "don't"),
        ("say: " + "A long text. " * 400, ("A long text. " * 400).strip()),
    ],
)
def test_words_to_speak_are_kept_as_they_are(instruction: str, content: str) -> None:
    assert (found := route(instruction)).task == "text_to_speech" and found.content == content


@pytest.mark.parametrize(
    "negated", ["do not remove the noise", "never denoise it", "no noise reduction", "don't clean it up"]
)
def test_what_is_negated_is_not_done(negated: str) -> None:
    assert routed(negated, frozenset(("audio",))) is None
    assert route(f"{negated}, just make it brighter", ["audio"]).task == "audio_super_resolution"


@pytest.mark.parametrize("second", ["read it aloud", "compose music for it", "add foley", "upsample it"])
def test_two_acts_are_refused_even_if_inputs_allow_only_one(second: str) -> None:
    assert routed(f"remove the noise and {second}", frozenset(("audio",))) is None


def test_a_registered_task_is_reached_by_its_own_wording(extraction: Task) -> None:
    inputs = ["audio", "caption"]
    assert route("Keep only the sound that is described", inputs).task == extraction.name
    assert route("please keep the sound that was described", inputs).task == extraction.name
    assert route("sx", inputs).task == extraction.name
    assert route("remove the noise", ["audio"]).task == "speech_enhancement"
    assert routed("remove the noise", frozenset(inputs)) is None


def test_a_registered_modality_is_an_input() -> None:
    task = register_task(Task("brain_to_audio", "b2a", "brain", ("Turn these brain waves into sound.",)))
    try:
        assert route("turn the brain waves into sound", ["brain"]).task == task.name
    finally:
        del TASKS[task.name]
    with pytest.raises(UserError, match="brain"):
        route("turn the brain waves into sound", ["brain"])
