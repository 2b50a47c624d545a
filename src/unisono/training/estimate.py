"""What a training run will need: parameters, memory and time of a step, before a weight is made or a file is read.

Memory and operations come from a step on fake tensors (``unisono.training.fake_step``). For the time, one transformer
block of the backbone's width is trained for a moment on this device. docs/results.md tells how far estimates were
from measured steps; ``benchmarks/estimate.py`` repeats that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from unisono.models.layers import TransformerBlock, rotary_angles
from unisono.training.ema import ExponentialMovingAverage
from unisono.training.fake_step import StepMeter, StepNeeds, measure_fake_step, unknown_modalities

# The constants below were fitted to measured steps by benchmarks/estimate.py; docs/results.md has the figures.
# Interpreter, torch and the code of its kernels, without any tensor of the model.
CPU_PROCESS_BYTES = 550_000_000
# What comes and goes within a step, as the process takes it over as its tensors hold it: PyTorch asks for aligned
# blocks, and glibc rarely gives a freed one to the next request of the same size. Where batches differ in length, holes
# add up over the steps, by far most in bfloat16, whose many casts come and go between tensors that stay.
CPU_OVERHEAD_EQUAL_LENGTHS = 1.75
CPU_OVERHEAD_VARIED_LENGTHS = {"no": 1.75, "bf16": 3.7}
# Operations per second of the whole model over those of the block alone.
EFFICIENCY = 0.9


@dataclass(frozen=True)
class ComponentSize:
    """Number of parameters of one part of the model."""

    name: str
    trainable: int
    frozen: int


@dataclass(frozen=True)
class StepEstimate:
    """One optimizer step of one process.

    Attributes:
        components: parameters per part.
        batch_size, duration_s: clips of a micro-batch and their length.
        micro_batches: gradient accumulation.
        precision: "bf16" or "no" (float32).
        device: as torch names it.
        needs: bytes and operations. Activations go while gradients come, so the peak is less than the sum of the
            parts. Validation takes no more: it has a second copy of the weights, but no gradients.
        memory_bytes: what the process is expected to take: on a CPU with libraries and the allocator's losses; on a
            GPU the tensors, without CUDA's own half gigabyte.
        varied_memory_bytes: the same after many batches of varied length, of which ``duration_s`` is the longest.
        seconds: of the step, on this device as busy as it is now; expect a factor of two either way.
        left_out: modalities for which no synthetic content is known; the estimate is without their work.
    """

    components: tuple[ComponentSize, ...]
    batch_size: int
    duration_s: float
    micro_batches: int
    precision: str
    device: str
    needs: StepNeeds
    memory_bytes: int
    varied_memory_bytes: int
    seconds: float
    left_out: tuple[str, ...]


def parameter_table(model: nn.Module) -> list[ComponentSize]:
    """Parameters of each child of ``model``, of each entry of a ``ModuleDict`` among them, and "other" for the rest.

    A parameter that two parts share is counted in the first.
    """
    counts: dict[str, list[int]] = {}
    for name, child in model.named_children():
        for part in [f"{name}.{key}" for key in child] if isinstance(child, nn.ModuleDict) else [name]:
            counts[part] = [0, 0]
    for name, parameter in model.named_parameters():
        part = next((part for part in counts if name.startswith(f"{part}.")), "other")
        counts.setdefault(part, [0, 0])[0 if parameter.requires_grad else 1] += parameter.numel()
    return [ComponentSize(name, trainable, frozen) for name, (trainable, frozen) in counts.items()]


# -- the speed of this device ---------------------------------------------------------------------------------------


def _fastest_s(run: Callable[[], None], device: torch.device) -> float:
    """Seconds of the fastest call, after one to warm up: other work on the machine only adds.

    Three calls, fewer where they take more than half a second.
    """
    durations_s: list[float] = []
    while len(durations_s) < 4 and (len(durations_s) < 2 or sum(durations_s[1:]) < 0.5):
        started = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        durations_s.append(time.perf_counter() - started)
    return min(durations_s[1:])


def block_flops_per_s(
    dim: int, num_heads: int, num_frames: int, batch_size: int, bf16: bool, device: torch.device
) -> float:
    """Speed of one transformer block forward and backward: matrix products with all that goes on between them.

    It takes as many clips of at most 512 frames as keep it busy for a tenth of a second, at most ``batch_size``.
    """

    def block_step(num_clips: int) -> Callable[[], None]:
        block = TransformerBlock(dim, num_heads).to(device)
        x = torch.zeros(num_clips, min(num_frames, 512), dim, device=device, requires_grad=True)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=device)
        rotary = rotary_angles(x.shape[1], dim // num_heads, device)

        def run() -> None:
            block.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                y = block(x, mask, rotary)
            y.float().mean().backward()

        return run

    with StepMeter() as meter:
        block_step(1)()
    num_clips = 1
    while (seconds := _fastest_s(block_step(num_clips), device)) < 0.1 and num_clips < batch_size:
        num_clips = min(2 * num_clips, batch_size)
    return meter.flops * num_clips / seconds


def update_s_per_parameter(optimizer_config: DictConfig, ema: bool, device: torch.device) -> float:
    """Seconds of clipping, optimizer and EMA over a layer of 4 M parameters, per parameter."""
    from hydra.utils import instantiate

    layer = nn.Linear(2048, 2048, bias=False, device=device)
    optimizer = instantiate(optimizer_config)(list(layer.parameters()))
    averaged = ExponentialMovingAverage(layer, decay=0.5) if ema else None

    def run() -> None:
        layer.weight.grad = torch.ones_like(layer.weight)
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
        if averaged is not None:
            averaged.update()

    return _fastest_s(run, device) / layer.weight.numel()


# -- the estimate ---------------------------------------------------------------------------------------------------


def process_bytes(needs: StepNeeds, device: torch.device, overhead: float) -> int:
    """Memory of the process at its peak, where the allocator takes ``overhead`` times what tensors need for a while."""
    if device.type != "cpu":
        return needs.peak_bytes
    return CPU_PROCESS_BYTES + needs.resting_bytes + round(overhead * (needs.peak_bytes - needs.resting_bytes))


def estimate_step(
    model_config: DictConfig,
    optimizer_config: DictConfig,
    *,
    batch_size: int,
    duration_s: float,
    mixed_precision: str = "no",
    gradient_accumulation_steps: int = 1,
    ema: bool = True,
    device: torch.device | None = None,
) -> StepEstimate:
    """Estimate one optimizer step of one process, without allocating the model or reading data.

    Args:
        model_config: ``cfg.model``, resolved.
        optimizer_config: ``cfg.optimizer``, a partial that takes the parameters.
        batch_size: clips of a micro-batch; all of ``duration_s``, the longest of the data for the largest need.
        mixed_precision: "bf16" or "no"; resolve "auto" before.
        gradient_accumulation_steps: micro-batches of a step.
        ema: whether averaged weights are kept.
        device: to train on; the processor if None. It must be there: its speed is measured, for about a second.

    Raises:
        UserError: the model does something that cannot be done without the values of its tensors.
    """
    if batch_size < 1 or not duration_s > 0 or gradient_accumulation_steps < 1:
        raise ValueError(
            f"batch_size ({batch_size}), duration_s ({duration_s}) and gradient_accumulation_steps "
            f"({gradient_accumulation_steps}) must be positive"
        )
    if mixed_precision not in ("bf16", "no"):
        raise ValueError(f"mixed_precision is {mixed_precision!r}; use 'bf16' or 'no'")
    device, bf16 = device or torch.device("cpu"), mixed_precision == "bf16"
    model: Any
    with torch.random.fork_rng():  # a run that follows draws the numbers that it would draw without the estimate
        model, needs = measure_fake_step(
            model_config, optimizer_config, batch_size=batch_size, duration_s=duration_s,
            micro_batches=gradient_accumulation_steps, bf16=bf16, ema=ema, device=device,
        )  # fmt: skip
        dim, num_heads = model.backbone.dim, model.backbone.dim // model.backbone.head_dim
        num_frames = max(1, round(duration_s * model.autoencoder.latent_rate_hz))
        speed = EFFICIENCY * block_flops_per_s(dim, num_heads, num_frames, batch_size, bf16, device)
        update_s = update_s_per_parameter(optimizer_config, ema, device)
    components = tuple(parameter_table(model))
    flops, trainable = needs.micro_batch_flops, sum(part.trainable for part in components)
    return StepEstimate(
        components=components,
        batch_size=batch_size,
        duration_s=duration_s,
        micro_batches=gradient_accumulation_steps,
        precision=mixed_precision,
        device=str(device),
        needs=needs,
        memory_bytes=process_bytes(needs, device, CPU_OVERHEAD_EQUAL_LENGTHS),
        varied_memory_bytes=process_bytes(needs, device, CPU_OVERHEAD_VARIED_LENGTHS[mixed_precision]),
        seconds=gradient_accumulation_steps * flops / speed + trainable * update_s,
        left_out=unknown_modalities(model),
    )


# -- in words -------------------------------------------------------------------------------------------------------


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 100 else f"{seconds:.2g} s"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def format_estimate(estimate: StepEstimate) -> str:
    """Tables for the terminal: parameters, memory, time."""
    needs = estimate.needs
    total = ComponentSize(
        "total", sum(p.trainable for p in estimate.components), sum(p.frozen for p in estimate.components)
    )
    parameters = [("parameters", "trainable", "frozen")] + [
        (part.name, f"{part.trainable / 1e6:.2f} M", f"{part.frozen / 1e6:.2f} M")
        for part in (*estimate.components, total)
    ]
    precision = "bfloat16 autocast" if estimate.precision == "bf16" else "float32"
    batch = f"{estimate.batch_size} clips of {estimate.duration_s:g} s"
    expected = "expected of the process, libraries included" if estimate.device == "cpu" else "expected on the device"
    memory = [
        (f"memory, {batch}, {precision}", ""),
        ("weights", _size(needs.weights_bytes)),
        ("averaged weights (EMA)", _size(needs.ema_bytes)),
        ("optimizer state", _size(needs.optimizer_bytes)),
        ("gradients", _size(needs.gradient_bytes)),
        ("activations kept for backward", _size(needs.activation_bytes)),
        ("most that tensors hold at one time", _size(needs.peak_bytes)),
        (expected, _size(estimate.memory_bytes)),
    ]
    if estimate.varied_memory_bytes != estimate.memory_bytes:
        memory.append(("... after many batches of varied length", _size(estimate.varied_memory_bytes)))
    device = f"cpu ({torch.get_num_threads()} threads)" if estimate.device == "cpu" else estimate.device
    flops = needs.micro_batch_flops * estimate.micro_batches
    time_rows = [
        (f"one step, {estimate.micro_batches} x {batch}", ""),
        ("floating-point operations", f"{flops / 1e12:.2f} T"),
        (f"time on this {device}, within a factor of two", _seconds(estimate.seconds)),
    ]
    lines = [*_aligned(parameters), "", *_aligned(memory), "", *_aligned(time_rows)]
    if estimate.left_out:
        lines += ["", f"Not in the estimate, for lack of typical content: {', '.join(estimate.left_out)}."]
    return "\n".join(line.rstrip() for line in lines)
