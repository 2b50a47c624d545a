"""A training in processes of its own, for tests that kill or launch it: ``python runs.py KIND EXP_DIR OPTIONS``.

OPTIONS is JSON: what ``Trainer`` takes, and
    step_s: time that each step takes at least, so that a signal meets one;
    save_s: time that each save takes at least;
    log: tell what is logged;
    num_workers, persistent_workers: of the training loader;
    batch_size: of the plain data, which are then read in order, without noise and dropout;
    fails_on_rank: the rank whose data raise in the third step;
    nan_at_step: step whose last loss is NaN in the last process;
    unused_on_rank: the rank whose plain model leaves out its last layer;
    zero_stage: train with DeepSpeed's ZeRO of this stage.
The kinds: "plain" (tests/plain.py), "toy" (the unified model on the corpus in TOY_CORPUS), "sharded" (that, with FSDP).
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

RUN = [sys.executable, str(Path(__file__))]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
_STACKS_AFTER_S = 150  # a run takes seconds, or half a minute beside other work


def command(kind: str, exp_dir: Path, processes: int = 1, **options: Any) -> list[str]:
    """The command line of a run."""
    own = [str(Path(__file__)), kind, str(exp_dir), json.dumps(options)]
    return [sys.executable, *own] if processes == 1 else [*TORCHRUN, str(processes), *own]


def start(kind: str, exp_dir: Path, processes: int = 1, **options: Any) -> subprocess.Popen[str]:
    """A run in a session of its own, so that a signal to its group reaches all its processes."""
    from plain import ENVIRONMENT

    return subprocess.Popen(
        command(kind, exp_dir, processes, **options), env=ENVIRONMENT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def children(pid: int) -> list[int]:
    """Processes that a launcher started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_all(process: subprocess.Popen[str]) -> None:
    """A launcher and what it started: each of them has a session of its own and would go on without it."""
    for pid in [*children(process.pid), process.pid]:
        os.kill(pid, signal.SIGKILL)


def finish(process: subprocess.Popen[str]) -> str:
    """Its output; fails the test unless it ended well. One that hangs is killed and shows where its processes were."""
    is_late = False
    try:
        output, _ = process.communicate(timeout=_STACKS_AFTER_S + 30)
    except subprocess.TimeoutExpired:
        is_late = True
        kill_all(process)
        output, _ = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            kill_all(process)
    assert not is_late and process.returncode == 0, output[-20000 if is_late else -3000 :]
    return output


def run(kind: str, exp_dir: Path, processes: int = 1, **options: Any) -> str:
    return finish(start(kind, exp_dir, processes, **options))


def wait_for_step(exp_dir: Path, step: int, process: subprocess.Popen[str], timeout_s: float = 120) -> None:
    """Until ``metrics.jsonl`` shows the step."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        file = exp_dir / "metrics.jsonl"
        if file.is_file() and f'"step": {step},' in file.read_text(encoding="utf-8"):
            return
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached")


def _shard_on_the_cpu() -> None:
    """Let Accelerate shard processes that use their CPU, which it does for GPUs only."""
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    from unisono.training import processes

    def sharding(**options: Any) -> Accelerator:
        accelerator = Accelerator(**options)
        AcceleratorState._shared_state["fsdp_plugin"] = options["fsdp_plugin"]
        for state in (AcceleratorState, PartialState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        return accelerator

    processes.Accelerator = sharding  # type: ignore[misc,assignment]
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "DiTBlock", "FSDP_RESHARD_AFTER_FORWARD": "true",
    }  # fmt: skip


def _zero_on_the_cpu(stage: int) -> None:
    """Let Accelerate use DeepSpeed in processes that use their CPU, which it does for GPUs only."""
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    own = Accelerator.__init__

    def init(self: Accelerator, *, deepspeed_plugin: Any, **options: Any) -> None:
        own(self, deepspeed_plugin=deepspeed_plugin, **options)
        deepspeed_plugin.set_mixed_precision(options["mixed_precision"])
        deepspeed_plugin.select(_from_accelerator_state=True)
        AcceleratorState._shared_state["deepspeed_plugins"] = {"default": deepspeed_plugin}
        for state in (AcceleratorState, PartialState):
            state._shared_state["distributed_type"] = DistributedType.DEEPSPEED

    Accelerator.__init__ = init  # type: ignore[method-assign,assignment]
    os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}


def _plain(exp_dir: Path, options: dict[str, Any], batch_size: int | None) -> Any:
    import torch
    from torch.utils.data import DataLoader

    from plain import Points, plain_model, plain_trainer

    if batch_size is not None:
        options["train_dataloader"] = DataLoader(Points(64, noise=0.0), batch_size=batch_size, shuffle=True)
        options["model"] = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        with torch.no_grad():
            generator = torch.Generator().manual_seed(1)
            for parameter in options["model"].parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        options["val_dataloader"] = DataLoader(Points(23, noise=0.0), batch_size=2)
    else:
        options.setdefault("model", plain_model())
    return plain_trainer(exp_dir, **options)


def _toy(exp_dir: Path, options: dict[str, Any]) -> Any:
    from test_trainer import make_trainer
    from unisono.models.unified import GenerationSettings
    from unisono.training.samples import SampleLogger

    generation = GenerationSettings(num_steps=2, max_duration_s=1.0)
    samples = SampleLogger(exp_dir, num_items=1, every_n_steps=3, generation=generation)
    return make_trainer(Path(os.environ["TOY_CORPUS"]), exp_dir, samples=samples, **options)


def main() -> None:
    import torch

    faulthandler.dump_traceback_later(_STACKS_AFTER_S, exit=False)
    kind, exp_dir, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    step_s, save_s, fails_on_rank = (options.pop(name, 0.0) for name in ("step_s", "save_s", "fails_on_rank"))
    if options.pop("log", False):
        logging.basicConfig(level=logging.INFO)
        options["progress"] = True
    nan_at_step, zero_stage = options.pop("nan_at_step", None), options.pop("zero_stage", None)
    unused_on_rank = options.pop("unused_on_rank", None)
    if kind == "sharded":
        _shard_on_the_cpu()
    if zero_stage is not None:
        _zero_on_the_cpu(zero_stage)
    make = partial(_plain, batch_size=options.pop("batch_size", None)) if kind == "plain" else _toy
    trainer = make(exp_dir, options)

    def slow_down(*_: Any) -> None:
        time.sleep(step_s)
        if fails_on_rank and fails_on_rank == trainer.accelerator.process_index and trainer.step == 2:
            raise RuntimeError("the data of this rank are broken")

    own_step, rank = trainer.training_step, trainer.accelerator.process_index

    def spoilt(batch: Any, batch_idx: int) -> Any:
        if rank == unused_on_rank:
            return trainer.raw_model[0](batch[0]).mean()
        loss = own_step(batch, batch_idx)
        is_last = (batch_idx + 1) % trainer.gradient_accumulation_steps == 0
        is_spoilt = trainer.step == nan_at_step and is_last and rank == trainer.accelerator.num_processes - 1
        return loss * float("nan") if is_spoilt else loss

    trainer.on_train_batch_start, trainer.training_step = slow_down, spoilt
    if save_s:
        trainer.on_save_checkpoint = lambda _: time.sleep(save_s)
    trainer.fit()
    print(f"rank {trainer.accelerator.process_index}: {trainer.stop_reason} at step {trainer.step}")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
