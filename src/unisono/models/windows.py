"""Clips that are longer than what was trained: one latent, for which the network is asked in overlapping windows.

MultiDiffusion (Bar-Tal et al. 2023) in one dimension. At each evaluation every window of the one state is predicted as
a clip of its own, with its own part of the content, and the predictions are blended with weights that sum to one. As
there is one state, windows agree where they overlap, and solvers and guidance know nothing of them.

Shape letters: B items, K branches of guidance, W windows, N items of one modality, T frames of a clip, F frames of a
window, C latent channels, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unisono.models.content_adapter import AdaptedContent
from unisono.models.outputs import EncodedContent
from unisono.objectives import Branch, PredictBranches
from unisono.timing import frames_within, samples_to_frames
from unisono.types import AudioContent, Batch, Condition, ContentBatch, VideoContent

FRAMES_AT_ONCE = 8_000
"""Frames that go through the network at once, in windows; sixteen of ten seconds at 50 Hz."""
KEPT_FRAMES = 16_000
"""Frames whose conditions are kept from step to step (gigabytes in a large model); those of others are made anew at
each, encoders apart."""


@dataclass(frozen=True)
class Window:
    """Frames ``[start, stop)`` of the item ``row``; ``weights (stop - start,)``: what its prediction of each counts."""

    row: int
    start: int
    stop: int
    weights: Tensor

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class WindowSize:
    """Frames of a window, and of them at least how many it shares with the next: at most half."""

    frames: int
    overlap: int

    @staticmethod
    def of(window_s: float | None, overlap: float, rate_hz: float) -> WindowSize | None:
        """From seconds and a share; None where there are no windows."""
        if not window_s:
            return None
        frames = max(2, frames_within(window_s, rate_hz))
        return WindowSize(frames, min(max(1, round(overlap * frames)), frames // 2))


def window_starts(num_frames: int, size: WindowSize) -> list[int]:
    """First frame of each window of a clip: as few as can be, evenly spread from its start to its end."""
    last = num_frames - size.frames
    if last <= 0:
        return [0]
    steps = math.ceil(last / (size.frames - size.overlap))
    return [(2 * index * last + steps) // (2 * steps) for index in range(steps + 1)]


def plan_windows(lengths: Sequence[int], size: WindowSize, whole: set[int]) -> list[Window]:
    """Windows of each item, in order; one that has all of it for an item that is short, or among the ``whole``.

    From a window to the next the weights go as ``sin^2`` and ``cos^2`` over ``size.overlap`` frames, in the middle of
    what the two share. So they sum to one, and are 1 at the clip's own ends and 0 at a window's inner ones.
    """
    windows = []
    for row, length in enumerate(lengths):
        starts = [0] if row in whole else window_starts(length, size)
        stops = [length] if len(starts) == 1 else [start + size.frames for start in starts]
        # Each join is told by where its ramp begins; none before the first window and after the last.
        ramps: list[int | None] = [(after + stop - size.overlap) // 2 for stop, after in zip(stops, starts[1:])]  # noqa: B905
        for (before, after), start, stop in zip(pairwise([None, *ramps, None]), starts, stops, strict=True):
            frame = torch.arange(start, stop, dtype=torch.float64)
            rising = torch.ones_like(frame) if before is None else _ramp(frame - before, size.overlap)
            falling = torch.zeros_like(frame) if after is None else _ramp(frame - after, size.overlap)
            windows.append(Window(row, start, stop, (rising - falling).float()))
    return windows


def _ramp(frame: Tensor, width: int) -> Tensor:
    """From 0 before frame 0 to 1 from frame ``width`` on, as the square of a sine."""
    return torch.sin(math.pi / 2 * ((frame + 0.5) / width).clamp(0, 1)) ** 2


def chunks_of(windows: Sequence[Window]) -> list[list[Window]]:
    """Windows that go through the network together, in their order, in chunks of like size."""
    longest = max(map(len, windows))
    count = math.ceil(len(windows) / max(1, FRAMES_AT_ONCE // longest))
    ends = [len(windows) * index // count for index in range(count + 1)]
    return [list(windows[first:last]) for first, last in pairwise(ends)]


def blended(chunks: Sequence[Sequence[Window]], predict_chunk: Callable[[int], PredictBranches]) -> PredictBranches:
    """Predictions of whole clips from those of their windows.

    Args:
        chunks: all windows; every frame of every item is in one.
        predict_chunk: the network for the windows of a chunk, by its number; ``x`` is ``(K * W, F, C)`` there, F the
            frames of the chunk's longest window. It is asked for at each evaluation.
    """

    def predict(branches: tuple[Branch, ...], x: Tensor, sigma: float) -> Tensor:
        state = x.unflatten(0, (len(branches), -1))
        result = torch.zeros_like(state)
        for number, chunk in enumerate(chunks):
            parts = state.new_zeros(len(branches), len(chunk), max(map(len, chunk)), x.shape[2])
            for place, window in enumerate(chunk):
                parts[:, place, : len(window)] = state[:, window.row, window.start : window.stop]
            predictions = predict_chunk(number)(branches, parts.flatten(0, 1), sigma).to(x.dtype)
            predictions = predictions.unflatten(0, (len(branches), -1))
            for place, window in enumerate(chunk):
                own = window.weights[:, None] * predictions[:, place, : len(window)]
                result[:, window.row, window.start : window.stop] += own
        return result.flatten(0, 1)

    return predict


# -- what each window is told ---------------------------------------------------------------------------------------

Part = tuple[int, int, int]
"""Row n of N and the frames ``[start, stop)`` of it that are wanted."""


def _cut_audio(inputs: Mapping[str, Tensor], parts: Sequence[Part], hop_samples: int) -> dict[str, Tensor]:
    is_wave = "waveform" in inputs
    name, lengths_name = ("waveform", "lengths") if is_wave else ("latent", "latent_lengths")
    lengths, scale = inputs[lengths_name].tolist(), hop_samples if is_wave else 1
    rows = [inputs[name][n, start * scale : min(stop * scale, lengths[n])] for n, start, stop in parts]
    return {name: pad_sequence(rows, batch_first=True), lengths_name: _lengths(rows)}


def _cut_video(inputs: Mapping[str, Tensor], parts: Sequence[Part], hop_samples: int) -> dict[str, Tensor]:
    name = "frames" if "frames" in inputs else "features"
    lengths, pictures, shown = inputs["lengths"].tolist(), [], []
    for n, start, stop in parts:
        own = inputs["shown"][n, start : min(stop, lengths[n])]
        first, last = int(own[0]), int(own[-1])
        pictures.append(inputs[name][n, first : last + 1])
        shown.append(own - first)
    padded = pad_sequence(shown, batch_first=True)
    return {name: pad_sequence(pictures, batch_first=True), "shown": padded, "lengths": _lengths(shown)}


def _lengths(rows: Sequence[Tensor]) -> Tensor:
    return torch.tensor([len(row) for row in rows], device=rows[0].device)


_CUTS = {AudioContent.modality: _cut_audio, VideoContent.modality: _cut_video}


CAN_BE_CUT = frozenset(_CUTS)
"""Modalities that can be cut at latent frames, where their encoder lays them on those."""


def content_frames(batch: Batch, modalities: Collection[str], hop_samples: int) -> dict[int, int]:
    """Latent frames of the items that have content of these modalities, by row."""
    frames: dict[int, int] = {}
    for modality in (name for name in batch.contents if name in modalities):
        content = batch.contents[modality]
        lengths = content.inputs["latent_lengths" if "latent_lengths" in content.inputs else "lengths"]
        if "waveform" in content.inputs:
            lengths = samples_to_frames(lengths, hop_samples)
        frames |= dict(zip(content.index.tolist(), lengths.tolist(), strict=True))
    return frames


def without_content(batch: Batch, modalities: Collection[str]) -> Batch:
    """The batch without its content of these modalities."""
    return replace(batch, contents={name: own for name, own in batch.contents.items() if name not in modalities})


def cut_content(batch: Batch, modalities: Collection[str], windows: Sequence[Window], hop_samples: int) -> Batch:
    """A batch whose items are windows, with the parts of content that belong to them.

    As crops in training, a part is cut out before anything is computed from it. Content of other modalities is left
    out.
    """
    rows = torch.tensor([window.row for window in windows], device=batch.task_index.device)
    contents = {}
    for modality in (name for name in batch.contents if name in modalities):
        content = batch.contents[modality]
        place = {row: n for n, row in enumerate(content.index.tolist())}
        own = [(number, window) for number, window in enumerate(windows) if window.row in place]
        if own:
            parts = [(place[window.row], window.start, window.stop) for _, window in own]
            index = torch.tensor([number for number, _ in own], device=content.index.device)
            contents[modality] = ContentBatch(index, _CUTS[modality](content.inputs, parts, hop_samples))
    return Batch(
        audio_ids=tuple(batch.audio_ids[window.row] for window in windows),
        tasks=tuple(batch.tasks[window.row] for window in windows),
        task_index=batch.task_index[rows],
        instruction={name: value[rows] for name, value in batch.instruction.items()},
        contents=contents,
    )


def repeat_content(content: EncodedContent, windows: Sequence[Window]) -> list[EncodedContent]:
    """What was encoded of whole items, for each of their windows; an empty list where it belongs to none of them."""
    place = {row: n for n, row in enumerate(content.index.tolist())}
    own = [(number, place[window.row]) for number, window in enumerate(windows) if window.row in place]
    if not own:
        return []
    index, take = torch.tensor(own, device=content.index.device).unbind(dim=1)

    def taken(condition: Condition) -> Condition:
        return Condition(condition.tensor[take], condition.mask[take])

    durations = (content.adapted.global_duration, content.adapted.local_duration, content.durations_s)
    whole, units, given_s = (None if value is None else value[take] for value in durations)
    adapted = AdaptedContent(taken(content.adapted.content), whole, units)
    return [EncodedContent(index, taken(content.content), adapted, content.alignment, given_s)]
