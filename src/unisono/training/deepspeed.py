"""DeepSpeed's ZeRO-1: every GPU holds all weights, and the optimizer's state of its share of them.

What the trainer does stays the same but for the update, which DeepSpeed makes itself. It keeps the weights of a
parameter group in one flat tensor, cut into as many pieces as there are processes; each process updates its piece.

ZeRO-2 is refused. It averages gradients in the order in which the backward pass gives them, and takes that for the same
in all processes. Where batches of different tasks meet, it is not, and gradients silently get mixed up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count, islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import DeepSpeedPlugin, DistributedType
from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from unisono.errors import UserError
from unisono.training.hooks import TrainerHooks
from unisono.training.weights import trained_buffers, whole

_FILE = "configs/accelerate/deepspeed_8gpus.yaml"
# In a file of DeepSpeed's own (deepspeed_config_file): what the trainer decides.
_OWN_SECTIONS = ("optimizer", "scheduler", "fp16", "bf16", "torch_autocast", "amp")


def check_deepspeed() -> None:
    if find_spec("deepspeed") is None:
        raise UserError("Accelerate's configuration says DEEPSPEED, which is not installed: pip install deepspeed")


def refuse_gradient_hooks(trainer: TrainerHooks) -> None:
    """Raise for a trainer whose hooks want gradients: DeepSpeed takes them away while they are computed."""
    for name in ("on_after_backward", "on_before_optimizer_step"):
        if getattr(type(trainer), name) is not getattr(TrainerHooks, name):
            raise UserError(
                f"{type(trainer).__name__}.{name} would find no gradients with DeepSpeed; remove it, or train with "
                "configs/accelerate/8gpus.yaml or fsdp_8gpus.yaml"
            )


class ZeroAccelerator(Accelerator):
    """Accelerate for DeepSpeed, with float32 weights and communication: autocast alone sets the precision.

    Accelerate's own ``mixed_precision`` would make DeepSpeed round the model's weights to bfloat16.

    Args:
        precision: "bf16" or "no".
        max_grad_norm: DeepSpeed clips, as the trainer would; None for never.
    """

    def __init__(
        self, precision: str, max_grad_norm: float | None, trackers: Sequence[GeneralTracker], cpu: bool
    ) -> None:
        self._precision, self._buffers = precision, list[Tensor]()
        plugin = _plugin(precision, max_grad_norm)
        super().__init__(mixed_precision="no", cpu=cpu, log_with=list(trackers) or None, deepspeed_plugin=plugin)
        if self.distributed_type is not DistributedType.DEEPSPEED:
            raise UserError("DeepSpeed needs several processes on GPUs; on CPUs use configs/accelerate/2cpus.yaml")

    @property
    def mixed_precision(self) -> str:
        return self._precision

    @contextmanager
    def autocast(self, autocast_handler: Any = None) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            yield

    def prepare(self, *args: Any, **kwargs: Any) -> Any:
        model, optimizer = args
        engine, wrapper = super().prepare(model, optimizer, **kwargs)
        zero = engine.optimizer
        if zero.optimizer is not optimizer:  # it remakes Adagrad, whose learning rate no schedule would reach
            raise UserError(f"DeepSpeed cannot spread {type(optimizer).__name__}; use torch.optim.AdamW or FSDP")
        engine.enable_backward_allreduce = False  # clip_and_step does it, when it is known that all gradients are there
        self.engine, self._buffers = engine, trained_buffers(engine.module)
        # It updates a copy of its piece of the weights, which must follow where weights are loaded.
        engine.module.register_load_state_dict_post_hook(lambda *_: zero.refresh_fp32_params())
        return engine, wrapper

    @contextmanager
    def no_sync(self, model: nn.Module) -> Iterator[None]:
        """For all micro-batches of a step but the last: their gradients are added up."""
        self.engine.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self.engine.set_gradient_accumulation_boundary(True)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        self.engine.backward(loss, **kwargs)  # Accelerate's would update, too

    def clip_and_step(self) -> Tensor:
        """Average over processes, clip and update, unless a gradient is not finite; gradients are gone afterwards.

        Returns:
            The norm before clipping, the same in all processes, infinite if there was no update.
        """
        unused = [name for name, p in self.engine.module.named_parameters() if p.requires_grad and p.grad is None]
        if unused:  # DeepSpeed would average those of one process with others of another
            raise UserError(
                f"{', '.join(unused[:5])} had no part in the loss ({len(unused)} parameters); where several processes "
                "train, each must in every step: freeze it (requires_grad), or add 0 times its sum to the loss"
            )
        self.engine.allreduce_gradients()
        self.engine.step()
        for buffer in self._buffers:  # DDP does so before each forward
            torch.distributed.broadcast(buffer, 0)
        return torch.tensor(float(self.engine.get_global_grad_norm()))


def _plugin(precision: str, max_grad_norm: float | None) -> DeepSpeedPlugin:
    """What the launcher said of DeepSpeed, and what the trainer decides."""
    if precision == "fp16":
        raise UserError("with DeepSpeed, train with mixed_precision bf16 or no instead of fp16")
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise UserError("with DeepSpeed, compile by trainer.torch_compile=true instead of Accelerate's dynamo_backend")
    plugin = DeepSpeedPlugin()
    config = plugin.deepspeed_config
    zero = config["zero_optimization"]
    if zero["stage"] != 1 or zero.get("overlap_comm"):
        raise UserError(
            f"DeepSpeed's zero_stage is {zero['stage']}{' with overlap_comm' if zero.get('overlap_comm') else ''}; use "
            f"1, as in {_FILE}. To spread gradients and weights too, use FSDP: configs/accelerate/fsdp_8gpus.yaml"
        )
    if any((zero.get(f"offload_{what}") or {}).get("device", "none") != "none" for what in ("optimizer", "param")):
        raise UserError(f"DeepSpeed's offloading is not supported; say none, as in {_FILE}")
    if unknown := [name for name in _OWN_SECTIONS if name in config]:
        raise UserError(f"deepspeed_config_file has {', '.join(unknown)}, which the trainer sets; remove it there")
    config.update(
        train_micro_batch_size_per_gpu=1,  # tells DeepSpeed's own log only
        gradient_accumulation_steps=1,  # the trainer divides the loss and says which micro-batch is the last
        gradient_clipping=max_grad_norm or 0.0,
        # Within the model's forward DeepSpeed ends any autocast but its own; no module's gradients travel rounded.
        torch_autocast={"enabled": precision == "bf16", "dtype": "bfloat16", "lower_precision_safe_modules": []},
    )
    return plugin


def whole_optimizer(optimizer: Any) -> Any:
    """The optimizer, or if it is DeepSpeed's, one whose state is that of the model's parameters."""
    return WholeOptimizer(optimizer.optimizer) if isinstance(optimizer, DeepSpeedOptimizerWrapper) else optimizer


class WholeOptimizer:
    """State of a ZeRO optimizer as if it had updated whole parameters: for checkpoints. All processes call it.

    Args:
        zero: DeepSpeed's.
    """

    def __init__(self, zero: Any) -> None:
        self.optimizer: Optimizer = zero.optimizer
        self.groups = list(zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True))
        self.param_groups = [
            {**group, "params": list(parameters)}
            for group, (parameters, _) in zip(self.optimizer.param_groups, self.groups, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        state: dict[int, Any] = {}
        groups, numbers = [], count()
        for (parameters, piece), group in zip(self.groups, self.param_groups, strict=True):
            indices = list(islice(numbers, len(parameters)))
            groups.append({**group, "params": indices})
            if entry := self.optimizer.state.get(piece):
                for index, parameter in zip(indices, parameters, strict=True):
                    state[index] = {
                        key: _gathered(parameter, value) if _is_tensor(value, piece.shape) else value
                        for key, value in entry.items()
                    }
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        state, numbers = {}, count()
        for number, (parameters, piece) in enumerate(self.groups):
            entries = [(parameter, saved["state"].get(next(numbers))) for parameter in parameters]
            if known := [(parameter, entry) for parameter, entry in entries if entry]:
                state[number] = {key: _piece_of(key, known, piece) for key in known[0][1]}
        groups = [{**group, "params": [number]} for number, group in enumerate(saved["param_groups"])]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _is_tensor(value: Any, shape: torch.Size) -> bool:
    return isinstance(value, Tensor) and value.shape == shape


def _gathered(parameter: Any, piece: Tensor) -> Tensor:
    """The values that belong to one parameter, on the CPU, from the pieces of all processes."""
    full = torch.zeros(parameter.numel(), dtype=piece.dtype, device=piece.device)
    if (place := parameter._hp_mapping) is not None:  # some of them are in this process's piece
        here, there = place.lp_fragment_address, place.hp_fragment_address
        full.narrow(0, here.start, here.numel).copy_(piece.narrow(0, there.start, there.numel))
    torch.distributed.all_reduce(full)
    return whole(full.view(parameter.shape))


def _piece_of(key: str, known: Sequence[tuple[Any, Mapping[str, Any]]], piece: Tensor) -> Any:
    """This process's piece of what parameters have under a key, or the one value that they share (updates so far)."""
    if key == "step" or not all(_is_tensor(entry[key], p.shape) for p, entry in known):
        values = [entry[key] for _, entry in known]
        if any(value != values[0] for value in values):
            raise UserError(
                f"the checkpoint's optimizer has its own {key!r} for each parameter, DeepSpeed's one for all; begin "
                "with its weights by trainer.initial_weights, or train without DeepSpeed"
            )
        return values[0]
    mine = torch.zeros_like(piece)
    for parameter, entry in known:
        if (place := parameter._hp_mapping) is not None:
            here, there = place.lp_fragment_address, place.hp_fragment_address
            mine.narrow(0, there.start, there.numel).copy_(entry[key].flatten().narrow(0, here.start, here.numel))
    return mine
