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
        name="text_to_music",
        short="t2m",
        modality="text",
        instructions=(
            "Compose music that fits the description.",
            "Play the piece of music described below.",
            "Make a piece of music from this caption.",
            "Generate the music that the text asks for.",
            "Create an instrumental track in this style.",
            "Perform the music that is described.",
            "Turn these words into music.",
            "Produce a musical clip with these instruments and this mood.",
            "Let me hear music like this.",
            "Write and play a tune for this description.",
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
        name="singing_voice_synthesis",
        short="svs",
        modality="score",
        instructions=(
            "Sing these words on the given notes.",
            "Perform the song from its score.",
            "Sing the score.",
            "Turn notes and lyrics into singing.",
            "Let the singer perform this melody.",
            "Generate a singing voice for this score.",
            "Sing the lyrics to the melody.",
            "Render the vocal line as written.",
            "Give a sung version of these notes and syllables.",
            "Perform the vocal part, note by note.",
        ),
    ),
    Task(
        name="singing_acoustic_modeling",
        short="sam",
        modality="pitch",
        instructions=(
            "Sing the phonemes along this pitch curve.",
            "Follow the pitch contour with a singing voice.",
            "Turn phonemes and F0 into singing.",
            "Render the voice with exactly this intonation.",
            "Sing these sounds at the given pitches in time.",
            "Generate the voice that has this melody curve.",
            "Let the singer follow the drawn pitch.",
            "Synthesize singing from aligned phonemes and fundamental frequency.",
            "Voice the phonemes with the given contour.",
            "Produce the vocal that matches this F0 track.",
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
    Task(
        name="audio_super_resolution",
        short="sr",
        modality="audio",
        instructions=(
            "Restore the missing high frequencies.",
            "Increase the bandwidth of this audio.",
            "Make this muffled recording sound full and clear.",
            "Bring back the treble that was cut off.",
            "Upsample the audio to full quality.",
            "Extend the frequency range of the recording.",
            "Turn the narrow-band audio into wide-band audio.",
            "Reconstruct what the low-pass filter took away.",
            "Sharpen the dull sound of this clip.",
            "Give this low-resolution audio its brilliance back.",
        ),
    ),
    Task(
        name="video_to_audio",
        short="v2a",
        modality="video",
        instructions=(
            "Make the sound of this video.",
            "Add a soundtrack that matches what is seen.",
            "Generate the sounds that belong to the pictures.",
            "Create the audio for this silent clip.",
            "What does this video sound like? Produce it.",
            "Give the scene its sound, in time with the picture.",
            "Foley this video.",
            "Let every visible event be heard.",
            "Dub the video with fitting sound effects.",
            "Synthesize audio that is synchronous with the frames.",
        ),
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _ROWS}


def register_task(task: Task) -> Task:
    """Add a row from outside the project, when its module is imported; the same row may be added again.

    Raises:
        UserError: another task has the name or the abbreviation, or the row has no instruction.
    """
    if not task.instructions:
        raise UserError(f"task {task.name!r} has no instructions; give some paraphrases, one is drawn per item")
    for other in TASKS.values():
        if {task.name, task.short} & {other.name, other.short} and task != other:
            raise UserError(f"task {task.name!r} ({task.short}) is taken by {other.name!r} ({other.short}); rename it")
    return TASKS.setdefault(task.name, task)


def task_index(name: str) -> int:
    """Position of a task in the table."""
    return list(TASKS).index(name)


def get_task(name: str) -> Task:
    """Look a task up by its name or its abbreviation."""
    task = TASKS.get(name) or next((task for task in TASKS.values() if task.short == name), None)
    if task is None:
        known = ", ".join(f"{t.name} ({t.short})" for t in TASKS.values())
        raise UserError(f"unknown task {name!r}; choose one of {known}")
    return task
