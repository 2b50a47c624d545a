"""Samples to a batch: texts to tokens, equal modalities side by side, zeros at the ends."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unisono.data.content_checks import check_sample
from unisono.data.datasets.base import Symbols
from unisono.errors import UserError
from unisono.media import tolerances
from unisono.tasks import task_index
from unisono.text.tokens import Tokenizer, tokenizer
from unisono.timing import latent_rate_hz, samples_to_frames, seconds_to_frames, unit_boundaries
from unisono.types import (
    AudioContent,
    Batch,
    ContentBatch,
    PhonemeContent,
    PitchContent,
    Sample,
    ScoreContent,
    TextContent,
    VideoContent,
)


def pad(rows: Sequence[Tensor]) -> Tensor:
    """Stack tensors whose first dimensions differ, zeros at the ends."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def lengths_of(rows: Sequence[Tensor]) -> Tensor:
    return torch.tensor([row.shape[0] for row in rows])


class Collator:
    """Collate function; it needs the vocabularies and tokenizers of the model it feeds.

    Args:
        phonemes: as given to the phoneme encoder.
        speakers: likewise.
        sample_rate, hop_samples: of the model; phonemes with an F0 contour, and videos, are laid out on its latent
            frames.
        text_tokenizer, instruction_tokenizer: names of the pretrained encoders that read captions and instructions;
            None is bytes.
    """

    def __init__(
        self,
        phonemes: Sequence[str] = (),
        speakers: Sequence[str] = (),
        sample_rate: int = 24_000,
        hop_samples: int = 480,
        text_tokenizer: str | None = None,
        instruction_tokenizer: str | None = None,
    ) -> None:
        self.tokenize_text, self.tokenize_instruction = tokenizer(text_tokenizer), tokenizer(instruction_tokenizer)
        self.phoneme_token = {symbol: index + 1 for index, symbol in enumerate(phonemes)}
        self.speaker_index = {name: index + 1 for index, name in enumerate(speakers)}
        self.sample_rate = sample_rate
        self.latent_rate_hz, self.hop_samples = latent_rate_hz(sample_rate, hop_samples), hop_samples
        self.lengths: tuple[int, ...] = ()

    def with_static_shapes(self, lengths: Sequence[int]) -> Collator:
        """One that pads to few shapes, for which ``torch.compile`` can make a program each.

        Args:
            lengths: latent frames; targets are padded to the least that holds the longest of them. Captions are padded
                to powers of two.
        """
        other = copy.copy(self)
        other.lengths = tuple(sorted(lengths))
        return other

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        for sample in samples:
            check_sample(sample, self.sample_rate)
            self._check_frames(sample)
        contents: dict[str, ContentBatch] = {}
        by_modality: dict[str, Callable[..., ContentBatch]] = {
            TextContent.modality: self._text,
            PhonemeContent.modality: self._phonemes,
            ScoreContent.modality: self._scores,
            PitchContent.modality: self._pitches,
            AudioContent.modality: self._audio,
            VideoContent.modality: self._videos,
        }
        for modality, collate in by_modality.items():
            rows = [
                (row, sample, content)
                for row, sample in enumerate(samples)
                for content in sample.content
                if content.modality == modality
            ]
            if rows:
                index = torch.tensor([row for row, _, _ in rows])
                contents[modality] = collate(index, [s for _, s, _ in rows], [c for _, _, c in rows])
        return Batch(
            audio_ids=tuple(sample.audio_id for sample in samples),
            tasks=tuple(sample.task for sample in samples),
            task_index=torch.tensor([task_index(sample.task) for sample in samples]),
            instruction=_texts(
                [sample.instruction for sample in samples],
                [sample.instruction_embedding for sample in samples],
                self.tokenize_instruction,
            ),
            contents=contents,
            **self._targets(samples),
        )

    # -- time ---------------------------------------------------------------------------------------------------------

    def _target_frames(self, sample: Sample) -> int | None:
        """Latent frames that a sample's target has, or will have because its content is aligned with them."""
        if sample.latent is not None:
            return len(sample.latent)
        if sample.waveform is not None:
            return samples_to_frames(len(sample.waveform), self.hop_samples)
        return next((frames for _, frames in self._aligned(sample)), None)

    def _aligned(self, sample: Sample) -> list[tuple[str, int]]:
        """Latent frames of each content that brings one unit per frame. A video's last picture lasts as is needed."""
        found = []
        for content in sample.content:
            if isinstance(content, PitchContent):
                found.append(("F0 contour", len(content.f0_hz)))
            elif isinstance(content, AudioContent) and content.latent is not None:
                found.append(("latent of the recording", len(content.latent)))
            elif isinstance(content, AudioContent) and content.waveform is not None:
                found.append(("recording", samples_to_frames(len(content.waveform), self.hop_samples)))
        return found

    def _check_frames(self, sample: Sample) -> None:
        """Refuse content that lies on the target's frames and has a different number of them (none: ``check_sample``).

        One frame of difference is rounding: the last one is held, or left out.
        """
        wanted = self._target_frames(sample)
        what = "another content" if sample.waveform is None and sample.latent is None else "the target"
        for name, frames in self._aligned(sample):
            if wanted is not None and abs(frames - wanted) > 1:
                raise UserError(
                    f"{sample.item_name or sample.audio_id}: the {name} has {frames} latent frames "
                    f"({frames / self.latent_rate_hz:.3f} s), {what} {wanted} ({wanted / self.latent_rate_hz:.3f} s); "
                    "they must agree within one frame: cut both alike"
                )

    def _padded_frames(self, longest: int) -> int:
        """Latent frames to pad to."""
        index = bisect_left(self.lengths, longest)
        return self.lengths[index] if index < len(self.lengths) else longest

    def _targets(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Fields of the batch: waveforms, or cached latents, and the targets' lengths in samples."""
        waveforms = [sample.waveform for sample in samples if sample.waveform is not None]
        latents = [sample.latent for sample in samples if sample.latent is not None]
        if not waveforms and not latents:
            return {}
        if len(waveforms) == len(samples) and not latents:
            waveform = pad(waveforms)
            if self.lengths:
                frames = self._padded_frames(samples_to_frames(waveform.shape[1], self.hop_samples))
                waveform = F.pad(waveform, (0, frames * self.hop_samples - waveform.shape[1]))
            full = min(map(len, waveforms)) > waveform.shape[1] - self.hop_samples  # none lacks a whole frame
            return {"waveform": waveform, "waveform_lengths": lengths_of(waveforms), "is_full": full}
        if len(latents) == len(samples) and not waveforms:
            latent = pad(latents)
            latent = F.pad(latent, (0, 0, 0, self._padded_frames(latent.shape[1]) - latent.shape[1]))
            num_samples = torch.tensor([sample.num_samples for sample in samples])
            full = min(map(len, latents)) == latent.shape[1]
            lengths = {"latent_lengths": lengths_of(latents), "waveform_lengths": num_samples}
            return {"latent": latent, **lengths, "is_full": full}
        raise ValueError("a batch mixes samples with and without a target waveform")

    def _text(self, index: Tensor, samples: Sequence[Sample], contents: Sequence[TextContent]) -> ContentBatch:
        texts, embeddings = [content.text for content in contents], [content.embedding for content in contents]
        inputs = _texts(texts, embeddings, self.tokenize_text)
        if self.lengths:
            inputs = {name: _to_power_of_two(value) if value.dim() > 1 else value for name, value in inputs.items()}
        return ContentBatch(index, inputs)

    def _phonemes(self, index: Tensor, samples: Sequence[Sample], contents: Sequence[PhonemeContent]) -> ContentBatch:
        inputs = {"tokens": pad(self._tokens(samples, contents)), **self._speakers(samples, contents)}
        return ContentBatch(index, inputs, _durations(contents))

    def _scores(self, index: Tensor, samples: Sequence[Sample], contents: Sequence[ScoreContent]) -> ContentBatch:
        inputs = {
            "tokens": pad(self._tokens(samples, contents)),
            "notes": pad([content.notes for content in contents]),
            "note_durations_s": pad([content.note_durations_s for content in contents]),
            "slurs": pad([content.slurs for content in contents]),
            **self._speakers(samples, contents),
        }
        return ContentBatch(index, inputs, _durations(contents))

    def _pitches(self, index: Tensor, samples: Sequence[Sample], contents: Sequence[PitchContent]) -> ContentBatch:
        per_frame = []
        for tokens, content in zip(self._tokens(samples, contents), contents, strict=True):
            ends = unit_boundaries(content.durations_s[None], self.latent_rate_hz)[0]
            frame = torch.arange(len(content.f0_hz))
            # A frame beyond the last end (rounding) belongs to the last unit.
            per_frame.append(tokens[torch.searchsorted(ends, frame, right=True).clamp_max(len(tokens) - 1)])
        inputs = {
            "tokens": pad(per_frame),
            "f0_hz": pad([content.f0_hz for content in contents]),
            "voicing": pad([content.voicing for content in contents]),
            **self._speakers(samples, contents),
        }
        return ContentBatch(index, inputs)

    def _audio(self, index: Tensor, samples: Sequence[Sample], contents: Sequence[AudioContent]) -> ContentBatch:
        latents = [content.latent for content in contents if content.latent is not None]
        if latents:
            if len(latents) != len(contents):
                raise ValueError("a batch mixes recordings with cached latents and without")
            return ContentBatch(index, {"latent": pad(latents), "latent_lengths": lengths_of(latents)})
        waveforms = [content.waveform for content in contents if content.waveform is not None]
        return ContentBatch(index, {"waveform": pad(waveforms), "lengths": lengths_of(waveforms)})

    def _videos(self, index: Tensor, samples: Sequence[Sample], contents: Sequence[VideoContent]) -> ContentBatch:
        kinds = {"frames" if content.frames is not None else "features" for content in contents}
        if len(kinds) > 1:
            raise UserError("a batch has videos as pictures and as features; let all lines have video_features")
        rows = [content.frames if content.frames is not None else content.features for content in contents]
        shapes = {tuple(row.shape[1:]) for row in rows if row is not None}
        if len(shapes) > 1:
            raise UserError(f"videos of one batch have frames of shapes {sorted(shapes)}; they must be alike")
        shown = [self._shown(sample, content) for sample, content in zip(samples, contents, strict=True)]
        inputs = {
            kinds.pop(): pad([row for row in rows if row is not None]),
            "shown": pad(shown),
            "lengths": lengths_of(shown),
        }
        return ContentBatch(index, inputs)

    def _shown(self, sample: Sample, content: VideoContent) -> Tensor:
        """Which picture is on the screen as each latent frame begins, int64 ``(T,)``.

        The last one lasts for as long as the sound does, and what the sound does not reach is not shown, within
        ``tolerances.VIDEO_S``: films and their sound seldom end together.
        """
        pictures = content.frames if content.frames is not None else content.features
        where = sample.item_name or sample.audio_id
        if pictures is None or not len(pictures):
            raise UserError(f"{where}: the video has no picture; give it at least one")
        video_s = len(pictures) / content.rate_hz
        frames = self._target_frames(sample)
        if frames is None:
            frames = int(seconds_to_frames(video_s, self.latent_rate_hz))
        if abs(frames / self.latent_rate_hz - video_s) > tolerances.VIDEO_S + 1 / content.rate_hz:
            raise UserError(
                f"{where}: {len(pictures)} pictures at {content.rate_hz:g} Hz are {video_s:.3f} s, the sound "
                f"{frames / self.latent_rate_hz:.3f} s; they must agree within {tolerances.VIDEO_S} s: cut both alike"
            )
        time_s = torch.arange(frames, dtype=torch.float64) / self.latent_rate_hz
        return (time_s * content.rate_hz + 1e-4).long().clamp_max(len(pictures) - 1)

    # -- symbols ------------------------------------------------------------------------------------------------------

    def _tokens(self, samples: Sequence[Sample], contents: Sequence[Symbols]) -> list[Tensor]:
        for sample, content in zip(samples, contents, strict=True):
            self.check(sample.item_name or sample.audio_id, content)
        return [torch.tensor([self.phoneme_token[symbol] for symbol in content.phonemes]) for content in contents]

    def _speakers(self, samples: Sequence[Sample], contents: Sequence[Symbols]) -> dict[str, Tensor]:
        """Index ``(N,)``, 0 for none; embeddings ``(N, D)`` where one is given, zeros for the others."""
        names = [content.speaker if isinstance(content.speaker, str) else "" for content in contents]
        inputs = {"speaker": torch.tensor([self.speaker_index[name] if name else 0 for name in names])}
        embeddings = {
            row: content.speaker for row, content in enumerate(contents) if isinstance(content.speaker, Tensor)
        }
        sizes = {embedding.shape for embedding in embeddings.values()}
        if len(sizes) > 1:
            first = {tuple(embedding.shape): row for row, embedding in reversed(embeddings.items())}
            found = ", ".join(
                f"{samples[row].item_name or samples[row].audio_id} has {' x '.join(map(str, shape))} values"
                for shape, row in sorted(first.items(), key=lambda item: item[1])
            )
            raise UserError(
                f"speaker embeddings of one batch differ in size: {found}; make all with one encoder (unisono speaker)"
            )
        if embeddings:
            table = torch.zeros(len(contents), *sizes.pop())
            for row, embedding in embeddings.items():
                table[row] = embedding
            inputs["speaker_embedding"] = table
        return inputs

    def check(self, where: str, content: Symbols) -> None:
        """Raise for a phoneme or speaker that the model does not have."""
        if not content.phonemes:
            raise UserError(f"{where}: there are no phonemes; give at least one")
        unknown = sorted({symbol for symbol in content.phonemes if symbol not in self.phoneme_token})
        if unknown:
            raise UserError(
                f"{where}: phonemes {unknown} are not among the model's {len(self.phoneme_token)}; "
                "correct them or extend `phonemes` in the configuration"
            )
        if isinstance(content.speaker, str) and content.speaker and content.speaker not in self.speaker_index:
            known = ", ".join(self.speaker_index) or "none"
            raise UserError(
                f"{where}: speaker {content.speaker!r} is unknown to the model (it has: {known}); "
                "correct it or extend `speakers` in the configuration"
            )


def _to_power_of_two(rows: Tensor) -> Tensor:
    """Zeros behind the units of ``(B, L, ...)``, until there are 32, 64, 128 …"""
    wanted = max(32, 1 << (rows.shape[1] - 1).bit_length())
    return F.pad(rows, (0, 0) * (rows.dim() - 2) + (0, wanted - rows.shape[1]))


def _texts(texts: Sequence[str], embeddings: Sequence[Tensor | None], tokenize: Tokenizer) -> dict[str, Tensor]:
    """Inputs of a text encoder: cached embeddings, or tokens."""
    cached = [embedding for embedding in embeddings if embedding is not None]
    if not cached:
        return {"tokens": tokenize(texts)}
    if len(cached) != len(texts):
        raise ValueError("a batch mixes texts with cached embeddings and without")
    return {"embedding": pad(cached), "lengths": lengths_of(cached)}


def _durations(contents: Sequence[PhonemeContent | ScoreContent]) -> Tensor | None:
    """``(N, L)`` seconds; a row of zeros is unknown, None when all are."""
    if all(content.durations_s is None for content in contents):
        return None
    return pad([torch.zeros(len(c.phonemes)) if c.durations_s is None else c.durations_s for c in contents])
