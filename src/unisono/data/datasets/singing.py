"""Singing: from a score, or from phonemes and an F0 contour."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from unisono.data.datasets.base import Target
from unisono.data.datasets.units import UnitDataset, numbers_of, seconds_of
from unisono.data.manifest import LONGEST_S, Fields, is_finite_number, is_seconds
from unisono.errors import UserError
from unisono.media import tolerances
from unisono.media.locations import Location
from unisono.timing import frames_covering, seconds_to_frames
from unisono.types import Content, PitchContent, ScoreContent, Speaker

_SCORE_FIELDS = ("phonemes", "notes", "note_durations_s", "slurs")


class SingingVoiceSynthesisDataset(UnitDataset):
    """Phonemes, notes, note durations and slurs; or a score file with lyrics, which says all of these.

    A crop begins and ends between phonemes; a note that is cut keeps the duration that the score gives it.
    """

    task = "singing_voice_synthesis"

    def check(self, line: Fields, duration_s: float | None) -> None:
        if line.record.get("score") is not None:
            given = [name for name in _SCORE_FIELDS if line.record.get(name) is not None]
            if given:
                raise line.fail(f"has 'score' and {', '.join(map(repr, given))}; the score says these: keep one way")
            self.check_file(line, "score")
            line.text("language", None)
        units = self._units(line)
        self.check_units(line, duration_s, list(units.phonemes))
        self.check_voice(line)

    def _units(self, line: Fields) -> ScoreContent:
        """All units of a line, without durations and speaker."""
        if line.record.get("score") is not None:
            return _from_score(line)
        phonemes = line.symbols("phonemes")
        count = len(phonemes)
        notes = line.per_unit("notes", "MIDI numbers or note names such as 'C4', 'rest' or 0", _is_note, count)
        seconds = line.per_unit("note_durations_s", f"seconds from 0 to {LONGEST_S:g}", is_seconds, count)
        slurs = line.per_unit("slurs", "0 or 1", lambda v: v in (0, 1), count)
        return ScoreContent(
            phonemes=tuple(phonemes),
            notes=torch.tensor([_note(line, note) for note in notes], dtype=torch.float32),
            note_durations_s=torch.tensor(seconds, dtype=torch.float32),
            slurs=torch.tensor(slurs, dtype=torch.bool),
        )

    def load_content(self, line: Fields, target: Target, rng: np.random.Generator) -> tuple[Content, ...]:
        return (self._content(line, self.units_of(target), self.voice(line)),)

    def symbolic_content(self, line: Fields) -> tuple[ScoreContent, ...]:
        return (self._content(line, slice(None), line.record.get("speaker")),)

    def _content(self, line: Fields, units: slice, speaker: Speaker) -> ScoreContent:
        whole = self._units(line)
        return ScoreContent(
            phonemes=whole.phonemes[units],
            notes=whole.notes[units],
            note_durations_s=whole.note_durations_s[units],
            slurs=whole.slurs[units],
            durations_s=seconds_of(line, "durations_s", units),
            speaker=speaker,
            text=line.any_text("text") or whole.text,
        )

    def other_files(self, line: Fields) -> tuple[tuple[str, Location], ...]:
        score = (("score", line.location("score")),) if line.record.get("score") is not None else ()
        return (*score, *super().other_files(line))

    def describe(self, line: Fields) -> str:
        return super().describe(line) or self._units(line).text


def _is_note(value: Any) -> bool:
    return isinstance(value, str) or (is_finite_number(value) and 0 <= value <= 127)


def _note(line: Fields, value: Any) -> float:
    from unisono.scores import note_number

    try:
        return float(note_number(value))
    except UserError as error:
        raise line.fail(f"field 'notes': {error}") from error


def _from_score(line: Fields) -> ScoreContent:
    from unisono.scores import score_file_units
    from unisono.scores.read import MAX_FILE_BYTES

    location = line.location("score")
    try:
        with location.open() as file:
            data = file.read(MAX_FILE_BYTES + 1)  # one more: what is too long is refused, not cut
        units = score_file_units(data, str(location), line.text("language", None) or "en-us")
    except UserError as error:
        raise line.fail(f"field 'score': {location}: {error}") from error
    return ScoreContent(
        phonemes=tuple(units.phonemes),
        notes=torch.tensor(units.notes, dtype=torch.float32),
        note_durations_s=torch.tensor(units.note_durations_s, dtype=torch.float32),
        slurs=torch.tensor(units.slurs, dtype=torch.bool),
        text=units.text,
    )


class SingingAcousticModelingDataset(UnitDataset):
    """Phonemes with durations and the F0 contour they are sung on, brought to the latent rate."""

    task = "singing_acoustic_modeling"

    def check(self, line: Fields, duration_s: float | None) -> None:
        super().check(line, duration_s)
        if line.record.get("durations_s") is None:
            raise line.fail("field 'durations_s' is missing; phonemes and F0 are aligned by it, when generating too")
        self.check_file(line, "f0_hz")
        line.positive("f0_rate_hz", "a positive number of frames per second")
        if line.record.get("voicing") is not None:
            self.check_file(line, "voicing")

    def load_content(self, line: Fields, target: Target, rng: np.random.Generator) -> tuple[Content, ...]:
        from unisono.features.f0 import resample_f0

        units = self.units_of(target)
        durations_s = seconds_of(line, "durations_s", units)
        assert durations_s is not None, "check() asks for durations"
        f0_hz, rate_hz = numbers_of(line, "f0_hz", 1), float(line.record["f0_rate_hz"])
        voicing = numbers_of(line, "voicing", 1) > 0.5 if line.record.get("voicing") is not None else f0_hz > 0
        self._check_contour(line, f0_hz, voicing, rate_hz)
        # The voicing's own word, where it disagrees with the contour, is that there is no pitch.
        f0_hz = np.where(voicing, f0_hz, 0.0).astype(np.float32)
        frames = self.num_frames(target)
        if frames is None:
            frames = int(seconds_to_frames(float(durations_s.sum()), self.latent_rate_hz))
        start_s = 0.0 if target.window is None else target.window.start_s
        # Where it ends before the recording, within the tolerance, its last value holds.
        lacks = frames_covering(start_s + frames / self.latent_rate_hz, rate_hz) - len(f0_hz)
        f0_hz = np.pad(f0_hz, (0, max(lacks, 0)), mode="edge")
        f0_hz = resample_f0(f0_hz, rate_hz, self.latent_rate_hz, frames, start_s)
        return (
            PitchContent(
                phonemes=tuple(line.record["phonemes"][units]),
                durations_s=durations_s,
                f0_hz=torch.from_numpy(f0_hz),
                voicing=torch.from_numpy(f0_hz > 0),
                speaker=self.voice(line),
                text=line.any_text("text"),
            ),
        )

    @staticmethod
    def _check_contour(line: Fields, f0_hz: np.ndarray, voicing: np.ndarray, rate_hz: float) -> None:
        if len(voicing) != len(f0_hz):
            raise line.fail(f"field 'voicing' has {len(voicing)} frames, 'f0_hz' {len(f0_hz)}; make them equally long")
        if float(f0_hz.min()) < 0 or float(f0_hz.max()) > 8000:
            raise line.fail(f"field 'f0_hz': values from {f0_hz.min():g} to {f0_hz.max():g}; F0 is 0 to 8000 Hz")
        seconds, sung_s = len(f0_hz) / rate_hz, sum(line.record["durations_s"])
        if abs(seconds - sung_s) > tolerances.LENGTH_S + 1 / rate_hz:
            raise line.fail(
                f"field 'f0_hz': {len(f0_hz)} frames at {rate_hz:g} Hz are {seconds:.3f} s, the phonemes {sung_s:.3f} "
                "s; correct f0_rate_hz or make the contour again"
            )

    def symbolic_content(self, line: Fields) -> tuple[PitchContent, ...]:
        nothing = torch.zeros(0)
        phonemes, speaker = tuple(line.record["phonemes"]), line.record.get("speaker")
        return (PitchContent(phonemes, nothing, nothing, nothing.bool(), speaker),)

    def other_files(self, line: Fields) -> tuple[tuple[str, Location], ...]:
        named = [name for name in ("f0_hz", "voicing") if line.record.get(name) is not None]
        return (*((name, line.location(name)) for name in named), *super().other_files(line))
