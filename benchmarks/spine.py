"""Training items per second and generation's real-time factor, in float32 and in bfloat16 autocast.

    python benchmarks/spine.py [model=tiny] [batch_size=16] ...

Needs the mini corpus (unisono prepare mini). Both precisions are measured in turns in one run, so their ratio holds on
a noisy machine; medians with the range from the 10th to the 90th percentile.
"""

from __future__ import annotations

import dataclasses
import platform
import resource
import statistics
import sys
import time
from contextlib import nullcontext

import torch
from hydra.utils import instantiate

from unisono.config import compose
from unisono.inference.pipeline import Pipeline
from unisono.models.generation import GenerationSettings

STEPS = 24
PRECISIONS = {"no": nullcontext, "bf16": lambda: torch.autocast("cpu", torch.bfloat16)}


def show(name: str, values: list[float], unit: str) -> None:
    deciles = statistics.quantiles(values, n=10)
    median = statistics.median(values)
    print(f"{name:<52} {median:8.2f} {unit}  ({deciles[0]:.2f} to {deciles[-1]:.2f}, n={len(values)})")


def training(cfg) -> None:
    loader = iter(instantiate(cfg.train_dataloader))
    loss_fn = instantiate(cfg.loss_fn)
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batches = [next(loader) for _ in range(STEPS)]
    rates: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for index, batch in enumerate(batches):
        for name, precision in PRECISIONS.items():
            started = time.perf_counter()
            with precision():
                loss = loss_fn(model(batch)).total
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if index >= 2:  # the first ones compile kernels
                rates[name].append(len(batch) / (time.perf_counter() - started))
    for name, values in rates.items():
        show(f"training, mixed_precision={name}", values, "items/s")
    ratios = [b / a for a, b in zip(rates["no"], rates["bf16"], strict=True)]
    show("training, bf16 over float32", ratios, "x")


def generation(cfg) -> None:
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    test_cfg = compose("inference")
    samples = [dataclasses.replace(d[i], waveform=None) for d in instantiate(test_cfg.datasets) for i in range(8)]
    settings = GenerationSettings()
    folder = {"phonemes": list(cfg.phonemes), "speakers": list(cfg.speakers)}
    for name in PRECISIONS:
        pipeline = Pipeline(model, folder, "cpu", name)
        for size in (1, 8):
            factors = []
            for begin in range(0, len(samples), size):
                chunk = samples[begin : begin + size]
                started = time.perf_counter()
                # An untrained model predicts no useful lengths: three seconds each.
                made = pipeline.generate(chunk, settings=settings, duration_s=[3.0] * len(chunk))
                factors.append((time.perf_counter() - started) / sum(audio.duration_s for audio in made))
            show(f"generation, {name}, batches of {size}: seconds per second", factors, "s/s")


def main() -> None:
    cfg = compose("default", sys.argv[1:])
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    training(cfg)
    generation(cfg)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
