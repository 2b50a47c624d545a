"""DNSMOS: opinion scores that networks predict from the clip alone (speechmos, weights in the package)."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unisono.evaluation.items import Sample
from unisono.evaluation.metric import Metric, MetricCard, MetricFailure, library_version
from unisono.evaluation.metrics.audible import check_audible, check_band

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 9.01
SHORTEST_S = 0.5

_P835, _P808 = "sig_bak_ovr.onnx", "model_v8.onnx"
_KEYS = {
    "dnsmos_sig": "sig_mos",
    "dnsmos_bak": "bak_mos",
    "dnsmos_ovrl": "ovrl_mos",
    "dnsmos_p808": "p808_mos",
}


def _weights() -> Path | None:
    """Folder of the networks inside speechmos, which is not imported for it; None if it is not installed."""
    found = importlib.util.find_spec("speechmos")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "dnsmos_models"


@lru_cache
def _fingerprint(network: str) -> str:
    folder = _weights()
    if folder is None or not (folder / network).is_file():
        return "not installed"
    return hashlib.sha256((folder / network).read_bytes()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _listener() -> Any:
    """speechmos with one session of one thread for the whole process; its own takes a thread for every core."""
    import onnxruntime
    from speechmos.dnsmos import DNSMOS

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    folder = _weights()
    assert folder is not None
    listener = DNSMOS.__new__(DNSMOS)
    listener.primary_model_path = str(folder / _P835)
    for attribute, network in (("onnx_sess", _P835), ("p808_onnx_sess", _P808)):
        session = onnxruntime.InferenceSession(
            str(folder / network), sess_options=options, providers=["CPUExecutionProvider"]
        )
        setattr(listener, attribute, session)
    return listener


@dataclass(frozen=True)
class Dnsmos(Metric):
    """DNSMOS P.835 (speech, background, overall) and P.808 of a clip; needs no reference."""

    tasks = frozenset({"speech_enhancement", "text_to_speech"})
    libraries = ("speechmos", "onnxruntime", "librosa", "requests")

    @property
    def cards(self) -> tuple[MetricCard, ...]:
        return (
            _card("dnsmos_sig", "DNSMOS speech", "quality of the speech itself", "P.835"),
            _card("dnsmos_bak", "DNSMOS background", "lack of disturbing background", "P.835"),
            _card("dnsmos_ovrl", "DNSMOS overall", "overall quality", "P.835"),
            _card("dnsmos_p808", "DNSMOS P.808", "overall quality", "P.808"),
        )

    def __call__(self, sample: Sample) -> Mapping[str, float]:
        check_band(sample, SAMPLE_RATE_HZ, "DNSMOS")
        waveform = sample.resampled(SAMPLE_RATE_HZ).waveform
        if len(waveform) < SHORTEST_S * SAMPLE_RATE_HZ:
            raise MetricFailure(f"{len(waveform) / SAMPLE_RATE_HZ:.2f} s is too short; needs {SHORTEST_S} s")
        check_audible("clip", waveform, SAMPLE_RATE_HZ)
        scores = _listener()(np.clip(waveform, -1.0, 1.0), SAMPLE_RATE_HZ, False)
        return {name: float(scores[key]) for name, key in _KEYS.items()}


def _card(name: str, title: str, what: str, scale: Literal["P.835", "P.808"]) -> MetricCard:
    return MetricCard(
        name=name,
        title=title,
        unit="",
        direction="higher",
        value_range="1 to 5; clean recordings get 3 to 4",
        definition=f"Mean opinion of listeners ({what}, ITU-T {scale}) as a network predicts it from the clip alone.",
        blind_to="Which words are spoken, by whom, and whether it is the speech of the input at all; everything above "
        "8 kHz. Hears level. Trained on ratings of noise suppressors: not meant for singing. Clips "
        "below 9.01 s are played in a loop, whose seams are heard as faults; of longer ones up to 2 s at the end are "
        "not heard (10 s: the first 9.01 s).",
        source="Reddy, Gopal and Cutler 2022" if scale == "P.835" else "Reddy, Gopal and Cutler 2021",
        implementation="speechmos.dnsmos, not personalised",
        version=library_version("speechmos"),
        parameters={
            "sample_rate": SAMPLE_RATE_HZ,
            "resampler": "soxr HQ",
            "window_s": WINDOW_S,
            "hop_s": 1.0,
            "windows": "from the start; as many whole seconds as the clip has, less 9, but at least one; mean",
            "short_clips": f"doubled until {WINDOW_S} s long; below {SHORTEST_S} s they fail",
            "above_full_scale": "cut off at ±1, as in playback",
            "network": _P835 if scale == "P.835" else _P808,
            "sha256": _fingerprint(_P835 if scale == "P.835" else _P808),
            "onnxruntime": library_version("onnxruntime"),
        }
        | ({"librosa": library_version("librosa")} if scale == "P.808" else {}),
    )
