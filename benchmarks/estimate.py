"""Estimated against measured memory and time of a training step, and what an estimate itself costs.

    OMP_NUM_THREADS=1 python benchmarks/estimate.py [repeats=2]
    OMP_NUM_THREADS=1 python benchmarks/estimate.py varied

Estimates and measurements run in turns, each in a fresh process, so that neither finds the other's memory and both
meet the same load. A measured step is a real one (model, loss, clipping, optimizer, EMA) over the same synthetic clips
of five seconds; its memory is the process's peak. Needs no data, about 9 GB for the model ``small``, and five minutes.
The second command shows how the process grows over steps of batches that differ in length.
"""

from __future__ import annotations

import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import time

import torch
from hydra.utils import instantiate

from unisono.config import compose
from unisono.training.ema import ExponentialMovingAverage
from unisono.training.estimate import estimate_step
from unisono.training.fake_step import synthetic_batch

DURATION_S, STEPS = 5.0, 4
CASES = [("tiny", 8, "no"), ("tiny", 16, "no"), ("tiny", 16, "bf16"), ("small", 2, "no"), ("small", 2, "bf16")]
VARIED = [("tiny", 16, "no"), ("tiny", 16, "bf16")]
LARGE = ("large", 16, "bf16")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def estimate(model: str, batch_size: int, precision: str) -> dict[str, float]:
    cfg = compose("default", [f"model={model}"])
    started = time.perf_counter()
    step = estimate_step(
        cfg.model, cfg.optimizer, batch_size=batch_size, duration_s=DURATION_S, mixed_precision=precision
    )
    own_s = time.perf_counter() - started
    return {
        "bytes": step.memory_bytes,
        "varied_bytes": step.varied_memory_bytes,
        "seconds": step.seconds,
        "own_s": own_s,
        "own_bytes": peak_bytes(),
    }


class RealSteps:
    """A model and what it takes to train it, over synthetic clips."""

    def __init__(self, model: str, batch_size: int, precision: str) -> None:
        cfg = compose("default", [f"model={model}"])
        self.batch_size, self.bf16 = batch_size, precision == "bf16"
        self.network = instantiate(cfg.model).train()
        self.optimizer = instantiate(cfg.optimizer)(self.network.parameters())
        self.average = ExponentialMovingAverage(self.network, 0.999)
        self.loss_fn = instantiate(cfg.loss_fn)

    def step(self, duration_s: float) -> float:
        """Seconds of one step."""
        batch = synthetic_batch(self.network, self.batch_size, duration_s)
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.loss_fn(self.network(batch)).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()
        return time.perf_counter() - started


def measure(model: str, batch_size: int, precision: str) -> dict[str, float]:
    steps = RealSteps(model, batch_size, precision)
    seconds = [steps.step(DURATION_S) for _ in range(STEPS)]
    # The first two steps find no memory that the process already has, and compile kernels.
    return {"bytes": peak_bytes(), "seconds": statistics.median(seconds[2:])}


def measure_varied(model: str, batch_size: int, precision: str) -> dict[str, float]:
    steps, lengths = RealSteps(model, batch_size, precision), random.Random(0)
    peaks = {}
    for number in range(1, 61):
        steps.step(lengths.uniform(0.7, 1.0) * DURATION_S)
        if number in (1, 4, 15, 30, 60):
            peaks[str(number)] = float(peak_bytes())
    return peaks


def in_fresh_process(what: str, case: tuple[str, int, str]) -> dict[str, float]:
    command = [sys.executable, __file__, what, *map(str, case)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def spread(values: list[float], scale: float = 1.0) -> str:
    return f"{statistics.median(values) / scale:.2f} ({min(values) / scale:.2f} to {max(values) / scale:.2f})"


def main(repeats: int) -> None:
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {repeats} repeats")
    print("median (lowest to highest); ratio is estimate over measurement")
    for case in CASES:
        pairs = [(in_fresh_process("estimate", case), in_fresh_process("measure", case)) for _ in range(repeats)]
        print(f"{case[0]}, {case[1]} clips of {DURATION_S} s, mixed_precision={case[2]}")
        for key, unit, scale in (("bytes", "GB", 1e9), ("seconds", "s", 1.0)):
            estimated, measured = [e[key] for e, _ in pairs], [m[key] for _, m in pairs]
            ratios = [e / m for e, m in zip(estimated, measured, strict=True)]
            print(
                f"  {unit:<2}  estimate {spread(estimated, scale)}  measured {spread(measured, scale)}"
                f"  ratio {spread(ratios)}",
                flush=True,
            )
    runs = [in_fresh_process("estimate", LARGE) for _ in range(repeats)]
    own_s, own_bytes = [run["own_s"] for run in runs], [run["own_bytes"] for run in runs]
    print(f"the estimate of {LARGE[0]} itself: {spread(own_s)} s, {spread(own_bytes, 1e9)} GB with libraries")


def varied() -> None:
    for case in VARIED:
        expected = in_fresh_process("estimate", case)
        peaks = in_fresh_process("measure_varied", case)
        growth = ", ".join(f"{value / 1e9:.2f} after {step}" for step, value in peaks.items())
        print(f"{case[0]}, {case[1]} clips of {0.7 * DURATION_S} to {DURATION_S} s, mixed_precision={case[2]}")
        print(f"  GB  estimate {expected['varied_bytes'] / 1e9:.2f}  measured {growth} steps", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 5:
        run = {"estimate": estimate, "measure": measure, "measure_varied": measure_varied}[sys.argv[1]]
        print(json.dumps(run(sys.argv[2], int(sys.argv[3]), sys.argv[4])))
    elif sys.argv[1:] == ["varied"]:
        varied()
    else:
        main(int(sys.argv[1].removeprefix("repeats=")) if len(sys.argv) > 1 else 2)
