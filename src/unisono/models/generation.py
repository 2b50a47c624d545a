"""How to generate with a trained model: what a user may set, and what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import count

from torch import Tensor

from unisono.errors import UserError
from unisono.objectives import Guidance, Predict

# More is a slip, or a model folder that means to keep a machine busy.
MAX_STEPS, LONGEST_S = 1000, 3600.0
# Attention takes the square of it, and a large model's conditions gigabytes: longer ones go in windows.
LONGEST_AT_ONCE_S = 600.0
LONGEST_UNASKED_S = 300.0  # a wanted length in windows; more is a slip of the unit, as a rule
SHORTEST_WINDOW_S = 0.1


@dataclass(frozen=True)
class GenerationSettings:
    """How to get from noise to a latent.

    Attributes:
        num_steps: steps from noise to data, whatever the solver. Some ask the network more than once in each (see
            ``unisono.objectives.solvers.integrate``), and guidance asks it for two or three predictions in one batch.
        guidance_scale: how far to go beyond the prediction without conditions; 1 is no guidance, and half the work.
        instruction_guidance_scale: a scale of its own for the instruction; ``guidance_scale`` is then that of the
            content. None is one scale for both. Needs a model trained with ``instruction_drop_ratio``.
        guidance_rescale: 0 to 1, how much of the deviation that guidance adds is taken back.
        guidance_min_sigma, guidance_max_sigma: noise levels between which to guide; outside them, half the work.
        solver: one of the objective's ``solvers``; None is its own default.
        sway, shift: of flow matching, see ``sigma_schedule``; None is the objective's own default.
        predict_durations: True predicts the durations of units even where the content brings its own.
        speed: of content with units, phonemes and notes: 2 is twice as fast. A wanted length goes before it.
        max_duration_s: lengths are cut here; units that are longer are squeezed (``Pipeline`` refuses given ones).
        window_s: clips that are longer are made in overlapping windows of so many seconds, best those of the longest
            clips in training. Not those with units. None and 0: never.
        window_overlap: share of a window, up to a half, that it has at least in common with the next.
    """

    num_steps: int = 24
    guidance_scale: float = 2.0
    instruction_guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    guidance_min_sigma: float = 0.0
    guidance_max_sigma: float = 1.0
    solver: str | None = None
    sway: float | None = None
    shift: float | None = None
    predict_durations: bool = False
    speed: float = 1.0
    max_duration_s: float = 30.0
    window_s: float | None = None
    window_overlap: float = 0.25

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise UserError(f"num_steps is {self.num_steps}; at least 1 is needed, and 8 to 32 are common")
        if not 0 < self.max_duration_s < math.inf:
            raise UserError(f"max_duration_s is {self.max_duration_s}; it must be a positive number of seconds")
        if not 0.1 <= self.speed <= 10:
            raise UserError(f"speed is {self.speed}; it must lie between 0.1 and 10 (2: twice as fast)")
        if self.num_steps > MAX_STEPS:
            raise UserError(f"num_steps is {self.num_steps}; at most {MAX_STEPS} are made, and 100 are seldom worth it")
        if self.max_duration_s > LONGEST_S:
            raise UserError(f"max_duration_s is {self.max_duration_s}; at most {LONGEST_S:g} s are made at once")
        if self.window_s and not SHORTEST_WINDOW_S <= self.window_s <= LONGEST_AT_ONCE_S:
            raise UserError(
                f"window_s is {self.window_s}; it must lie between {SHORTEST_WINDOW_S:g} and {LONGEST_AT_ONCE_S:g} s, "
                "or be 0 (no windows)"
            )
        if not 0.01 <= self.window_overlap <= 0.5:
            raise UserError(f"window_overlap is {self.window_overlap}; it must lie between 0.01 and 0.5 of a window")
        _ = self.guidance  # refuses what it cannot do

    @property
    def guidance(self) -> Guidance:
        """The settings of guidance."""
        return Guidance(
            self.guidance_scale,
            self.instruction_guidance_scale,
            self.guidance_rescale,
            self.guidance_min_sigma,
            self.guidance_max_sigma,
        )

    def longest_s(self, can_have_windows: bool) -> float:
        """The longest clip that may be wanted: with windows five minutes, more where ``max_duration_s`` says so."""
        return (
            max(self.max_duration_s, LONGEST_UNASKED_S) if self.window_s and can_have_windows else self.max_duration_s
        )

    def check_length(self, where: str, duration_s: float, can_have_windows: bool = True) -> None:
        """Refuse what would take all memory, or days.

        Args:
            where: the item, for the message.
            duration_s: of the clip.
            can_have_windows: False for content with units.

        Raises:
            UserError: more than an hour, or more than ten minutes where no windows divide it.
        """
        if duration_s > LONGEST_S:
            raise UserError(f"{where}: lasts {duration_s:.1f} s; at most {LONGEST_S:g} s are made: cut it into parts")
        if duration_s > LONGEST_AT_ONCE_S and not (self.window_s and can_have_windows):
            remedy = "set window_s, best to the longest clip of training, or cut it into parts"
            raise UserError(
                f"{where}: lasts {duration_s:.1f} s; at most {LONGEST_AT_ONCE_S:g} s are made at once: "
                + (remedy if can_have_windows else "cut it into parts")
            )


@dataclass(frozen=True)
class GenerationOptions:
    """What somebody asks of ``GenerationSettings``; None leaves a setting to the model's folder, or its default."""

    num_steps: int | None = None
    guidance_scale: float | None = None
    instruction_guidance_scale: float | None = None
    guidance_rescale: float | None = None
    guidance_min_sigma: float | None = None
    guidance_max_sigma: float | None = None
    solver: str | None = None
    sway: float | None = None
    shift: float | None = None
    predict_durations: bool | None = None
    speed: float | None = None
    max_duration_s: float | None = None
    window_s: float | None = None
    window_overlap: float | None = None

    def __post_init__(self) -> None:
        self.over(GenerationSettings())  # refuses what no model can do

    def over(self, settings: GenerationSettings) -> GenerationSettings:
        """``settings``, but for what was asked."""
        return replace(settings, **{name: value for name, value in asdict(self).items() if value is not None})


@dataclass(frozen=True)
class KnownAudio:
    """A recording of which parts are kept, while the rest of the clip is generated.

    Without a wanted length, and where no content tells the clip's frames, the clip is as long as the recording; a
    longer one goes on after it.

    Attributes:
        waveform: float32 ``(S,)`` at the model's sample rate; it begins with the clip.
        spans_s: what is kept, as (start, end) in seconds; None keeps all of the recording.
    """

    waveform: Tensor
    spans_s: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True)
class Generated:
    """Generated waveforms ``(B, S)`` with ``lengths (B,)`` in samples, and their latents ``(B, T, C)``."""

    waveform: Tensor
    lengths: Tensor
    latent: Tensor
    latent_lengths: Tensor


def counted(predict: Predict, evaluations: int, callback: Callable[[int, int], None]) -> Predict:
    """``predict`` that tells how often it has answered, of how many times it will."""
    answers = count(1)

    def predict_and_tell(x: Tensor, sigma: float) -> Tensor:
        prediction = predict(x, sigma)
        callback(next(answers), evaluations)
        return prediction

    return predict_and_tell
