"""The task table. A task is data: its name, what content it takes, and how people ask for it.

The model never sees a task's name, only one of the instructions; evaluation and folders use the name.
"""

from __future__ import annotations

from dataclasses import dataclass

from unisono.errors import UserError


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Attributes:
        name: config name and folder name.
        short: abbreviation for the command line.
        modality: key of the content encoder that reads the task's content.
        instructions: paraphrases; one is drawn per item.
    """

    name: str
    short: str
    modality: str
    instructions: tuple[str, ...]


_ROWS = (
    Task(
        name="text_to_audio",
        short="t2a",
        modality="text",
        instructions=(
            "Generate the sound described by the text.",
            "Create audio that matches this caption.",
            "Make the sound effect described below.",
            "Turn the description into a recording of it.",
            "Produce the sounds named in the caption, in their order.",
            "Synthesize an audio clip for this description.",
            "What would this scene sound like? Generate it.",
            "Render the described sound events as audio.",
            "Give me a sound that fits the text.",
            "Compose the acoustic scene that the caption tells of.",
        ),
    ),
    Task(
        name="text_to_speech",
        short="tts",
        modality="phoneme",
        instructions=(
            "Read the text aloud.",
            "Speak these phonemes in the given voice.",
            "Convert the text to natural speech.",
            "Say this sentence.",
            "Synthesize speech from the phoneme sequence.",
            "Pronounce the following as a speaker would.",
            "Generate a spoken version of the text.",
            "Turn the written words into a voice.",
            "Let the speaker say what is written.",
            "Narrate the given text clearly.",
        ),
    ),
    Task(
        name="speech_enhancement",
        short="se",
        modality="audio",
        instructions=(
            "Remove the noise from this recording.",
            "Clean up the speech.",
            "Enhance the noisy voice recording.",
            "Take away background noise and reverberation, keep the voice.",
            "Denoise the speech signal.",
            "Make the speaker sound as if recorded in a quiet studio.",
            "Suppress everything but the voice.",
            "Recover the clean speech from the noisy input.",
            "Give me this recording without the background noise.",
            "Restore the speech that is buried in noise.",
        ),
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _ROWS}
_BY_SHORT = {task.short: task for task in _ROWS}


def get_task(name: str) -> Task:
    """Look a task up by its name or its abbreviation."""
    task = TASKS.get(name) or _BY_SHORT.get(name)
    if task is None:
        known = ", ".join(f"{t.name} ({t.short})" for t in _ROWS)
        raise UserError(f"unknown task {name!r}; choose one of {known}")
    return task
