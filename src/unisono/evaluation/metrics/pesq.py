"""PESQ: predicted opinion of listeners on a telephone line, wide band and narrow band (pesq, the ITU's C code)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unisono.evaluation.alignment import ALIGNMENT, LENGTHS
from unisono.evaluation.items import Sample
from unisono.evaluation.metric import Metric, MetricCard, MetricFailure, library_version
from unisono.evaluation.metrics.audible import audible_pair, check_band

Band = Literal["wb", "nb"]

SAMPLE_RATES_HZ: Mapping[Band, int] = {"wb": 16_000, "nb": 8_000}

# The C code keeps 50 utterances and 1000 disturbed stretches in arrays whose ends it does not watch: beyond them it
# writes over its own memory, which gives a wrong number or ends the process. Its voice activity detector works on
# frames of 4 ms and joins what is 50 frames or less apart, so that 20 s cannot hold 50 utterances and 60 s not 1000
# stretches (6 hops of 16 ms each).
_LONGEST_S = 60.0
_ALWAYS_SAFE_S = 20.0
_SAFE_UTTERANCES = 40
_FRAMES_PER_S = 250
_SHORTEST_SEGMENT, _LONGEST_JOINED_GAP, _SHORTEST_UTTERANCE = 5, 50, 40


def most_utterances(waveform: np.ndarray, sample_rate: int) -> int:
    """How many utterances a voice activity detector may find in ``(S,)``, whatever its threshold.

    The detector of PESQ chooses its threshold within 40 dB below the loudest frame of 4 ms; the most over all
    thresholds stands for it. Its filters move levels somewhat, so leave a margin.
    """
    size = sample_rate // _FRAMES_PER_S
    power = np.square(waveform[: len(waveform) // size * size].astype(np.float64)).reshape(-1, size).mean(axis=1)
    most = 0
    for threshold in power.max() * np.geomspace(1e-4, 1, 41)[:-1]:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], power > threshold, [False]]).astype(np.int8)))
        long = edges[1::2] - edges[::2] >= _SHORTEST_SEGMENT
        starts, ends = edges[::2][long], edges[1::2][long]
        if not len(starts):
            continue
        apart = starts[1:] - ends[:-1] > _LONGEST_JOINED_GAP
        lengths = ends[np.append(apart, True)] - starts[np.append(True, apart)]
        most = max(most, int((lengths >= _SHORTEST_UTTERANCE).sum()))
    return most


def pesq_value(sample: Sample, band: Band) -> float:
    """MOS-LQO of a sample at any rate; computed once however many metrics ask.

    Raises:
        NotApplicable: there is no reference, or the sample's rate does not hold the band.
        MetricFailure: as `audible_pair`; shorter than 0.25 s, longer than 60 s, without an utterance, or with more
            utterances than the library can hold.
    """
    return sample.once(("pesq", band), lambda: _compute(sample, band))


def _compute(sample: Sample, band: Band) -> float:
    from pesq import BufferTooShortError, NoUtterancesError, PesqError, pesq

    sample_rate = SAMPLE_RATES_HZ[band]
    check_band(sample, sample_rate, "wide-band PESQ" if band == "wb" else "narrow-band PESQ")
    waveform, reference = audible_pair(sample, sample_rate)
    length_s = len(reference) / sample_rate
    if length_s > _LONGEST_S:
        raise MetricFailure(f"{length_s:.0f} s of audio; the library computes up to {_LONGEST_S:.0f} s reliably")
    if length_s > _ALWAYS_SAFE_S and (count := most_utterances(reference, sample_rate)) > _SAFE_UTTERANCES:
        raise MetricFailure(
            f"the reference may hold {count} utterances; the library computes up to {_SAFE_UTTERANCES} reliably"
        )
    try:
        return float(pesq(sample_rate, reference, waveform, band))
    except BufferTooShortError:
        raise MetricFailure(f"{length_s:.2f} s is too short; PESQ needs 0.25 s") from None
    except NoUtterancesError:
        raise MetricFailure("PESQ finds no utterance in the reference") from None
    except (PesqError, ValueError) as error:
        raise MetricFailure(f"pesq failed: {_in_words(error)}") from None


def _in_words(error: Exception) -> str:
    """The library raises with bytes."""
    message = error.args[0] if error.args else type(error).__name__
    return message.decode(errors="replace") if isinstance(message, bytes) else str(message)


@dataclass(frozen=True)
class Pesq(Metric):
    """Perceptual evaluation of speech quality, MOS-LQO."""

    band: Band

    tasks = frozenset({"speech_enhancement"})
    libraries = ("pesq",)

    @property
    def name(self) -> str:
        return f"pesq_{self.band}"

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        wide = self.band == "wb"
        return (
            MetricCard(
                name=self.name,
                title="PESQ wide band" if wide else "PESQ narrow band",
                unit="",
                direction="higher",
                value_range="about 1.02 to 4.64 (an exact copy)" if wide else "about 1.02 to 4.55 (an exact copy)",
                definition="Opinion score (MOS-LQO) predicted from how differently loud the clip and the reference are "
                "over time and frequency"
                + (
                    "."
                    if wide
                    else ". At 8 kHz, the telephone band it was made for: `nb` of 16 kHz audio weighs other "
                    "bands and gives another number (1.25 for 1.32 on one noisy clip)."
                ),
                blind_to=f"Everything above {SAMPLE_RATES_HZ[self.band] // 2000} kHz, overall level, and constant or "
                "slowly moving delay, which it aligns away. Made for telephone codecs: generated speech with small "
                "shifts of timing or pitch is judged harsher than it sounds. Fails without 0.25 s of audio or any "
                "utterance; clips beyond 60 s fail, where the library would write past its buffers.",
                source="ITU-T P.862.2 (2007)" if wide else "ITU-T P.862 (2001), mapped after P.862.1 (2003)",
                implementation="pesq.pesq",
                version=library_version("pesq"),
                parameters={
                    "mode": self.band,
                    "sample_rate": SAMPLE_RATES_HZ[self.band],
                    "resampler": "soxr HQ",
                    "score": "MOS-LQO, not the raw score",
                    "longest_s": _LONGEST_S,
                    "alignment": f"{ALIGNMENT}; PESQ then aligns utterances itself",
                    "lengths": LENGTHS,
                },
            ),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        return {self.name: pesq_value(sample, self.band)}
