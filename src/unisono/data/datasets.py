"""Data sets: one class per task over a shared base.

Everything about the manifests is checked when a data set is made, before training starts; audio is read when an item
is asked for.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unisono.audio import audio_info, read_audio
from unisono.data.manifest import Fields, load_manifest
from unisono.errors import UserError
from unisono.objectives.noise import derive_seed
from unisono.tasks import get_task
from unisono.types import AudioContent, Content, PhonemeContent, Sample, TextContent

DURATION_TOLERANCE_S = 0.05


class AudioGenerationDataset(Dataset[Sample], ABC):
    """Items of one task from a pair of manifests.

    Args:
        content: path of ``content.jsonl``.
        audio: path of ``audio.jsonl``; None at inference, when there are no targets.
        sample_rate: Hz to which all audio is brought.
        max_samples: use only the first so many items.
        max_duration_s: items whose target is longer are left out; ``num_left_out`` says how many.
        seed: instructions are drawn from ``(seed, epoch, audio_id)``.

    Attributes:
        durations_s: float64 array, target seconds per item (zeros without targets); samplers bucket by it.
        num_left_out: items longer than ``max_duration_s``.
    """

    task: str

    def __init__(
        self,
        content: str | os.PathLike,
        audio: str | os.PathLike | None = None,
        sample_rate: int = 24_000,
        max_samples: int | None = None,
        max_duration_s: float | None = None,
        seed: int = 0,
    ) -> None:
        self.task_row = get_task(self.task)
        self.sample_rate, self.seed = sample_rate, seed
        self.name = str(content)
        records = load_manifest(content)
        targets = load_manifest(audio) if audio is not None else None
        if targets is not None:
            self._check_joined(Path(content), records, Path(str(audio)), targets)
        self.items: list[Fields] = []
        self.targets: list[Path] | None = None if targets is None else []
        self.target_lines: list[Fields] = []
        durations: list[float] = []
        self.num_left_out = 0
        for audio_id, record in records.items():
            if max_samples is not None and len(self.items) >= max_samples:
                break
            duration_s = 0.0
            if targets is not None:
                target = targets[audio_id]
                path = target.file("audio")
                duration_s = self._checked_duration(target, "audio", path)
                if max_duration_s is not None and duration_s > max_duration_s:
                    self.num_left_out += 1
                    continue
                self.targets.append(path)  # type: ignore[union-attr]
                self.target_lines.append(target)
            record.text("instruction", None)
            self.check(record, duration_s if targets is not None else None)
            self.items.append(record)
            durations.append(duration_s)
        if not self.items:
            raise UserError(
                f"{content}: none of {len(records)} items is left (max_duration_s={max_duration_s}, "
                f"max_samples={max_samples}); raise the limits"
            )
        self.durations_s = np.asarray(durations)

    @staticmethod
    def _check_joined(content: Path, records: dict[str, Fields], audio: Path, targets: dict[str, Fields]) -> None:
        for here, there, other in ((records, targets, audio), (targets, records, content)):
            for audio_id, fields in here.items():
                if audio_id not in there:
                    raise fields.fail(f"audio_id {audio_id!r} has no line in {other}; add it there or remove this line")

    @staticmethod
    def _checked_duration(target: Fields, field: str, path: Path) -> float:
        try:
            _, duration_s = audio_info(path)
        except UserError as error:
            raise target.fail(f"field {field!r}: {error}") from error
        stated_s = target.seconds("duration_s", None)
        if duration_s == 0:
            raise target.fail(f"field {field!r}: {path} is empty (0 samples); remove the line or replace the file")
        if stated_s is not None and abs(stated_s - duration_s) > DURATION_TOLERANCE_S:
            raise target.fail(
                f"field 'duration_s' is {stated_s}, but {path} lasts {duration_s:.3f} s; correct the field"
            )
        return duration_s

    @abstractmethod
    def check(self, record: Fields, duration_s: float | None) -> None:
        """Raise if a line cannot be used; ``duration_s`` is the target's, None at inference."""

    @abstractmethod
    def load_content(self, record: Fields, num_samples: int | None) -> tuple[Content, ...]:
        """The item's typed content; ``num_samples`` is the target's length, None at inference."""

    def symbolic_content(self, record: Fields) -> tuple[PhonemeContent, ...]:
        """The part of the content whose symbols a model must know; needs no audio."""
        return ()

    def input_files(self, record: Fields) -> tuple[tuple[str, Path], ...]:
        """Audio files that the content is read from, with the field that names each."""
        return ()

    def audio_files(self) -> Iterator[tuple[Fields, str, Path]]:
        """Every audio file that the items need: manifest line, field, path."""
        for index, record in enumerate(self.items):
            if self.targets is not None:
                yield self.target_lines[index], "audio", self.targets[index]
            for field, path in self.input_files(record):
                yield record, field, path

    @abstractmethod
    def describe(self, record: Fields) -> str:
        """The content in words, for reports."""

    def __len__(self) -> int:
        return len(self.items)

    def instruction(self, record: Fields, epoch: int) -> str:
        """The line's own instruction, or a paraphrase drawn anew each epoch."""
        own = record.record.get("instruction")
        if own:
            return own
        choices = self.task_row.instructions
        return choices[derive_seed(self.seed, epoch, record.record["audio_id"]) % len(choices)]

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index, epoch=0)

    def sample(self, index: int, epoch: int) -> Sample:
        """Item ``index``; everything random in it is a function of ``(seed, epoch, audio_id)``."""
        record = self.items[index]
        waveform = None
        if self.targets is not None:
            waveform = torch.from_numpy(self._read(self.target_lines[index], "audio", self.targets[index]))
        return Sample(
            audio_id=record.record["audio_id"],
            task=self.task,
            instruction=self.instruction(record, epoch),
            content=self.load_content(record, None if waveform is None else waveform.shape[0]),
            waveform=waveform,
            item_name=record.where,
        )

    def _read(self, record: Fields, field: str, path: Path) -> np.ndarray:
        try:
            return read_audio(path, self.sample_rate)
        except UserError as error:
            raise record.fail(f"field {field!r}: {error}") from error


