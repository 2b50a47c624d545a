"""Is a sample what it says? Data sets check their manifests; samples made by hand meet these checks alone."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from unisono.errors import UserError
from unisono.media import tolerances
from unisono.types import (
    AudioContent,
    PhonemeContent,
    PitchContent,
    Sample,
    ScoreContent,
    TextContent,
    VideoContent,
)


def check_sample(sample: Sample, sample_rate: int) -> None:
    """Raise a ``UserError`` that names the item for content or a target of a wrong shape, or not finite, or empty."""
    where = sample.item_name or sample.audio_id
    if not sample.instruction.strip():
        raise UserError(f"{where}: the instruction is empty; write one")
    if sample.waveform is not None:
        _numbers(where, "target", sample.waveform, 1)
    if sample.latent is not None:
        _numbers(where, "target's latent", sample.latent, 2)
    modalities = [content.modality for content in sample.content]
    for modality in modalities:
        if modalities.count(modality) > 1:
            raise UserError(f"{where}: there are several contents of {modality}; join them into one")
    for content in sample.content:
        if isinstance(content, TextContent) and not content.text.strip():
            raise UserError(f"{where}: the caption is empty; write one")
        if isinstance(content, PhonemeContent | ScoreContent | PitchContent):
            _check_units(where, content)
        if isinstance(content, PhonemeContent | ScoreContent):
            _check_length(where, sample, content, sample_rate)
        if isinstance(content, AudioContent):
            _check_recording(where, content)
        if isinstance(content, VideoContent):
            _check_video(where, content)


def _numbers(where: str, what: str, values: Any, dims: int, count: int | None = None) -> Tensor:
    """The tensor, if it is one of finite numbers in ``dims`` dimensions, ``count`` of them or at least one."""
    if not isinstance(values, Tensor) or values.dim() != dims:
        found = f"{type(values).__name__} of shape {tuple(getattr(values, 'shape', ()))}"
        raise UserError(f"{where}: the {what} is {found}; make it a tensor of {dims} dimensions")
    if count is not None and len(values) != count:
        raise UserError(f"{where}: the {what} has {len(values)} values for {count} phonemes; give one per phoneme")
    if not len(values):
        raise UserError(f"{where}: the {what} is empty; leave the item out")
    if not bool(torch.isfinite(values).all()):
        raise UserError(f"{where}: the {what} holds NaN or infinite values; make it again")
    return values


def _check_units(where: str, content: PhonemeContent | ScoreContent | PitchContent) -> None:
    if isinstance(content.speaker, Tensor):
        _numbers(where, "speaker embedding", content.speaker, 1)
    count = len(content.phonemes)
    if not count:
        return  # the collator says so, with the vocabulary
    seconds = {} if content.durations_s is None else {"list of durations_s": content.durations_s}
    if isinstance(content, ScoreContent):
        seconds["list of note_durations_s"] = content.note_durations_s
        _numbers(where, "list of slurs", content.slurs, 1, count)
        notes = _numbers(where, "list of notes", content.notes, 1, count)
        if float(notes.min()) < 0 or float(notes.max()) > 127:
            raise UserError(f"{where}: notes from {notes.min():g} to {notes.max():g}; MIDI numbers are 0 to 127")
    for what, values in seconds.items():
        if float(_numbers(where, what, values, 1, count).min()) < 0:
            raise UserError(f"{where}: the {what} has {values.min():g}; seconds are 0 or more")
    if isinstance(content, PitchContent):
        f0_hz = _numbers(where, "F0 contour", content.f0_hz, 1)
        if content.voicing.dtype != torch.bool or content.voicing.shape != f0_hz.shape:
            raise UserError(
                f"{where}: voicing is {content.voicing.dtype} of shape {tuple(content.voicing.shape)}; make it bool, "
                f"one for each of the {len(f0_hz)} frames of F0"
            )


def _check_length(where: str, sample: Sample, content: PhonemeContent | ScoreContent, sample_rate: int) -> None:
    """Units are stretched to fill their target; that is for rounding, not for content of another length."""
    num_samples = sample.num_samples if sample.waveform is None else len(sample.waveform)
    if num_samples is None or content.durations_s is None or not bool(content.durations_s.any()):
        return
    units_s, target_s = float(content.durations_s.sum()), num_samples / sample_rate
    if abs(units_s - target_s) > tolerances.LENGTH_S + 1 / sample_rate:
        raise UserError(
            f"{where}: durations_s sums to {units_s:.3f} s, but the target lasts {target_s:.3f} s; they must agree "
            f"within {tolerances.LENGTH_S} s (silence is a unit too)"
        )


def _check_recording(where: str, content: AudioContent) -> None:
    if (content.waveform is None) == (content.latent is None):
        raise UserError(f"{where}: a recording is a waveform or its latent; give one of them")
    if content.waveform is not None:
        _numbers(where, "recording", content.waveform, 1)
    else:
        _numbers(where, "latent of the recording", content.latent, 2)


def _check_video(where: str, content: VideoContent) -> None:
    if not (math.isfinite(content.rate_hz) and content.rate_hz > 0):
        raise UserError(f"{where}: rate_hz of the video is {content.rate_hz}; it must be a positive number")
    if content.features is not None and len(content.features):
        _numbers(where, "features of the video", content.features, 2)
    pictures = content.frames
    if pictures is not None and (pictures.dtype != torch.uint8 or pictures.dim() != 4 or pictures.shape[3] != 3):
        raise UserError(
            f"{where}: the video's pictures are {pictures.dtype} of shape {tuple(pictures.shape)}; they must be uint8 "
            "(T, H, W, 3)"
        )
