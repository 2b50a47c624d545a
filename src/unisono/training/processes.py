"""Which processes train, on what and how precisely: what Accelerate's launcher was told decides."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Literal

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, register_fsdp_forward_method

from unisono.errors import UserError
from unisono.training.deepspeed import ZeroAccelerator, check_deepspeed

logger = logging.getLogger(__name__)
PATIENCE = timedelta(hours=3)
MixedPrecision = Literal["auto", "bf16", "fp16", "no"]


def uses_cpu() -> bool:
    """Whether to train on the processor: there is no usable accelerator, or the launcher was told to.

    Apple's GPU is not usable: it lacks float64, which sums and cumulated durations need.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator is None or accelerator.type == "mps" or parse_flag_from_env("ACCELERATE_USE_CPU")


def process_state() -> PartialState:
    """Accelerate's view of the processes of this run; joins them on the first call.

    Without ``cpu=True`` Accelerate takes each of several processes on a machine without GPU for the only one.
    """
    if parse_flag_from_env("ACCELERATE_USE_MEGATRON_LM"):
        raise UserError(
            "Accelerate's configuration says MEGATRON_LM, which makes the optimizer's steps itself; to spread a model "
            "over GPUs use FSDP, as in configs/accelerate/fsdp_8gpus.yaml"
        )
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        check_deepspeed()
    # The first process builds corpora and reads every audio file while the others wait; the default is ten minutes.
    return PartialState(cpu=uses_cpu(), timeout=PATIENCE)


def best_precision(device: torch.device) -> str:
    """bfloat16 where the device multiplies it fast, else float32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    fast = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16" if fast else "no"


def chosen_precision(mixed_precision: MixedPrecision, device: torch.device) -> str:
    """What ``trainer.mixed_precision`` comes to.

    "auto" is what ``accelerate launch`` was told by its flags, its file or its default ("no"), and ``best_precision``
    where the script was started without it. Others, and fp16 without a GPU, raise ``UserError``.
    """
    chosen: str = mixed_precision
    place, choices = "trainer.mixed_precision", "auto, bf16, fp16 or no"
    if mixed_precision == "auto":
        chosen = os.environ.get("ACCELERATE_MIXED_PRECISION") or best_precision(device)
        place, choices = "mixed_precision of accelerate launch", "bf16, fp16 or no"
    if chosen not in ("bf16", "fp16", "no"):
        hint = '; in a YAML file write "no" in quotes, since YAML reads a bare no as false' if chosen is False else ""
        raise UserError(f"{place} is {chosen!r}; use {choices}{hint}")
    if chosen == "fp16" and device.type == "cpu":
        raise UserError(f"{place} is 'fp16', which needs a GPU; use bf16 or no")
    return chosen


def make_accelerator(
    mixed_precision: MixedPrecision, trackers: Sequence[GeneralTracker] = (), max_grad_norm: float | None = None
) -> Accelerator:
    """An accelerator of its own for each training.

    Accelerate keeps its state for the life of the process and refuses a second precision; a sweep trains several times
    in one process. The processes themselves stay joined. ``max_grad_norm`` is for DeepSpeed, which clips by itself.
    """
    precision = chosen_precision(mixed_precision, process_state().device)
    AcceleratorState._reset_state()
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        return ZeroAccelerator(precision, max_grad_norm, trackers, cpu=uses_cpu())
    sharding = _sharding() if parse_flag_from_env("ACCELERATE_USE_FSDP") else None
    accelerator = Accelerator(
        mixed_precision=precision, cpu=uses_cpu(), log_with=list(trackers) or None, fsdp_plugin=sharding
    )
    if not accelerator.is_main_process:
        logging.getLogger("unisono").setLevel(logging.ERROR)  # the main process says it once for all
    if sharding is not None and accelerator.distributed_type is not DistributedType.FSDP:
        raise UserError(
            "Accelerate's configuration says FSDP, and Accelerate shards over GPUs only; here each process would hold "
            "the whole model. On CPUs use configs/accelerate/2cpus.yaml"
        )
    return accelerator


def _sharding() -> FullyShardedDataParallelPlugin:
    """What the launcher said of FSDP, with float32 between processes: autocast alone sets the precision."""
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError(
            "FSDP version 1 is not supported; say fsdp_version: 2, as in configs/accelerate/fsdp_8gpus.yaml"
        )
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise UserError("with FSDP, compile by trainer.torch_compile=true instead of Accelerate's dynamo_backend")
    return FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy())


def settle_sharding(model: nn.Module, methods: Iterable[tuple[nn.Module, str]]) -> None:
    """After ``prepare``; of no effect on a model that is not sharded by FSDP.

    Args:
        model: as prepared. Its root is sharded again after each forward: Accelerate leaves it gathered, and weights
            that are exchanged then (averaged ones, for validation) would be missed by the next forward.
        methods: modules and names of methods that use weights outside ``forward``, for which they have to be gathered.
    """
    if isinstance(model, FSDPModule):
        model.set_reshard_after_forward(True)
        for module, name in methods:
            register_fsdp_forward_method(module, name)


def share_buffers(accelerator: Accelerator, buffers: Iterable[Tensor]) -> None:
    """Give every process the main one's running statistics, which are those that are saved."""
    if accelerator.num_processes > 1:
        for buffer in buffers:
            torch.distributed.broadcast(buffer, src=0)


def log_processes(accelerator: Accelerator) -> None:
    """One line on processes, device and precision, from the main process."""
    if not accelerator.is_main_process:
        return
    number, device, precision = accelerator.num_processes, accelerator.device.type, accelerator.mixed_precision
    logger.info("%d process%s on %s, mixed precision %s", number, "" if number == 1 else "es", device, precision)
    # Accelerate says where the first of several processes is, and starts one.
    if number == 1 and parse_flag_from_env("ACCELERATE_USE_CPU") and "MASTER_ADDR" in os.environ:
        logger.warning(
            "accelerate launch --cpu starts one process whatever --num_processes says, unless MPI does; "
            "for several use --config_file configs/accelerate/2cpus.yaml"
        )
