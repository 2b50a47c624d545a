"""How long an evaluation takes: noisy clips against clean ones, as `unisono evaluate --task se` measures them.

    python benchmarks/evaluation.py --clips 500 --seconds 10 --skip visqol_speech

Prints the wall time of the whole evaluation and, with --each, the seconds of every metric for one clip in this process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from unisono.evaluation.catalogue import metric_names, metrics_of
from unisono.evaluation.items import MODEL, EvaluationItem, Sample
from unisono.evaluation.metric import Metric, measure
from unisono.evaluation.runner import Settings, evaluate
from unisono.media.audio import write_audio

RATE = 24_000


def speech(seconds: float, seed: int) -> np.ndarray:
    """Sentences of eSpeak NG in a row, ``(S,)``: real formants and pauses, other words for every seed."""
    from unisono.text.espeak import synthesize

    rng = np.random.default_rng(seed)
    words = ("the", "small", "horse", "walked", "over", "seven", "hills", "before", "it", "rained", "again", "slowly")
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * RATE:
        sentence = " ".join(rng.choice(words, 8)) + "."
        parts += [synthesize(sentence).resampled(RATE).waveform, np.zeros(RATE // 5, np.float32)]
    return np.concatenate(parts)[: int(seconds * RATE)].astype(np.float32)


def items(folder: Path, clips: int, seconds: float) -> list[EvaluationItem]:
    made = []
    for i in range(clips):
        clean = speech(seconds, i)
        noise = np.random.default_rng(i).normal(0, 0.02, len(clean)).astype(np.float32)
        reference = write_audio(folder / f"clean/{i}.flac", clean, RATE)
        generated = write_audio(folder / f"noisy/{i}.flac", clean + noise, RATE)
        made.append(EvaluationItem(str(i), "speech_enhancement", "", f"clip {i}", generated, reference))
    return made


def each(seconds: float, skip: list[str]) -> None:
    """Seconds of every metric, the best of three fresh samples."""
    clean = speech(seconds, 0)
    noisy = (clean + np.random.default_rng(0).normal(0, 0.02, len(clean))).astype(np.float32)
    item = EvaluationItem("a", "speech_enhancement", "", "a", Path("a.wav"))
    for metric in metrics_of(RATE):
        if not isinstance(metric, Metric) or not metric.applies_to(item) or set(metric_names(metric)) & set(skip):
            continue
        times = []
        for _ in range(3):
            sample = Sample(MODEL, noisy, clean, None, RATE, item)
            start = time.perf_counter()
            measure(metric, sample)
            times.append(time.perf_counter() - start)
        print(f"{min(times):7.3f} s  {', '.join(metric_names(metric))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--skip", nargs="*", default=["visqol_speech"])
    parser.add_argument("--workers", type=int)
    parser.add_argument("--each", action="store_true", help="only the seconds of every metric for one clip")
    arguments = parser.parse_args()
    if arguments.each:
        each(arguments.seconds, arguments.skip)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = items(folder, arguments.clips, arguments.seconds)
        settings = Settings(sample_rate=RATE, skip=arguments.skip, workers=arguments.workers, cache=None)
        start = time.perf_counter()
        summary = evaluate(made, folder / "out", settings, title="benchmark")
        wall_s = time.perf_counter() - start
        means = summary.tasks["speech_enhancement"].means[MODEL]
        print(f"{arguments.clips} clips of {arguments.seconds:g} s: {wall_s:.1f} s, {len(means)} numbers a clip")


if __name__ == "__main__":
    main()
