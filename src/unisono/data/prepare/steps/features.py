"""Steps that add features to a manifest: F0 contours, speaker embeddings, vectors of video pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from unisono.data.manifest import Fields, load_manifest
from unisono.data.prepare.jobs import Record
from unisono.data.prepare.steps.engine import (
    LeaveOut,
    ManifestStep,
    Options,
    StepResult,
    Work,
    rebased,
    relative_path,
    run_manifest_step,
    targets,
    work_of,
)
from unisono.errors import UserError
from unisono.features import f0, speaker, video
from unisono.files import write_array
from unisono.media.audio import audio_info, read_audio
from unisono.media.locations import parse_location, read_array

_MAX_F0_SAMPLE_RATE = 48_000


def add_f0(
    content: str | os.PathLike,
    audio: str | os.PathLike,
    options: Options,
    *,
    rate_hz: float = 100.0,
    method: str = "harvest",
    floor_hz: float = 60.0,
    ceil_hz: float = 1_100.0,
    folder: Path | None = None,
) -> StepResult:
    """Write ``content`` with ``f0_hz`` and ``f0_rate_hz`` of its target recordings.

    Args:
        content, audio: manifests.
        options: output, workers …
        rate_hz, method, floor_hz, ceil_hz: see :func:`unisono.features.f0.estimate_f0`.
        folder: of the arrays; ``f0`` beside the output by default. A line without a voiced frame is left out.

    Raises:
        UserError: bad settings or manifests, too many lines left out.
    """
    f0.check_f0_settings(rate_hz, method, floor_hz, ceil_hz)
    f0.check_installed()
    settings = {"rate_hz": rate_hz, "method": method, "floor_hz": floor_hz, "ceil_hz": ceil_hz}
    settings |= _places(folder or options.output.parent / "f0", options)
    lines = load_manifest(content)
    works = {audio_id: work_of(line, "audio") for audio_id, line in targets(lines, audio).items()}
    return run_manifest_step(
        ManifestStep("f0", 1, "estimating F0", _f0_of, settings, chunk_items=8), lines, works, options
    )


def add_speaker_embeddings(
    content: str | os.PathLike,
    audio: str | os.PathLike,
    options: Options,
    *,
    encoder: str = speaker.STATISTICS,
    device: str = "cpu",
    per_speaker: bool = False,
    folder: Path | None = None,
) -> StepResult:
    """Write ``content`` with ``speaker_embedding`` of its target recordings, and ``speaker_encoder``, the fingerprint.

    Of a line with ``speaker_audio`` that recording is described, not the target. A line that had ``speaker`` has
    ``speaker_name`` instead: a voice is given in one way.

    Args:
        content, audio: manifests.
        options: output, workers …; one worker where ``device`` is a GPU.
        encoder: see :func:`unisono.features.speaker.load_speaker_encoder`.
        device: of the encoder.
        per_speaker: give all lines of one ``speaker`` the mean of their vectors, which says less about the single
            recording (its text, its mood) than its own vector would.
        folder: of the arrays; ``speaker`` beside the output by default.

    Raises:
        UserError: encoder or manifest that cannot be used, too many lines left out.
    """
    made_by = speaker.shared_speaker_encoder(encoder, device)
    folder = (folder or options.output.parent / "speaker").absolute()
    settings = {"encoder": encoder, "device": device, "fingerprint": made_by.fingerprint, **_places(folder, options)}
    lines = load_manifest(content)
    works = {audio_id: work_of(line, "audio") for audio_id, line in targets(lines, audio).items()}
    for audio_id, line in lines.items():
        if audio_id in works and line.record.get("speaker_audio") is not None:  # the reference, not the target
            works[audio_id] = work_of(line, "speaker_audio")
    if per_speaker:
        for line in lines.values():
            _speaker_name(line)

    def finish(fields: dict[str, Record]) -> None:
        if per_speaker:
            _share_by_speaker(lines, settings, fields)
        for audio_id in fields:
            if lines[audio_id].record.get("speaker") is not None:
                fields[audio_id] |= {"speaker": None, "speaker_name": lines[audio_id].text("speaker")}
            if lines[audio_id].record.get("speaker_audio") is not None:
                fields[audio_id] |= {"speaker_audio": None}

    step = ManifestStep("speaker", 1, "hearing voices", _voice_of, settings, chunk_items=8)
    return run_manifest_step(step, lines, works, options, finish)


def add_video_features(
    content: str | os.PathLike,
    options: Options,
    *,
    encoder: str = video.LUMINANCE,
    rate_hz: float = 25.0,
    device: str = "cpu",
    folder: Path | None = None,
) -> StepResult:
    """Write ``content`` with ``video_features`` and ``video_features_rate_hz`` in the place of ``video``.

    The video's path is kept as ``video_file``.

    Args:
        content: manifest whose lines have ``video``.
        options: output, workers …; one worker where ``device`` is a GPU.
        encoder: see :func:`unisono.features.video.load_video_encoder`.
        rate_hz: pictures per second.
        device: of the encoder.
        folder: of the arrays; ``video_features`` beside the output by default.

    Raises:
        UserError: encoder or manifest that cannot be used, too many lines left out.
    """
    if not 0 < rate_hz <= 1_000:
        raise UserError(f"rate_hz is {rate_hz}; give pictures per second, above 0, at most 1000")
    made_by = video.shared_video_encoder(encoder, device)
    settings = {"encoder": encoder, "device": device, "fingerprint": made_by.fingerprint, "rate_hz": rate_hz}
    settings |= _places(folder or options.output.parent / "video_features", options)
    lines = load_manifest(content)
    works = {audio_id: work_of(line, "video") for audio_id, line in lines.items()}
    step = ManifestStep("video-features", 1, "watching videos", _pictures_of, settings, chunk_items=4)

    def finish(fields: dict[str, Record]) -> None:
        for audio_id in fields:
            line = lines[audio_id]
            fields[audio_id] |= {"video": None, "video_file": rebased(line.record, line.path.parent, new)["video"]}

    new = options.output.parent
    return run_manifest_step(step, lines, works, options, finish)


def _places(folder: Path, options: Options) -> dict[str, str]:
    """Where arrays are written, and how the output's lines name the folder."""
    return {"folder": str(folder.absolute()), "named": relative_path(folder, options.output.parent)}


