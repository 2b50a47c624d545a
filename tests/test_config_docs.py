"""docs/configuration.md: every command on the page runs, every message it quotes is what is said."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from unisono.config.preflight import compose_checked, read_launch
from unisono.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [line.split("  #")[0].split(" # ")[0].strip() for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout, with a small corpus and the files that the page shows."""
    from unisono.data.mini.corpus import build_mini_corpus

    place = tmp_path_factory.mktemp("a checkout")
    for name in ("train.py", "inference.py", "evaluate.py", "configs"):
        (place / name).symlink_to(ROOT / name)
    counts = {f"num_{task}": (34, 3, 3) for task in ("text_to_audio", "text_to_speech", "speech_enhancement")}
    build_mini_corpus(place / "data/mini", workers=1, progress=False, **counts)
    for text in [*blocks("yaml"), *blocks("python")]:
        name = text.splitlines()[0].removeprefix("# ")
        if not (place / name).exists():  # the page also quotes a file of the tree
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
    return place


def test_the_page_has_commands_of_every_kind() -> None:
    assert len(COMMANDS) > 25
    for part in ("--multirun", "--config-path", "8gpus.yaml", "2machines", "unisono check", "--cfg job", "+data_dict"):
        assert any(part in command for command in COMMANDS), part


@pytest.mark.slow
def test_every_command_runs(workplace: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HOME": str(workplace / "hf"),
    }
    for command in COMMANDS:
        if re.search(r"launch .*(8gpus|2machines)", command):
            continue  # composed below
        done = subprocess.run(
            ["bash", "-c", command], cwd=workplace, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    for made in ("mine/model", "sweep/multirun/3/model", "two/model", "launched/model", "few/inference/manifest.jsonl"):
        assert (workplace / "experiments" / made).exists(), made


@pytest.mark.parametrize("command", [c for c in COMMANDS if re.search(r"launch .*(8gpus|2machines)", c)])
def test_commands_for_many_gpus_are_understood_and_pass_the_check(command: str) -> None:
    from accelerate.commands.launch import launch_command_parser

    args = launch_command_parser().parse_args(shlex.split(command)[2:])
    assert args.training_script == "train.py"
    processes = read_launch(ROOT / args.config_file).num_processes
    assert processes == (16 if "2machines" in command else 8)
    cfg, _, warnings = compose_checked("default", [*args.training_script_args, "data_root=absent"], None, processes)
    assert not warnings
    if "epochs=100" in command:
        assert (cfg.trainer.epochs, cfg.trainer.warmup_params.warmup_steps) == (100, 500)
        assert (cfg.train_dataloader.batch_size, cfg.val_dataloader.batch_size) == (12, 12)


@pytest.mark.parametrize(
    ("written", "said"), re.findall(r"^\| `([^|]+=[^|]*)` \| ([^|]+) \|$", PAGE.partition("is said |")[2], re.MULTILINE)
)
def test_the_quoted_messages_are_what_is_said(written: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_checked("default", [*shlex.split(written), "data_root=absent"])
    assert all(part in str(caught.value) for part in said.split("…")), str(caught.value)
