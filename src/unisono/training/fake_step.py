"""One training step on fake tensors, and a meter of what it would take.

Fake tensors (``torch._subclasses.FakeTensorMode``) have a shape, a type and a device, but no memory. Autograd, autocast
and optimizers work on them as on real ones, so the order in which memory comes and goes is that of a real step.

Shape letters: B items of a batch, N items of one modality, S samples, L content units.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from itertools import chain
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from unisono.errors import UserError
from unisono.timing import seconds_to_samples
from unisono.training.ema import ExponentialMovingAverage
from unisono.types import Batch, ContentBatch

# Typical content, where a clip's length does not decide it.
CAPTION_BYTES, INSTRUCTION_BYTES, PHONEMES_PER_S = 60, 40, 12
FRAMES_PER_S, PICTURES_PER_S, PICTURE_SIZE = 50.0, 25.0, 64

_aten = torch.ops.aten


def _cpu_attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _cpu_attention_backward_flops(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)


_FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # torch counts the attention kernels of GPUs only.
    _aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward_flops,
}


class StepMeter(TorchDispatchMode):
    """Counts bytes alive, their peak, and floating-point operations of everything that runs within it.

    Enter it inside a ``FakeTensorMode``. It also answers 1 or True where code asks for the value of a fake tensor, as
    some optimizers do; a shape must not depend on it.

    Attributes:
        live_bytes, peak_bytes: of storages made within the mode.
        flops: of matrix products, convolutions and attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = self.flops = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def restart(self) -> None:
        """Forget peak and operations so far; what is alive stays counted."""
        self.peak_bytes, self.flops = self.live_bytes, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            out = func(*args, **kwargs)
        except DataDependentOutputException:
            if func is not _aten._local_scalar_dense.default:
                raise
            return args[0].dtype is torch.bool or 1
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        formula = _FLOPS.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:  # seen through a view, or changed in place
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._free, size).atexit = False

    def _free(self, size: int) -> None:
        self.live_bytes -= size


# -- what goes in ---------------------------------------------------------------------------------------------------


def _caption(num_items: int, duration_s: float, sample_rate: int) -> dict[str, Tensor]:
    return {"tokens": torch.ones(num_items, CAPTION_BYTES, dtype=torch.long)}


def _phonemes(num_items: int, duration_s: float, sample_rate: int) -> dict[str, Tensor]:
    units = max(1, round(PHONEMES_PER_S * duration_s))
    return {
        "tokens": torch.ones(num_items, units, dtype=torch.long),
        "speaker": torch.zeros(num_items, dtype=torch.long),
    }


def _recording(num_items: int, duration_s: float, sample_rate: int) -> dict[str, Tensor]:
    samples = seconds_to_samples(duration_s, sample_rate)
    return {"waveform": torch.zeros(num_items, samples), "lengths": torch.full((num_items,), samples)}


def _score(num_items: int, duration_s: float, sample_rate: int) -> dict[str, Tensor]:
    inputs = _phonemes(num_items, duration_s, sample_rate)
    per_unit = torch.ones(inputs["tokens"].shape)
    return {**inputs, "notes": 60 * per_unit, "note_durations_s": per_unit, "slurs": per_unit.bool()}


def _pitch(num_items: int, duration_s: float, sample_rate: int) -> dict[str, Tensor]:
    frames = max(1, math.ceil(FRAMES_PER_S * duration_s))
    return {
        "tokens": torch.ones(num_items, frames, dtype=torch.long),
        "f0_hz": torch.full((num_items, frames), 220.0),
        "voicing": torch.ones(num_items, frames, dtype=torch.bool),
        "speaker": torch.zeros(num_items, dtype=torch.long),
    }


def _video(num_items: int, duration_s: float, sample_rate: int) -> dict[str, Tensor]:
    frames, shown = (max(1, math.ceil(rate * duration_s)) for rate in (PICTURES_PER_S, FRAMES_PER_S))
    picture = (torch.arange(shown) * PICTURES_PER_S / FRAMES_PER_S).long().clamp_max(frames - 1)
    return {
        "frames": torch.zeros(num_items, frames, PICTURE_SIZE, PICTURE_SIZE, 3, dtype=torch.uint8),
        "shown": picture.repeat(num_items, 1),
        "lengths": torch.full((num_items,), shown),
    }


_CONTENT_MAKERS = {
    "text": _caption,
    "phoneme": _phonemes,
    "audio": _recording,
    "score": _score,
    "pitch": _pitch,
    "video": _video,
}


def unknown_modalities(model: nn.Module) -> tuple[str, ...]:
    """Content encoders of the model that ``synthetic_batch`` has nothing for."""
    encoders: Any = model.content_encoders
    return tuple(name for name in encoders if name not in _CONTENT_MAKERS)


