"""What the data sets of all tasks share.

The manifests are joined and checked when a data set is made, before training starts; a line and its audio are read
when an item is asked for. Everything random in an item is a function of ``(seed, epoch, audio_id)``.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unisono.data.feature_cache import CachedLatents, CachedTexts
from unisono.data.index import Index, ManifestFile, build_index, id_hash
from unisono.data.manifest import Fields
from unisono.errors import UserError
from unisono.media import tolerances
from unisono.media.audio import audio_info, read_audio
from unisono.media.locations import Location
from unisono.objectives.noise import derive_seed
from unisono.tasks import get_task
from unisono.timing import frames_within, latent_rate_hz, samples_to_frames, seconds_to_index, seconds_to_samples
from unisono.types import Content, PhonemeContent, PitchContent, Sample, ScoreContent, TextContent

LONGEST_WHOLE_S = 600.0
"""A longer recording is read in crops, or left out, or refused: nobody trains on an hour at once unknowingly."""

_ROUNDING_S = 1e-9

Symbols = PhonemeContent | ScoreContent | PitchContent


@dataclass(frozen=True)
class Window:
    """The part of a recording that an item shows."""

    start_s: float
    duration_s: float

    def indices(self, rate_hz: float) -> tuple[int, int]:
        """First and end index of what is shown, of values at ``rate_hz``: at least one."""
        first = seconds_to_index(self.start_s, rate_hz)
        return first, max(seconds_to_index(self.start_s + self.duration_s, rate_hz), first + 1)


@dataclass(frozen=True)
class Target:
    """What an item's content is to be aligned with.

    Attributes:
        num_samples: length of the target at the model's rate; None at inference.
        window: the part of the recording that it is; None for the whole.
        waveform: float32 ``(S,)``; None at inference, and where the latent is cached and nothing asks for it.
    """

    num_samples: int | None = None
    window: Window | None = None
    waveform: Tensor | None = None


class AudioGenerationDataset(Dataset[Sample], ABC):
    """Items of one task from a pair of manifests.

    Args:
        content: path of ``content.jsonl``; None for the lines of a stream, see ``TarShards``.
        audio: path of ``audio.jsonl``; None at inference, when there are no targets.
        sample_rate: Hz to which all audio is brought.
        hop_samples: samples per latent frame; crops begin at whole frames.
        max_samples: use only the first so many items, at least one.
        max_duration_s: items whose target is longer are left out; ``num_left_out`` says how many.
        crop_s: show a random part of at most this length, content and audio alike, at least one latent frame; None
            shows items whole.
        split: use only lines whose field ``split`` is this one.
        weight: how often these items are drawn relative to those of the task's other data sets.
        check_files: look for every file, and into the header of each recording, when the data set is made. Not for
            millions of items: there ``unisono validate`` does it once, and ``duration_s`` in the manifest is trusted.
        seed: of what is drawn for an item: instruction, caption, crop, degradation.

    Attributes:
        durations_s: float32 array, seconds per item as shown (zeros without targets); samplers bucket by it.
        num_left_out: items longer than ``max_duration_s``.
        latents: cached latents of the targets; None reads waveforms.
        captions, instructions: cached embeddings of texts, where frozen encoders read them; None leaves that to the
            model.
    """

    task: str
    needs_waveform = False
    """Whether the content is made from the target's waveform."""

    def __init__(
        self,
        content: str | os.PathLike | None,
        audio: str | os.PathLike | None = None,
        sample_rate: int = 24_000,
        hop_samples: int = 480,
        max_samples: int | None = None,
        max_duration_s: float | None = None,
        crop_s: float | None = None,
        split: str | None = None,
        weight: float = 1.0,
        check_files: bool = True,
        seed: int = 0,
    ) -> None:
        self.task_row = get_task(self.task)
        self.sample_rate, self.hop_samples, self.seed = sample_rate, hop_samples, seed
        self.latent_rate_hz = latent_rate_hz(sample_rate, hop_samples)
        self.crop_s, self.check_files, self.weight = crop_s, check_files, weight
        self.name = str(content)
        for name, limit in (("crop_s", crop_s), ("max_duration_s", max_duration_s), ("weight", weight)):
            if limit is not None and not limit > 0:
                raise UserError(f"{content}: {name} is {limit}; it must be above 0, or null")
        if crop_s is not None and crop_s < self.frame_s - _ROUNDING_S:
            raise UserError(f"{content}: crop_s is {crop_s}; it must be at least a latent frame, {self.frame_s:g} s")
        if max_samples is not None and not max_samples >= 1:
            raise UserError(f"{content}: max_samples is {max_samples}; it must be 1 or more, or null for all items")
        self.latents: CachedLatents | None = None
        self.captions: CachedTexts | None = None
        self.instructions: CachedTexts | None = None
        self.max_duration_s = max_duration_s
        if content is None:
            self._refuse_for_streams(audio=audio, max_samples=max_samples, split=split)
            self.check_files = False  # they come with the line
            return
        self.content_file = ManifestFile(Path(content))
        self.audio_file = None if audio is None else ManifestFile(Path(audio))
        index = build_index(
            self.content_file.path,
            None if self.audio_file is None else self.audio_file.path,
            self,
            split=split,
            kind=[self.task, check_files, *self.check_options()],
            # Which items are too long is known only after reading them all.
            max_samples=max_samples if max_duration_s is None else None,
        )
        self.index, self.num_left_out = self._limited(index, max_samples, max_duration_s)
        longest = int(np.argmax(self.index.duration_s))
        self.refuse_long(self.line(longest), float(self.index.duration_s[longest]))
        self.durations_s = self.index.duration_s
        if crop_s is not None:
            self.durations_s = np.minimum(self.durations_s, np.float32(crop_s))

    @staticmethod
    def _refuse_for_streams(**options: Any) -> None:
        for name, value in options.items():
            if value is not None:
                raise UserError(
                    f"a data set of a stream (content: null) has no use for {name} ({value}); set it to null"
                )

    def _limited(self, index: Index, max_samples: int | None, max_duration_s: float | None) -> tuple[Index, int]:
        left_out = 0
        if max_duration_s is not None:
            kept = np.flatnonzero(index.duration_s <= max_duration_s)[:max_samples]
            passed = len(index) if max_samples is None or len(kept) < max_samples else int(kept[-1]) + 1
            left_out = passed - len(kept)
            index = index.rows(kept) if left_out or len(kept) < len(index) else index
        if not len(index):
            raise UserError(
                f"{self.name}: none of {left_out} items is left (max_duration_s={max_duration_s}, "
                f"max_samples={max_samples}); raise the limits"
            )
        return index, left_out

    def refuse_long(self, line: Fields, duration_s: float) -> None:
        """Raise where a recording is too long to be read whole and would be."""
        if duration_s > LONGEST_WHOLE_S and self.crop_s is None:
            raise line.fail(
                f"the recording lasts {duration_s:.0f} s, and more than {LONGEST_WHOLE_S:.0f} s are not read at once; "
                "set crop_s to train on parts, or max_duration_s to leave long items out"
            )

    # -- lines --------------------------------------------------------------------------------------------------------

    @property
    def frame_s(self) -> float:
        """Seconds of a latent frame."""
        return 1.0 / self.latent_rate_hz

    @property
    def has_targets(self) -> bool:
        return self.audio_file is not None

    def __len__(self) -> int:
        return len(self.index)

    def line(self, index: int) -> Fields:
        """The item's line of ``content.jsonl``."""
        return self._line(self.content_file, self.index.content_offset, self.index.content_line, index)

    def target_line(self, index: int) -> Fields:
        """The item's line of ``audio.jsonl``."""
        assert self.audio_file is not None, "there are no targets at inference"
        return self._line(self.audio_file, self.index.audio_offset, self.index.audio_line, index)

    def _line(self, file: ManifestFile, offsets: np.ndarray, lines: np.ndarray, index: int) -> Fields:
        try:
            fields = file.fields(int(offsets[index]), int(lines[index]))
            if id_hash(fields.audio_id()) == int(self.index.id_hash[index]):
                return fields
        except UserError as error:
            raise UserError(f"{error} (or {file.path} was changed since this run began: start it again)") from error
        raise UserError(f"{file.path} was changed since this run began; start it again")

    def audio_id(self, index: int) -> str:
        return self.line(index).record["audio_id"]

    def target(self, index: int) -> Location | None:
        """Where the item's target recording lies; None at inference."""
        return self.target_line(index).location("audio") if self.has_targets else None

    # -- checks -------------------------------------------------------------------------------------------------------

    def check_options(self) -> list[Any]:
        """Settings that change what ``check`` accepts."""
        return []

    def check_item(self, line: Fields, target: Fields | None) -> float:
        """Raise if a pair of lines cannot be used; returns the target's seconds, 0 without one."""
        duration_s = 0.0
        if target is not None:
            duration_s = self.recording_s(target, "audio")
        self._check_labels(line, target)
        line.text("instruction", None)
        self.check(line, duration_s if target is not None else None)
        return duration_s

    @staticmethod
    def _check_labels(line: Fields, target: Fields | None) -> None:
        """Fields that either line may have."""
        split = line.text("split", None)
        line.text("license", None)
        if target is None:
            return
        targets_split = target.text("split", None)
        target.text("license", None)
        if split is not None and targets_split is not None and split != targets_split:
            raise line.fail(
                f"field 'split' is {split!r}, but {targets_split!r} in {target.where}; make them agree or keep one"
            )

    def recording_s(self, line: Fields, field: str) -> float:
        """Length of the recording that a field names: the line's ``duration_s``, checked against the header."""
        stated_s = line.seconds("duration_s", None)
        if stated_s is not None and not self.check_files:
            line.named_path(field)
            return stated_s
        location = line.file(field)
        try:
            info = audio_info(location)
        except UserError as error:
            raise line.fail(f"field {field!r}: {error}") from error
        duration_s = info.duration_s
        if duration_s == 0:
            raise line.fail(f"field {field!r}: {location} is empty (0 samples); remove the line or replace the file")
        if stated_s is None:
            return duration_s
        if abs(stated_s - duration_s) > max(tolerances.LENGTH_S, info.tolerance_s):
            raise line.fail(
                f"field 'duration_s' is {stated_s}, but {location} lasts {duration_s:.3f} s; correct the field"
            )
        return stated_s if info.tolerance_s > tolerances.LENGTH_S else duration_s  # a header may only estimate

    def check_file(self, line: Fields, field: str) -> None:
        """Raise if a field names no file; it is looked for where files are checked."""
        if self.check_files:
            line.file(field)
        else:
            line.named_path(field)

    @abstractmethod
    def check(self, line: Fields, duration_s: float | None) -> None:
        """Raise if a line cannot be used; ``duration_s`` is the target's, None at inference."""

    # -- items --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def load_content(self, line: Fields, target: Target, rng: np.random.Generator) -> tuple[Content, ...]:
        """The item's typed content, aligned with its target."""

    def symbolic_content(self, line: Fields) -> tuple[Symbols, ...]:
        """The part of the content whose symbols a model must know; needs no audio."""
        return ()

    def input_files(self, line: Fields) -> tuple[tuple[str, Location], ...]:
        """Recordings that the content is read from, with the field that names each."""
        return ()

    def other_files(self, line: Fields) -> tuple[tuple[str, Location], ...]:
        """Files of the content that are no recordings: arrays, scores, videos."""
        return ()

    def audio_files(self) -> Iterator[tuple[Fields, str, Location]]:
        """Every recording that the items need: manifest line, field, place."""
        for index in range(len(self)):
            if self.has_targets:
                target = self.target_line(index)
                yield target, "audio", target.location("audio")
            line = self.line(index)
            for field, location in self.input_files(line):
                yield line, field, location

    @abstractmethod
    def describe(self, line: Fields) -> str:
        """The content in words, for reports."""

    def instruction(self, line: Fields, epoch: int) -> str:
        """The line's own instruction, or a paraphrase drawn anew each epoch."""
        own = line.record.get("instruction")
        if own:
            return own
        choices = self.task_row.instructions
        return choices[derive_seed(self.seed, epoch, line.record["audio_id"]) % len(choices)]

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index, epoch=0)

    def sample(self, index: int, epoch: int, heard: bool = False) -> Sample:
        """Item ``index``; everything random in it is a function of ``(seed, epoch, audio_id)``.

        ``heard`` reads the target's recording, be its latent cached or not.
        """
        recording = self.target_line(index) if self.has_targets else None
        return self.sample_of(self.line(index), recording, float(self.index.duration_s[index]), epoch, heard)

    def sample_of(
        self, line: Fields, recording: Fields | None, whole_s: float, epoch: int, heard: bool = False
    ) -> Sample:
        """The item of a pair of lines; ``whole_s`` is the recording's length."""
        audio_id = line.record["audio_id"]
        rng = np.random.default_rng([derive_seed(self.seed, "item", epoch, audio_id)])
        target, latent = Target(), None
        if recording is not None:
            target, latent = self._target(line, recording, whole_s, rng, heard)
        instruction = self.instruction(line, epoch)
        return Sample(
            audio_id=audio_id,
            task=self.task,
            instruction=instruction,
            instruction_embedding=None if self.instructions is None else self.instructions.read(instruction),
            content=self.load_content(line, target, rng),
            waveform=target.waveform if latent is None else None,
            latent=latent,
            num_samples=target.num_samples if latent is not None else None,
            item_name=line.where,
        )

    def _target(
        self, line: Fields, recording: Fields, whole_s: float, rng: np.random.Generator, heard: bool
    ) -> tuple[Target, Tensor | None]:
        """The target, read or from the cache."""
        window = None
        if self.crop_s is not None and whole_s > self.crop_s:
            window = self.draw_window(line, whole_s, self.crop_s, rng)
        latent, num_samples = None, None
        if self.latents is not None and not heard:
            wanted = None if window is None else seconds_to_samples(window.duration_s, self.sample_rate)
            latent, num_samples = self.latents.read(recording.location("audio"), window, wanted)
        waveform = None
        if latent is None or self.needs_waveform:
            waveform = self.read(recording, "audio", window)
            num_samples = waveform.shape[0]
        return Target(num_samples, window, waveform), latent

    def draw_window(self, line: Fields, whole_s: float, crop_s: float, rng: np.random.Generator) -> Window:
        """Where to crop: any whole latent frame, unless the content's units allow only some places."""
        starts = frames_within(whole_s - crop_s, self.latent_rate_hz) + 1
        return Window(int(rng.integers(starts)) * self.frame_s, crop_s)

    def read(self, line: Fields, field: str, window: Window | None = None) -> Tensor:
        """A field's recording, or the part of it in ``window``, float32 ``(S,)``."""
        location = line.location(field)
        try:
            if window is None:
                return torch.from_numpy(read_audio(location, self.sample_rate))
            return torch.from_numpy(read_audio(location, self.sample_rate, window.start_s, window.duration_s))
        except UserError as error:
            raise line.fail(f"field {field!r}: {error}") from error

    def caption(self, line: Fields, target: Target, rng: np.random.Generator) -> TextContent:
        """One of the line's captions, drawn; the first at inference."""
        captions = line.texts("caption")
        first = target.num_samples is None or len(captions) == 1
        text = captions[0 if first else int(rng.integers(len(captions)))]
        return TextContent(text, None if self.captions is None else self.captions.read(text))

    def num_frames(self, target: Target) -> int | None:
        """Latent frames of a target."""
        return None if target.num_samples is None else samples_to_frames(target.num_samples, self.hop_samples)

    def window_samples(self, window: Window) -> int:
        return seconds_to_samples(window.duration_s, self.sample_rate)
