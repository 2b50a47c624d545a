"""docs/training.md and docs/custom_trainer.md: commands run, code is the example's, what is quoted is said."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, TensorDataset

from pages import environment, run
from unisono.errors import UserError
from unisono.training.audio_generation_trainer import AudioGenerationTrainer
from unisono.training.hooks import TrainerHooks
from unisono.training.run import check_same_settings
from unisono.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
TRAINING = (ROOT / "docs/training.md").read_text(encoding="utf-8")
CUSTOM = (ROOT / "docs/custom_trainer.md").read_text(encoding="utf-8")
DIGITS = "examples/digits/digits.py"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    return [line.split(" # ")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]


def programs() -> dict[str, str]:
    """The files that the page lets the reader write; other blocks are excerpts."""
    named = {text.splitlines()[0].removeprefix("# "): text for text in blocks(CUSTOM, "python")}
    return {name: text for name, text in named.items() if name.endswith(".py")}


def program(name: str) -> SimpleNamespace:
    """What a file of the page defines."""
    names: dict[str, Any] = {"__name__": "imported"}
    exec(compile(programs()[name], name, "exec"), names)
    return SimpleNamespace(**names)


# -- what stands on the pages -----------------------------------------------------------------------------------------


def test_excerpts_are_those_of_the_files() -> None:
    excerpts = [text for text in blocks(CUSTOM, "python") if text not in programs().values()]
    assert len(excerpts) == 3 and len(programs()) == 3
    source = (ROOT / DIGITS).read_text(encoding="utf-8")
    for text in excerpts:
        assert text in source
    settings = [*blocks(CUSTOM, "yaml"), *blocks(TRAINING, "yaml")]
    files = [ROOT / "examples/digits/digits.yaml", ROOT / "configs/trainer/audio_generation.yaml"]
    for text, path in zip(settings, files, strict=True):
        lines = {line.split(" #")[0] for line in path.read_text(encoding="utf-8").splitlines()}
        assert {line.split(" #")[0] for line in text.splitlines() if not line.startswith("#")} <= lines


def test_the_table_of_hooks_is_complete() -> None:
    table = CUSTOM.partition("| hook |")[2].partition("\n\n")[0]
    told = set(re.findall(r"`((?:on_|training_|validation_|get_)\w+)", table))
    hooks = {name for name in vars(TrainerHooks) if name.startswith("on_")}
    assert told == hooks | {"training_step", "validation_step", "get_val_metrics"}
    for name, arguments in re.findall(r"`(\w+)\(([\w, ]*)\)`", table):
        assert ", ".join(list(inspect.signature(getattr(Trainer, name)).parameters)[1:]) == arguments, name


def test_every_setting_is_told_and_none_is_invented() -> None:
    takes = {*inspect.signature(Trainer).parameters, *inspect.signature(AudioGenerationTrainer).parameters}
    assert set(re.findall(r"trainer\.(\w+)=\w", TRAINING)) - {"NAME"} <= takes
    settings = OmegaConf.load(ROOT / "configs/trainer/audio_generation.yaml")
    words = set(re.findall(r"\w+", TRAINING))
    assert {str(name) for name in settings} - {"_target_", "seed"} <= words


# -- messages ---------------------------------------------------------------------------------------------------------


class Digits(TensorDataset):
    """The item that cannot be read has the name that the page quotes."""

    broken = -1

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        if index == self.broken:
            raise OSError("no such image")
        return super().__getitem__(index)


def make_line(exp_dir: Path, scale: float = 1.0, broken: int = -1, **options: Any) -> Trainer:
    """The trainer of line.py on 16 points, three steps, saving each."""
    x = torch.linspace(-1, 1, 16)[:, None]
    data = Digits(x, scale * x)
    data.broken = broken
    settings: dict[str, Any] = {"epochs": 3, "save_every_n_steps": 1, "progress": False, "mixed_precision": "no"}
    return program("line.py").LineTrainer(
        **{
            "model": torch.nn.Linear(1, 1),
            "optimizer": partial(torch.optim.SGD, lr=0.1),
            "loss_fn": torch.nn.MSELoss(),
            "train_dataloader": DataLoader(data, batch_size=16),
            "exp_dir": exp_dir,
            **settings,
            **options,
        }
    )


def truncated(exp_dir: Path, *steps: int) -> Trainer:
    make_line(exp_dir).fit()
    for step in steps:
        os.truncate(exp_dir / f"checkpoints/step_{step:08d}/model.safetensors", 10)
    return make_line(exp_dir)


def loss_is_nan(exp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_line(exp_dir, scale=float("nan"), max_nonfinite_steps=2).fit()


def weights_are_nan(exp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_line(exp_dir)
    trainer.on_train_batch_end = lambda *_: trainer.raw_model.weight.data.fill_(float("nan"))  # type: ignore
    trainer.fit()


def disk_is_full(exp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_line(exp_dir)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    trainer.on_train_batch_start = lambda *_: (  # type: ignore[method-assign]
        monkeypatch.setattr("unisono.training.checkpoint.save_file", full) if trainer.step == 2 else None
    )
    trainer.fit()


def item_is_broken(exp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_line(exp_dir, broken=7).fit()


def newest_is_damaged(exp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truncated(exp_dir, 3).fit()


def all_are_damaged(exp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truncated(exp_dir, 2, 3).fit()


def settings_differ(exp_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = exp_dir / "experiments/mine"
    (run / "checkpoints").mkdir(parents=True)
    OmegaConf.save({"resume": "auto", "seed": 1}, run / "config.yaml")
    check_same_settings(run, OmegaConf.create({"resume": "auto", "seed": 2}))


FAULTS: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "a loss or gradient is NaN or infinite": loss_is_nan,
    "the weights are NaN": weights_are_nan,
    "the disk is full while saving": disk_is_full,
    "an audio file breaks, a data set raises": item_is_broken,
    "the newest checkpoint is damaged": newest_is_damaged,
    "all of them are": all_are_damaged,
    "other settings than before": settings_differ,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_quoted_messages_are_what_is_said(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    row = next(line for line in TRAINING.splitlines() if line.startswith(f"| {fault} |"))
    quoted = row.split("|")[2].split("`")[1]
    said = ""
    try:
        FAULTS[fault](tmp_path, monkeypatch)
    except (UserError, RuntimeError) as error:
        said = str(error)
    # The page's numbers are examples.
    pattern = ".*".join(re.sub(r"\d[\d.]*", r"\\d[\\d.]*", re.escape(part)) for part in quoted.split("…"))
    assert re.search(pattern, f"{said}\n{caplog.text}", re.DOTALL), f"{quoted}\n{said}\n{caplog.text}"


# -- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout, with a small corpus and the files that the pages show."""
    from unisono.data.mini.corpus import build_mini_corpus

    place = tmp_path_factory.mktemp("checkout")
    for name in ("train.py", "configs", "examples"):
        (place / name).symlink_to(ROOT / name)
    counts = dict.fromkeys(("text_to_audio", "text_to_speech", "speech_enhancement"), (6, 3, 3))
    build_mini_corpus(place / "data/mini", workers=1, progress=False, counts=counts)
    for name, text in programs().items():
        (place / name).write_text(text)
    return place


