"""Estimated against measured memory and time of a training step, and what an estimate itself costs.

    OMP_NUM_THREADS=1 python benchmarks/estimate.py [repeats=2]

Estimates and measurements run in turns, each in a fresh process, so that neither finds the other's memory and both
meet the same load. A measured step is a real one (model, loss, clipping, optimizer, EMA) over the same synthetic clips
of five seconds; its memory is the process's peak. Needs no data, about 9 GB for the model ``small``, and five minutes.
"""

from __future__ import annotations

import json
import platform
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
    return {"bytes": step.memory_bytes, "seconds": step.seconds, "own_s": own_s, "own_bytes": peak_bytes()}


def measure(model: str, batch_size: int, precision: str) -> dict[str, float]:
    cfg = compose("default", [f"model={model}"])
    network = instantiate(cfg.model).train()
    optimizer = instantiate(cfg.optimizer)(network.parameters())
    average = ExponentialMovingAverage(network, 0.999)
    loss_fn, batch = instantiate(cfg.loss_fn), synthetic_batch(network, batch_size, DURATION_S)
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_fn(network(batch)).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        seconds.append(time.perf_counter() - started)
    # The first two steps find no memory that the process already has, and compile kernels.
    return {"bytes": peak_bytes(), "seconds": statistics.median(seconds[2:])}


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


if __name__ == "__main__":
    if len(sys.argv) == 5:
        case = sys.argv[2], int(sys.argv[3]), sys.argv[4]
        print(json.dumps(estimate(*case) if sys.argv[1] == "estimate" else measure(*case)))
    else:
        main(int(sys.argv[1].removeprefix("repeats=")) if len(sys.argv) > 1 else 2)
