"""Commands that add durations and features to a manifest; the console command registers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unisono.data.prepare.commands_options import (
    AudioOption,
    ContentArgument,
    DeviceOption,
    FolderOption,
    MaxLeftOutOption,
    OutputOption,
    OverwriteOption,
    PronunciationsOption,
    WorkersOption,
)
from unisono.errors import UserError

ByOption = Annotated[
    str | None,
    typer.Option(
        "--by", help="text (English) or phonemes (any language); default: phonemes if the first line has some."
    ),
]
AlignerOption = Annotated[
    Path | None,
    typer.Option("--aligner", help="Folder of a trained aligner; default: train one, in aligner beside the output."),
]
ToleranceOption = Annotated[
    float | None,
    typer.Option(
        "--tolerance", min=1.01, help="By phonemes: how many times worse than usual a recording may fit; default: 4."
    ),
]
TrainingSeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of the choice of recordings to train on.")]
MaxTrainingOption = Annotated[float, typer.Option("--max-training-s", min=1.0, help="Seconds of speech to train on.")]


def align(
    content: ContentArgument,
    out: OutputOption,
    audio: AudioOption = None,
    by: ByOption = None,
    aligner: AlignerOption = None,
    tolerance: ToleranceOption = None,
    pronunciations: PronunciationsOption = None,
    seed: TrainingSeedOption = 0,
    max_training_s: MaxTrainingOption = 3600.0,
    workers: WorkersOption = None,
    overwrite: OverwriteOption = False,
    max_left_out: MaxLeftOutOption = 0.5,
) -> None:
    """Find when each phoneme is spoken in the target recordings.

    Lines get phonemes and durations_s, which sum to the recording's length. By text: English, by pocketsphinx, whatever
    phonemes the lines have; guessed_words names what eSpeak NG had to read. By phonemes: silences that are not made
    vanish, those that are made at the ends are added; notes, note_durations_s and slurs follow. Recordings that do not
    fit are left out.
    """
    from unisono.data.manifest import read_jsonl
    from unisono.data.prepare.steps.align import align_phonemes, align_texts
    from unisono.data.prepare.steps.engine import Options
    from unisono.text.aligner import AlignerLimits
    from unisono.text.phonemize import read_pronunciations

    options = Options(out, workers, True, overwrite, max_left_out)
    first = next(read_jsonl(content), (0, {}))[1]
    by = by or ("phonemes" if first.get("phonemes") is not None else "text")
    if by == "text":
        for name, value in (("--aligner", aligner), ("--tolerance", tolerance)):
            if value is not None:
                raise UserError(
                    f"{name} is for --by phonemes; texts are aligned by pocketsphinx. Where it leaves out "
                    "recordings that are good, run `phonemize` first and align by phonemes"
                )
        words = read_pronunciations(pronunciations) if pronunciations else {}
        typer.echo(align_texts(content, audio, options, pronunciations=words))
    elif by == "phonemes":
        if pronunciations is not None:
            raise UserError("--pronunciations is for --by text; the lines have their phonemes already")
        limits = AlignerLimits() if tolerance is None else AlignerLimits(tolerance, tolerance)
        result = align_phonemes(
            content,
            audio,
            options,
            aligner=aligner,
            limits=limits,
            seed=seed,
            max_training_s=max_training_s,
        )
        typer.echo(result)
    else:
        raise UserError(f"--by is {by!r}; choose text or phonemes")


def f0(
    content: ContentArgument,
    out: OutputOption,
    audio: AudioOption = None,
    rate_hz: Annotated[float, typer.Option("--rate-hz", help="Frames per second.")] = 100.0,
    method: Annotated[str, typer.Option("--method", help="harvest (finds more) or dio (faster).")] = "harvest",
    floor_hz: Annotated[float, typer.Option("--floor-hz", help="Lowest F0 that is looked for.")] = 60.0,
    ceil_hz: Annotated[float, typer.Option("--ceil-hz", help="Highest F0 that is looked for.")] = 1100.0,
    folder: FolderOption = None,
    workers: WorkersOption = None,
    overwrite: OverwriteOption = False,
    max_left_out: MaxLeftOutOption = 0.5,
) -> None:
    """Estimate F0 of the target recordings, by WORLD.

    Lines get f0_hz (arrays in f0, beside the output) and f0_rate_hz. Recordings without a voiced frame are left out.
    """
    from unisono.data.prepare.steps.engine import Options
    from unisono.data.prepare.steps.features import add_f0

    options = Options(out, workers, True, overwrite, max_left_out)
    settings = {"rate_hz": rate_hz, "floor_hz": floor_hz, "ceil_hz": ceil_hz}
    typer.echo(add_f0(content, audio, options, method=method, folder=folder, **settings))


def speaker(
    content: ContentArgument,
    out: OutputOption,
    audio: AudioOption = None,
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder",
            help="statistics (weak, no weights), resemblyzer, or folder or hub id of an x-vector model.",
        ),
    ] = "statistics",
    per_speaker: Annotated[
        bool,
        typer.Option("--per-speaker", help="Give all lines of a speaker (or speaker_name) the mean of their vectors."),
    ] = False,
    device: DeviceOption = "cpu",
    folder: FolderOption = None,
    workers: WorkersOption = None,
    overwrite: OverwriteOption = False,
    max_left_out: MaxLeftOutOption = 0.5,
) -> None:
    """Describe the voices of the target recordings by vectors.

    Lines get speaker_embedding (arrays in speaker, beside the output) and speaker_encoder, the encoder's fingerprint. A
    voice is given in one way: speaker is removed and kept as speaker_name; of a line with speaker_audio that recording
    is described, and its path kept as speaker_audio_file.
    """
    from unisono.data.prepare.steps.engine import Options
    from unisono.data.prepare.steps.features import add_speaker_embeddings

    result = add_speaker_embeddings(
        content,
        audio,
        Options(out, workers, True, overwrite, max_left_out),
        encoder=encoder,
        device=device,
        per_speaker=per_speaker,
        folder=folder,
    )
    typer.echo(result)


def video_features(
    content: ContentArgument,
    out: OutputOption,
    audio: AudioOption = None,
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder", help="luminance (weak, no weights), or folder or hub id of a vision model such as CLIP."
        ),
    ] = "luminance",
    rate_hz: Annotated[float, typer.Option("--rate-hz", help="Pictures per second.")] = 25.0,
    device: DeviceOption = "cpu",
    folder: FolderOption = None,
    workers: WorkersOption = None,
    overwrite: OverwriteOption = False,
    max_left_out: MaxLeftOutOption = 0.5,
) -> None:
    """Describe the pictures of videos by vectors.

    Lines get video_features (arrays in video_features, beside the output), video_features_rate_hz and video_encoder,
    the encoder's fingerprint. The field video is removed; its path is kept as video_file.
    """
    from unisono.data.prepare.steps.engine import Options
    from unisono.data.prepare.steps.features import add_video_features

    options = Options(out, workers, True, overwrite, max_left_out)
    result = add_video_features(
        content, options, audio=audio, encoder=encoder, rate_hz=rate_hz, device=device, folder=folder
    )
    typer.echo(result)