def logged(exp_dir: Path) -> list[dict[str, Any]]:
    """``metrics.jsonl`` without speeds."""
    records = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in record.items() if name != "items_per_s"} for record in records]


@pytest.mark.slow
def test_every_command_of_the_training_page_runs(workplace: Path) -> None:
    for command in commands(TRAINING):
        run(command, workplace)
    experiments = workplace / "experiments"
    steps = {name: logged(experiments / name)[-1]["step"] for name in ("accumulated", "long", "branch", "tuned")}
    assert steps == {"accumulated": 2, "long": 4, "branch": 6, "tuned": 2}
    assert (experiments / "long/checkpoints/abandoned_1_step_00000004").is_dir()
    assert list((experiments / "first/samples").glob("step_*/text_to_speech/*.wav"))
    keys = {key for name in ("first", "accumulated", "long") for record in logged(experiments / name) for key in record}
    table = TRAINING.partition("| key |")[2].partition("\n\n")[0]
    told = [re.escape(key) for key in re.findall(r"`((?:train|val)/[^`…]+)`", table)]
    patterns = [re.sub(r"<\w+>", r"[\\w.]+", key).replace(r"0\.0\-0\.2", r"\d\.\d-\d\.\d") for key in told]
    for pattern in patterns:
        assert any(re.fullmatch(pattern, key) for key in keys), pattern
    for key in keys:
        known = (*patterns, "step|epoch|grad_norm|lr|items_per_s", r"val/\w+_duration_loss(/\w+)?")
        assert any(re.fullmatch(pattern, key) for pattern in known), f"{key} is not on the page"


