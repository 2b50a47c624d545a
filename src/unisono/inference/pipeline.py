"""The Python API of generation."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from unisono.data.collate import Collator
from unisono.errors import UserError
from unisono.inference.generated import GeneratedAudio, joined
from unisono.inference.model_folder import (
    InputSettings,
    checked_options,
    load_model_folder,
    save_model_folder,
    settings_for,
)
from unisono.inference.planning import Plan, RequestReader
from unisono.inference.requests import requests_of
from unisono.models.compilation import compile_modules
from unisono.models.generation import GenerationOptions, GenerationSettings, KnownAudio
from unisono.models.unified import UnifiedAudioModel
from unisono.objectives.noise import derive_seed
from unisono.tasks import TASKS
from unisono.types import AudioContent, PhonemeContent, PitchContent, Sample, ScoreContent, VideoContent

logger = logging.getLogger(__name__)

_WITH_SPEED = {task.name for task in TASKS.values() if task.modality in ("phoneme", "score")}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str) -> torch.device:
    """A torch device from its name; "auto" is the first GPU, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
    except RuntimeError as error:
        raise UserError(f"device is {name!r}; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device is {name!r}; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device is {name!r}, but there are {torch.cuda.device_count()} GPUs; use auto or cpu")
    return device


class Pipeline:
    """A model ready to generate.

        pipe = Pipeline.from_pretrained("experiments/demo/model")
        audio = pipe("A dog barks twice", task="text_to_audio", duration_s=5, seed=0)
        audio.save("dog.wav")

    Args:
        model: trained model.
        cfg: the model folder's configuration (``model``, ``phonemes``, ``speakers``).
        device: where it runs.
        dtype: what the network computes in, float32 or bfloat16 (autocast); weights stay float32.
    """

    def __init__(
        self,
        model: UnifiedAudioModel,
        cfg: dict[str, Any],
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str = torch.float32,
    ) -> None:
        chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
        if chosen not in DTYPES.values():
            raise UserError(f"dtype is {dtype!r}; use {' or '.join(DTYPES)}")
        self.device, self.dtype = choose_device(str(device)), chosen
        self.model = model.to(self.device).eval()
        self.cfg = cfg
        encoders = dict(model.content_encoders.items())
        self.collate = Collator(
            cfg["phonemes"],
            cfg["speakers"],
            model.autoencoder.sample_rate,
            model.autoencoder.hop_samples,
            text_tokenizer=getattr(encoders.get("text"), "pretrained", None),
            instruction_tokenizer=getattr(model.instruction_encoder, "pretrained", None),
        )
        trained = {entry.get("task") for entry in (cfg.get("training") or {}).get("data", [])}
        self.reader = RequestReader(
            self.sample_rate,
            model.autoencoder.latent_rate_hz,
            cfg["phonemes"],
            tuple(cfg["speakers"]),
            InputSettings(**(cfg.get("inputs") or {})),
            frozenset() if None in trained else frozenset(trained),
            str(self.device),
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        device: str = "auto",
        dtype: torch.dtype | str = torch.float32,
        allow: Sequence[str] = (),
        compile: bool = False,
    ) -> Pipeline:
        """Load a model folder, or a model of the Hugging Face Hub.

        Args:
            name, allow: see ``load_model_folder``.
            device: auto (the first GPU, else the CPU), cpu, cuda, cuda:1 …
            dtype: float32 or bfloat16, see ``Pipeline``.
            compile: the backbone's blocks, by ``torch.compile``: the first sounds take longer, the others less.
        """
        if not isinstance(name, str | os.PathLike):
            raise UserError(f"the model is {type(name).__name__}; give a folder, or an id on the Hugging Face Hub")
        chosen = choose_device(device)
        model, cfg = load_model_folder(name, allow)
        if compile:
            compile_modules(model.backbone.blocks, {"dynamic": True})  # one program for sounds of all lengths
        return cls(model, cfg, chosen, dtype)

    def save_pretrained(self, folder: str | os.PathLike) -> Path:
        """Write a portable model folder, with a card."""
        try:
            return save_model_folder(Path(folder), self.model, self.cfg, {})
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error}); make room, or choose another folder") from error

    def __call__(
        self,
        prompt: Any = None,
        *,
        task: Any = None,
        text: Any = None,
        speaker: Any = None,
        score: Any = None,
        audio: Any = None,
        video: Any = None,
        content: Any = None,
        instruction: Any = None,
        language: Any = None,
        duration_s: Any = None,
        original: Any = None,
        keep_s: Any = None,
        seed: Any = 0,
        batch_size: int = 8,
        callback: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> GeneratedAudio | list[GeneratedAudio]:
        """Generate what is asked for: one sound, or as many as a list among the arguments is long.

        Each argument but the last three is one value for all, or a list with one for each sound; ``Request`` says what
        they are. A sound depends on its own arguments and seed, not on what it is generated with.

        Args:
            batch_size: sounds that a GPU generates together, at most. A CPU makes one at a time: it is about as fast,
                and sums in batches round otherwise, which Griffin-Lim makes audible.
            callback: called with the evaluations of the network that are done, and how many there will be.
            **options: fields of ``GenerationOptions``, such as ``num_steps``, ``guidance_scale``, ``solver``; what is
                not given is the model's own choice for the task.

        Raises:
            UserError: names the request, what is wrong with it and what to do.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size is {batch_size!r}; it must be a whole number from 1")
        if callback is not None and not callable(callback):
            raise UserError(f"callback is {type(callback).__name__}; give a function of two numbers")
        given = {
            **{"prompt": prompt, "task": task, "text": text, "speaker": speaker, "score": score, "audio": audio},
            **{"video": video, "content": content, "instruction": instruction, "language": language},
            **{"duration_s": duration_s, "original": original, "keep_s": keep_s, "seed": seed},
        }
        asked = checked_options(options)
        requests, many = requests_of(given)
        plans = [self.reader.plan(request) for request in requests]
        made = self._generate_plans(plans, asked, batch_size, callback)
        return made if many else made[0]

    def _generate_plans(
        self,
        plans: Sequence[Plan],
        options: GenerationOptions,
        batch_size: int,
        callback: Callable[[int, int], None] | None,
    ) -> list[GeneratedAudio]:
        """One sound for each plan, like ones in a batch."""
        settings = {plan.task: settings_for(self.cfg, plan.task, options) for plan in plans}
        if options.speed is not None and (others := sorted(settings.keys() - _WITH_SPEED)):
            raise UserError(f"speed is for speech and singing, not for {', '.join(others)}; leave it out")
        batches = list(_batches(plans, 1 if self.device.type == "cpu" else batch_size))
        evaluations = [len(self.model.noise_levels(settings[task])) for task, _ in batches]
        made: dict[tuple[int, int], GeneratedAudio] = {}
        for index, (task, pieces) in enumerate(batches):
            before = sum(evaluations[:index])

            def tell(done: int, _: int, before: int = before) -> None:
                if callback is not None:
                    callback(before + done, sum(evaluations))

            try:
                generated = self._generate(
                    [piece.sample for piece in pieces],
                    [piece.seed for piece in pieces],
                    settings[task],
                    [piece.wanted_s(settings[task].speed) for piece in pieces],
                    tell,
                    [piece.known for piece in pieces],
                )
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise UserError(
                    f"{pieces[0].sample.item_name}: the memory of {self.device} does not suffice for {len(pieces)} at "
                    "once; lower batch_size, ask for less, or set window_s"
                ) from error
            made |= {piece.place: audio for piece, audio in zip(pieces, generated, strict=True)}
        sounds = []
        for index, plan in enumerate(plans):
            parts = [made[index, part].waveform for part in range(len(plan.samples))]
            waveform = joined(parts, self.sample_rate)
            sounds.append(
                GeneratedAudio("", waveform, self.sample_rate, plan.task, plan.seeds[0], plan.reason, plan.text)
            )
        return sounds

    @property
    def sample_rate(self) -> int:
        return self.model.autoencoder.sample_rate

    def generate(
        self,
        samples: Sequence[Sample],
        *,
        seed: int = 0,
        settings: GenerationSettings | None = None,
        duration_s: Sequence[float | None] | None = None,
    ) -> list[GeneratedAudio]:
        """Generate a batch; an item's noise depends on ``(seed, audio_id)`` alone, not on its neighbours.

        Args:
            samples: with content, without targets.
            settings: None takes the folder's for the task of the samples, or its general ones where tasks differ.
            duration_s: wanted lengths; None predicts, for one or for all.
        """
        if not samples:
            return []
        tasks = {sample.task for sample in samples}
        settings = settings or settings_for(self.cfg, tasks.pop() if len(tasks) == 1 else None)
        seeds = [derive_seed(seed, sample.audio_id) for sample in samples]
        wanted = [None] * len(samples) if duration_s is None else list(duration_s)
        return self._generate(samples, seeds, settings, wanted)

    def _generate(
        self,
        samples: Sequence[Sample],
        seeds: Sequence[int],
        settings: GenerationSettings,
        durations_s: Sequence[float | None],
        callback: Callable[[int, int], None] | None = None,
        known: Sequence[KnownAudio | None] | None = None,
    ) -> list[GeneratedAudio]:
        if len(durations_s) != len(samples):
            raise UserError(
                f"duration_s has {len(durations_s)} values for {len(samples)} items; give one for each, or None"
            )
        recordings = known or [None] * len(samples)
        for sample, wanted_s, recording in zip(samples, durations_s, recordings, strict=True):
            self._check(sample, wanted_s, settings, recording)
        batch = self.collate(samples).to(self.device)
        bf16 = self.dtype == torch.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext():
            generated = self.model.generate(batch, seeds, settings, durations_s, callback, known)
        waveforms = [generated.waveform[row, : int(generated.lengths[row])].cpu() for row in range(len(samples))]
        for sample, waveform, wanted_s in zip(samples, waveforms, durations_s, strict=True):
            self._warn_of_hurry(sample, len(waveform), wanted_s, settings)
            if not bool(waveform.isfinite().all()):
                raise UserError(
                    f"{sample.item_name or sample.audio_id}: what the model made holds NaN or infinite values; its "
                    "weights do, or guidance_scale is far too large"
                )
        return [
            GeneratedAudio(sample.audio_id, waveform.numpy(), self.sample_rate, sample.task, seed)
            for sample, waveform, seed in zip(samples, waveforms, seeds, strict=True)
        ]

    def _warn_of_hurry(
        self, sample: Sample, num_samples: int, wanted_s: float | None, settings: GenerationSettings
    ) -> None:
        in_units = any(isinstance(one, PhonemeContent | ScoreContent) for one in sample.content)
        at_limit = num_samples > settings.max_duration_s * self.sample_rate - 2 * self.model.autoencoder.hop_samples
        if in_units and at_limit and wanted_s is None:
            logger.warning(
                "%s: reaches max_duration_s (%g s), so it may be hurried; raise it, or give less at once",
                *(sample.item_name or sample.audio_id, settings.max_duration_s),
            )

    def _check(
        self, sample: Sample, wanted_s: float | None, settings: GenerationSettings, known: KnownAudio | None
    ) -> None:
        """Raise where an item has no length, or one that would not be kept."""
        where = sample.item_name or sample.audio_id
        units = [one for one in sample.content if isinstance(one, PhonemeContent | ScoreContent | PitchContent)]
        limit_s = settings.longest_s(can_have_windows=not units)
        if wanted_s is not None and not 0 < wanted_s <= limit_s:
            remedy = "raise max_duration_s" + ("" if units or settings.window_s else ", or set window_s")
            raise UserError(f"{where}: duration_s is {wanted_s:g}; it must lie between 0 and {limit_s:g} s: {remedy}")
        if wanted_s is None and not sample.content and known is None:
            raise UserError(f"{where}: there is no content, so nothing tells a length; give duration_s")
        for content in sample.content:
            if isinstance(content, AudioContent) and content.waveform is not None:
                settings.check_length(where, len(content.waveform) / self.sample_rate)
        for content in units:
            if isinstance(content, PitchContent) or content.durations_s is None:
                continue
            units_s = float(content.durations_s.sum())
            if units_s > limit_s and not settings.predict_durations and wanted_s is None:
                raise UserError(
                    f"{where}: its durations sum to {units_s:.3f} s, and max_duration_s is {limit_s}: it would be "
                    "hurried through; raise max_duration_s, or give duration_s"
                )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Of a GPU, or of the machine, for which torch has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


@dataclass(frozen=True)
class _Piece:
    """A sample of a plan; ``place`` is the plan's number and the sample's in it."""

    place: tuple[int, int]
    sample: Sample
    seed: int
    duration_s: float | None
    known: KnownAudio | None
    written_s: float | None

    def wanted_s(self, speed: float) -> float | None:
        """What was asked for, else what a score says."""
        if self.duration_s is not None or self.written_s is None:
            return self.duration_s
        return self.written_s / speed


def _batches(plans: Sequence[Plan], size: int) -> Iterator[tuple[str, list[_Piece]]]:
    """Pieces of one task and like length together."""
    pieces = [
        _Piece((index, part), sample, plan.seeds[part], plan.durations_s[part], plan.known, plan.written_s)
        for index, plan in enumerate(plans)
        for part, sample in enumerate(plan.samples)
    ]
    pieces.sort(key=lambda piece: (piece.sample.task, _shape(piece), _size(piece)))
    for (task, _), own in groupby(pieces, key=lambda piece: (piece.sample.task, _shape(piece))):
        alike = list(own)
        yield from ((task, alike[begin : begin + size]) for begin in range(0, len(alike), size))


def _shape(piece: _Piece) -> str:
    """What has to be alike in a batch: the size of pictures, of features, of vectors of voices."""
    found = []
    for content in piece.sample.content:
        if isinstance(content, VideoContent):
            pictures = content.frames if content.frames is not None else content.features
            found.append(() if pictures is None else tuple(pictures.shape[1:]))
        elif isinstance(content, PhonemeContent | ScoreContent | PitchContent):
            found.append(tuple(content.speaker.shape) if isinstance(content.speaker, torch.Tensor) else ())
        elif isinstance(content, AudioContent):
            found.append((content.waveform is None,))
    return repr(found)


def _size(piece: _Piece) -> float:
    """What grows with the length of a sound, for sounds of one task."""
    if piece.duration_s is not None:
        return piece.duration_s
    for content in piece.sample.content:
        if isinstance(content, PhonemeContent | ScoreContent | PitchContent):
            return len(content.phonemes)
        if isinstance(content, AudioContent) and content.waveform is not None:
            return len(content.waveform)
        if isinstance(content, VideoContent):
            pictures = content.frames if content.frames is not None else content.features
            return 0 if pictures is None else len(pictures) / content.rate_hz
    return 0
