"""Commands that add durations and features to a manifest; the console command registers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unisono.errors import UserError

ContentArgument = Annotated[Path, typer.Argument(help="content.jsonl")]
AudioOption = Annotated[
    Path | None, typer.Option("--audio", help="audio.jsonl; default: the one beside the content manifest.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Manifest to write; its folder also gets the arrays.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one per core.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output; it may then be the input itself.")
]
LeftOutOption = Annotated[
    float, typer.Option("--max-left-out", min=0.0, max=1.0, help="Share of lines that may be left out.")
]
FolderOption = Annotated[
    Path | None, typer.Option("--folder", help="Of the arrays; default: named like the step, beside the output.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="Of the encoder: cpu, cuda …; a GPU takes --workers 1.")]


def align(
    content: ContentArgument,
    out: OutOption,
    audio: AudioOption = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by", help="text (English) or phonemes (any language); default: phonemes where lines have them."
        ),
    ] = None,
    aligner: Annotated[
        Path | None, typer.Option("--aligner", help="Folder of a trained aligner; default: train one on these lines.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=1.01, help="How many times worse than usual a recording may fit.")
    ] = 4.0,
    pronunciations: Annotated[
        Path | None, typer.Option("--pronunciations", help="Lines of a word and its ARPAbet phones: hello HH AH L OW.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice of recordings to train on.")] = 0,
    max_training_s: Annotated[
        float, typer.Option("--max-training-s", min=1.0, help="Seconds of speech to train on.")
    ] = 3600.0,
    workers: WorkersOption = None,
    overwrite: OverwriteOption = False,
    max_left_out: LeftOutOption = 0.5,
) -> None:
    """Find when each phoneme is spoken: lines get phonemes and durations_s."""
    from unisono.data.manifest import read_jsonl
    from unisono.data.prepare.steps.align import align_phonemes, align_texts, read_pronunciations
    from unisono.data.prepare.steps.engine import Options
    from unisono.text.aligner import AlignerLimits

    options = Options(out, workers, True, overwrite, max_left_out)
    first = next(read_jsonl(content), (0, {}))[1]
    by = by or ("phonemes" if "phonemes" in first else "text")
    if by == "text":
        if aligner is not None:
            raise UserError("--aligner is for --by phonemes; texts are aligned by pocketsphinx")
        words = read_pronunciations(pronunciations) if pronunciations else {}
        typer.echo(align_texts(content, _audio(content, audio), options, pronunciations=words))
    elif by == "phonemes":
        if pronunciations is not None:
            raise UserError("--pronunciations is for --by text; the lines have their phonemes already")
        limits = AlignerLimits(tolerance, tolerance)
        result = align_phonemes(
            content,
            _audio(content, audio),
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
    out: OutOption,
    audio: AudioOption = None,
    rate_hz: Annotated[float, typer.Option("--rate-hz", help="Frames per second.")] = 100.0,
    method: Annotated[str, typer.Option("--method", help="harvest (finds more) or dio (faster).")] = "harvest",
    floor_hz: Annotated[float, typer.Option("--floor-hz", help="Lowest F0 that is looked for.")] = 60.0,
    ceil_hz: Annotated[float, typer.Option("--ceil-hz", help="Highest F0 that is looked for.")] = 1100.0,
    folder: FolderOption = None,
    workers: WorkersOption = None,
    overwrite: OverwriteOption = False,
    max_left_out: LeftOutOption = 0.5,
) -> None:
    """Estimate F0 of the target recordings: lines get f0_hz and f0_rate_hz."""
    from unisono.data.prepare.steps.engine import Options
    from unisono.data.prepare.steps.features import add_f0

    options = Options(out, workers, True, overwrite, max_left_out)
    settings = {"rate_hz": rate_hz, "floor_hz": floor_hz, "ceil_hz": ceil_hz}
    typer.echo(add_f0(content, _audio(content, audio), options, method=method, folder=folder, **settings))


def speaker(
    content: ContentArgument,
    out: OutOption,
    audio: AudioOption = None,
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder",
            help="statistics (weak, no weights), resemblyzer, or folder or hub id of an x-vector model.",
        ),
    ] = "statistics",
    per_speaker: Annotated[
        bool, typer.Option("--per-speaker", help="Give each speaker's lines the mean of their vectors.")
    ] = False,
    device: DeviceOption = "cpu",
    folder: FolderOption = None,
    workers: WorkersOption = None,
    overwrite: OverwriteOption = False,
    max_left_out: LeftOutOption = 0.5,
) -> None:
    """Describe the voices of the target recordings by vectors: lines get speaker_embedding."""
    from unisono.data.prepare.steps.engine import Options
    from unisono.data.prepare.steps.features import add_speaker_embeddings

    result = add_speaker_embeddings(
        content,
        _audio(content, audio),
        Options(out, workers, True, overwrite, max_left_out),
        encoder=encoder,
        device=device,
        per_speaker=per_speaker,
        folder=folder,
    )
    typer.echo(result)


def video_features(
    content: ContentArgument,
    out: OutOption,
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
    max_left_out: LeftOutOption = 0.5,
) -> None:
    """Describe the pictures of videos by vectors: lines get video_features in the place of video."""
    from unisono.data.prepare.steps.engine import Options
    from unisono.data.prepare.steps.features import add_video_features

    options = Options(out, workers, True, overwrite, max_left_out)
    result = add_video_features(content, options, encoder=encoder, rate_hz=rate_hz, device=device, folder=folder)
    typer.echo(result)


def _audio(content: Path, audio: Path | None) -> Path:
    return audio or content.with_name("audio.jsonl")