class TextToAudioDataset(AudioGenerationDataset):
    """Captions and sounds."""

    task = "text_to_audio"

    def check(self, record: Fields, duration_s: float | None) -> None:
        record.text("caption")

    def load_content(self, record: Fields, num_samples: int | None) -> tuple[Content, ...]:
        return (TextContent(record.record["caption"]),)

    def describe(self, record: Fields) -> str:
        return record.record["caption"]


class TextToSpeechDataset(AudioGenerationDataset):
    """Phonemes with durations, and speech."""

    task = "text_to_speech"

    def check(self, record: Fields, duration_s: float | None) -> None:
        phonemes = record.symbols("phonemes")
        durations = record.durations("durations_s") if duration_s is not None else record.durations("durations_s", None)
        record.text("speaker", None)
        record.any_text("text")
        if durations is None:
            return
        if len(durations) != len(phonemes):
            raise record.fail(
                f"field 'durations_s' has {len(durations)} values for {len(phonemes)} phonemes; "
                "there must be one per phoneme"
            )
        if duration_s is not None and abs(sum(durations) - duration_s) > DURATION_TOLERANCE_S:
            raise record.fail(
                f"field 'durations_s' sums to {sum(durations):.3f} s, but the recording lasts {duration_s:.3f} s; "
                f"they must agree within {DURATION_TOLERANCE_S} s (silence is a unit too)"
            )

    def load_content(self, record: Fields, num_samples: int | None) -> tuple[Content, ...]:
        return self.symbolic_content(record)

    def symbolic_content(self, record: Fields) -> tuple[PhonemeContent, ...]:
        fields = record.record
        durations = fields.get("durations_s")
        return (
            PhonemeContent(
                phonemes=tuple(fields["phonemes"]),
                durations_s=None if durations is None else torch.tensor(durations, dtype=torch.float32),
                speaker=fields.get("speaker"),
                text=record.any_text("text"),
            ),
        )

    def describe(self, record: Fields) -> str:
        return record.record.get("text") or " ".join(record.record["phonemes"])


class SpeechEnhancementDataset(AudioGenerationDataset):
    """Noisy and clean speech of equal length."""

    task = "speech_enhancement"

    def check(self, record: Fields, duration_s: float | None) -> None:
        path = record.file("noisy_audio")
        noisy_s = self._checked_duration(record, "noisy_audio", path)
        if duration_s is not None and abs(noisy_s - duration_s) > DURATION_TOLERANCE_S:
            raise record.fail(
                f"field 'noisy_audio': {path} lasts {noisy_s:.3f} s, its clean target {duration_s:.3f} s; "
                f"they must agree within {DURATION_TOLERANCE_S} s and start together"
            )

    def load_content(self, record: Fields, num_samples: int | None) -> tuple[Content, ...]:
        noisy: Tensor = torch.from_numpy(self._read(record, "noisy_audio", record.file("noisy_audio")))
        if num_samples is not None and noisy.shape[0] != num_samples:
            # Within the tolerance that check() allows: the noisy end is cut or filled with silence.
            noisy = torch.nn.functional.pad(noisy, (0, num_samples - noisy.shape[0]))
        return (AudioContent(noisy),)

    def input_files(self, record: Fields) -> tuple[tuple[str, Path], ...]:
        return (("noisy_audio", record.file("noisy_audio")),)

    def describe(self, record: Fields) -> str:
        return Path(record.record["noisy_audio"]).name


class ConcatDataset(Dataset[Sample]):
    """Several data sets one after the other.

    An index beyond the end means a later epoch: ``dataset[epoch * len(dataset) + item]``. So what is random in an item
    travels with the index, into any number of loader workers, and no worker has to be told the epoch.

    Args:
        datasets: at least one.
    """

    def __init__(self, datasets: Sequence[AudioGenerationDataset]) -> None:
        if not datasets:
            raise UserError("the list of data sets is empty; name at least one, as in configs/data/train.yaml")
        self.datasets = list(datasets)
        self.ends = np.cumsum([len(dataset) for dataset in self.datasets])
        self.durations_s = np.concatenate([dataset.durations_s for dataset in self.datasets])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def locate(self, item: int) -> tuple[AudioGenerationDataset, int]:
        """Data set and position of an item."""
        which = int(np.searchsorted(self.ends, item, side="right"))
        return self.datasets[which], item - (int(self.ends[which - 1]) if which else 0)

    def __getitem__(self, index: int) -> Sample:
        epoch, item = divmod(index, len(self))
        dataset, position = self.locate(item)
        try:
            return dataset.sample(position, epoch)
        except Exception as error:  # say of which item
            record = dataset.items[position]
            audio_id = record.record["audio_id"]
            if isinstance(error, UserError):
                raise UserError(f"{audio_id}: {error}") from error
            raise RuntimeError(
                f"{audio_id} ({record.where}) could not be read: {type(error).__name__}: {error}"
            ) from error
