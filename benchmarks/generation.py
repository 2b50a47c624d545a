"""How fast sound is made: loading, the first item, real-time factors alone and in batches, memory.

    python benchmarks/generation.py experiments/demo/model
    python benchmarks/generation.py --sizes tiny small --dtypes float32 bfloat16 --compile

Takes a model folder, or untrained models of some sizes. A real-time factor is seconds of work for a second of sound:
below 1 is faster than real time. Every case has a process of its own, so memory is that of the case.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CAPTION = "two low knocks, then a rising whistle"
START = """
import time
begin = time.perf_counter()
from unisono import Pipeline
Pipeline.from_pretrained({!r}, device={!r})
print(time.perf_counter() - begin)
"""


@dataclass(frozen=True)
class Case:
    """What one process measures."""

    folder: Path
    dtype: str
    device: str
    num_steps: int
    seconds: float
    batch: int
    repeats: int
    compile: bool


def spread(values: list[float], unit: str) -> str:
    return f"{statistics.median(values):.3f} {unit} ({min(values):.3f} to {max(values):.3f})"


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def make_folder(size: str, folder: Path) -> Path:
    """An untrained model: as fast as a trained one."""
    from hydra.utils import instantiate

    from unisono.config import compose
    from unisono.inference.model_folder import save_model_folder

    cfg = compose("default", [f"model={size}", "data_root=absent"])
    return save_model_folder(folder, instantiate(cfg.model), cfg, {})


def measure(case: Case) -> None:
    import torch

    from unisono import Pipeline

    pipe = Pipeline.from_pretrained(case.folder, case.device, case.dtype, compile=case.compile)
    before_gb = peak_gb()
    given: dict[str, Any] = {"task": "t2a", "duration_s": case.seconds, "num_steps": case.num_steps}

    def seconds(prompts: Any, **changed: Any) -> float:
        begin = time.perf_counter()
        pipe(prompts, **{**given, **changed})
        if pipe.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    first = seconds(CAPTION)
    alone = [seconds(CAPTION) for _ in range(case.repeats)]
    unguided = [seconds(CAPTION, guidance_scale=1.0) for _ in range(case.repeats)]
    together = [seconds([CAPTION] * case.batch, batch_size=case.batch) for _ in range(case.repeats)]
    print(f"{case.dtype}{', compiled' if case.compile else ''}, {case.num_steps} steps, {case.seconds:g} s of sound")
    print(f"  first item            {first:.3f} s")
    print(f"  one item, guided      {spread([s / case.seconds for s in alone], 'x real time')}")
    print(f"  one item, unguided    {spread([s / case.seconds for s in unguided], 'x real time')}")
    print(f"  {case.batch} items at once      {spread([case.batch / s for s in together], 'items/s')}")
    if pipe.device.type == "cuda":
        print(f"  memory                {torch.cuda.max_memory_allocated() / 1e9:.2f} GB of the GPU")
    else:
        print(f"  memory                {peak_gb():.2f} GB, {before_gb:.2f} GB with the model loaded", flush=True)


def start(folder: Path, device: str, repeats: int) -> None:
    """A fresh process from its first import to a model that is ready, and to the first file."""
    ready = [
        float(subprocess.check_output([sys.executable, "-c", START.format(str(folder), device)], text=True))
        for _ in range(repeats)
    ]
    print(f"  import and from_pretrained      {spread(ready, 's')}")
    whole = []
    with tempfile.TemporaryDirectory() as made:
        command = [sys.executable, "-m", "unisono.cli", "generate", "t2a", CAPTION, "--model", str(folder), "-q"]
        command += ["--duration", "2", "-o", f"{made}/a.wav", "--device", device]
        for _ in range(repeats):
            begin = time.perf_counter()
            subprocess.run(command, check=True)
            whole.append(time.perf_counter() - begin)
    print(f"  unisono generate, 2 s of sound  {spread(whole, 's')}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of a model; none makes untrained ones")
    parser.add_argument("--sizes", nargs="+", default=["tiny"], choices=["tiny", "small", "base", "large"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num-steps", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="the blocks")
    options = parser.parse_args()
    import torch

    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, {options.device}")
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as made:
        folders = {"model": options.folder} if options.folder else {size: Path(made) / size for size in options.sizes}
        for name, folder in folders.items():
            if options.folder is None:
                make_folder(name, folder)
            print(f"\n{name}")
            start(folder, options.device, options.repeats)
            for dtype in options.dtypes:
                case = Case(
                    *(folder, dtype, options.device, options.num_steps, options.seconds, options.batch),
                    *(options.repeats, options.compile),
                )
                process = spawn.Process(target=measure, args=(case,))
                process.start()
                process.join()
                if process.exitcode:
                    sys.exit(f"a case failed: {case}")


if __name__ == "__main__":
    main()
