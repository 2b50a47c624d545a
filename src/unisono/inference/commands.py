"""The console command `generate`; ``unisono.cli`` registers it. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unisono.tasks import TASKS

EXAMPLES = """Make sound from an instruction, a caption, text, a score, a recording or a video.

\b
Examples:
  unisono generate t2a "two low knocks, then a whistle" -o knocks.wav --duration 2 --seed 3
  unisono generate tts "Hello there. How are you?" -o hello.wav --speaker en-us --speed 1.2
  unisono generate svs "C4:0.5:twin- C4:0.5:kle G4:1:star" -o star.flac
  unisono generate svs --score song.mid --text "twin-kle twin-kle lit-tle star" -o song.wav
  unisono generate se --audio noisy.wav -o clean.wav
  unisono generate se --audio "recordings/*.wav" --audio more/ -o cleaned/
  unisono generate v2a --video silent.mp4 -o with_sound.mp4
  unisono generate "remove the noise from this recording" --audio noisy.wav -o clean.wav
  unisono generate t2a "rain" --original rain.wav --duration 20 -o longer.wav
  unisono generate t2a "rain" --original rain.wav --keep 0:2 --keep 3: -o mended.wav
  echo "a dog barks" | unisono generate t2a - -o barks.mp3 -n 3

\b
Tasks: {tasks}.
Instead of a task, say what you want: the task is picked from the words and the inputs, and named.
"""


def _task_names(incomplete: str) -> list[str]:
    return [task.short for task in TASKS.values() if task.short.startswith(incomplete)]


def generate(
    what: Annotated[
        str,
        typer.Argument(help="A task (t2a, tts, …), or an instruction in English.", autocompletion=_task_names),
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(help="Caption, text to speak or line of notes; - reads them from standard input, one a line."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File (wav, flac, ogg, mp3; a video for v2a), or folder. Default: named here."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model folder or Hugging Face Hub id. Default: the demo's.")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="To be spoken; lyrics of a score; caption.")] = None,
    text_file: Annotated[
        str | None, typer.Option("--text-file", help="The same from a file, all of it one text; - is standard input.")
    ] = None,
    speaker: Annotated[str | None, typer.Option("--speaker", help="Voice by name, or a recording of it.")] = None,
    score: Annotated[str | None, typer.Option("--score", help="MIDI or MusicXML file, or a line of notes.")] = None,
    audio: Annotated[
        list[str] | None, typer.Option("--audio", help="Recording, folder or pattern; several times for more.")
    ] = None,
    video: Annotated[
        list[str] | None, typer.Option("--video", help="Video, folder or pattern; several times for more.")
    ] = None,
    duration_s: Annotated[float | None, typer.Option("--duration", help="Wanted length, seconds.")] = None,
    original: Annotated[
        str | None, typer.Option("--original", help="Recording to go on with, or to make anew but for what is kept.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="START:END in seconds of --original; several times for more.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the noise: the same seed, the same sound.")] = 0,
    variations: Annotated[
        int, typer.Option("--variations", "-n", min=1, max=100, help="So many of each, with seeds that follow.")
    ] = 1,
    num_steps: Annotated[int | None, typer.Option("--num-steps", help="Fewer are faster, more are finer.")] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option("--guidance-scale", help="How closely to follow what is asked; 1: no guidance, twice as fast."),
    ] = None,
    solver: Annotated[str | None, typer.Option("--solver", help="euler, ab2, heun …; as the model has them.")] = None,
    speed: Annotated[float | None, typer.Option("--speed", help="Of speech and singing; 2 is twice as fast.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of GenerationOptions, such as window_s=5.")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", help="Of text and lyrics: en-us, de, … Default: the speaker's.")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option("--instruction", help="Exactly what the model reads, instead of the task's own words.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 …")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, or bfloat16, which is faster.")] = "float32",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Sounds generated together, at most.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON for each sound.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors alone.")] = False,
) -> None:
    asked = dict(locals())
    from unisono.inference.generate_command import Asked, run

    run(Asked(**asked))


generate.__doc__ = EXAMPLES.format(tasks=", ".join(f"{task.short} ({name})" for name, task in TASKS.items()))
