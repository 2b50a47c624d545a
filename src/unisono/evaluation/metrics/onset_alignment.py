"""Do sounds start when they should: onsets of a clip matched one to one with those of the events.

Not AV-Align, whose published score matches one onset with several peaks of motion and can exceed 1; and nothing is read
from the video: the true times are those of `details["events"]`, or else the onsets of the reference.

Shapes: S samples, T frames, M mel bands, N onsets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import scipy.signal

import unisono
from unisono.evaluation.items import Sample
from unisono.evaluation.metric import Metric, MetricCard, NotApplicable, NoValue
from unisono.evaluation.metrics.events import events_of, time_of
from unisono.features.mel import MelFrontEnd

_WINDOW_S = 512 / 24_000
_HOP_S = 0.005
_N_MELS = 24
_BELOW_PEAK_DB = 50.0
_SILENCE_DB = -200.0
_LOOK_BACK_S = 0.04
_RISE_DB = 8.0
_PROMINENCE_DB = 4.0
_PEAK_GAP_S = 0.05
_MERGE_S = 0.15
_TOLERANCES_S = (0.05, 0.1)
_LEAST_F1_OF_REFERENCE = 0.9


def onset_times_s(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """When something starts to sound in ``(S,)``: seconds, ascending ``(N,)``, merged (`merge`).

    A frame's rise is by how much its mel bands lie above their quietest of the last 40 ms, in dB, mean over the bands;
    levels 50 dB below the clip's loudest are the floor. Peaks of the rise of 8 dB are onsets, and they start where half
    of the rise is first reached. What sounds already when the clip begins has no onset.
    """
    front_end = MelFrontEnd(
        sample_rate,
        n_fft=2 ** round(np.log2(_WINDOW_S * sample_rate)),
        hop_samples=round(_HOP_S * sample_rate),
        n_mels=_N_MELS,
        floor_db=_SILENCE_DB,
    )
    level_db = front_end(waveform)
    level_db = np.maximum(level_db, level_db.max() - _BELOW_PEAK_DB)
    look_back = round(_LOOK_BACK_S * front_end.frame_rate_hz)
    padded = np.concatenate([np.repeat(level_db[:1], look_back, axis=0), level_db])
    quietest = np.lib.stride_tricks.sliding_window_view(padded, look_back + 1, axis=0).min(axis=-1)
    rise_db = (level_db - quietest).mean(axis=1)
    gap = max(1, round(_PEAK_GAP_S * front_end.frame_rate_hz))
    peaks, _ = scipy.signal.find_peaks(
        np.append(rise_db, 0.0), height=_RISE_DB, prominence=_PROMINENCE_DB, distance=gap
    )
    starts = []
    for peak in peaks:
        below_half = np.flatnonzero(rise_db[:peak] < rise_db[peak] / 2)
        starts.append(below_half[-1] + 1 if len(below_half) else 0)
    return merge(np.array(starts, dtype=np.float64) / front_end.frame_rate_hz)


def merge(times_s: Sequence[float] | np.ndarray) -> np.ndarray:
    """Ascending times without those less than 0.15 s after the last one kept: heel and sole make one footstep, and two
    things that strike at once are one onset."""
    kept: list[float] = []
    for time_s in sorted(float(time_s) for time_s in times_s):
        if not kept or time_s - kept[-1] >= _MERGE_S:
            kept.append(time_s)
    return np.array(kept)


def matched_offsets_s(found_s: np.ndarray, true_s: np.ndarray, tolerance_s: float) -> np.ndarray:
    """How late each matched onset is, in seconds: of all matchings one to one within the tolerance, one with the most
    pairs, and among those the one with the smallest sum of absolute offsets."""
    offsets_s = found_s[:, None] - true_s[None, :]
    # A nanosecond, so that times which are a tolerance apart match whatever their rounding.
    allowed = np.abs(offsets_s) <= tolerance_s + 1e-9
    worse_than_any = 1 + tolerance_s * max(1, min(offsets_s.shape))
    pairs = scipy.optimize.linear_sum_assignment(np.where(allowed, np.abs(offsets_s), worse_than_any))
    return offsets_s[pairs][allowed[pairs]]


def onset_f1(found_s: np.ndarray, true_s: np.ndarray, tolerance_s: float) -> float:
    """Harmonic mean of precision and recall; 0 if nothing is found."""
    matched = len(matched_offsets_s(found_s, true_s, tolerance_s))
    return 2 * matched / (len(found_s) + len(true_s))


@dataclass(frozen=True)
class OnsetAlignment(Metric):
    """F1 of onsets at two tolerances, and how far off the matched ones are."""

    sample_rate: int

    tasks = frozenset({"video_to_audio"})

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        f1 = "Harmonic mean of precision and recall of onsets, matched one to one"
        offset = "Mean absolute time between matched onsets, matched one to one"
        return (
            *(
                _card(f"onset_f1_{_ms(t)}ms", f"Onset F1 ({_ms(t)} ms)", "", f1, t, self.sample_rate)
                for t in _TOLERANCES_S
            ),
            _card("onset_offset_ms", "Onset offset", "ms", offset, _TOLERANCES_S[-1], self.sample_rate),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float | NoValue]:
        true_s = self._true_times_s(sample)
        found_s = onset_times_s(sample.waveform, sample.sample_rate)
        values: dict[str, float | NoValue] = {
            f"onset_f1_{_ms(tolerance_s)}ms": onset_f1(found_s, true_s, tolerance_s) for tolerance_s in _TOLERANCES_S
        }
        offsets_s = matched_offsets_s(found_s, true_s, _TOLERANCES_S[-1])
        nothing = NotApplicable(f"no onset within {_ms(_TOLERANCES_S[-1])} ms of a true one")
        values["onset_offset_ms"] = float(np.abs(offsets_s).mean()) * 1000 if len(offsets_s) else nothing
        return values

    def _true_times_s(self, sample: Sample) -> np.ndarray:
        if sample.item.details.get("events") is None:
            true_s = onset_times_s(sample.needed_reference, sample.sample_rate)
            if not len(true_s):
                raise NotApplicable("the reference has no onset")
            return true_s
        true_s = merge([time_of(event, "start_s") for event in events_of(sample.item)])
        if sample.reference is not None:
            f1 = onset_f1(onset_times_s(sample.reference, sample.sample_rate), true_s, _TOLERANCES_S[0])
            if f1 < _LEAST_F1_OF_REFERENCE:
                raise NotApplicable(f"onsets of the reference itself reach an F1 of {f1:.2f} against its events")
        return true_s


def _ms(time_s: float) -> int:
    return round(time_s * 1000)


def _card(name: str, title: str, unit: str, what: str, tolerance_s: float, sample_rate: int) -> MetricCard:
    share = not unit
    parameters: dict[str, Any] = {
        "sample_rate": sample_rate,
        "tolerance_ms": _ms(tolerance_s),
        "matching": "one to one, most pairs, then smallest sum of offsets",
        "true_times": "details['events'] where given, else onsets of the reference",
        "merged_within_s": _MERGE_S,
        "reference_must_reach_f1": f"{_LEAST_F1_OF_REFERENCE} at {_ms(_TOLERANCES_S[0])} ms",
        "window_s": f"{_WINDOW_S:.4f}, to the nearest power of two in samples",
        "hop_s": _HOP_S,
        "n_mels": _N_MELS,
        "floor_below_peak_db": _BELOW_PEAK_DB,
        "look_back_s": _LOOK_BACK_S,
        "min_rise_db": _RISE_DB,
        "min_prominence_db": _PROMINENCE_DB,
        "min_peak_gap_s": _PEAK_GAP_S,
        "onset": "where half of the rise is reached",
    }
    return MetricCard(
        name=name,
        title=title,
        unit=unit,
        direction="higher" if share else "lower",
        value_range="0 to 1 (every onset in its place and no other)" if share else f"0 to {_ms(tolerance_s)} ms",
        definition=f"{what}, within {_ms(tolerance_s)} ms.",
        blind_to="What sounds, and how loud. Events less than 0.15 s apart count as one, and sounds that swell have no "
        "onset. "
        + (
            "Hears the times of the events only: it does not look at the video."
            if share
            else "Only of onsets that are matched at all: read it beside the F1. The detector itself is 3 ms early."
        ),
        source="this project; matching within a window as in the onset task of MIREX",
        implementation="unisono.evaluation.metrics.onset_alignment",
        version=unisono.__version__,
        parameters=parameters,
        decimals=2 if share else 1,
    )
