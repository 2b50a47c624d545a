"""Launching with Accelerate: its files, its default file, its flags; processes, devices and precision."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from test_trainer import make_trainer
from toy import toy_model
from unisono.errors import UserError
from unisono.training import processes
from unisono.training.processes import best_precision, chosen_precision, log_processes, process_state, uses_cpu

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / "configs/accelerate"
ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
CPU = torch.device("cpu")
EXPECTED = {  # file -> processes of all machines, machines, precision, whether Accelerate starts torchrun
    "1gpu.yaml": (1, 1, "bf16", False),
    "8gpus.yaml": (8, 1, "bf16", True),
    "2cpus.yaml": (2, 1, "no", True),
    "2machines_8gpus.yaml": (16, 2, "bf16", True),
    "fsdp_8gpus.yaml": (8, 1, "bf16", False),
    "deepspeed_8gpus.yaml": (8, 1, "bf16", False),
}


def understood(*command: str) -> Any:
    """What Accelerate makes of ``accelerate launch`` and these arguments."""
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args([*command, "train.py"]))
    return arguments


def test_accelerate_reads_every_file() -> None:
    assert sorted(EXPECTED) == sorted(path.name for path in FILES.iterdir())
    for name, expected in EXPECTED.items():
        args = understood("--config_file", str(FILES / name))
        assert (args.num_processes, args.num_machines, args.mixed_precision, args.multi_gpu) == expected, name
        first = (FILES / name).read_text().splitlines()[0]
        assert first.startswith("# A file for Accelerate, not for Hydra: accelerate launch --config_file")
        assert f"configs/accelerate/{name} " in first and first.endswith(" train.py")


def test_the_cpu_file_hides_gpus() -> None:
    environment = prepare_multi_gpu_env(understood("--config_file", str(FILES / "2cpus.yaml"), "--main_process_port=0"))
    assert environment["CUDA_VISIBLE_DEVICES"] == "-1,-1"


def test_the_command_line_goes_before_the_file_of_two_machines() -> None:
    where = ["--machine_rank", "1", "--main_process_ip", "10.0.0.7", "--main_process_port", "1234"]
    args = understood("--config_file", str(FILES / "2machines_8gpus.yaml"), *where, "--num_processes", "8")
    prepare_multi_gpu_env(args)
    assert (args.node_rank, args.nnodes, args.nproc_per_node) == (1, "2", "4")
    assert args.rdzv_endpoint == "10.0.0.7:1234"


def launch(*command: str, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1", **environment}
    return subprocess.Popen(
        [ACCELERATE, "launch", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables
    )


def finished(process: subprocess.Popen[str]) -> str:
    """Its output; fails the test unless it ended well."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return output


def training(data_root: Path, exp_dir: Path) -> list[str]:
    return [str(ROOT / "train.py"), "debug=cpu", f"data_root='{data_root}'", f"exp_dir='{exp_dir}'"]


def losses(exp_dir: Path) -> list[dict]:
    records = [json.loads(line) for line in (exp_dir / "metrics.jsonl").open()]
    return [{name: value for name, value in record.items() if name != "items_per_s"} for record in records]


