"""How fast the model is, and how fast it could be: blocks, training steps and generation of each size.

    python benchmarks/model.py blocks                    # against PyTorch's own block, and against the matrix products
    python benchmarks/model.py steps --sizes tiny small  # whole training steps and generation, with peak memory
    python benchmarks/model.py steps --sizes base --batch 64 --compile   # on a GPU: model FLOPs utilisation

Everything that is compared is measured in turns in one run. The bound is the time that a block's matrix products alone
would take at the rate of the best matrix product measured in the same run.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unisono.models.backbone import DiTBlock
from unisono.models.backbone.modulation import Modulation
from unisono.models.generation import GenerationSettings
from unisono.models.layers import rotary_angles
from unisono.types import Batch

DIMS = {"tiny": (192, 3), "small": (768, 12), "base": (1024, 16), "large": (1280, 16)}
CONTEXT_DIM, CONTEXT_UNITS, LATENT_RATE_HZ = 1024, 80, 50


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    begin = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - begin


@contextmanager
def precision(device: torch.device, name: str) -> Iterator[None]:
    with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16"):
        yield


def peak_rate(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Operations a second of the best of some square matrix products."""
    best = 0.0
    for size in (1024, 2048, 4096) if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        for _ in range(repeats):
            best = max(best, 2 * size**3 / seconds(lambda a=a, b=b: a @ b, device))
    return best


class Plain(nn.Module):
    """PyTorch's own decoder layer, of the same width and number of parameters in its feed-forward part."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.context = nn.Linear(CONTEXT_DIM, dim)
        self.layer = nn.TransformerDecoderLayer(dim, num_heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)

    def forward(self, x: Tensor, context: Tensor, padding: Tensor) -> Tensor:
        return self.layer(x, self.context(context), tgt_key_padding_mask=padding)


class Ours(nn.Module):
    """A block with its share of modulation and its keys and values of the context."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.block = DiTBlock(dim, num_heads, 4.0, CONTEXT_DIM)
        self.modulation = Modulation(dim, 1)
        self.head_dim = dim // num_heads

    def forward(self, x: Tensor, context: Tensor, padding: Tensor) -> Tensor:
        signal = self.modulation(x[:, 0])[:, 0]
        rotary = rotary_angles(x.shape[1], self.head_dim, x.device)
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=x.device)
        return self.block(x, ~padding, signal, self.block.context_keys_values(context), mask, rotary, None)


def compare_blocks(arguments: argparse.Namespace, device: torch.device) -> None:
    frames = round(arguments.seconds * LATENT_RATE_HZ)
    for name in arguments.precisions:
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        for size in arguments.sizes:
            dim, heads = DIMS[size]
            torch.manual_seed(0)
            modules = {
                "this block": Ours(dim, heads).to(device),
                "nn.TransformerDecoderLayer": Plain(dim, heads).to(device),
            }
            if arguments.compile:
                modules |= {f"{kind}, compiled": torch.compile(module) for kind, module in list(modules.items())}
            # As within the model, where both come from linear layers under autocast.
            x = torch.randn(arguments.batch, frames, dim, device=device, dtype=dtype, requires_grad=True)
            context = torch.randn(arguments.batch, CONTEXT_UNITS, CONTEXT_DIM, device=device, dtype=dtype)
            padding = torch.arange(frames, device=device).expand(arguments.batch, -1) >= frames - 5
            runs = {kind: _step(module, (x, context, padding), device, name) for kind, module in modules.items()}
            flops = {kind: _flops(run) for kind, run in runs.items()}
            times: dict[str, list[float]] = {kind: [] for kind in runs}
            for run in runs.values():  # kernels are chosen, code compiled
                run()
            for _ in range(arguments.repeats):
                for kind, run in runs.items():
                    times[kind].append(seconds(run, device))
            rate = peak_rate(device, dtype, 5)
            print(
                f"\n{size} ({dim}), {name}, {arguments.batch} x {arguments.seconds:g} s; peak {rate / 1e9:.0f} GFLOP/s"
            )
            for kind, values in times.items():
                middle, bound = statistics.median(values), flops[kind] / rate
                print(
                    f"  {kind:<36} {1e3 * middle:8.1f} ms ({1e3 * min(values):.1f} to {1e3 * max(values):.1f}), "
                    f"{flops[kind] / 1e9:7.1f} GFLOP, {bound / middle:5.0%} of the bound"
                )


def _step(module: nn.Module, inputs: tuple[Tensor, ...], device: torch.device, name: str) -> Callable[[], None]:
    def run() -> None:
        module.zero_grad(set_to_none=True)
        with precision(device, name):
            module(*inputs).float().square().mean().backward()

    return run


def _flops(run: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def measure_steps(arguments: argparse.Namespace, device: torch.device) -> None:
    from hydra.utils import instantiate

    from unisono.config import compose
    from unisono.training.fake_step import synthetic_batch

    for size in arguments.sizes:
        cfg = compose("default", [f"model={size}"])
        torch.manual_seed(0)
        model = instantiate(cfg.model).to(device).train()
        if arguments.compile:
            for block in model.backbone.blocks:
                block.compile()
        batch = synthetic_batch(model, arguments.batch, arguments.seconds).to(device)
        for name in arguments.precisions:
            _measure_size(f"{size}, {name}", model, instantiate(cfg.loss_fn), batch, arguments, device, name)


def _measure_size(
    title: str,
    model: nn.Module,
    loss_fn: Callable,
    batch: Batch,
    arguments: argparse.Namespace,
    device: torch.device,
    name: str,
) -> None:
    """A training step with AdamW, and generation with guidance."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> None:
        with precision(device, name):
            total = loss_fn(model(batch)).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    def generate() -> None:
        with precision(device, name):
            model.generate(batch, range(arguments.batch), GenerationSettings())  # type: ignore[operator]

    flops = _flops(step)
    step()
    times = [seconds(step, device) for _ in range(arguments.repeats)]
    middle = statistics.median(times)
    rate = peak_rate(device, torch.bfloat16 if name == "bf16" else torch.float32, 3)
    print(
        f"{title}, training step of {arguments.batch} x {arguments.seconds:g} s: {middle:.3f} s ({min(times):.3f} to "
        f"{max(times):.3f}), {flops / 1e12:.2f} TFLOP, {flops / middle / rate:.0%} of the peak of {rate / 1e12:.2f} "
        f"TFLOP/s; {_memory(device)}"
    )
    model.eval()
    print(f"{title}, generation with guidance, 24 steps: {seconds(generate, device):.2f} s, {arguments.batch} items")
    model.train()


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    return f"peak of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["blocks", "steps"])
    parser.add_argument("--sizes", nargs="+", choices=DIMS, default=["small", "base"])
    parser.add_argument("--precisions", nargs="+", choices=["no", "bf16"], default=["bf16", "no"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(f"torch {torch.__version__}, {where}")
    {"blocks": compare_blocks, "steps": measure_steps}[arguments.what](arguments, device)


if __name__ == "__main__":
    main()
