"""Degradations of clean speech, drawn anew for every item and epoch: the input of speech enhancement."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unisono.data.degrade.filters import LOW_PASS_FILTERS, MIN_CUTOFF_HZ, low_pass
from unisono.data.degrade.mixing import active_power, mix_at_snr
from unisono.data.degrade.noise import NOISE_KINDS, NOISE_RMS, make_noise
from unisono.data.degrade.recordings import Recordings
from unisono.data.degrade.rooms import RoomBank, reverberate
from unisono.data.degrade.settings import (
    PEAK_LIMIT,
    Degraded,
    checked_names,
    checked_probability,
    checked_range,
    checked_waveform,
    log_uniform,
    stage_generators,
)
from unisono.errors import UserError

Degradation = Callable[[np.random.Generator, np.ndarray, int], Degraded]
CLIPPING = ("hard", "soft")
KINDS_WITHOUT_SPEECH = tuple(kind for kind in NOISE_KINDS if kind != "babble")
_PAUSE_RMS = 10 ** (-70 / 20)
_TALKERS = 5
_TALKER_S = 4.0
_BAND_ORDER = 8


class SpeechDegradation:
    """Room, noise, band limit, gain and clipping, in this order, each drawn or left away.

    The speech keeps its place in time: the direct sound of a room has no delay, filters have none. The signal-to-noise
    ratio is that of the speech as heard in the room (:func:`mix_at_snr`). Where the speech is a pause (active level
    below -70 dB of full scale) there is no ratio: the noise then gets the level it has beside speech of -20 dB. Last,
    a result with a peak above 0.99 is turned down to it; ``description["gain_db"]`` says by how much in all.

    Args:
        snr_db: lowest and highest ratio, dB.
        noises: kinds of :data:`NOISE_KINDS` to synthesise.
        recordings: folders, manifests or files of recorded noise; see :class:`Recordings`.
        recordings_share: how often noise is recorded rather than synthesised, where both are given.
        talkers: the same for speech that ``babble`` is made of.
        noise_prob: how often there is noise.
        reverb_prob: how often there is a room.
        rt60_s: lowest and highest reverberation time, within 0.15 to 1 s.
        rooms: how many rooms are simulated, once per process (:class:`RoomBank`); 0 simulates a new one each time,
            which takes up to a second for each.
        room_seed: chooses the rooms.
        band_prob: how often the band is limited, as by a telephone.
        band_hz: lowest and highest cutoff; an octave is as likely as the next.
        gain_db: lowest and highest change of level.
        clip_prob: how often peaks are clipped.
        clip_db: how far below the peak, dB.
        clipping: ``hard`` cuts peaks off, ``soft`` bends them (tanh).

    Raises:
        UserError: a setting out of range, an unknown kind, recordings that are not there.
    """

    def __init__(
        self,
        snr_db: Sequence[float] = (-5.0, 20.0),
        noises: Sequence[str] = KINDS_WITHOUT_SPEECH,
        recordings: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
        recordings_share: float = 0.8,
        talkers: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
        noise_prob: float = 1.0,
        reverb_prob: float = 0.5,
        rt60_s: Sequence[float] = (0.2, 0.8),
        rooms: int = 64,
        room_seed: int = 0,
        band_prob: float = 0.0,
        band_hz: Sequence[float] = (3000.0, 8000.0),
        gain_db: Sequence[float] = (0.0, 0.0),
        clip_prob: float = 0.0,
        clip_db: Sequence[float] = (3.0, 15.0),
        clipping: Sequence[str] = CLIPPING,
    ) -> None:
        self.snr_db = checked_range("snr_db", snr_db, -60, 100)
        self.noises = checked_names("noises", noises, NOISE_KINDS)
        self.recordings = None if recordings is None else Recordings(recordings)
        self.recordings_share = checked_probability("recordings_share", recordings_share)
        self.talkers = None if talkers is None else Recordings(talkers)
        self.noise_prob = checked_probability("noise_prob", noise_prob)
        if self.noise_prob and not self.noises and self.recordings is None:
            raise UserError(
                "noises is empty and there are no recordings; name kinds or recordings, or set noise_prob 0"
            )
        if "babble" in self.noises and self.talkers is None:
            raise UserError("babble is made of speech; name folders or manifests of speech as talkers")
        self.reverb_prob = checked_probability("reverb_prob", reverb_prob)
        self.bank = RoomBank(rooms, rt60_s, room_seed) if rooms else None
        self.rt60_s = checked_range("rt60_s", rt60_s, 0.15, 1.0)
        self.band_prob = checked_probability("band_prob", band_prob)
        self.band_hz = checked_range("band_hz", band_hz, MIN_CUTOFF_HZ, 1e6)
        self.gain_db = checked_range("gain_db", gain_db, -60, 60)
        self.clip_prob = checked_probability("clip_prob", clip_prob)
        self.clip_db = checked_range("clip_db", clip_db, 0, 60)
        self.clipping = checked_names("clipping", clipping, CLIPPING)
        if self.clip_prob and not self.clipping:
            raise UserError(f"clipping is empty; choose from {', '.join(CLIPPING)}, or set clip_prob 0")

    def __call__(self, rng: np.random.Generator, speech: np.ndarray, sample_rate: int) -> Degraded:
        """Degrade ``speech`` ``(S,)``; what is drawn depends on ``rng`` alone.

        Raises:
            UserError: the speech is empty, not mono, or holds NaN; recorded noise cannot be read.
        """
        waveform = checked_waveform("SpeechDegradation", speech)
        description: dict[str, Any] = {}
        stages = (self._room, self._noise, self._band, self._level)
        for stage, stage_rng in zip(stages, stage_generators(rng, len(stages)), strict=True):
            waveform = stage(stage_rng, waveform, sample_rate, description)
        return Degraded(waveform, description)

    def warm_up(self, sample_rate: int) -> None:
        """Simulate the rooms now, so that forked loader workers share them."""
        if self.bank is not None and self.reverb_prob:
            self.bank.warm_up(sample_rate)

    def _room(
        self, rng: np.random.Generator, waveform: np.ndarray, sample_rate: int, description: dict[str, Any]
    ) -> np.ndarray:
        if rng.random() >= self.reverb_prob:
            return waveform
        if self.bank is not None:
            waveform, room = self.bank.reverberate(rng, waveform, sample_rate)
            description["rt60_s"] = round(room.rt60_s, 4)
            return waveform
        description["rt60_s"] = rt60_s = round(float(rng.uniform(*self.rt60_s)), 4)
        return reverberate(rng, waveform, sample_rate, rt60_s)

    def _noise(
        self, rng: np.random.Generator, waveform: np.ndarray, sample_rate: int, description: dict[str, Any]
    ) -> np.ndarray:
        if rng.random() >= self.noise_prob:
            return waveform
        snr_db = round(float(rng.uniform(*self.snr_db)), 3)
        recorded = self.recordings is not None and (not self.noises or rng.random() < self.recordings_share)
        if recorded:
            assert self.recordings is not None
            noise, source = self.recordings.stretch(rng, len(waveform), sample_rate)
            description["noise"] = source
        else:
            kind = str(rng.choice(self.noises))
            noise = make_noise(rng, kind, len(waveform), sample_rate, speech=self._talkers(rng, kind, sample_rate))
            description["noise"] = kind
        description["snr_db"] = snr_db
        if np.sqrt(active_power(waveform)) >= _PAUSE_RMS:
            return mix_at_snr(waveform, noise, snr_db)
        description["pause"] = True
        rms = np.sqrt(np.mean(noise.astype(np.float64) ** 2))
        return (waveform + noise * (NOISE_RMS / rms * 10 ** (-snr_db / 20))).astype(np.float32)

    def _talkers(self, rng: np.random.Generator, kind: str, sample_rate: int) -> list[np.ndarray]:
        if kind != "babble":
            return []
        assert self.talkers is not None
        samples = round(_TALKER_S * sample_rate)
        return [self.talkers.stretch(rng, samples, sample_rate)[0] for _ in range(_TALKERS)]

    def _band(
        self, rng: np.random.Generator, waveform: np.ndarray, sample_rate: int, description: dict[str, Any]
    ) -> np.ndarray:
        if rng.random() >= self.band_prob:
            return waveform
        cutoff_hz = round(log_uniform(rng, *self.band_hz), 1)
        kind = str(rng.choice(LOW_PASS_FILTERS))
        if cutoff_hz >= sample_rate / 2:
            return waveform  # wider than the recording itself
        description["band_hz"], description["filter"] = cutoff_hz, kind
        return low_pass(waveform, sample_rate, cutoff_hz, kind, _BAND_ORDER)

    def _level(
        self, rng: np.random.Generator, waveform: np.ndarray, sample_rate: int, description: dict[str, Any]
    ) -> np.ndarray:
        gain = 10 ** (float(rng.uniform(*self.gain_db)) / 20)
        if rng.random() < self.clip_prob:
            below_db = round(float(rng.uniform(*self.clip_db)), 3)
            kind = str(rng.choice(self.clipping))
            waveform = clip(waveform, below_db, kind)
            description["clipping"], description["clip_db"] = kind, below_db
        peak = gain * float(np.abs(waveform).max())
        if peak > PEAK_LIMIT:
            gain *= PEAK_LIMIT / peak
        description["gain_db"] = round(20 * float(np.log10(gain)), 3)
        return (waveform * np.float32(gain)).astype(np.float32, copy=False)


def clip(waveform: np.ndarray, below_peak_db: float, kind: str = "hard") -> np.ndarray:
    """``waveform`` limited to ``below_peak_db`` under its own peak, float32; the level is not made up for.

    ``hard`` cuts off what is above, ``soft`` bends the whole range by tanh, unchanged for small samples.

    Raises:
        UserError: unknown kind.
    """
    checked_names("clip", [kind], CLIPPING)
    limit = np.float32(np.abs(waveform).max() * 10 ** (-below_peak_db / 20))
    if limit == 0:
        return waveform.astype(np.float32, copy=False)
    return np.clip(waveform, -limit, limit) if kind == "hard" else limit * np.tanh(waveform / limit)


class DegradationChain:
    """Degradations one after the other; their descriptions are joined, later ones winning where a name is shared.

    Args:
        steps: callables of ``(rng, waveform, sample_rate)``, at least one.
    """

    def __init__(self, steps: Sequence[Degradation]) -> None:
        if not steps:
            raise UserError("DegradationChain: steps is empty; name at least one degradation")
        self.steps = list(steps)

    def __call__(self, rng: np.random.Generator, waveform: np.ndarray, sample_rate: int) -> Degraded:
        description: dict[str, Any] = {}
        for step, step_rng in zip(self.steps, stage_generators(rng, len(self.steps)), strict=True):
            waveform, what = step(step_rng, waveform, sample_rate)
            description |= what
        return Degraded(waveform, description)
