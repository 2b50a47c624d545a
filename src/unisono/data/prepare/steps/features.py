"""Steps that add features to a manifest: F0 contours, speaker embeddings, vectors of video pictures."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from unisono.data.manifest import Fields, relative_path
from unisono.data.prepare.jobs import LeaveOut, Record
from unisono.data.prepare.steps.engine import ManifestStep, Options, StepResult, Work, run_step_on, work_of
from unisono.data.prepare.steps.pair import ManifestPair
from unisono.errors import UserError
from unisono.features import f0, speaker, video
from unisono.files import write_array
from unisono.media.audio import audio_info, read_audio
from unisono.media.locations import parse_location, read_array

_MAX_F0_SAMPLE_RATE = 48_000


def add_f0(
    content: str | os.PathLike,
    audio: str | os.PathLike | None,
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
        content, audio: see :class:`ManifestPair`.
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
    step = ManifestStep("f0", 1, "estimating F0", _f0_estimator, settings, chunk_items=8)
    with run_step_on(step, ManifestPair(content, audio), options, _target_work) as run:
        return run.write()


def add_speaker_embeddings(
    content: str | os.PathLike,
    audio: str | os.PathLike | None,
    options: Options,
    *,
    encoder: str = speaker.STATISTICS,
    device: str = "cpu",
    per_speaker: bool = False,
    folder: Path | None = None,
) -> StepResult:
    """Write ``content`` with ``speaker_embedding`` of its target recordings, and ``speaker_encoder``, the fingerprint.

    A voice is given in one way: ``speaker`` becomes ``speaker_name``, and ``speaker_audio``, whose voice is then
    described instead of the target's, becomes ``speaker_audio_file``.

    Args:
        content, audio: see :class:`ManifestPair`.
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
    pair = ManifestPair(content, audio)
    step = ManifestStep("speaker", 1, "hearing voices", _voice_describer, settings, chunk_items=8)
    named = _speaker_name if per_speaker else None
    with run_step_on(step, pair, options, _voice_work, check=named) as run:
        shared = _share_by_speaker(run.kept(), settings) if per_speaker else {}

        def finish(line: Record, fields: Record) -> Record:
            fields = dict(fields)
            for name, kept_as in (("speaker", "speaker_name"), ("speaker_audio", "speaker_audio_file")):
                if line.get(name) is not None:
                    fields |= {name: None, kept_as: line[name]}
            if shared:
                fields["speaker_embedding"] = shared[fields.get("speaker_name") or line["speaker_name"]]
            return fields

        return run.write(finish)


def add_video_features(
    content: str | os.PathLike,
    options: Options,
    *,
    audio: str | os.PathLike | None = None,
    encoder: str = video.LUMINANCE,
    rate_hz: float = 25.0,
    device: str = "cpu",
    folder: Path | None = None,
) -> StepResult:
    """Write ``content`` with ``video_features`` and ``video_features_rate_hz`` in the place of ``video``.

    The video's path is kept as ``video_file``.

    Args:
        content: manifest whose lines have ``video``.
        audio: of the targets, if there are some; see :class:`ManifestPair`.
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
    step = ManifestStep("video-features", 1, "watching videos", _video_describer, settings, chunk_items=4)
    with run_step_on(step, ManifestPair(content, audio, needs_targets=False), options, _video_work) as run:
        return run.write(_with_video_file)


def _with_video_file(line: Record, fields: Record) -> Record:
    return fields if line.get("video") is None else {**fields, "video": None, "video_file": line["video"]}


# -- what is worked on ------------------------------------------------------------------------------------------------


def _target_work(line: Fields, target: Fields | None) -> Work:
    assert target is not None
    return work_of(target, "audio")


def _voice_work(line: Fields, target: Fields | None) -> Work:
    for name in ("speaker_audio", "speaker_audio_file"):
        if line.record.get(name) is not None:  # the reference, not the target
            return work_of(line, name)
    return _target_work(line, target)


def _video_work(line: Fields, target: Fields | None) -> Work:
    of_earlier_run = line.record.get("video") is None and line.record.get("video_file") is not None
    return work_of(line, "video_file" if of_earlier_run else "video")


def _places(folder: Path, options: Options) -> dict[str, str]:
    """Where arrays are written, and how the output's lines name the folder."""
    return {"folder": str(folder.absolute()), "named": relative_path(folder, options.output.parent)}


def _saved(work: Work, settings: Mapping[str, Any], array: np.ndarray) -> str:
    """Write an array; its path as lines name it."""
    write_array(Path(settings["folder"]) / f"{work.audio_id}.npy", array)
    return f"{settings['named']}/{work.audio_id}.npy"


# -- in the worker processes -------------------------------------------------------------------------------------------


def _f0_estimator(settings: Mapping[str, Any]) -> Callable[[Work], Record]:
    return partial(_f0_of, settings)


def _f0_of(settings: Mapping[str, Any], work: Work) -> Record:
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


def _voice_describer(settings: Mapping[str, Any]) -> Callable[[Work], Record]:
    encoder = _same_encoder(speaker.shared_speaker_encoder(settings["encoder"], settings["device"]), settings)
    return partial(_voice_of, settings, encoder)


def _voice_of(settings: Mapping[str, Any], encoder: Any, work: Work) -> Record:
    vector = encoder(read_audio(parse_location(work.source, None), encoder.sample_rate))
    return {"speaker_embedding": _saved(work, settings, vector), "speaker_encoder": encoder.fingerprint}


def _video_describer(settings: Mapping[str, Any]) -> Callable[[Work], Record]:
    encoder = _same_encoder(video.shared_video_encoder(settings["encoder"], settings["device"]), settings)
    return partial(_pictures_of, settings, encoder)


def _pictures_of(settings: Mapping[str, Any], encoder: Any, work: Work) -> Record:
    features = video.video_features(parse_location(work.source, None), encoder, settings["rate_hz"])
    return {
        "video_features": _saved(work, settings, features),
        "video_features_rate_hz": settings["rate_hz"],
        "video_encoder": encoder.fingerprint,
    }


def _same_encoder(encoder: Any, settings: Mapping[str, Any]) -> Any:
    assert encoder.fingerprint == settings["fingerprint"], "the encoder changed while the step ran"
    return encoder


# -- voices of several recordings -------------------------------------------------------------------------------------


def _speaker_name(line: Fields) -> str:
    # ``speaker`` counts, as in what is written.
    return line.text("speaker" if line.record.get("speaker") is not None else "speaker_name")


def _share_by_speaker(kept: Iterable[tuple[Fields, Record]], settings: Mapping[str, Any]) -> dict[str, str]:
    """Write the mean vector of each speaker; its path as lines name it, by speaker."""
    folder = Path(settings["folder"])
    sums: dict[str, np.ndarray] = {}
    counts: Counter[str] = Counter()
    for line, _ in kept:
        name = _speaker_name(line)
        vector = read_array(folder / f"{line.audio_id()}.npy").astype(np.float64)
        sums[name] = sums[name] + vector if name in sums else vector
        counts[name] += 1
    paths = {}
    for name, total in sums.items():
        file = f"speaker={quote(name, safe='')}.npy"
        write_array(folder / file, (total / counts[name]).astype(np.float32))
        paths[name] = f"{settings['named']}/{file}"
    return paths
