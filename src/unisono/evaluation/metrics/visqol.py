"""ViSQOL: how similar the spectrogram of the clip is to that of the reference, as an opinion score (visqol-python)."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from unisono.evaluation.alignment import ALIGNMENT, LENGTHS
from unisono.evaluation.items import Sample
from unisono.evaluation.metric import Metric, MetricCard, MetricFailure, library_version
from unisono.evaluation.metrics.audible import audible_pair, check_band

LEVEL_DB = -23.0
"""RMS re full scale that the reference gets. ViSQOL cuts spectrograms off at an absolute level: of a recording 30 dB
quieter it sees nothing and calls it perfect (4.67 for 3.13)."""

Mode = Literal["speech", "audio"]


@dataclass(frozen=True)
class _ModeFacts:
    """What differs between the modes: the rate, the shortest clip that holds one patch, the model of opinions."""

    sample_rate: int
    bands: int
    patch_frames: int
    shortest_s: float
    model: str


_MODES: Mapping[Mode, _ModeFacts] = {
    "speech": _ModeFacts(
        sample_rate=16_000,
        bands=21,
        patch_frames=20,
        shortest_s=0.64,
        model="lattice_tcditugenmeetpackhref_ls2_nl60_lr12_bs2048_learn.005_ep2400_train1_7_raw.tflite",
    ),
    "audio": _ModeFacts(
        sample_rate=48_000, bands=32, patch_frames=30, shortest_s=0.96, model="libsvm_nu_svr_model.txt"
    ),
}


def _model(mode: Mode) -> Path | None:
    """The model of opinions inside visqol-python, which is not imported for it; None if it is not installed."""
    found = importlib.util.find_spec("visqol")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "model" / _MODES[mode].model


@lru_cache
def _fingerprint(mode: Mode) -> str:
    model = _model(mode)
    return "not installed" if model is None else hashlib.sha256(model.read_bytes()).hexdigest()[:16]


@lru_cache
def _listener(mode: Mode) -> Any:
    """ViSQOL set up once in a process, with the model named: without one it falls back to a polynomial that gives
    other numbers (2.26 for 1.04)."""
    from visqol import VisqolApi

    listener = VisqolApi()
    if mode == "speech":
        listener.create(mode="speech", use_lattice_model=True, lattice_model_path=str(_model("speech")))
    else:
        listener.create(mode="audio", model_path=str(_model("audio")))
    return listener


@contextmanager
def _one_thread() -> Iterator[None]:
    """Workers share the machine; the number of threads does not move the score."""
    try:
        import numba
    except ImportError:
        yield
        return
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(threads)


class _Visqol(Metric):
    """ViSQOL in one of its modes."""

    mode: ClassVar[Mode]
    title: ClassVar[str]
    copy_score: ClassVar[str]
    made_for: ClassVar[str]
    mapping: ClassVar[str]

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        facts = _MODES[self.mode]
        return (
            MetricCard(
                name=f"visqol_{self.mode}",
                title=self.title,
                unit="",
                direction="higher",
                value_range=f"1 to 5; {self.copy_score} for an exact copy",
                definition=f"Opinion score predicted from the similarity (NSIM) of gammatone spectrograms in "
                f"{facts.bands} bands, patch by patch, each at its best place in time; {self.mapping}.",
                blind_to=f"Level, and delays, which it aligns away. {self.made_for} Below about 1.6 it "
                "does not order clips: the worse one may score higher. Clips up to "
                f"{facts.shortest_s} s hold no patch and fail.",
                source="Chinen, Lim, Skoglund, Gureev, O'Gorman and Hines 2020 (ViSQOL v3)",
                implementation="visqol.VisqolApi",
                version=library_version("visqol-python"),
                parameters={
                    "mode": self.mode,
                    "sample_rate": facts.sample_rate,
                    "resampler": "soxr HQ",
                    "bands": facts.bands,
                    "patch_frames": facts.patch_frames,
                    "search_window_patches": 60,
                    "level": f"both by the gain that brings the reference to {LEVEL_DB:.0f} dB RMS re full scale",
                    "model": facts.model,
                    "sha256": _fingerprint(self.mode),
                    "alignment": f"{ALIGNMENT}; ViSQOL then aligns by itself",
                    "lengths": LENGTHS,
                },
            ),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        facts = _MODES[self.mode]
        if self.mode == "speech":
            check_band(sample, facts.sample_rate, self.title)
        waveform, reference = audible_pair(sample, facts.sample_rate)
        length_s = len(reference) / facts.sample_rate
        if length_s <= facts.shortest_s:
            raise MetricFailure(f"{length_s:.2f} s is too short; ViSQOL needs more than {facts.shortest_s} s")
        gain = 10 ** (LEVEL_DB / 20) / np.sqrt(np.mean(np.square(reference, dtype=np.float64)))
        with _one_thread():
            try:
                result = _listener(self.mode).measure_from_arrays(gain * reference, gain * waveform, facts.sample_rate)
            except ValueError as error:
                raise MetricFailure(f"ViSQOL cannot compare the two: {error}") from None
        return {f"visqol_{self.mode}": float(result.moslqo)}


@dataclass(frozen=True)
class VisqolSpeech(_Visqol):
    """ViSQOL for speech at 16 kHz, mapped by its lattice network."""

    tasks = frozenset({"speech_enhancement"})
    libraries = ("visqol", "ai_edge_litert")
    mode = "speech"
    title = "ViSQOL speech"
    copy_score = "about 4.5"
    made_for = "Made for coded speech; hears nothing above 8 kHz."
    mapping = "mapped to opinions by a lattice network"


@dataclass(frozen=True)
class VisqolAudio(_Visqol):
    """ViSQOL for any sound at 48 kHz, mapped by its support vector regression."""

    tasks = frozenset({"audio_super_resolution"})
    libraries = ("visqol", "libsvm")
    mode = "audio"
    title = "ViSQOL audio"
    copy_score = "4.73"
    made_for = (
        "Made for coded music; hears nothing above 15 kHz. Of recordings compared at less than 32 kHz the upper "
        "bands are empty in both, which counts as alike."
    )
    mapping = "mapped to opinions by support vector regression"
