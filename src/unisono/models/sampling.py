"""What a generation needs before its first step: how long each clip is, and the network with its conditions.

Shape letters: B items, W windows, T latent frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unisono.errors import UserError
from unisono.models import windows as cutting
from unisono.models.generation import GenerationSettings, KnownAudio
from unisono.models.known import known_samples
from unisono.models.outputs import EncodedContent
from unisono.models.windows import Window, WindowSize
from unisono.objectives import PredictBranches
from unisono.timing import samples_to_frames, seconds_to_frames
from unisono.types import Alignment, Batch, length_mask

if TYPE_CHECKING:
    from unisono.models.unified import UnifiedAudioModel


def prepare(
    model: UnifiedAudioModel,
    batch: Batch,
    settings: GenerationSettings,
    duration_s: Sequence[float | None],
    known: Sequence[KnownAudio | None],
) -> tuple[list[int], PredictBranches]:
    """Latent frames of each item, and the network for ``x (K * B, T, C)``, T those of the longest.

    Args:
        model: whose encoders, fusion and backbone these are.
        batch: content and instructions.
        settings: settled.
        duration_s: wanted length per item, or None.
        known: recording per item, or None.

    Raises:
        UserError: a clip is too long; there is not one length, or recording, for each item.
    """
    for name, given in (("duration_s", duration_s), ("known", known)):
        if len(given) != len(batch):
            raise UserError(f"{name} has {len(given)} values for {len(batch)} items; give one for each, or None")
    size = WindowSize.of(settings.window_s, settings.window_overlap, model.autoencoder.latent_rate_hz)
    cut = _modalities_to_cut(model, batch)
    whole = _without_windows(model, batch, cut)
    frames = cutting.content_frames(batch, cut, model.autoencoder.hop_samples)
    # Before anything is computed from them: the longest recordings would take all memory here.
    _check_lengths(model, batch, settings, frames, whole)
    must_cut = size is not None and any(n > size.frames for row, n in frames.items() if row not in whole)
    cut = cut if must_cut else set()  # what is short enough is encoded with all the rest
    encoded = model.encode_content(cutting.without_content(batch, cut))
    lengths = _lengths(model, batch, encoded, frames, settings, duration_s, known)
    _check_lengths(model, batch, settings, lengths, whole)
    in_order = [lengths[row] for row in range(len(batch))]
    windows = cutting.plan_windows(in_order, size, whole) if size is not None else []
    if len(windows) <= len(batch):  # all in one piece
        return in_order, _network(model, encoded, in_order, settings)
    chunks = cutting.chunks_of([_on_device(window, model.null_frame.device) for window in windows])
    return in_order, cutting.blended(chunks, _network_of_chunks(model, batch, cut, encoded, chunks, settings))


def _on_device(window: Window, device: torch.device) -> Window:
    return Window(window.row, window.start, window.stop, window.weights.to(device))


def _modalities_to_cut(model: UnifiedAudioModel, batch: Batch) -> set[str]:
    encoders: Any = model.content_encoders
    there = (name for name in batch.contents if name in cutting.CAN_BE_CUT and name in encoders)
    return {name for name in there if encoders[name].alignment is Alignment.FRAMES}


def _without_windows(model: UnifiedAudioModel, batch: Batch, cut: set[str]) -> set[int]:
    """Items with content that lies in time and cannot be cut: units, and what is made of them."""
    encoders: Any = model.content_encoders
    return {
        row
        for name, content in batch.contents.items()
        if name not in cut and name in encoders and encoders[name].alignment is not Alignment.NONE
        for row in content.index.tolist()
    }


def _check_lengths(
    model: UnifiedAudioModel, batch: Batch, settings: GenerationSettings, frames: dict[int, int], whole: set[int]
) -> None:
    for row, own in frames.items():
        settings.check_length(batch.audio_ids[row], own / model.autoencoder.latent_rate_hz, row not in whole)


def _lengths(
    model: UnifiedAudioModel,
    batch: Batch,
    encoded: Sequence[EncodedContent],
    frames: dict[int, int],
    settings: GenerationSettings,
    duration_s: Sequence[float | None],
    known: Sequence[KnownAudio | None],
) -> dict[int, int]:
    """Latent frames of each item: of frame-aligned content, else wanted, else those known, else predicted.

    Args:
        encoded: all content, but perhaps for that which can be cut.
        frames: of content that can be cut.
    """
    rate_hz, hop_samples = model.autoencoder.latent_rate_hz, model.autoencoder.hop_samples
    lengths = dict(enumerate(model.generated_lengths(encoded, len(batch), settings).tolist()))
    fixed = {row for content in encoded if content.alignment is Alignment.FRAMES for row in content.index.tolist()}
    in_units = {row for content in encoded if content.alignment is Alignment.UNITS for row in content.index.tolist()}
    for row in lengths.keys() - fixed - frames.keys():
        wanted_s, recording = duration_s[row], known[row]
        if wanted_s is not None:
            lengths[row] = int(seconds_to_frames(wanted_s, rate_hz))
        elif recording is not None:
            lengths[row] = samples_to_frames(known_samples(recording), hop_samples)
            longest_s = settings.longest_s(row not in in_units)
            if lengths[row] > longest_s * rate_hz + 1:
                raise UserError(
                    f"{batch.audio_ids[row]}: the known recording lasts {lengths[row] / rate_hz:.3f} s, and at most "
                    f"{longest_s:g} s are made; raise max_duration_s, or cut the recording"
                )
    return lengths | frames


def _network(
    model: UnifiedAudioModel, encoded: Sequence[EncodedContent], lengths: Sequence[int], settings: GenerationSettings
) -> PredictBranches:
    """The network for clips, or windows, with their conditions, which it computes when first asked."""
    frames = torch.tensor(lengths, device=model.null_frame.device)
    mask: Tensor = length_mask(frames, max(lengths))
    return model._branches(encoded, frames, mask, settings.predict_durations, min(lengths) == max(lengths))


def _network_of_chunks(
    model: UnifiedAudioModel,
    batch: Batch,
    cut: set[str],
    encoded: Sequence[EncodedContent],
    chunks: Sequence[Sequence[Window]],
    settings: GenerationSettings,
) -> Callable[[int], PredictBranches]:
    """The network for the windows of each chunk; the first chunks keep their conditions from step to step."""
    of_chunks = []
    for chunk in chunks:
        own = [part for content in encoded for part in cutting.repeat_content(content, chunk)]
        if cut:
            own += model.encode_content(cutting.cut_content(batch, cut, chunk, model.autoencoder.hop_samples))
        of_chunks.append(own)

    def network(number: int) -> PredictBranches:
        return _network(model, of_chunks[number], [len(window) for window in chunks[number]], settings)

    longest = max(len(window) for chunk in chunks for window in chunk)
    num_kept = max(1, cutting.KEPT_FRAMES // (longest * max(map(len, chunks))))
    kept = [network(number) for number in range(min(num_kept, len(chunks)))]
    return lambda number: kept[number] if number < len(kept) else network(number)