def synthetic_batch(model: nn.Module, batch_size: int, duration_s: float) -> Batch:
    """Clips of equal length; the items take the model's content encoders in turn, as tasks in equal shares would."""
    autoencoder: Any = model.autoencoder
    rate, samples = autoencoder.sample_rate, seconds_to_samples(duration_s, autoencoder.sample_rate)
    encoders: Any = model.content_encoders
    modalities = [name for name in encoders if name in _CONTENT_MAKERS]
    contents = {}
    for turn, modality in enumerate(modalities[:batch_size]):
        index = torch.arange(turn, batch_size, len(modalities))
        inputs = _CONTENT_MAKERS[modality](len(index), duration_s, rate)
        units = inputs["tokens"].shape if modality in ("phoneme", "score") else None
        durations_s = torch.full(units, duration_s / units[1]) if units is not None else None
        contents[modality] = ContentBatch(index, inputs, durations_s)
    return Batch(
        audio_ids=("synthetic",) * batch_size,
        tasks=("text_to_audio",) * batch_size,
        task_index=torch.zeros(batch_size, dtype=torch.long),
        instruction={"tokens": torch.ones(batch_size, INSTRUCTION_BYTES, dtype=torch.long)},
        contents=contents,
        waveform=torch.zeros(batch_size, samples),
        waveform_lengths=torch.full((batch_size,), samples),
        is_full=True,
    )


def stand_in_loss(output: Any) -> Tensor:
    """Mean square of every result that has a gradient, anywhere in dataclasses and lists; as large as a real loss."""
    return torch.stack([tensor.float().square().mean() for tensor in _differentiable(output)]).sum()


def _differentiable(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.requires_grad:
            yield output
    elif is_dataclass(output):
        for field in fields(output):
            yield from _differentiable(getattr(output, field.name))
    elif isinstance(output, list | tuple):
        for item in output:
            yield from _differentiable(item)


# -- the step -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepNeeds:
    """What a step takes.

    Attributes:
        weights_bytes: parameters and buffers.
        ema_bytes, optimizer_bytes, gradient_bytes: copies and states of the trainable parameters.
        activation_bytes: what forward leaves for backward.
        resting_bytes: everything that is there between two steps, the batch included.
        peak_bytes: most at one time, ``resting_bytes`` included.
        micro_batch_flops: forward and backward of one micro-batch.
    """

    weights_bytes: int
    ema_bytes: int
    optimizer_bytes: int
    gradient_bytes: int
    activation_bytes: int
    resting_bytes: int
    peak_bytes: int
    micro_batch_flops: int


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def model_without_weights(model_config: DictConfig) -> nn.Module:
    """The configured model with parameters on torch's "meta" device, where nothing is stored.

    Everything else is real, so constructors may check the numbers they were given. Tied weights come apart.
    """
    from accelerate import init_empty_weights
    from hydra.utils import instantiate

    with init_empty_weights(include_buffers=False):
        return instantiate(model_config)


def _make_fake(model: nn.Module, device: torch.device) -> None:
    """Replace parameters and buffers by fake ones on ``device``; call within a ``FakeTensorMode``."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty_like(parameter, device=device)
                module._parameters[name] = nn.Parameter(empty.detach(), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device=device)


@contextmanager
def _limits_explained() -> Iterator[None]:
    try:
        yield
    except (DynamicOutputShapeException, UnsupportedFakeTensorException, UnsupportedOperatorException) as error:
        raise UserError(
            "memory and time of a step cannot be estimated: something in the model or the optimizer depends on the "
            f"values of tensors ({error}); avoid boolean indexing, nonzero and the like, or go without the estimate"
        ) from error


def measure_fake_step(
    model_config: DictConfig,
    optimizer_config: DictConfig,
    *,
    batch_size: int,
    duration_s: float,
    micro_batches: int,
    bf16: bool,
    ema: bool,
    device: torch.device,
) -> tuple[nn.Module, StepNeeds]:
    """What ``Trainer`` does in its second step, when the optimizer has its state; also returns the fake model."""
    from hydra.utils import instantiate

    model = model_without_weights(model_config).train()
    # Tensors that are no part of a module (of the objective) are still real.
    with _limits_explained(), FakeTensorMode(allow_non_fake_inputs=True), StepMeter() as meter:
        _make_fake(model, device)
        batch = synthetic_batch(model, batch_size, duration_s).to(device)
        parameters = [p for p in model.parameters() if p.requires_grad]
        averaged = ExponentialMovingAverage(model, decay=0.5) if ema else None
        optimizer = instantiate(optimizer_config)(parameters)

        def update() -> None:
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if averaged is not None:
                averaged.update()

        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        update()
        meter.restart()
        resting_bytes = meter.live_bytes
        for _ in range(min(micro_batches, 2)):  # from the second on, gradients lie beside activations
            before_bytes, meter.flops = meter.live_bytes, 0
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = stand_in_loss(model(batch))
            activation_bytes = meter.live_bytes - before_bytes
            loss.backward()
            del loss
        update()
        states = chain.from_iterable(state.values() for state in optimizer.state.values())
        return model, StepNeeds(
            weights_bytes=_bytes(chain(model.parameters(), model.buffers())),
            ema_bytes=_bytes(averaged.average.values()) if averaged is not None else 0,
            optimizer_bytes=_bytes(states),
            gradient_bytes=_bytes(parameters),
            activation_bytes=activation_bytes,
            resting_bytes=resting_bytes,
            peak_bytes=meter.peak_bytes,
            micro_batch_flops=meter.flops,
        )
