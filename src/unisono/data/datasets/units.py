"""Content made of units in time: phonemes with durations, and what the fields of a voice have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unisono.data.datasets.base import AudioGenerationDataset, Target, Window
from unisono.data.manifest import Fields
from unisono.errors import UserError
from unisono.media import tolerances
from unisono.media.audio import read_audio
from unisono.media.locations import Location, read_array
from unisono.types import Speaker

if TYPE_CHECKING:
    from unisono.data.feature_cache import CachedVectors
    from unisono.features.speaker import SpeakerEncoder


@dataclass(frozen=True)
class UnitWindow(Window):
    """A part that begins and ends between units: those from ``first`` up to, not including, ``end``."""

    first: int
    end: int


VOICES = ("speaker", "speaker_embedding", "speaker_audio")
_KEPT_VOICES = 4096


class UnitDataset(AudioGenerationDataset):
    """Shared by speech and singing: ``phonemes``, ``durations_s``, a voice, ``text``.

    Args:
        content, audio, **options: see ``AudioGenerationDataset``.
        speaker_encoder: name for ``load_speaker_encoder``: gives the voices of the recordings that lines name as
            ``speaker_audio``. Taken from the feature cache where that is in use; ``unisono speaker`` writes them into
            files once and for all.

    Attributes:
        voices: cached vectors of those recordings; None computes them.
    """

    check_arrays = True
    """Whether speaker embeddings are read where files are checked."""

    def __init__(self, content: Any, audio: Any = None, speaker_encoder: str | None = None, **options: Any) -> None:
        self.speaker_encoder: SpeakerEncoder | None = None
        if speaker_encoder is not None:
            from unisono.features.speaker import shared_speaker_encoder

            self.speaker_encoder = shared_speaker_encoder(speaker_encoder, "cpu")
        self.voices: CachedVectors | None = None
        self._voices: dict[str, Tensor] = {}
        self._sound_embeddings: set[str] = set()
        self._first_embedding: tuple[int, str] | None = None  # size, and the line that names it
        super().__init__(content, audio, **options)
        self._sound_embeddings.clear()  # of use while lines are checked; workers need no copy

    def check(self, line: Fields, duration_s: float | None) -> None:
        self.check_units(line, duration_s, line.symbols("phonemes"))
        self.check_voice(line)

    def check_units(self, line: Fields, duration_s: float | None, phonemes: list[str]) -> None:
        durations = line.durations("durations_s") if duration_s is not None else line.durations("durations_s", None)
        if durations is None:
            return
        if len(durations) != len(phonemes):
            raise line.fail(
                f"field 'durations_s' has {len(durations)} values for {len(phonemes)} phonemes; "
                "there must be one per phoneme"
            )
        if duration_s is not None and abs(sum(durations) - duration_s) > tolerances.LENGTH_S:
            raise line.fail(
                f"field 'durations_s' sums to {sum(durations):.3f} s, but the recording lasts {duration_s:.3f} s; "
                f"they must agree within {tolerances.LENGTH_S} s (silence is a unit too)"
            )
        left_out = duration_s is not None and self.max_duration_s is not None and duration_s > self.max_duration_s
        if duration_s is not None and self.crop_s is not None and duration_s > self.crop_s and not left_out:
            self._crops(line, self.crop_s)

    def check_options(self) -> list[Any]:
        crops = [] if self.crop_s is None else [self.crop_s, self.max_duration_s, self.frame_s]
        return [*super().check_options(), *crops]

    def check_voice(self, line: Fields) -> None:
        line.any_text("text")
        line.text("speaker", None)
        given = [name for name in VOICES if line.record.get(name) is not None]
        if len(given) > 1:
            raise line.fail(f"has both {given[0]!r} and {given[1]!r}; keep one of them")
        for name in given:
            if name != "speaker":
                self.check_file(line, name)
        if "speaker_embedding" in given and self.check_files and self.check_arrays:
            self._check_embedding(line)

    def _check_embedding(self, line: Fields) -> None:
        """Raise for a vector that is none, or not of the size of the first: a model takes one size."""
        path = str(line.location("speaker_embedding"))
        if path in self._sound_embeddings:  # those of a speaker, named by many lines
            return
        size = numbers_of(line, "speaker_embedding", 1).size
        first, where = self._first_embedding = self._first_embedding or (size, line.where)
        if size != first:
            raise line.fail(
                f"field 'speaker_embedding': {path} has {size} values, that of {where} has {first}; make all with one "
                "encoder (unisono speaker)"
            )
        if len(self._sound_embeddings) >= _KEPT_VOICES:
            self._sound_embeddings.clear()
        self._sound_embeddings.add(path)

    def other_files(self, line: Fields) -> tuple[tuple[str, Location], ...]:
        return tuple((name, line.location(name)) for name in VOICES[1:] if line.record.get(name) is not None)

    def voice(self, line: Fields) -> Speaker:
        """The speaker's name, or an embedding ``(D,)`` from its file or of a reference recording."""
        if line.record.get("speaker_embedding") is not None:
            return torch.from_numpy(numbers_of(line, "speaker_embedding", 1))
        if line.record.get("speaker_audio") is None:
            return line.record.get("speaker")
        return self._reference_voice(line)

    def _reference_voice(self, line: Fields) -> Tensor:
        if self.voices is not None:
            return self.voices.read(line.location("speaker_audio"))
        if self.speaker_encoder is None:
            raise line.fail(
                "field 'speaker_audio' needs the data set's speaker_encoder, such as statistics, or vectors made "
                "beforehand (unisono speaker)"
            )
        location = line.location("speaker_audio")
        if (known := self._voices.get(str(location))) is not None:
            return known
        try:
            vector = self.speaker_encoder(read_audio(location, self.speaker_encoder.sample_rate))
        except UserError as error:
            raise line.fail(f"field 'speaker_audio': {error}") from error
        if len(self._voices) >= _KEPT_VOICES:
            self._voices.clear()
        return self._voices.setdefault(str(location), torch.from_numpy(vector))

    def draw_window(self, line: Fields, whole_s: float, crop_s: float, rng: np.random.Generator) -> UnitWindow:
        """Whole units, as many as fit, from a unit drawn among those that leave no later one unseen."""
        edges_s, starts, ends = self._crops(line, crop_s)
        first = int(starts[rng.integers(len(starts))])
        end = int(ends[first])
        return UnitWindow(float(edges_s[first]), float(edges_s[end] - edges_s[first]), first, end)

    def _crops(self, line: Fields, crop_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges of the units in seconds ``(U + 1,)``; units that crops may begin with; crops' ends from each, ``(U,)``.

        A crop lasts at least a latent frame: units without length alone are no sound.

        Raises:
            UserError: nothing that fits lasts so long.
        """
        edges_s = np.concatenate([[0.0], np.cumsum(np.asarray(line.record["durations_s"], dtype=np.float64))])
        ends = np.searchsorted(edges_s, edges_s[:-1] + crop_s + 1e-9, side="right") - 1
        reaches_end = ends == len(edges_s) - 1
        last = int(np.argmax(reaches_end)) if reaches_end.any() else len(ends) - 1
        starts = np.flatnonzero(edges_s[ends[: last + 1]] - edges_s[: last + 1] >= self.frame_s - 1e-6)
        if not len(starts):
            raise line.fail(
                f"no unit is as short as crop_s ({crop_s} s) and lasts at least a latent frame ({self.frame_s:g} s), "
                "nor do several together; raise crop_s"
            )
        return edges_s, starts, ends

    def units_of(self, target: Target) -> slice:
        """Which of an item's units it shows."""
        window = target.window
        return slice(window.first, window.end) if isinstance(window, UnitWindow) else slice(None)

    def describe(self, line: Fields) -> str:
        return line.record.get("text") or " ".join(line.record.get("phonemes") or ())


def seconds_of(line: Fields, name: str, units: slice) -> Tensor | None:
    """A list of seconds as float32, or None where the line has none."""
    values = line.record.get(name)
    return None if values is None else torch.tensor(values[units], dtype=torch.float32)


def numbers_of(line: Fields, field: str, dims: int) -> np.ndarray:
    """A field's array as float32 with ``dims`` dimensions, not empty, finite in that type."""
    location = line.location(field)
    try:
        values = read_array(location)
    except Exception as error:
        raise line.fail(f"field {field!r}: {error}") from error
    if values.ndim != dims or values.size == 0 or values.dtype.kind not in "iufb":
        raise line.fail(
            f"field {field!r}: {location} has shape {values.shape} and type {values.dtype}; it must have {dims} "
            "dimensions, numbers, and not be empty"
        )
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise line.fail(
            f"field {field!r}: {location} holds NaN or infinite values, or such as float32 cannot hold; make it again"
        )
    return numbers
