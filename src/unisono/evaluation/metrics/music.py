"""Is music as fast as its reference and in the key that its caption names: tempo and key told from the waveform.

The truth is `details["tempo_bpm"]` and `details["key"]` ("F# minor"). Each number is given only where the procedure
gets the item's own reference right.

Shapes: S samples, T frames, F frequency bins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage

import unisono
from unisono.evaluation.items import EvaluationItem, Sample
from unisono.evaluation.metric import Metric, MetricCard, MetricFailure, NotApplicable, NoValue
from unisono.features.mel import MelFrontEnd, power_spectrogram

_RISE_WINDOW_S = 1024 / 24_000
_RISE_HOP_S = 0.005
_RISE_OVER_FRAMES = 4
_RISE_MELS = 40
_RISE_BELOW_PEAK_DB = 60.0
_LOCAL_MEAN_FRAMES = 101
_SILENCE_DB = -200.0
_SLOWEST_BPM, _FASTEST_BPM, _TEMPI = 40.0, 240.0, 1200
_USUAL_BPM, _USUAL_SPREAD_OCTAVES = 115.0, 0.8
_BEATS_COMPARED = 4
_SHORTEST_S = 2.0
_TEMPO_TOLERANCE = 0.04
_TEMPO_FACTORS = (1.0, 2.0, 3.0, 1 / 2, 1 / 3)

_CHROMA_WINDOW_S = 8192 / 24_000
_CHROMA_HZ = (55.0, 2000.0)
_CHROMA_POWER = 0.3
_CHROMA_WIDTH_SEMITONES = 0.25
_TONICS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCIDENTALS = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}
KEY_PROFILES = {
    "major": (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081),
    "minor": (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052),
}
"""How much of a piece lies on each semitone above the tonic: Albrecht and Shanahan 2013."""


def rises(waveform: np.ndarray, sample_rate: int) -> tuple[np.ndarray, float]:
    """How much the mel bands of ``(S,)`` rise within 20 ms, mean over the bands, above its mean over half a second,
    ``(T,)``, and frames per second."""
    front_end = MelFrontEnd(
        sample_rate,
        n_fft=2 ** round(np.log2(_RISE_WINDOW_S * sample_rate)),
        hop_samples=round(_RISE_HOP_S * sample_rate),
        n_mels=_RISE_MELS,
        floor_db=_SILENCE_DB,
    )
    # Without the frames that reach beyond either end: silence there would make both ends a rise or a fall.
    edge = math.ceil(front_end.n_fft / 2 / front_end.hop_samples)
    level_db = front_end(waveform)[edge:-edge]
    level_db = np.maximum(level_db, level_db.max() - _RISE_BELOW_PEAK_DB)
    rise_db = np.maximum(level_db[_RISE_OVER_FRAMES:] - level_db[:-_RISE_OVER_FRAMES], 0).mean(axis=1)
    above = rise_db - scipy.ndimage.uniform_filter1d(rise_db, _LOCAL_MEAN_FRAMES)
    return np.maximum(above, 0), front_end.frame_rate_hz


def tempo_bpm(waveform: np.ndarray, sample_rate: int) -> float:
    """Beats per minute of ``(S,)``, between 40 and 240: the tempo at which the autocorrelation of its rises is largest
    after 1, 2, 3 and 4 beats together, weighted towards 115 (a normal curve over octaves, standard deviation 0.8).

    Raises:
        MetricFailure: shorter than 2 s, or nothing rises in it.
    """
    if len(waveform) < _SHORTEST_S * sample_rate:
        raise MetricFailure(f"{len(waveform) / sample_rate:.2f} s are too short for a tempo; needs {_SHORTEST_S:g} s")
    rise, frame_rate_hz = rises(waveform, sample_rate)
    frames = len(rise)
    rise = rise - rise.mean()
    correlation = np.fft.irfft(np.abs(np.fft.rfft(rise, 2 * frames)) ** 2)[:frames]
    if correlation[0] < 1e-9 * frames:
        raise MetricFailure("nothing rises in it, so it has no tempo")
    # By the length of the overlap, and one second more, so that the few products at long lags do not win.
    correlation = correlation / (frames - np.arange(frames) + frame_rate_hz)
    tempi_bpm = np.geomspace(_SLOWEST_BPM, _FASTEST_BPM, _TEMPI)
    beat = 60 / tempi_bpm * frame_rate_hz
    score = np.zeros(_TEMPI)
    for beats in range(1, _BEATS_COMPARED + 1):
        score += np.interp(beats * beat, np.arange(frames), correlation, right=0.0)
    score *= np.exp(-0.5 * (np.log2(tempi_bpm / _USUAL_BPM) / _USUAL_SPREAD_OCTAVES) ** 2)
    return float(tempi_bpm[np.argmax(score)])


def tempo_errors(estimate_bpm: float, true_bpm: float) -> tuple[float, float]:
    """Relative error, and the smallest one to the true tempo, its double, triple, half and third."""
    ratio = estimate_bpm / true_bpm
    return abs(ratio - 1), min(abs(ratio / factor - 1) for factor in _TEMPO_FACTORS)


@dataclass(frozen=True)
class TempoError(Metric):
    """Relative error of the tempo, plain and tolerant of octaves."""

    sample_rate: int

    tasks = frozenset({"text_to_music"})

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        tolerant = "The same, to the nearest of the true tempo, its double, triple, half and third."
        return (
            self._card("tempo_error_percent", "Tempo error", "Relative error of the tempo."),
            self._card("tempo_error_octave_tolerant_percent", "Tempo error (octave-tolerant)", tolerant),
        )

    def _card(self, name: str, title: str, definition: str) -> MetricCard:
        return MetricCard(
            name=name,
            title=title,
            unit="%",
            direction="lower",
            value_range="0 (same tempo) upwards; half the tempo is 50 %, the double 100 %, unless tolerated",
            definition=definition,
            blind_to="Whether the beat is steady, or there at all: any sound has some tempo. The true tempo is that of "
            "the recording; a caption that names a pace leaves it open by some 10 % either way. Not applicable where "
            "the tempo told of the reference itself is off by more than 4 %.",
            source="this project; factors and 4 % as in Gouyon et al. 2006",
            implementation="unisono.evaluation.metrics.music.TempoError",
            version=unisono.__version__,
            parameters={
                "sample_rate": self.sample_rate,
                "window_s": f"{_RISE_WINDOW_S:.4f}, to the nearest power of two in samples",
                "hop_s": _RISE_HOP_S,
                "n_mels": _RISE_MELS,
                "floor_below_peak_db": _RISE_BELOW_PEAK_DB,
                "rise_over_frames": _RISE_OVER_FRAMES,
                "local_mean_frames": _LOCAL_MEAN_FRAMES,
                "tempi_bpm": [_SLOWEST_BPM, _FASTEST_BPM, _TEMPI],
                "prior": f"log-normal, {_USUAL_BPM:g} bpm, {_USUAL_SPREAD_OCTAVES} octaves",
                "beats_compared": _BEATS_COMPARED,
                "reference_within": _TEMPO_TOLERANCE,
            },
            decimals=1,
        )

    def applies_to(self, item: EvaluationItem) -> bool:
        return super().applies_to(item) and item.details.get("tempo_bpm") is not None

    def __call__(self, sample: Sample) -> Mapping[str, float | NoValue]:
        true_bpm = sample.item.details["tempo_bpm"]
        number = isinstance(true_bpm, int | float) and not isinstance(true_bpm, bool)
        if not number or not math.isfinite(true_bpm) or true_bpm <= 0:
            raise MetricFailure(f"tempo_bpm is {true_bpm!r}, not beats per minute")
        try:
            of_reference_bpm = tempo_bpm(sample.needed_reference, sample.sample_rate)
        except MetricFailure as reason:
            raise NotApplicable(f"reference: {reason}") from None
        in_reference = tempo_errors(of_reference_bpm, true_bpm)
        wrong = NotApplicable(f"{of_reference_bpm:.0f} bpm are found in the reference itself, not {true_bpm:g}")
        if min(in_reference) > _TEMPO_TOLERANCE:
            raise wrong
        found = tempo_errors(tempo_bpm(sample.waveform, sample.sample_rate), true_bpm)
        plain, tolerant = (
            100 * here if there <= _TEMPO_TOLERANCE else wrong for here, there in zip(found, in_reference, strict=True)
        )
        return {"tempo_error_percent": plain, "tempo_error_octave_tolerant_percent": tolerant}


def chroma(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """How much of ``(S,)`` lies on each pitch class, C first, ``(12,)``: power between 55 and 2000 Hz to the 0.3, each
    bin by its distance to the nearest note of the class (a normal curve, a quarter of a semitone) and by its share of
    an octave, mean over frames. A' is 440 Hz."""
    n_fft = 2 ** round(np.log2(_CHROMA_WINDOW_S * sample_rate))
    bins_hz = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    used = (bins_hz >= _CHROMA_HZ[0]) & (bins_hz <= _CHROMA_HZ[1])
    midi = 69 + 12 * np.log2(bins_hz[used] / 440)
    distance = (midi[None, :] - np.arange(12)[:, None] + 6) % 12 - 6
    weights = np.exp(-0.5 * (distance / _CHROMA_WIDTH_SEMITONES) ** 2) / bins_hz[used]
    power = power_spectrogram(waveform, n_fft, n_fft // 4)[:, used]
    # Relative to the loudest bin: what lies 120 dB below it is rounding, and counts nothing.
    power = np.maximum(power / max(float(power.max()), 1e-30) - 1e-12, 0)
    return (power**_CHROMA_POWER).mean(axis=0) @ weights.T


def parse_key(name: Any) -> tuple[int, str]:
    """Pitch class of the tonic and the mode of "F# minor"; `MetricFailure` if it is none."""
    found = re.fullmatch(r"([A-G])([#b♯♭]?) (major|minor)", name) if isinstance(name, str) else None
    if found is None:
        raise MetricFailure(f"key is {name!r}, not a key such as 'F# minor'")
    return (_TONICS[found[1]] + _ACCIDENTALS[found[2]]) % 12, found[3]


def names_key(text: str, key: tuple[int, str]) -> bool:
    """Whether a caption names a key, as "E flat major", "E-flat major" or "Eb major"."""
    named = re.findall(r"\b([A-G])(?:[ -]?(flat|sharp)|([#b♯♭]))? (major|minor)\b", text)
    signs = {"flat": "b", "sharp": "#", "": ""}
    return any(parse_key(f"{tonic}{sign or signs[word]} {mode}") == key for tonic, word, sign, mode in named)


def key_correlations(pitch_classes: np.ndarray) -> dict[tuple[int, str], float]:
    """Correlation of a chroma vector ``(12,)`` with the profile of each of the 24 keys."""
    if pitch_classes.std() <= 1e-6 * max(float(pitch_classes.mean()), 1e-30):
        raise MetricFailure("no pitch class is stronger than another, so it has no key")
    return {
        (tonic, mode): float(np.corrcoef(pitch_classes, np.roll(profile, tonic))[0, 1])
        for mode, profile in KEY_PROFILES.items()
        for tonic in range(12)
    }


@dataclass(frozen=True)
class KeyAccuracy(Metric):
    """Whether music is in the key that its caption names, and how clearly."""

    sample_rate: int

    tasks = frozenset({"text_to_music"})

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            self._card("key_accuracy", "Key accuracy", "0 or 1", "Whether it fits the caption's key best of all 24."),
            self._card("key_correlation", "Key correlation", "-1 to 1", "Correlation with the caption's key."),
        )

    def _card(self, name: str, title: str, value_range: str, what: str) -> MetricCard:
        return MetricCard(
            name=name,
            title=title,
            unit="",
            direction="higher",
            value_range=value_range,
            definition="The strength of the 12 pitch classes is correlated with profiles of how much of a piece lies "
            f"on each note of a key. {what}",
            blind_to="Tune, chords, octave and rhythm. Keys with many notes in common correlate as well: a fifth away, "
            "relative major or minor. Not applicable where the caption names no key, or where the reference itself "
            "fits another key better. Music that is out of tune by half a semitone fits none.",
            source="profiles: Albrecht and Shanahan 2013; method: Krumhansl and Schmuckler (Krumhansl 1990)",
            implementation="unisono.evaluation.metrics.music.KeyAccuracy",
            version=unisono.__version__,
            parameters={
                "sample_rate": self.sample_rate,
                "window_s": f"{_CHROMA_WINDOW_S:.4f}, to the nearest power of two in samples; hop 1/4; hann",
                "range_hz": list(_CHROMA_HZ),
                "power_exponent": _CHROMA_POWER,
                "class_width_semitones": _CHROMA_WIDTH_SEMITONES,
                "bin_weight": "1 / frequency",
                "tuning_hz": 440,
            },
        )

    def applies_to(self, item: EvaluationItem) -> bool:
        return super().applies_to(item) and item.details.get("key") is not None

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        key = parse_key(sample.item.details["key"])
        if not names_key(sample.item.content_text, key):
            raise NotApplicable("the caption does not name the key")
        in_reference = key_correlations(chroma(sample.needed_reference, sample.sample_rate))
        if max(in_reference, key=lambda candidate: in_reference[candidate]) != key:
            raise NotApplicable("the reference itself fits another key better")
        found = key_correlations(chroma(sample.waveform, sample.sample_rate))
        best = max(found, key=lambda candidate: found[candidate])
        return {"key_accuracy": float(best == key), "key_correlation": found[key]}