@pytest.mark.slow
def test_every_command_of_the_custom_page_runs(workplace: Path) -> None:
    said = {command: run(command, workplace) for command in commands(CUSTOM)}
    accuracy = re.search(r"accuracy (\d\.\d+)", said["python use_digits.py"])
    assert accuracy is not None and float(accuracy[1]) > 0.85
    assert logged(workplace / "experiments/line")[-1]["val/loss"] < 0.1
    assert (workplace / "experiments/line/model/model.safetensors").is_file()
    gan = [record["val/loss"] for record in logged(workplace / "experiments/gan") if "val/loss" in record]
    assert gan[-1] < 0.5  # the data's mean is 3, an untrained generator's near 0


@pytest.mark.slow
def test_after_ctrl_c_the_same_command_ends_with_the_same_numbers(workplace: Path) -> None:
    options = [DIGITS, "trainer.epochs=4", "+train_dataloader.num_workers=1"]
    run(f"python {' '.join(options)} exp_dir=experiments/whole", workplace)
    broken = workplace / "experiments/broken"
    with subprocess.Popen(
        [sys.executable, *options, f"exp_dir={broken}"], cwd=workplace, env=environment(workplace),
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        wait_for_a_line(broken / "metrics.jsonl", process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to loader workers too
        process.communicate(timeout=60)
    assert process.returncode == 0 and not (broken / "model").exists()
    said = run(f"python {' '.join(options)} exp_dir={broken}", workplace)
    assert "resumed from" in said and logged(broken) == logged(workplace / "experiments/whole")


def wait_for_a_line(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if path.is_file() and path.stat().st_size:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{path} stayed empty for a minute")


SRUN = """#!/bin/bash
# As Slurm's: tasks in process groups of their own, told their number; USR1 goes to each group.
for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i setsid "$@" & pids+=($!); done
trap 'for pid in "${pids[@]}"; do kill -USR1 -- -$pid; done' USR1
status=0
for pid in "${pids[@]}"; do
  wait $pid; one=$?
  while kill -0 $pid 2>/dev/null; do wait $pid; one=$?; done
  [ $one -eq 0 ] || status=$one
done
exit $status
"""
SCONTROL = '#!/bin/bash\nif [ "$1" = show ]; then echo 127.0.0.1; else echo "scontrol $*"; fi\n'


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the two tasks would meet on a GPU")
def test_the_job_for_slurm_stops_in_time_and_queues_again(workplace: Path) -> None:
    (workplace / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (workplace / "bin" / name).write_text(text)
        (workplace / "bin" / name).chmod(0o755)
    (script,) = blocks(TRAINING, "bash")
    assert "exec python train.py exp_dir=experiments/big'" in script
    script = script.replace("train.py exp", f"{DIGITS} exp").replace("bf16", "no")
    script = script.replace("29500", "29573")
    env = environment(workplace) | {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here"}
    env["PATH"] = f"{workplace / 'bin'}{os.pathsep}{env['PATH']}"
    job = partial(
        subprocess.Popen, ["bash", "-c", script], cwd=workplace, env=env, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    with job() as process:
        wait_for_a_line(workplace / "experiments/big/metrics.jsonl", process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGUSR1)  # srun
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "scontrol requeue 7" in output, output[-3000:]
    assert "SIGUSR1: stopped after step" in output
    with job() as process:
        output, _ = process.communicate(timeout=180)
    assert "resumed from" in output and "scontrol requeue" not in output, output[-3000:]
    assert (workplace / "experiments/big/model").is_dir()
