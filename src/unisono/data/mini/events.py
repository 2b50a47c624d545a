"""The kinds of sound events: how each is synthesised, how long it lasts, which attributes it can have.

Everything is made by signal synthesis, so a caption can be exactly true. An attribute a kind cannot show plainly
(the pitch of rain, the speed of a single ring) is not offered for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unisono.data.mini import events_animals as animals
from unisono.data.mini import events_impacts as impacts
from unisono.data.mini import events_sustained as sustained
from unisono.data.mini import events_tones as tones
from unisono.data.mini.synthesis import Synthesiser, Take, fade, peak_normalised

PITCH_FACTORS = {"low": (0.50, 0.60), "middle": (0.90, 1.12), "high": (1.65, 1.95)}
"""Range of the factor on a kind's own frequencies. An unmarked pitch is a middle one."""

RATE_FACTORS = {"slow": (0.48, 0.58), "medium": (0.92, 1.10), "fast": (1.75, 2.05)}
"""Range of the factor on a kind's own repetition rate. An unmarked speed is a medium one."""


@dataclass(frozen=True)
class Kind:
    """One kind of event.

    Attributes:
        name: identifier, as in ``EventTruth.kind``.
        synthesise: plays one event.
        duration_s: range of one discrete event; ``None`` for a sustained kind, which lasts as long as its scene wants.
        interval_s: from onset to onset at medium speed; 0 for a sustained kind.
        has_pitch: can be low or high.
        has_speed: can be slow or fast.
        may_accompany: sustained and steady enough to be a background.
    """

    name: str
    synthesise: Synthesiser
    duration_s: tuple[float, float] | None
    interval_s: float = 0.0
    has_pitch: bool = False
    has_speed: bool = False
    may_accompany: bool = False

    @property
    def is_sustained(self) -> bool:
        return self.duration_s is None

    def render(self, rng: np.random.Generator, take: Take) -> np.ndarray:
        """One event ``(S,)`` with a peak of 1, silent at both ends."""
        return peak_normalised(fade(self.synthesise(rng, take), in_s=0.0005 if not self.is_sustained else 0.03))


def _impact(
    name: str,
    synthesise: Synthesiser,
    duration_s: tuple[float, float],
    interval_s: float,
    pitch: bool,
    speed: bool = True,
) -> Kind:
    return Kind(name, synthesise, duration_s, interval_s, has_pitch=pitch, has_speed=speed)


def _texture(
    name: str, synthesise: Synthesiser, pitch: bool = False, speed: bool = False, accompany: bool = True
) -> Kind:
    return Kind(name, synthesise, None, has_pitch=pitch, has_speed=speed, may_accompany=accompany)


_ROWS = (
    _impact("knock", impacts.knock, (0.18, 0.24), 0.34, pitch=True),
    _impact("footstep", impacts.footstep, (0.26, 0.32), 0.52, pitch=False),
    _impact("clap", impacts.clap, (0.16, 0.22), 0.36, pitch=False),
    _impact("clink", impacts.clink, (0.45, 0.60), 0.45, pitch=True),
    _impact("bell", impacts.bell, (0.90, 1.20), 0.64, pitch=True),
    _impact("drum", impacts.drum, (0.40, 0.50), 0.38, pitch=True),
    _impact("tick", impacts.tick, (0.06, 0.08), 0.40, pitch=False),
    _impact("drip", impacts.drip, (0.15, 0.20), 0.40, pitch=True),
    _impact("cymbal", impacts.cymbal, (0.90, 1.20), 0.80, pitch=False, speed=False),
    _impact("pluck", impacts.pluck, (0.70, 0.90), 0.46, pitch=True),
    _impact("zap", impacts.zap, (0.20, 0.27), 0.60, pitch=True),
    _impact("rising_whistle", tones.rising_whistle, (0.50, 0.75), 0.95, pitch=True, speed=False),
    _impact("falling_whistle", tones.falling_whistle, (0.50, 0.75), 0.95, pitch=True, speed=False),
    _impact("beep", tones.beep, (0.11, 0.15), 0.34, pitch=True),
    _impact("horn", tones.horn, (0.30, 0.45), 0.65, pitch=True, speed=False),
    _impact("phone", tones.phone, (0.70, 0.85), 1.15, pitch=True, speed=False),
    _impact("bark", animals.bark, (0.17, 0.22), 0.48, pitch=True),
    _impact("chirp", animals.chirp, (0.12, 0.17), 0.36, pitch=True),
    _impact("frog", animals.frog, (0.24, 0.30), 0.66, pitch=True),
    _impact("owl", animals.owl, (0.38, 0.50), 0.75, pitch=True, speed=False),
    _impact("meow", animals.meow, (0.55, 0.75), 1.00, pitch=True, speed=False),
    _impact("creak", sustained.creak, (0.65, 0.95), 1.20, pitch=True, speed=False),
    _texture("siren", tones.siren, pitch=True, speed=True),
    _texture("crickets", animals.crickets, speed=True),
    _texture("bee", animals.bee, pitch=True),
    _texture("rain", sustained.rain),
    _texture("wind", sustained.wind),
    _texture("thunder", sustained.thunder, accompany=False),
    _texture("steam", sustained.steam),
    _texture("fire", sustained.fire),
    _texture("bubbles", sustained.bubbles),
    _texture("engine", sustained.engine, pitch=True),
    _texture("helicopter", sustained.helicopter),
    _texture("saw", sustained.saw, speed=True),
    _texture("typing", sustained.typing, speed=True),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ROWS}