def _saved(work: Work, settings: Mapping[str, Any], array: np.ndarray) -> str:
    """Write an array; its path as lines name it."""
    write_array(Path(settings["folder"]) / f"{work.audio_id}.npy", array)
    return f"{settings['named']}/{work.audio_id}.npy"


def _f0_of(work: Work, settings: Mapping[str, Any]) -> Record:
    location = parse_location(work.source, None)
    # At its own rate where WORLD can work with that, which spares most recordings the resampling.
    least = max(f0.MIN_SAMPLE_RATE, math.ceil(2 * settings["ceil_hz"]))
    sample_rate = max(least, min(audio_info(location).sample_rate, _MAX_F0_SAMPLE_RATE))
    contour = f0.estimate_f0(
        read_audio(location, sample_rate),
        sample_rate,
        settings["rate_hz"],
        method=settings["method"],
        floor_hz=settings["floor_hz"],
        ceil_hz=settings["ceil_hz"],
    )
    if not contour.any():
        raise LeaveOut("unvoiced", f"no frame of {location} is voiced")
    return {"f0_hz": _saved(work, settings, contour), "f0_rate_hz": settings["rate_hz"]}


def _voice_of(work: Work, settings: Mapping[str, Any]) -> Record:
    encoder = _same_encoder(speaker.shared_speaker_encoder(settings["encoder"], settings["device"]), settings)
    vector = encoder(read_audio(parse_location(work.source, None), encoder.sample_rate))
    return {"speaker_embedding": _saved(work, settings, vector), "speaker_encoder": encoder.fingerprint}


def _speaker_name(line: Fields) -> str:
    return line.text("speaker_name") if line.record.get("speaker_name") is not None else line.text("speaker")


def _share_by_speaker(lines: Mapping[str, Fields], settings: Mapping[str, Any], fields: dict[str, Record]) -> None:
    """Replace the vector of each line by the mean over its speaker's."""
    folder = Path(settings["folder"])
    by_speaker: dict[str, list[str]] = {}
    for audio_id in fields:
        by_speaker.setdefault(_speaker_name(lines[audio_id]), []).append(audio_id)
    for name, audio_ids in by_speaker.items():
        vectors = [read_array(folder / f"{audio_id}.npy") for audio_id in audio_ids]
        file = f"speaker={quote(name, safe='')}.npy"
        write_array(folder / file, np.mean(vectors, axis=0))
        for audio_id in audio_ids:
            fields[audio_id]["speaker_embedding"] = f"{settings['named']}/{file}"


def _pictures_of(work: Work, settings: Mapping[str, Any]) -> Record:
    encoder = _same_encoder(video.shared_video_encoder(settings["encoder"], settings["device"]), settings)
    features = video.video_features(parse_location(work.source, None), encoder, settings["rate_hz"])
    return {
        "video_features": _saved(work, settings, features),
        "video_features_rate_hz": settings["rate_hz"],
        "video_encoder": encoder.fingerprint,
    }


def _same_encoder(encoder: Any, settings: Mapping[str, Any]) -> Any:
    assert encoder.fingerprint == settings["fingerprint"], "the encoder changed while the step ran"
    return encoder
