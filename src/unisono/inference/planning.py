"""From requests to what the model is given: the task is settled, files are read, text and scores become units."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unisono.errors import UserError
from unisono.files import exists
from unisono.inference import input_files
from unisono.inference.model_folder import InputSettings
from unisono.inference.request_checks import (
    ARGUMENTS,
    check_arguments,
    check_texts,
    checked_duration,
    checked_seed,
    names_of_inputs,
)
from unisono.inference.requests import Request
from unisono.inference.routing import route
from unisono.models.generation import KnownAudio
from unisono.objectives.noise import derive_seed
from unisono.suggest import nearest
from unisono.tasks import TASKS, Task, get_task
from unisono.text.sentences import split_sentences
from unisono.types import (
    AudioContent,
    Content,
    PhonemeContent,
    Sample,
    ScoreContent,
    Speaker,
    TextContent,
    VideoContent,
)

if TYPE_CHECKING:
    from unisono.scores import Score

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is generated for a request.

    Attributes:
        task: its name.
        reason: why this task, where nobody named it.
        samples: one, or several whose sounds follow each other.
        seeds, durations_s: one for each sample.
        known: what is kept of a recording; there is one sample then.
        written_s: length of the score, whose tempo is kept where no other length is wanted.
    """

    task: str
    reason: str
    samples: tuple[Sample, ...]
    seeds: tuple[int, ...]
    durations_s: tuple[float | None, ...]
    known: KnownAudio | None = None
    written_s: float | None = None

    @property
    def text(self) -> str:
        """What is captioned, spoken or sung."""
        texts = (getattr(content, "text", "") for sample in self.samples for content in sample.content)
        return " ".join(text for text in texts if text)


