"""How fast the model is, and how fast it could be: blocks, training steps and generation of each size.

    python benchmarks/model.py blocks                    # one block, forward and backward
    python benchmarks/model.py steps --sizes tiny small  # training steps and generation of whole models, peak memory
    python benchmarks/model.py steps --sizes base --batch 64 --precisions bf16 --compile   # on a GPU

There are two yardsticks: ``plain``, a model with PyTorch's own decoder layers for blocks, and the bound, the time that
matrix products, convolutions and attention alone would take at the rate of the best square matrix product that the same
process measured. On a GPU whose data sheet is known, bfloat16 is compared with that too: model FLOPs utilisation.

Every case has a process of its own, so none finds another's memory or compiled code. In ``blocks`` a case is a size and
a precision, and all kinds of block take turns in it; in ``steps`` it is the training step or the generation of a model.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._dynamo.utils import counters

from unisono.config import compose
from unisono.models.backbone import DiTBlock, InputFusionDiT
from unisono.models.backbone.modulation import NUM_SIGNALS
from unisono.models.compilation import compile_modules
from unisono.models.generation import Generated, GenerationSettings
from unisono.models.layers import rotary_angles
from unisono.training.fake_step import StepMeter, measure_fake_step, synthetic_batch
from unisono.types import Batch

T = TypeVar("T")
SIZES, PRECISIONS, PHASES = ["tiny", "small", "base", "large"], ["no", "bf16"], ["training", "generation"]
BLOCK_TYPES = ["layer_fusion_dit", "input_fusion_dit", "plain"]
CONTEXT_UNITS, LATENT_RATE_HZ, PADDED_FRAMES = 80, 50, 5
# Dense bfloat16, without sparsity, by a part of the device's name; the first that fits.
DATA_SHEET_TFLOPS = {"H100 PCIe": 756, "H100 NVL": 835, "H200 NVL": 835, "H100": 989, "H200": 989, "A100": 312}


@dataclass(frozen=True)
class Case:
    """What one process measures, and the command line; in ``blocks``, ``phase`` and ``block_type`` are empty."""

    options: argparse.Namespace
    size: str
    precision: str
    phase: str = ""
    block_type: str = ""

    def __str__(self) -> str:
        clips = f"{self.options.batch} x {self.options.seconds:g} s"
        return ", ".join(filter(None, (self.size, self.block_type, self.precision, self.phase, clips)))

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def configuration(self) -> DictConfig:
        """The default configuration with this model."""
        if self.block_type != "plain":
            return compose("default", [f"model={self.size}", f"model/backbone={self.block_type or BLOCK_TYPES[0]}"])
        own = f"model.backbone._target_={PlainDiT.__module__}.{PlainDiT.__name__}"
        return compose("default", [f"model={self.size}", "model/backbone=input_fusion_dit", own])


# -- measuring ------------------------------------------------------------------------------------------------------


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, all work of the device included."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begin


def spread(times_s: list[float]) -> str:
    return f"{statistics.median(times_s):.4f} s ({min(times_s):.4f} to {max(times_s):.4f})"


@dataclass(frozen=True)
class Rates:
    """Operations a second: of the best matrix product measured, and of the data sheet (None where not known)."""

    measured: float
    promised: float | None

    @classmethod
    def of(cls, case: Case) -> Rates:
        device, best = case.device, 0.0
        for size in (1024, 2048, 4096) if device.type == "cpu" else (4096, 8192):
            a, b = (torch.randn(size, size, device=device, dtype=case.dtype) for _ in range(2))
            for _ in range(5):
                best = max(best, 2 * size**3 / seconds(partial(torch.matmul, a, b), device))
        if device.type == "cpu" or case.precision == "no":
            return cls(best, None)
        name = torch.cuda.get_device_name()
        return cls(best, next((1e12 * tflops for part, tflops in DATA_SHEET_TFLOPS.items() if part in name), None))

    def compare(self, flops: int, taken_s: float) -> str:
        """The share of ``taken_s`` that ``flops`` operations would need."""
        bound_s = flops / self.measured
        text = (
            f"bound {bound_s:.4f} s ({flops / 1e12:.4g} TFLOP at {self.measured / 1e12:.4g} TFLOP/s), "
            f"{bound_s / taken_s:.1%} of the time taken"
        )
        if self.promised is None:
            return text
        return f"{text}; {flops / self.promised / taken_s:.1%} of the data sheet's {self.promised / 1e12:.0f} TFLOP/s"


def process_peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def warm_up(run: Callable[[], T], calls: int, must_compile: bool) -> T:
    """Choose kernels and compile; the last result. These must be the first calls of compiled modules.

    Within a dispatch mode, such as one that counts operations, Dynamo leaves a function uncompiled for good.
    """
    graphs_before = counters["stats"]["unique_graphs"]
    result = [run() for _ in range(calls)][-1]
    if must_compile and counters["stats"]["unique_graphs"] == graphs_before:
        raise RuntimeError("--compile was asked for, but nothing was compiled: these would be times of eager code")
    return result


def count_flops(run: Callable[[], object]) -> int:
    """Operations of matrix products, convolutions and attention in one call, run without what was compiled."""
    with torch.compiler.set_stance("force_eager"), StepMeter() as meter:
        run()
    return meter.flops


# -- PyTorch's own block --------------------------------------------------------------------------------------------


class PlainBlock(nn.Module):
    """PyTorch's own decoder layer, of the same width and feed-forward parameters, called as a ``DiTBlock`` is.

    It gets time before items, as it computes: with ``batch_first`` its linear layers copy their weights once per item
    when there are no gradients, which makes generation in bfloat16 on a CPU much slower than it has to be.
    """

    skip = None

    def __init__(self, dim: int, num_heads: int, context_dim: int) -> None:
        super().__init__()
        self.context = nn.Linear(context_dim, dim)
        self.layer = nn.TransformerDecoderLayer(dim, num_heads, 4 * dim, 0.0, "gelu", norm_first=True)

    def context_keys_values(self, context: Tensor) -> Tensor:
        return self.context(context).transpose(0, 1).contiguous()

    def forward(
        self, x: Tensor, mask: Tensor | None, signal: Any, context: Tensor, context_mask: Tensor, rotary: Any, skip: Any
    ) -> Tensor:
        padding = None if mask is None else ~mask
        x = x.transpose(0, 1).contiguous()
        x = self.layer(x, context, tgt_key_padding_mask=padding, memory_key_padding_mask=~context_mask)
        return x.transpose(0, 1)


class PlainDiT(InputFusionDiT):
    """The rest of the backbone around PyTorch's own blocks, which know no noise level, position or long skip."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**(options | {"long_skips": False}))
        blocks = (PlainBlock(self.dim, options["num_heads"], self.frames_dim) for _ in range(self.num_layers))
        self.blocks = nn.ModuleList(blocks)


