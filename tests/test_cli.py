"""The console command, as a user starts it, and what the wheel holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from unisono import __version__
from unisono.cli import app
from unisono.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "numpy", "scipy", "librosa", "soundfile", "omegaconf", "hydra", "accelerate")


def unisono(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unisono.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_help_is_there_at_once_and_imports_nothing_heavy() -> None:
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        shown = unisono("--help")
        seconds.append(time.perf_counter() - begin)
        assert shown.returncode == 0 and "prepare" in shown.stdout and "latent-statistics" in shown.stdout
    assert min(seconds) < 0.5, seconds
    probe = (
        "import sys, unisono.cli as cli\n"
        "try:\n    cli.app(['--help'])\nexcept SystemExit:\n    pass\n"
        f"sys.exit(' '.join(sorted(set(sys.modules) & set({HEAVY!r}))) or None)"
    )
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"imported: {run.stderr}"


def test_version_and_the_installed_command() -> None:
    assert unisono("--version").stdout == f"unisono {__version__}\n"
    command = shutil.which("unisono", path=str(Path(sys.executable).parent))
    assert command, "the console script is not installed beside this Python"
    assert subprocess.run([command, "--version"], capture_output=True, text=True).stdout == f"unisono {__version__}\n"


@pytest.mark.parametrize("arguments", [["prepare"], ["prepare", "--help"]])
def test_prepare_lists_its_recipes(arguments: list[str]) -> None:
    shown = unisono(*arguments)
    text = shown.stdout + shown.stderr
    assert "mini" in text and "debian" in text and "Traceback" not in text


@pytest.mark.parametrize("arguments", [["no-such-command"], ["--no-such-option"], ["--seed=x", "prepare", "mini"]])
def test_a_wrong_command_line_is_status_2_without_traceback(arguments: list[str]) -> None:
    shown = unisono(*arguments[1:], *arguments[:1])
    named = arguments[0].split("=")[0]
    assert shown.returncode == 2 and "Traceback" not in shown.stderr and named in shown.stderr


def test_a_users_mistake_is_one_line_and_status_1(tmp_path: Path) -> None:
    shown = unisono("latent-statistics", str(tmp_path / "gone.jsonl"), "-o", str(tmp_path / "a.yaml"))
    assert shown.returncode == 1
    assert shown.stderr.startswith(f"error: {tmp_path / 'gone.jsonl'}: no such manifest")
    assert "Traceback" not in shown.stderr + shown.stdout and len(shown.stderr.splitlines()) == 1
    assert not (tmp_path / "a.yaml").exists()


def test_latent_statistics_writes_a_config_of_the_autoencoder(toy_corpus: Path, tmp_path: Path) -> None:
    manifest = toy_corpus / "text_to_speech" / "audio.jsonl"
    output = tmp_path / "new" / "log_mel.yaml"
    shown = unisono("latent-statistics", str(manifest), "-o", str(output))
    assert shown.returncode == 0, shown.stderr
    settings = yaml.safe_load(output.read_text())
    assert settings["_target_"].startswith("unisono.models.autoencoder.")
    assert len(settings["mean"]) == len(settings["std"]) and min(settings["std"]) > 0
    assert list(output.parent.iterdir()) == [output]


def test_latent_statistics_names_a_setting_that_does_not_exist(toy_corpus: Path, tmp_path: Path) -> None:
    manifest = toy_corpus / "text_to_speech" / "audio.jsonl"
    shown = unisono(
        "latent-statistics", str(manifest), "-o", str(tmp_path / "a.yaml"), "--set", "model/autoencoder=no_such"
    )
    assert shown.returncode == 1 and "no_such" in shown.stderr and "Traceback" not in shown.stderr


@pytest.mark.slow
def test_the_wheel_holds_everything_that_is_read_at_run_time(tmp_path: Path) -> None:
    # A copy, so that nothing is written into the checkout; without .git, as from a release archive.
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv*", "data", "experiments", "outputs", "build", "dist", "*cache*")
    shutil.copytree(ROOT, source, ignore=lambda d, names: ignored(d, names) if Path(d) == ROOT else {"__pycache__"})
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if "No matching distribution found for hatchling" in built.stderr:
        pytest.skip("the build backend cannot be fetched here")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("unisono-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, prefix in ((ROOT / "src" / "unisono", "unisono"), (ROOT / "configs", "unisono/configs")):
        files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
        missing = {f"{prefix}/{path.relative_to(folder).as_posix()}" for path in files} - names
        assert files and not missing
    for expected in ("configs/default.yaml", "evaluation/report/report.html.jinja", "evaluation/report/report.css"):
        assert f"unisono/{expected}" in names
    assert "unisono/evaluation/report/report.js" in names
    assert any(name.startswith("unisono/data/prepare/debian/tables/") and name.endswith(".json") for name in names)
    strangers = [name for name in names if not name.startswith(("unisono/", f"unisono-{__version__}.dist-info/"))]
    assert not strangers and max(len(zipfile.ZipFile(wheel).read(name)) for name in names) < 1_000_000

    _works_without_the_checkout(wheel, tmp_path)


def _works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Configs and tables are found in the wheel alone, and a script of two lines trains with it."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)

    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(site)}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    probe = "from unisono.config import compose, config_dir; print(config_dir()); compose('default')"
    assert run("-c", probe).strip() == str(site / "unisono" / "configs")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/conf.yaml").write_text("defaults: [default, {override /model: base}, _self_]\nepochs: 77\n")
    (tmp_path / "my_train.py").write_text("from unisono.training.run import main\n\nmain()\n")
    shown = run("my_train.py", "--config-path", "own", "--config-name", "conf", "--cfg", "job", "--resolve")
    assert "epochs: 77" in shown and "dim: 1024" in shown


def test_check_tells_faults_or_the_size_of_a_step(data_root: Path) -> None:
    runner = CliRunner()
    good = ["check", "debug=cpu", "++data_root=absent", "--num-processes", "4", "--duration-s", "1.5"]
    result = runner.invoke(app, good)
    assert result.exit_code == 0, result.output
    assert "no faults" in result.output and "12 items: 3 per batch x 4 processes" in result.output
    assert "clips of 1.5 s: as asked for" in result.output
    for part in ("backbone", "total", "optimizer state", "activations", "one step"):
        assert part in result.output, part
    result = runner.invoke(app, ["check", "--config-name", "inference", f"data_root='{data_root}'"])
    assert result.exit_code == 0 and "generation" in result.output and "parameters" not in result.output
    for arguments, words in {
        ("check", "optimzer.lr=1"): "did you mean optimizer.lr",
        ("check", "--accelerate-config", str(ROOT / "configs/accelerate/9gpus.yaml")): "8gpus.yaml",
        ("check", "--config-path", "nowhere"): "no such folder",
        ("check", "++data_root=absent", "train_dataloader.batch_size=0"): "at least 1",
    }.items():
        result = runner.invoke(app, list(arguments))
        assert result.exit_code == 1 and isinstance(result.exception, UserError), arguments
        assert words in str(result.exception)


def test_the_longest_clip_is_read_from_the_manifests(toy_corpus: Path) -> None:
    from unisono.config import compose
    from unisono.config.preflight import longest_clip_s

    cfg = compose("default")
    audio = str(toy_corpus / "text_to_speech/audio.jsonl")
    cfg.train_dataloader.dataset.datasets = [{"audio": audio}, {"audio": "absent"}]
    assert longest_clip_s(cfg)[0] == pytest.approx(0.6, abs=0.01)
    cfg.train_dataloader.dataset.datasets = [{"audio": audio, "max_duration_s": 0.1}]
    assert longest_clip_s(cfg) == (0.1, "max_duration_s of the training sets")
    cfg.train_dataloader.dataset.datasets = [{"audio": "absent"}]
    assert longest_clip_s(cfg)[0] == 10.0