class RequestReader:
    """Turns requests into samples of one model.

    Args:
        sample_rate: of the model, Hz.
        latent_rate_hz: of its latent.
        phonemes: its vocabulary.
        speakers: voices it knows by name.
        inputs: how files are read for it.
        device: of encoders of voices and pictures.
        trained_tasks: those it was trained on, where that is known; another one is generated with a warning.
    """

    def __init__(
        self,
        sample_rate: int,
        latent_rate_hz: float,
        phonemes: Sequence[str],
        speakers: tuple[str, ...],
        inputs: InputSettings,
        trained_tasks: frozenset[str],
        device: str = "cpu",
    ) -> None:
        self.sample_rate, self.latent_rate_hz = sample_rate, latent_rate_hz
        self.phonemes, self.speakers = frozenset(phonemes), speakers
        self.inputs, self.trained_tasks, self.device = inputs, trained_tasks, device

    def plan(self, request: Request) -> Plan:
        """Raise a ``UserError`` that names the request and what is wrong with it, or say what is to be generated."""
        try:
            return self._plan(request)
        except UserError as error:
            message = str(error)
            raise UserError(message if message.startswith(request.name) else f"{request.name}: {message}") from error

    def _plan(self, request: Request) -> Plan:
        request, task, reason = self._settled(request)
        if self.trained_tasks and task.name not in self.trained_tasks:
            logger.warning(
                "this model was not trained for %s (but for %s); expect nothing sensible",
                *(task.name, ", ".join(sorted(self.trained_tasks))),
            )
        duration_s = checked_duration(request.duration_s)
        seed = checked_seed(request.seed)
        instruction = task.instructions[0] if request.instruction is None else request.instruction
        sample = Sample(request.name, task.name, instruction, (), item_name=request.name)
        written_s = None
        contents: list[tuple[Content, ...]]
        if request.content is not None:
            contents = [request.content]
        elif task.modality == "score":
            sung, written_s = self._sung(request)
            contents = [(sung,)]
        elif task.modality == "phoneme":
            contents = [(utterance,) for utterance in self._utterances(request)]
        else:
            contents = [self._contents(request, task)]
        lengths = _shares(contents, duration_s, self.latent_rate_hz)
        seeds = [seed] + [derive_seed(seed, f"part {part}") for part in range(1, len(contents))]
        samples = tuple(replace(sample, content=content) for content in contents)
        known = self._known(request)
        if known is not None and len(samples) > 1:
            raise UserError(f"text has {len(samples)} sentences, and parts of a recording are kept; give one sentence")
        return Plan(task.name, reason, samples, tuple(seeds), lengths, known, written_s)

    # -- which task -------------------------------------------------------------------------------------------------

    def _settled(self, request: Request) -> tuple[Request, Task, str]:
        """The request with its prompt where it belongs, its task, and why that."""
        reason = ""
        check_texts(request)
        if request.task is not None:
            task = get_task(request.task)
        elif request.prompt is None and request.instruction is not None:
            return self._settled(replace(request, prompt=request.instruction, instruction=None))
        elif request.prompt is None:
            raise UserError(f"there is neither a task nor an instruction; name one of {', '.join(TASKS)}")
        else:
            given = names_of_inputs(request)
            found = route(request.prompt, given)
            task, reason = get_task(found.task), found.reason
            request = replace(request, prompt=found.content)
        carrier, beside, prompt_is = ARGUMENTS.get(task.modality, ("content", (), "instruction"))
        if request.prompt is not None:
            if (other := getattr(request, prompt_is)) is not None:
                raise UserError(
                    f"{task.name} got {request.prompt[:60]!r} and {prompt_is}={str(other)[:60]!r}, which are one; "
                    "give one of them"
                )
            moved: dict[str, Any] = {"prompt": None, prompt_is: request.prompt}
            request = replace(request, **moved)
        check_arguments(request, task, carrier, beside)
        return request, task, reason

    # -- contents ---------------------------------------------------------------------------------------------------

    def _contents(self, request: Request, task: Task) -> tuple[Content, ...]:
        if task.modality == "audio":
            waveform = input_files.waveform(request.audio, self.sample_rate)
            return (AudioContent(torch.from_numpy(waveform)),)
        caption = () if request.text is None else (TextContent(request.text),)
        if task.modality == "video":
            return (self._video(request), *caption)
        lines = [line for line in (request.text or "").splitlines() if line.strip()]
        if len(lines) > 1:
            raise UserError(
                f"the caption has {len(lines)} lines; give one. For a sound of each: a list in Python, and - with one "
                "caption a line on the command line"
            )
        return caption

    def _known(self, request: Request) -> KnownAudio | None:
        if request.original is None:
            if request.keep_s is not None:
                raise UserError("keep_s says what is kept, but not of what; give the recording as original")
            return None
        waveform = input_files.waveform(request.original, self.sample_rate, "original")
        end_s = len(waveform) / self.sample_rate
        spans = None
        if request.keep_s is not None:
            try:
                spans = tuple((float(begin), end_s if end is None else float(end)) for begin, end in request.keep_s)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"keep_s is {request.keep_s!r}; give pairs of seconds, ((0, 1.5), (3, None))"
                ) from error
        return KnownAudio(torch.from_numpy(waveform), spans)

    def _video(self, request: Request) -> VideoContent:
        from unisono.media.video import read_video_frames, video_info

        settings = self.inputs
        if isinstance(request.video, tuple):
            return _pictures(request.video)
        path = input_files.existing(request.video, "video")
        input_files.refuse_long(video_info(path).duration_s, f"video {path}")
        if settings.video_encoder is not None:
            from unisono.features.video import shared_video_encoder, video_features

            encoder = shared_video_encoder(settings.video_encoder, self.device)
            features = torch.from_numpy(video_features(path, encoder, settings.video_rate_hz))
            return VideoContent(settings.video_rate_hz, features=features)
        pictures = read_video_frames(path, settings.video_rate_hz, settings.video_size)
        return VideoContent(settings.video_rate_hz, frames=torch.from_numpy(pictures))

    def _utterances(self, request: Request) -> list[PhonemeContent]:
        """One for each sentence."""
        from unisono.text.phonemize import phonemizer

        assert request.text is not None
        speaker = self._speaker(request.speaker)
        sentences = split_sentences(request.text)
        if not sentences:
            raise UserError(f"text is {request.text[:60]!r}, which has no word to speak")
        language = self._language(request, speaker)
        said = phonemizer(language)
        spoken = []
        for one in said.transcribe_many(sentences):
            if isinstance(one, UserError):
                raise one
            self._check_sounds(one.phonemes, language)
            spoken.append(one)
        guessed = sorted({word for sentence in spoken for word in sentence.fallback_words})
        if guessed:
            logger.info("words that the dictionary lacks, pronounced by rule: %s", ", ".join(guessed[:20]))
        return [
            PhonemeContent(one.phonemes, speaker=speaker, text=sentence)
            for one, sentence in zip(spoken, sentences, strict=True)
        ]

    def _sung(self, request: Request) -> tuple[ScoreContent, float]:
        """And the seconds that the score lasts."""
        from unisono.scores import score_units, with_lyrics
        from unisono.text.phonemize import phonemizer

        score: Score = input_files.score(request.score)
        if request.text is not None:
            score = with_lyrics(score, request.text)
        speaker = self._speaker(request.speaker)
        language = self._language(request, speaker)
        units = score_units(score, phonemizer(language))
        self._check_sounds(units.phonemes, language)
        for remark in (*score.remarks, *units.remarks):
            logger.info("%s: %s", score.name, remark)
        sung = ScoreContent(
            phonemes=tuple(units.phonemes),
            notes=torch.tensor(units.notes, dtype=torch.float32),
            note_durations_s=torch.tensor(units.note_durations_s, dtype=torch.float32),
            slurs=torch.tensor(units.slurs, dtype=torch.bool),
            speaker=speaker,
            text=units.text,
        )
        return sung, score.duration_s

    def _language(self, request: Request, speaker: Speaker) -> str:
        """Of the text; one that the model never heard is told."""
        language = request.language or self.inputs.language(speaker)
        known = sorted({*self.inputs.languages.values()})
        if known and language not in known:
            logger.warning(
                "this model was not trained for %s (but for %s); expect an accent", language, ", ".join(known)
            )
        return language

    def _check_sounds(self, phonemes: Sequence[str], language: str) -> None:
        unknown = sorted({*phonemes} - self.phonemes)
        if unknown:
            raise UserError(
                f"the text, read as {language}, has sounds that the model does not know: {' '.join(unknown)}; give a "
                "text it can say, or its own language"
            )

    def _speaker(self, given: Any) -> Speaker:
        """A voice as the model takes it; where none is asked for, the first that it knows by name."""
        if given is None:
            if not self.speakers:
                return None
            logger.info("speaker: %s, the first of the model's %d", self.speakers[0], len(self.speakers))
            return self.speakers[0]
        if isinstance(given, str) and given in self.speakers:
            return given
        if isinstance(given, np.ndarray | torch.Tensor):
            return torch.as_tensor(given, dtype=torch.float32)
        if (isinstance(given, str) and not exists(input_files.expanded(given))) or given == "":
            near = nearest(given, self.speakers, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            known = ", ".join(self.speakers[:20]) or "none by name"
            raise UserError(f"speaker {given!r} is neither a voice of the model ({known}) nor a file{hint}")
        if self.inputs.speaker_encoder is None:
            known = ", ".join(self.speakers[:20]) or "it has none"
            raise UserError(
                f"speaker is the recording {str(given)[:80]}, but the model was not trained with one known encoder of "
                "voices; "
                f"give a name ({known}), or a vector"
            )
        from unisono.features.speaker import shared_speaker_encoder

        encoder = shared_speaker_encoder(self.inputs.speaker_encoder, self.device)
        return torch.from_numpy(encoder(input_files.waveform(given, encoder.sample_rate)))


def _pictures(given: tuple) -> VideoContent:
    """``(pictures, rate_hz)``; ``check_sample`` looks at the pictures."""
    try:
        pictures, rate = given
        rate_hz = float(rate)
    except (TypeError, ValueError) as error:
        raise UserError("video is no path and no pair; give (pictures uint8 (T, H, W, 3), rate_hz)") from error
    if not 0 < rate_hz < math.inf:
        raise UserError(f"video has {rate_hz} pictures a second; that must be a positive number")
    frames = torch.as_tensor(np.ascontiguousarray(pictures))
    input_files.refuse_long(len(frames) / rate_hz if frames.dim() else 0.0, "video")
    return VideoContent(rate_hz, frames=frames)


def _shares(
    contents: list[tuple[Content, ...]], duration_s: float | None, latent_rate_hz: float
) -> tuple[float | None, ...]:
    """The wanted length of each part: sentences get theirs by their number of phonemes."""
    if duration_s is None or len(contents) == 1:
        return (duration_s,) * len(contents)
    counts = [len(one.phonemes) for (one,) in contents if isinstance(one, PhonemeContent)]
    ends = [round(duration_s * latent_rate_hz * end / sum(counts)) for end in accumulate(counts)]
    return tuple(max(1, end - begin) / latent_rate_hz for begin, end in pairwise([0, *ends]))