@pytest.mark.slow
def test_two_processes_train_however_accelerate_is_told(data_root: Path, tmp_path: Path) -> None:
    port = ["--main_process_port", "0"]  # a free one
    by_file = ["--config_file", str(FILES / "2cpus.yaml")]
    output = finished(launch(*by_file, *port, *training(data_root, tmp_path / "file")))
    assert output.count("2 processes on cpu, mixed precision no") == 1
    assert len(list((tmp_path / "file/tensorboard").iterdir())) == 1  # the main process alone writes

    (tmp_path / "home/accelerate").mkdir(parents=True)
    shutil.copy(FILES / "2cpus.yaml", tmp_path / "home/accelerate/default_config.yaml")
    by_default = training(data_root, tmp_path / "default")
    output = finished(launch(*port, *by_default, HF_HOME=str(tmp_path / "home")))
    assert "2 processes on cpu, mixed precision no" in output
    assert losses(tmp_path / "file") == losses(tmp_path / "default")

    # Both run folders are whole: one process goes on with what two began.
    done = subprocess.run(
        [sys.executable, *training(data_root, tmp_path / "file"), "epochs=2", "trainer.mixed_precision=no"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [record["step"] for record in losses(tmp_path / "file") if "lr" in record] == [1, 2, 3, 4]


@pytest.mark.slow
def test_two_machines_find_each_other(data_root: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    file = ["--config_file", str(FILES / "2machines_8gpus.yaml"), "--num_processes", "2", "--gpu_ids=-1"]
    where = ["--main_process_ip", "127.0.0.1", "--main_process_port", port, "--mixed_precision", "no"]
    command = training(data_root, tmp_path / "run")
    machines = [launch(*file, *where, "--machine_rank", rank, *command) for rank in ("0", "1")]
    try:
        outputs = [finished(machine) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert ["2 processes on cpu" in output for output in outputs] == [True, False]


@pytest.mark.parametrize(
    ("setting", "launched_with", "expected"),
    [
        ("auto", "bf16", "bf16"),
        ("auto", "no", "no"),
        ("auto", None, best_precision(CPU)),
        ("no", "bf16", "no"),
        ("bf16", "no", "bf16"),
    ],
)
def test_auto_is_what_accelerate_was_told(
    setting: Any, launched_with: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched_with is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched_with)
    assert chosen_precision(setting, CPU) == expected


@pytest.mark.parametrize(
    ("setting", "launched_with", "message"),
    [
        ("fp16", None, "trainer.mixed_precision is 'fp16', which needs a GPU; use bf16 or no"),
        ("auto", "fp16", "mixed_precision of accelerate launch is 'fp16', which needs a GPU; use bf16 or no"),
        (False, None, 'write "no" in quotes'),
    ],
)
def test_other_precisions_are_refused(
    setting: Any, launched_with: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched_with is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched_with)
    with pytest.raises(UserError, match=message):
        chosen_precision(setting, CPU)


def test_trainings_of_one_process_have_their_own_precision(toy_corpus: Path, tmp_path: Path) -> None:
    seen: list[bool] = []
    for setting in ("bf16", "no"):
        trainer = make_trainer(toy_corpus, tmp_path / setting, epoch_length=1, mixed_precision=setting)
        trainer.val_batches = None
        loss_fn, device = trainer.loss_fn, trainer.accelerator.device.type

        def watched(output: Any, loss_fn: Any = loss_fn, device: str = device) -> Any:
            seen.append(torch.is_autocast_enabled(device))
            return loss_fn(output)

        trainer.loss_fn = watched
        trainer.fit()
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("accelerator", "flag", "expected"),
    [(None, None, True), ("mps", None, True), ("cuda", None, False), ("cuda", "true", True)],
)
def test_where_the_processor_trains(
    accelerator: str | None, flag: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(accelerator or "meta"))
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    if flag is not None:
        monkeypatch.setenv("ACCELERATE_USE_CPU", flag)
    assert uses_cpu() == expected


def test_launches_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr("unisono.training.deepspeed.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install deepspeed"):
        process_state()
    monkeypatch.setenv("ACCELERATE_USE_MEGATRON_LM", "true")
    with pytest.raises(UserError, match=r"MEGATRON_LM.*fsdp_8gpus"):
        process_state()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"FSDP_VERSION": "2"}, "shards over GPUs only"),
        ({"FSDP_VERSION": "1"}, "fsdp_version: 2"),
        ({"FSDP_VERSION": "2", "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "trainer.torch_compile=true"),
    ],
)
def test_sharding_that_would_not_happen_is_refused(
    variables: dict[str, str], message: str, toy_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ACCELERATE_USE_FSDP": "true", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        make_trainer(toy_corpus, tmp_path)


def test_several_processes_that_accelerate_does_not_start_are_missed(
    toy_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(toy_corpus, tmp_path)
    for number, warned in (("1", False), ("2", True)):
        _, environment = prepare_simple_launcher_cmd_env(understood("--cpu", "--num_processes", number))
        for name in ("ACCELERATE_USE_CPU", "MASTER_ADDR"):
            if name in environment:
                monkeypatch.setenv(name, environment[name])
        caplog.clear()
        with caplog.at_level("INFO", logger=processes.__name__):
            log_processes(trainer.accelerator)
        assert "1 process on" in caplog.text
        assert ("2cpus.yaml" in caplog.text) == warned


def test_a_compiled_model_keeps_the_names_of_its_weights(
    toy_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")  # accelerate launch --dynamo_backend eager
    trainer = make_trainer(toy_corpus, tmp_path)
    assert isinstance(trainer.model, torch._dynamo.OptimizedModule)
    assert trainer.raw_model.state_dict().keys() == toy_model(16, 2).state_dict().keys()