# -- one block ------------------------------------------------------------------------------------------------------


class BlockInModel(nn.Module):
    """A block with what the model computes for it alone: keys and values of the context, and its frames if any."""

    def __init__(self, block_type: str, dim: int, num_heads: int, frames_dim: int) -> None:
        super().__init__()
        plain = block_type == "plain"
        self.block = PlainBlock(dim, num_heads, frames_dim) if plain else DiTBlock(dim, num_heads, 4.0, frames_dim)
        self.frames = nn.Linear(frames_dim, dim) if block_type == "layer_fusion_dit" else None

    def forward(self, x: Tensor, frames: Tensor, context: Tensor, signal: Tensor, masks: Any, rotary: Any) -> Tensor:
        """``x (B, T, D)``, ``frames (B, T, Df)``, ``context (B, L, Df)``; ``masks`` of x (or None) and context."""
        mask, context_mask = masks
        keys_values: Any = self.block.context_keys_values(context)
        if self.frames is not None:
            x = x + self.frames(frames)
        return self.block(x, mask, signal, keys_values, context_mask, rotary, None)


def block_step(case: Case, block_type: str, backbone: DictConfig) -> tuple[Callable[[], None], BlockInModel]:
    """Forward and backward of one block on random input, and its module."""
    torch.manual_seed(0)
    device, size, num_frames = case.device, case.options.batch, round(case.options.seconds * LATENT_RATE_HZ)
    dim, heads, frames_dim = backbone.dim, backbone.num_heads, backbone.frames_dim
    module = BlockInModel(block_type, dim, heads, frames_dim).to(device)
    shapes = ((num_frames, dim), (num_frames, frames_dim), (CONTEXT_UNITS, frames_dim), (NUM_SIGNALS, dim))
    # As within the model, where all of these come from linear layers under autocast.
    inputs = [torch.randn(size, *shape, device=device, dtype=case.dtype, requires_grad=True) for shape in shapes]
    mask = (torch.arange(num_frames, device=device) < num_frames - PADDED_FRAMES).expand(size, -1)
    context_mask = torch.ones(size, CONTEXT_UNITS, dtype=torch.bool, device=device)
    masks = (mask if case.options.padded else None, context_mask)
    rotary = rotary_angles(num_frames, dim // heads, device)

    def run() -> None:
        for leaf in (*inputs, *module.parameters()):
            leaf.grad = None
        with case.autocast():
            loss = module(*inputs, masks, rotary).float().square().mean()
        loss.backward()

    return run, module


def measure_blocks(case: Case) -> None:
    """All kinds of block in turns, each eager and (with ``--compile``) compiled."""
    options, backbone = case.options, case.configuration().model.backbone
    runs: dict[str, Callable[[], None]] = {}
    programs: set[type] = set()
    for block_type, compiled in itertools.product(options.block_types, (False, True) if options.compile else (False,)):
        name = f"{block_type}, compiled" if compiled else block_type
        runs[name], module = block_step(case, block_type, backbone)
        if compiled:
            compile_modules([module.block], True)
        warm_up(runs[name], 2, compiled and type(module.block) not in programs)
        programs |= {type(module.block)} if compiled else set()  # of equal code, which later ones share
    times_s: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            times_s[name].append(seconds(run, case.device))
    rates = Rates.of(case)
    print(f"\n{case}: forward and backward of one block of width {backbone.dim}")
    for name, values in times_s.items():
        print(f"  {name:<26} {spread(values)}; {rates.compare(count_flops(runs[name]), statistics.median(values))}")


# -- whole models ---------------------------------------------------------------------------------------------------


def training_step(case: Case, cfg: DictConfig, model: nn.Module, batch: Batch) -> Callable[[], None]:
    """Forward, loss, backward and AdamW."""
    loss_fn = instantiate(cfg.loss_fn)
    parameters = [p for p in model.train().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def run() -> None:
        with case.autocast():
            loss = loss_fn(model(batch)).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def generation(case: Case, model: Any, batch: Batch) -> Callable[[], Generated]:
    """Conditions, solver steps with guidance, and decoding."""
    model.eval()
    durations_s = [case.options.seconds] * len(batch)

    def run() -> Generated:
        with case.autocast():
            return model.generate(batch, range(len(batch)), GenerationSettings(), durations_s)

    return run


def training_flops(case: Case, cfg: DictConfig) -> int:
    """Operations of forward and backward, counted on fake tensors: eager code may need more memory than there is."""
    count = partial(measure_fake_step, batch_size=case.options.batch, duration_s=case.options.seconds, micro_batches=1)
    _, needs = count(cfg.model, cfg.optimizer, bf16=case.precision == "bf16", ema=False, device=case.device)
    return needs.micro_batch_flops


def real_time_factor(case: Case, model: Any, generated: Generated, taken_s: float) -> str:
    """Seconds of work per second of audio, and how much of them the autoencoder takes."""

    @torch.no_grad()
    def decode() -> None:
        with case.autocast():
            model.autoencoder.decode(generated.latent, generated.latent_lengths)

    decoding_s = statistics.median(seconds(decode, case.device) for _ in range(case.options.repeats))
    audio_s = generated.lengths.sum().item() / model.autoencoder.sample_rate
    return (
        f"{taken_s / audio_s:.4f} s per second of audio ({audio_s:g} s of it, {GenerationSettings.num_steps} steps "
        f"with guidance); {decoding_s:.4f} s of a batch are decoding"
    )


def measure_model(case: Case) -> None:
    """Time, memory and operations of a training step, or of a generation."""
    bare_bytes = process_peak_bytes()
    options, device, training = case.options, case.device, case.phase == "training"
    cfg = case.configuration()
    torch.manual_seed(0)
    model = instantiate(cfg.model).to(device)
    batch = synthetic_batch(model, options.batch, options.seconds).to(device)
    if options.padded:
        batch = replace(batch, is_full=False)
    if options.compile:
        compile_modules(model.backbone.blocks, True)
    run: Callable[[], Any] = training_step(case, cfg, model, batch) if training else generation(case, model, batch)
    # The first training step ends by making the optimizer's state; one generation is many steps already.
    result = warm_up(run, 2 if training else 1, options.compile)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times_s = [seconds(run, device) for _ in range(options.repeats)]
    # Read before this process does anything else.
    if device.type == "cuda":
        memory = f"peak {torch.cuda.max_memory_allocated() / 1e9:.2f} GB of tensors"
    else:
        memory = f"peak {process_peak_bytes() / 1e9:.2f} GB of the process, {bare_bytes / 1e9:.2f} GB before the model"
    taken_s = statistics.median(times_s)
    print(f"\n{case}{', compiled' if options.compile else ''}\n  {spread(times_s)}; {memory}")
    if not training:
        print(f"  {real_time_factor(case, model, result, taken_s)}")
    print(f"  {Rates.of(case).compare(training_flops(case, cfg) if training else count_flops(run), taken_s)}")


# -- command line ---------------------------------------------------------------------------------------------------


def at_least(lowest: float, convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        value = convert(text)
        if not lowest <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {lowest:g}")
        return value

    return number


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["blocks", "steps"])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "base"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["bf16", "no"])
    parser.add_argument("--block-types", nargs="+", choices=BLOCK_TYPES, default=BLOCK_TYPES)
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES, help="of steps")
    parser.add_argument("--batch", type=at_least(1, int), default=4, help="clips")
    parser.add_argument("--seconds", type=at_least(0.2, float), default=10.0, help="of each clip")
    parser.add_argument("--repeats", type=at_least(1, int), default=5, help="timed calls, after those to warm up")
    parser.add_argument("--compile", action="store_true", help="the blocks, as trainer.torch_compile does")
    help_ = "blocks and training steps with a padding mask, as clips of unequal length need; generation stays the same"
    parser.add_argument("--padded", action="store_true", help=help_)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    cuda = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {where}; median (lowest to highest) of {options.repeats}", flush=True)
    choices = [[options], options.sizes, options.precisions]
    if options.what == "steps":
        choices += [options.phases, options.block_types]
    failed = []
    for case in itertools.starmap(Case, itertools.product(*choices)):
        measure = measure_blocks if options.what == "blocks" else measure_model
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(case,), daemon=True)
        process.start()
        process.join()
        if process.exitcode:
            failed.append(f"{case} (exit status {process.exitcode})")
    if failed:
        sys.exit("\nnot measured, see above (status -9: killed, mostly for want of memory):\n  " + "\n  ".join(failed))


if __name__ == "__main__":
    main()
