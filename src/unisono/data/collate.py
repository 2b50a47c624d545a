"""Samples to a batch: texts to tokens, equal modalities side by side, zeros at the ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unisono.data.datasets import ConcatDataset
from unisono.errors import UserError
from unisono.tasks import TASKS
from unisono.types import AudioContent, Batch, ContentBatch, PhonemeContent, Sample, TextContent

_TASK_INDEX = {name: index for index, name in enumerate(TASKS)}


def pad(rows: Sequence[Tensor]) -> Tensor:
    """Stack 1-D tensors of different lengths, zeros at the ends."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def text_tokens(texts: Sequence[str]) -> Tensor:
    """UTF-8 bytes plus one, int64 ``(B, L)``, zero at padding."""
    if not all(text.strip() for text in texts):
        raise UserError("an instruction or caption of the batch is empty; write one")
    return pad([torch.tensor(list(text.encode()), dtype=torch.long) + 1 for text in texts])


class Collator:
    """Collate function; it needs the vocabularies of the model it feeds.

    Args:
        phonemes: as given to the phoneme encoder.
        speakers: likewise.
    """

    def __init__(self, phonemes: Sequence[str] = (), speakers: Sequence[str] = ()) -> None:
        self.phoneme_token = {symbol: index + 1 for index, symbol in enumerate(phonemes)}
        self.speaker_index = {name: index + 1 for index, name in enumerate(speakers)}

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        contents: dict[str, ContentBatch] = {}
        by_modality: dict[str, Callable[..., ContentBatch]] = {
            TextContent.modality: self._text,
            PhonemeContent.modality: self._phonemes,
            AudioContent.modality: self._audio,
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
        waveforms = [sample.waveform for sample in samples if sample.waveform is not None]
        if waveforms and len(waveforms) != len(samples):
            raise ValueError("a batch mixes samples with and without a target waveform")
        return Batch(
            audio_ids=tuple(sample.audio_id for sample in samples),
            tasks=tuple(sample.task for sample in samples),
            task_index=torch.tensor([_TASK_INDEX[sample.task] for sample in samples]),
            instruction_tokens=text_tokens([sample.instruction for sample in samples]),
            contents=contents,
            waveform=pad(waveforms) if waveforms else None,
            waveform_lengths=torch.tensor([w.shape[0] for w in waveforms]) if waveforms else None,
        )

    def _text(self, index: Tensor, samples: Sequence[Sample], contents: Sequence[TextContent]) -> ContentBatch:
        return ContentBatch(index, {"tokens": text_tokens([content.text for content in contents])})

    def _phonemes(self, index: Tensor, samples: Sequence[Sample], contents: Sequence[PhonemeContent]) -> ContentBatch:
        tokens, speakers = [], []
        for sample, content in zip(samples, contents, strict=True):
            self.check(sample.item_name or sample.audio_id, content)
            tokens.append(torch.tensor([self.phoneme_token[symbol] for symbol in content.phonemes]))
            speakers.append(self.speaker_index[content.speaker] if content.speaker else 0)
        known = any(content.durations_s is not None for content in contents)
        durations = [torch.zeros(len(c.phonemes)) if c.durations_s is None else c.durations_s for c in contents]
        return ContentBatch(
            index,
            {"tokens": pad(tokens), "speaker": torch.tensor(speakers)},
            pad(durations) if known else None,
        )

    def check(self, where: str, content: PhonemeContent) -> None:
        """Raise for a phoneme or speaker that the model does not have."""
        if not content.phonemes:
            raise UserError(f"{where}: there are no phonemes; give at least one")
        unknown = sorted({symbol for symbol in content.phonemes if symbol not in self.phoneme_token})
        if unknown:
            raise UserError(
                f"{where}: phonemes {unknown} are not among the model's {len(self.phoneme_token)}; "
                "correct them or extend `phonemes` in the configuration"
            )
        if content.speaker and content.speaker not in self.speaker_index:
            known = ", ".join(self.speaker_index) or "none"
            raise UserError(
                f"{where}: speaker {content.speaker!r} is unknown to the model (it has: {known}); "
                "correct it or extend `speakers` in the configuration"
            )

    def _audio(self, index: Tensor, samples: Sequence[Sample], contents: Sequence[AudioContent]) -> ContentBatch:
        waveforms = [content.waveform for content in contents]
        lengths = torch.tensor([w.shape[0] for w in waveforms])
        return ContentBatch(index, {"waveform": pad(waveforms), "lengths": lengths})


def check_vocabulary(dataset: ConcatDataset, collator: Collator) -> None:
    """Raise for the first item with a phoneme or speaker that the model does not have; no audio is read."""
    for part in dataset.datasets:
        for record in part.items:
            for content in part.symbolic_content(record):
                collator.check(record.where, content)
