"""Recordings of which parts are kept while the rest is generated: inpainting, and continuation.

Shape letters: B items, T latent frames, C latent channels, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unisono.errors import UserError
from unisono.models.autoencoder import Autoencoder
from unisono.models.generation import KnownAudio
from unisono.objectives import Objective, Predict
from unisono.timing import samples_to_frames, seconds_to_samples

CROSS_FADE_S = 0.01
_MIRRORED_FRAMES = 16
"""Frames of a span's mirror image that encoders see beyond its ends; none of ours looks further."""


@dataclass(frozen=True)
class Span:
    """Samples ``[start, stop)`` that are kept, and the whole latent frames ``[first, last)`` among them."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Kept:
    """What is kept of a batch.

    Attributes:
        latent: ``(B, T, C)``, zero where nothing is kept.
        mask: bool ``(B, T, 1)``.
        spans: per item; none where all of it is generated.
        waveforms: per item, ``(S,)``; None where all of it is generated.
        num_samples: per item, of the clip.
    """

    latent: Tensor
    mask: Tensor
    spans: tuple[tuple[Span, ...], ...]
    waveforms: tuple[Tensor | None, ...]
    num_samples: tuple[int, ...]

    def start(self, objective: Objective, noise: Tensor, sigma: float) -> Tensor:
        """Where to begin ``(B, T, C)``: kept frames on their path at the first noise level, which need not be 1."""
        return torch.where(self.mask, self._on_path(objective, noise, sigma)[0], noise)

    def keeping(self, predict: Predict, objective: Objective, noise: Tensor) -> Predict:
        """``predict`` that sees kept frames at their noise level, and knows what leads to them.

        On the path of known data and known noise every solver is exact: flows are straight there, and the schedulers
        of diffusion are told the same data at each step.
        """

        def predict_kept(x: Tensor, sigma: float) -> Tensor:
            noised, target = self._on_path(objective, noise, sigma)
            prediction = predict(torch.where(self.mask, noised.to(x.dtype), x), sigma)
            return torch.where(self.mask, target.to(prediction.dtype), prediction)

        return predict_kept

    def _on_path(self, objective: Objective, noise: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        levels = torch.full((len(noise),), sigma, device=noise.device)
        return objective.interpolate(self.latent, noise, levels), objective.target(self.latent, noise, levels)

    def restored(self, latent: Tensor) -> Tensor:
        """``latent (B, T, C)`` with what is kept, to the last bit."""
        return torch.where(self.mask, self.latent, latent)

    def spliced(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """Generated ``(B, S)`` with the kept samples in their places, as they were.

        On the generated side of each border lie 10 ms of cross-fade, of equal power, from the mirror image of what is
        kept: what is not kept of a recording has no part in the result, and a continuation has nothing else.
        """
        waveform = waveform.clone()
        longest = seconds_to_samples(CROSS_FADE_S, sample_rate)
        for row, (spans, original) in enumerate(zip(self.spans, self.waveforms, strict=True)):
            if not spans:
                continue
            assert original is not None, "spans are of a recording"
            # A file holds what is within ±1: not what is kept is to give way, should more be generated.
            limit = original.abs().max().to(waveform).clamp_min(1.0)
            waveform[row] /= (waveform[row].abs().max() / limit).clamp_min(1.0)
            for number, span in enumerate(spans):
                kept = original[span.start : span.stop].to(waveform)
                # Two spans share the gap between them.
                before = span.start if number == 0 else (span.start - spans[number - 1].stop) // 2
                after = self.num_samples[row] - span.stop
                if number + 1 < len(spans):
                    after = (spans[number + 1].start - span.stop) // 2
                before, after = min(before, longest, len(kept)), min(after, longest, len(kept))
                side = waveform[row, span.start - before : span.start]
                side.copy_(_cross_fade(kept[:before], side.flip(0)).flip(0).clamp(-limit, limit))
                side = waveform[row, span.stop : span.stop + after]
                side.copy_(_cross_fade(kept[len(kept) - after :].flip(0), side).clamp(-limit, limit))
                waveform[row, span.start : span.stop] = kept
        return waveform


def _cross_fade(first: Tensor, second: Tensor) -> Tensor:
    angle = math.pi / 2 * (torch.arange(len(first), device=first.device) + 0.5) / max(len(first), 1)
    return angle.cos() * first + angle.sin() * second


def known_samples(known: KnownAudio) -> int:
    """Samples of the recording, after a look at it.

    Raises:
        UserError: it is no waveform, is empty or holds NaN.
    """
    waveform = known.waveform
    if waveform.dim() != 1 or not len(waveform) or not waveform.is_floating_point():
        raise UserError(
            f"the known recording is {waveform.dtype} of shape {tuple(waveform.shape)}; it must be float32 (S,), mono, "
            "at the model's sample rate"
        )
    if not bool(waveform.isfinite().all()):
        raise UserError("the known recording holds NaN or infinite values; make it again")
    return len(waveform)


def known_spans(known: KnownAudio, num_frames: int, sample_rate: int, hop_samples: int) -> tuple[Span, ...]:
    """The spans of a recording that are kept in a clip of so many frames.

    Raises:
        UserError: there are none; one is empty, reaches beyond the recording or the clip, overlaps another, or has not
            one whole latent frame; nothing is left to generate.
    """
    num_samples, clip_samples = known_samples(known), num_frames * hop_samples
    clip_s, frame_s = clip_samples / sample_rate, hop_samples / sample_rate
    wanted = ((0.0, num_samples / sample_rate),) if known.spans_s is None else known.spans_s
    if not wanted:
        raise UserError("spans_s is empty, so nothing of the known recording is kept; name spans such as (0.0, 2.5)")
    if wrong := [span for span in wanted if len(span) != 2]:
        raise UserError(f"the span {wrong[0]} is not a (start, end) in seconds")
    spans: list[Span] = []
    for start_s, stop_s in sorted(wanted):
        what = f"the span from {start_s:g} to {stop_s:g} s"
        if not (0 <= start_s < stop_s < math.inf):
            raise UserError(f"{what} is empty or lies before the start; a span is (start, end) in rising seconds")
        start, stop = seconds_to_samples(start_s, sample_rate), seconds_to_samples(stop_s, sample_rate)
        if stop > num_samples:
            raise UserError(
                f"{what} reaches beyond the known recording, which lasts {num_samples / sample_rate:g} s; end it there"
            )
        if stop > clip_samples:
            raise UserError(f"{what} reaches beyond the clip of {clip_s:g} s; give a longer duration, or end it there")
        if spans and start < spans[-1].stop:
            raise UserError(f"{what} overlaps the one before it; join them into one")
        # What ends within the clip's last frame is that frame: encoders see silence after it, as in training.
        is_last = stop == num_samples and samples_to_frames(stop, hop_samples) == num_frames
        first, last = samples_to_frames(start, hop_samples), num_frames if is_last else stop // hop_samples
        if first >= last:
            raise UserError(f"{what} has not one whole latent frame ({frame_s:g} s); keep more, or leave it out")
        spans.append(Span(start, stop, first, last))
    if sum(span.last - span.first for span in spans) == num_frames:
        raise UserError(
            f"everything is kept of the clip of {clip_s:g} s, so nothing is left to generate; keep less, or give a "
            "longer duration to go on after the recording"
        )
    return tuple(spans)


def keep(
    known: Sequence[KnownAudio | None],
    lengths: Sequence[int],
    audio_ids: Sequence[str],
    autoencoder: Autoencoder,
    device: torch.device,
) -> Kept | None:
    """What is kept of a batch; None where nothing is.

    Args:
        known: per item.
        lengths: latent frames per item.
        audio_ids: for messages.
    """
    if all(own is None for own in known):
        return None
    latent = torch.zeros(len(known), max(lengths), autoencoder.latent_dim, device=device)
    mask = torch.zeros(len(known), max(lengths), 1, dtype=torch.bool, device=device)
    hop, all_spans = autoencoder.hop_samples, []
    for row, (own, num_frames) in enumerate(zip(known, lengths, strict=True)):
        try:
            spans = () if own is None else known_spans(own, num_frames, autoencoder.sample_rate, hop)
        except UserError as error:
            raise UserError(f"{audio_ids[row]}: {error}") from error
        for span in spans:
            assert own is not None
            kept = own.waveform[span.first * hop : min(span.last * hop, len(own.waveform))].to(device).float()
            latent[row, span.first : span.last] = _encoded(autoencoder, kept, span, num_frames)
            mask[row, span.first : span.last] = True
        all_spans.append(spans)
    waveforms = tuple(None if own is None else own.waveform for own in known)
    return Kept(latent, mask, tuple(all_spans), waveforms, tuple(length * hop for length in lengths))


def _encoded(autoencoder: Autoencoder, kept: Tensor, span: Span, num_frames: int) -> Tensor:
    """Latent ``(last - first, C)`` of a span.

    Beyond a border inside the clip the encoder sees the mirror image of the span: not what is to be replaced, which
    would leave its trace, and not silence, which would sound like an end.
    """
    hop = autoencoder.hop_samples
    before = _MIRRORED_FRAMES if span.first > 0 else 0
    after = _MIRRORED_FRAMES if span.last < num_frames else 0
    around = torch.cat([_mirrored(kept, before * hop).flip(0), kept, _mirrored(kept.flip(0), after * hop)])
    latent, _ = autoencoder.encode(around[None], torch.tensor([len(around)], device=kept.device))
    return latent[0, before : before + span.last - span.first]


def _mirrored(kept: Tensor, count: int) -> Tensor:
    """``count`` samples of what stands in a mirror at the first one, nearest first."""
    period = 2 * max(len(kept) - 1, 1)  # there and back, for what is shorter than its image
    place = torch.arange(1, count + 1, device=kept.device).remainder(period)
    return kept[torch.minimum(place, period - place).clamp_max(len(kept) - 1)]
