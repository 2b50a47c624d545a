"""The aligner that was learned: phonemes and a recording become durations, or a reason why they do not fit."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unisono.errors import UserError
from unisono.files import replaced_file, write_json
from unisono.text.align import AlignmentFailure
from unisono.text.aligner.expectation import Utterance
from unisono.text.aligner.features import FRAME_S, cepstra
from unisono.text.aligner.mixtures import Mixtures, log_sum
from unisono.text.aligner.search import best_paths
from unisono.text.aligner.units import STATES, Units, lattice_of, states_of
from unisono.text.phonemes import SILENCE

FORMAT_VERSION = 1
_MAX_CELLS = 60_000_000  # frames times states, 0.5 GB
_SETTINGS, _ARRAYS = "aligner.json", "aligner.safetensors"
_STRETCH_FRAMES = 60  # 0.3 s, a word


@dataclass(frozen=True)
class UnitAlignment:
    """When each phoneme is spoken.

    Attributes:
        phonemes: as given, without the silences that were not made, with those at the ends that were.
        durations_s: seconds of each; they sum to ``duration_s``.
        sources: the index of each phoneme in what was given; -1 for a silence that was added.
        duration_s: length of the recording.
        score_per_frame: mean over the speech of how much less likely (natural logarithm) the phoneme at its place makes
            a frame than all phonemes together do. 0 at best; comparable over recordings of one aligner.
        worst_stretch: the same, of all that is heard, over the worst 0.3 s.
    """

    phonemes: tuple[str, ...]
    durations_s: tuple[float, ...]
    sources: tuple[int, ...]
    duration_s: float
    score_per_frame: float
    worst_stretch: float


@dataclass(frozen=True)
class AlignerLimits:
    """What an alignment must satisfy to be believed. Scores are compared with the median of the training recordings.

    With the defaults, trained on two thirds of 531 prompts of one voice (and of 300 sentences of six eSpeak NG voices),
    of the last third 2 % (3 %) were refused with the right phonemes; 99 % (100 %) with those of another recording, 95 %
    (100 %) with a quarter missing at the beginning, middle or end, 79 % (100 %) with six in the middle replaced, and
    50 % (99 %) with a quarter added at the end.

    Attributes:
        score_factor: ``score_per_frame`` may be so many times the median.
        stretch_factor: ``worst_stretch`` likewise.
        max_squeezed: largest share of phonemes of the least length, 15 ms. Phonemes that are not said are squeezed in.
    """

    score_factor: float = 4.0
    stretch_factor: float = 4.0
    max_squeezed: float = 0.25

    def __post_init__(self) -> None:
        for name in ("score_factor", "stretch_factor"):
            if not getattr(self, name) > 1:
                raise UserError(f"{name} is {getattr(self, name)}; give a number above 1")


class CorpusAligner:
    """Aligns recordings of the language, and best of the corpus, that it was trained on (``train_aligner``).

    Args:
        mixtures: the acoustic model.
        inventory: number of each symbol.
        medians: of ``score_per_frame`` and ``worst_stretch`` over the recordings it was trained on.
        training: how it was trained.
        limits: what an alignment must satisfy.
    """

    def __init__(
        self,
        mixtures: Mixtures,
        inventory: Mapping[str, int],
        medians: tuple[float, float],
        training: Mapping[str, Any],
        limits: AlignerLimits | None = None,
    ) -> None:
        self.mixtures, self.inventory, self.medians = mixtures, dict(inventory), medians
        self.training, self.limits = dict(training), limits or AlignerLimits()

    @property
    def fingerprint(self) -> str:
        """Changes when the same recording could be aligned otherwise, limits apart."""
        digest = hashlib.sha256(json.dumps([sorted(self.inventory.items()), self.medians]).encode())
        for array in (self.mixtures.means, self.mixtures.variances, self.mixtures.log_weights):
            digest.update(array.tobytes())
        return digest.hexdigest()[:32]

    def align(
        self, phonemes: Sequence[str], waveform: np.ndarray, sample_rate: int
    ) -> UnitAlignment | AlignmentFailure:
        """Find when each phoneme is spoken.

        Args:
            phonemes: symbols of the inventory; ``_`` where there may be a pause, several in a row are one. There may
                always be silence at the ends.
            waveform: mono ``(S,)`` in [-1, 1].
            sample_rate: Hz; anything but 16 kHz is resampled.

        Returns:
            ``UnitAlignment`` on a grid of 5 ms, or ``AlignmentFailure`` of the kind ``unknown_phonemes``,
            ``no_phonemes``, ``too_short``, ``too_long``, ``low_score``, ``bad_stretch`` or ``squeezed``.

        Raises:
            UserError: the waveform is empty, has several channels or NaN.
        """
        units = Units.of(phonemes)
        if unknown := [symbol for symbol in dict.fromkeys(units.symbols) if symbol not in self.inventory]:
            return AlignmentFailure("unknown_phonemes", f"{', '.join(unknown)}: not in what the aligner was trained on")
        if units.spoken == 0:
            return AlignmentFailure("no_phonemes", "nothing but silence is to be aligned")
        duration_s = len(waveform) / sample_rate
        frames = round(duration_s / FRAME_S)
        if frames * STATES * len(units.symbols) > _MAX_CELLS:
            return AlignmentFailure("too_long", f"{duration_s:.1f} s with {units.spoken} phonemes; cut it at pauses")
        features = cepstra(waveform, sample_rate)
        if len(features) < units.min_frames:
            return AlignmentFailure("too_short", f"{duration_s:.2f} s cannot hold {units.spoken} phonemes")
        return self._judge(self._place(Utterance(units, features), duration_s))

    def _place(self, utterance: Utterance, duration_s: float) -> UnitAlignment:
        """The best path, not judged yet."""
        units, features = utterance.units, utterance.features
        of_states = log_sum(self.mixtures.log_likelihood(features, np.arange(len(self.inventory) * STATES)))
        of_path = of_states[:, states_of(units, self.inventory)]
        path = best_paths(of_path[None], lattice_of([units], [len(features)]))[0][0]
        assert path[0] >= 0, "enough frames, and no path"
        unit_of_frame = path // STATES
        frames = np.bincount(unit_of_frame, minlength=len(units.symbols))
        ends_s = np.minimum(np.cumsum(frames) * FRAME_S, duration_s)
        ends_s[-1] = duration_s
        durations_s = np.diff(ends_s, prepend=0.0)
        kept = np.flatnonzero(frames)
        margin = of_path[np.arange(len(features)), path] - log_sum(of_states)
        spoken = np.array([symbol != SILENCE for symbol in units.symbols])[unit_of_frame]
        return UnitAlignment(
            phonemes=tuple(units.symbols[i] for i in kept),
            durations_s=tuple(round(float(durations_s[i]), 6) for i in kept),
            sources=tuple(units.sources[i] for i in kept),
            duration_s=duration_s,
            score_per_frame=float(margin[spoken].mean()),
            worst_stretch=_worst_mean(margin, _STRETCH_FRAMES),
        )

    def _judge(self, found: UnitAlignment) -> UnitAlignment | AlignmentFailure:
        score_limit, stretch_limit = (
            self.medians[0] * self.limits.score_factor,
            self.medians[1] * self.limits.stretch_factor,
        )
        spoken_s = [s for symbol, s in zip(found.phonemes, found.durations_s, strict=True) if symbol != SILENCE]
        squeezed = float(np.mean(np.array(spoken_s) < (STATES + 0.5) * FRAME_S))
        if found.score_per_frame < score_limit:
            detail = f"the phonemes fit badly (score {found.score_per_frame:.1f} per frame, limit {score_limit:.1f})"
            return AlignmentFailure("low_score", f"{detail}; is this what is said?")
        if found.worst_stretch < stretch_limit:
            detail = f"0.3 s fit badly (score {found.worst_stretch:.1f} per frame, limit {stretch_limit:.1f})"
            return AlignmentFailure("bad_stretch", f"{detail}; is something missing or different?")
        if squeezed > self.limits.max_squeezed:
            return AlignmentFailure("squeezed", f"{squeezed:.0%} of the phonemes have the least length of 15 ms")
        return found

    # -- making, saving, loading --------------------------------------------------------------------------------------

    @classmethod
    def calibrated(
        cls,
        mixtures: Mixtures,
        inventory: Mapping[str, int],
        utterances: Sequence[Utterance],
        training: Mapping[str, Any],
        run: Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]],
    ) -> CorpusAligner:
        """With the scores of the recordings that ``mixtures`` were trained on; ``run`` is a ``map``."""
        aligner = cls(mixtures, inventory, (0.0, 0.0), training)
        scores = np.array(list(run(aligner.scores, utterances)))
        # Never nothing: a limit of a multiple of zero would refuse everything.
        score, stretch = np.minimum(np.median(scores, axis=0), -0.1)
        return cls(mixtures, inventory, (float(score), float(stretch)), training)

    def scores(self, utterance: Utterance) -> tuple[float, float]:
        """``score_per_frame`` and ``worst_stretch`` of an utterance."""
        found = self._place(utterance, len(utterance.features) * FRAME_S)
        return found.score_per_frame, found.worst_stretch

    @staticmethod
    def is_in(folder: str | os.PathLike) -> bool:
        return (Path(folder) / _SETTINGS).is_file()

    def save(self, folder: str | os.PathLike) -> Path:
        """Write ``aligner.safetensors``, then ``aligner.json``, which vouches for it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: getattr(self.mixtures, name) for name in ("means", "variances", "log_weights")}
        write_arrays(folder / _ARRAYS, arrays, {})
        settings = {
            "format_version": FORMAT_VERSION,
            "sha256": _digest(folder / _ARRAYS),
            "symbols": sorted(self.inventory, key=self.inventory.__getitem__),
            "median_score_per_frame": self.medians[0],
            "median_worst_stretch": self.medians[1],
            "limits": asdict(self.limits),
            "training": self.training,
        }
        write_json(folder / _SETTINGS, settings)
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike, limits: AlignerLimits | None = None) -> CorpusAligner:
        """Read an aligner; ``limits`` replace those it was saved with.

        Raises:
            UserError: none there, damaged, or of another version.
        """
        from safetensors.numpy import load_file

        folder = Path(folder)
        if not cls.is_in(folder):
            raise UserError(f"{folder} holds no aligner (no {_SETTINGS}); train one with: unisono align")
        try:
            settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
            if settings["format_version"] != FORMAT_VERSION:
                raise UserError(
                    f"{folder}: an aligner of format {settings['format_version']}, not {FORMAT_VERSION}; train it again"
                )
            if settings["sha256"] != _digest(folder / _ARRAYS):
                raise UserError(f"{folder}: {_ARRAYS} is not the file that {_SETTINGS} belongs to; train it again")
            inventory = {symbol: number for number, symbol in enumerate(settings["symbols"])}
            medians = (float(settings["median_score_per_frame"]), float(settings["median_worst_stretch"]))
            limits = limits or AlignerLimits(**settings["limits"])
            return cls(Mixtures(**load_file(folder / _ARRAYS)), inventory, medians, settings["training"], limits)
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: damaged aligner ({error!r}); remove the folder and train it again") from error


def _worst_mean(values: np.ndarray, window: int) -> float:
    """The lowest mean over ``window`` neighbouring values."""
    window = min(window, len(values))
    sums = np.cumsum(np.concatenate([[0.0], values]))
    return float((sums[window:] - sums[:-window]).min() / window)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> None:
    """Write safetensors whole or not at all."""
    from safetensors.numpy import save

    with replaced_file(path) as temporary:
        temporary.write_bytes(save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, dict(notes) or None))
